//! ISO BMFF boxes: a size, a type, a body.

use bytes::BufMut;

/// Size and type.
pub const HEADER: usize = 8;

/// Appends a box; `body` fills it.
pub fn put_box(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.put_u32(0);
    out.put_slice(kind);
    body(out);
    let size = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a box that starts with a version and flags.
pub fn put_full_box(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    version: u8,
    flags: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    put_box(out, kind, |out| {
        out.put_u32(u32::from(version) << 24 | flags);
        body(out);
    });
}

/// A box's header as it stands at the front of `data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub kind: [u8; 4],
    /// Of the whole box with its header.
    pub size: usize,
}

impl Header {
    /// `None` for the two forms that we never write (size 0: "to the end of the file", size 1: 64
    /// bits) and for sizes that cannot be. `data` holds at least [`HEADER`] bytes.
    pub fn read(data: &[u8]) -> Option<Self> {
        let (&size, rest) = data.split_first_chunk::<4>()?;
        let &kind = rest.first_chunk::<4>()?;
        let size = usize::try_from(u32::from_be_bytes(size)).ok()?;
        (size >= HEADER).then_some(Self { kind, size })
    }
}

/// The boxes within a body, as type and body. Ends early at one that does not fit.
pub fn children(mut data: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let header = Header::read(data)?;
        let (whole, rest) = data.split_at_checked(header.size)?;
        data = rest;
        Some((header.kind, &whole[HEADER..]))
    })
}

/// The body of the first child of this type.
pub fn child<'a>(data: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    children(data).find(|(found, _)| found == kind).map(|(_, body)| body)
}

/// The body, without the identifier, of the `uuid` child that has it.
pub fn uuid_child<'a>(data: &'a [u8], uuid: &[u8; 16]) -> Option<&'a [u8]> {
    children(data).filter(|(kind, _)| kind == b"uuid").find_map(|(_, body)| body.strip_prefix(uuid))
}

/// Big-endian numbers from the front of a body.
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (&value, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boxes_nest() {
        let mut out = Vec::new();
        put_box(&mut out, b"outr", |out| {
            put_full_box(out, b"innr", 1, 0x701, |out| out.put_u64(5));
            put_box(out, b"uuid", |out| out.put_slice(b"0123456789abcdefXY"));
        });
        assert_eq!(out.len(), 8 + 20 + 26);
        let outer = child(&out, b"outr").unwrap();
        let mut fields = Fields(child(outer, b"innr").unwrap());
        assert_eq!((fields.u32(), fields.u64(), fields.u8()), (Some(0x0100_0701), Some(5), None));
        assert_eq!(uuid_child(outer, b"0123456789abcdef"), Some(&b"XY"[..]));
        assert_eq!(uuid_child(outer, b"0123456789abcdeg"), None);
    }

    #[test]
    fn bad_sizes_end_the_walk() {
        for bad in
            [&[0, 0, 0, 9, 1, 2, 3, 4][..], &[0, 0, 0, 0, 1, 2, 3, 4], &[0, 0, 0, 8, 1], &[0xff; 16], &[]]
        {
            assert_eq!(children(bad).count(), 0, "{bad:?}");
        }
    }
}
