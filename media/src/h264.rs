//! H.264 as bytes: NAL units in Annex B and length-prefixed form, the sequence parameter set, the
//! codec string and the `avcC` record (ITU-T H.264 clauses 7.3 and 7.4 and annex B, ISO/IEC 14496-15 5.3.3).

use bytes::{BufMut, Bytes};

mod sps;

pub use sps::{Sps, frame_num};

/// What the count fields of an `avcC` record hold.
const MAX_SPS: usize = 31;
const MAX_PPS: usize = 255;

/// The start code that we write before every NAL unit.
const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// H.264 that cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum H264Error {
    /// The NAL unit is of another type.
    #[error("this NAL unit is not a sequence parameter set")]
    NotAnSps,
    /// The bits end before the value does.
    #[error("a sequence parameter set or slice ends too early")]
    Truncated,
    /// A value lies outside of what the standard allows, or is larger than any real stream has.
    #[error("a sequence parameter set or slice has an impossible value in {0}")]
    OutOfRange(&'static str),
    /// A length prefix that points beyond the data.
    #[error("a NAL unit is longer than the data that holds it")]
    BadLength,
    /// A parameter set that does not fit the 16-bit length of an `avcC` record.
    #[error("a parameter set is longer than 65535 bytes")]
    ParameterSetTooLong,
}

/// What a NAL unit holds (`nal_unit_type`, table 7-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NalType {
    /// 1: a slice of a picture that needs earlier ones.
    Slice,
    /// 5: a slice of an IDR picture, where decoding can start.
    Idr,
    /// 6: supplemental enhancement information.
    Sei,
    /// 7: sequence parameter set.
    Sps,
    /// 8: picture parameter set.
    Pps,
    /// 9: access unit delimiter.
    AccessUnitDelimiter,
    /// Anything else.
    Other(u8),
}

impl NalType {
    /// The type of a NAL unit (without start code); an empty one is `Other(0)`, "unspecified".
    pub fn of(nal: &[u8]) -> Self {
        match nal.first().map_or(0, |header| header & 0x1f) {
            1 => Self::Slice,
            5 => Self::Idr,
            6 => Self::Sei,
            7 => Self::Sps,
            8 => Self::Pps,
            9 => Self::AccessUnitDelimiter,
            other => Self::Other(other),
        }
    }
}

/// The NAL units of Annex B data, without start codes (three or four bytes) and without the zero
/// bytes that may follow a unit. Bytes before the first start code are passed over.
pub fn nals(annex_b: &[u8]) -> Nals<'_> {
    Nals { rest: after_start_code(annex_b) }
}

/// See [`nals`].
#[derive(Clone, Debug)]
pub struct Nals<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for Nals<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let rest = self.rest?;
            let end = find_start_code(rest);
            self.rest = end.map(|at| &rest[at + 3..]);
            let nal = &rest[..end.unwrap_or(rest.len())];
            let len = nal.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if len > 0 {
                return Some(&nal[..len]);
            }
        }
    }
}

fn find_start_code(data: &[u8]) -> Option<usize> {
    data.windows(3).position(|window| window == [0, 0, 1])
}

fn after_start_code(data: &[u8]) -> Option<&[u8]> {
    find_start_code(data).map(|at| &data[at + 3..])
}

/// Whether the access unit is an IDR picture. (The absence of a DELTA_UNIT flag in GStreamer does not mean that.)
pub fn is_idr(annex_b: &[u8]) -> bool {
    // The first slice decides: what follows it is of the same picture, so most of the data is not looked at.
    nals(annex_b)
        .map(NalType::of)
        .find(|kind| matches!(kind, NalType::Slice | NalType::Idr))
        .is_some_and(|kind| kind == NalType::Idr)
}

/// The parameter sets that a decoder needs before an IDR picture, as NAL units without start code.
/// There is at least one of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterSets {
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
}

impl ParameterSets {
    /// The parameter sets of an access unit, or `None` if it has no SPS or no PPS.
    pub fn of(annex_b: &[u8]) -> Option<Self> {
        let mut sets = Self { sps: Vec::new(), pps: Vec::new() };
        // They stand before the first slice.
        for nal in nals(annex_b).take_while(|nal| !matches!(NalType::of(nal), NalType::Slice | NalType::Idr))
        {
            let kind = match NalType::of(nal) {
                NalType::Sps => &mut sets.sps,
                NalType::Pps => &mut sets.pps,
                _ => continue,
            };
            if !kind.iter().any(|set| set == nal) {
                kind.push(Bytes::copy_from_slice(nal));
            }
        }
        sets.complete()
    }

    fn complete(self) -> Option<Self> {
        let fits = |sets: &[Bytes], max| (1..=max).contains(&sets.len());
        (fits(&self.sps, MAX_SPS) && fits(&self.pps, MAX_PPS)).then_some(self)
    }

    /// The first sequence parameter set.
    pub fn sps(&self) -> &[u8] {
        self.sps.first().map_or(&[], |sps| sps)
    }

    /// All of them in decoding order.
    pub fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.sps.iter().chain(&self.pps)
    }

    /// Whether this NAL unit is one of them, byte for byte.
    pub fn contains(&self, nal: &[u8]) -> bool {
        self.iter().any(|set| set == nal)
    }

    /// The `AVCDecoderConfigurationRecord` (the body of `avcC`, and WebCodecs' `description`).
    pub fn avcc(&self) -> Result<Vec<u8>, H264Error> {
        let sps = Sps::parse(self.sps())?;
        let mut out = vec![1, sps.profile, sps.constraints, sps.level];
        out.put_u8(0xfc | 3); // lengths are 4 bytes
        let put_all = |sets: &[Bytes], out: &mut Vec<u8>| {
            sets.iter().try_for_each(|set| {
                out.put_u16(u16::try_from(set.len()).map_err(|_| H264Error::ParameterSetTooLong)?);
                out.put_slice(set);
                Ok(())
            })
        };
        out.put_u8(0xe0 | self.sps.len() as u8);
        put_all(&self.sps, &mut out)?;
        out.put_u8(self.pps.len() as u8);
        put_all(&self.pps, &mut out)?;
        if !matches!(sps.profile, 66 | 77 | 88) {
            out.put_u8(0xfc | sps.chroma_format);
            out.put_u8(0xf8 | (sps.bit_depth_luma - 8));
            out.put_u8(0xf8 | (sps.bit_depth_chroma - 8));
            out.put_u8(0); // no SPS extension
        }
        Ok(out)
    }

    /// The parameter sets of an `AVCDecoderConfigurationRecord`, or `None` if it is not whole.
    pub fn from_avcc(record: &[u8]) -> Option<Self> {
        let (&count, rest) = record.get(5..)?.split_first()?;
        let (sps, rest) = split_sets(rest, count & 0x1f)?;
        let (&count, rest) = rest.split_first()?;
        let (pps, _) = split_sets(rest, count)?;
        Self { sps, pps }.complete()
    }
}

/// `count` byte strings, each behind its 16-bit length, and what follows them.
fn split_sets(mut data: &[u8], count: u8) -> Option<(Vec<Bytes>, &[u8])> {
    let mut sets = Vec::new();
    for _ in 0..count {
        let (length, rest) = data.split_first_chunk()?;
        let (set, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        sets.push(Bytes::copy_from_slice(set));
        data = rest;
    }
    Some((sets, data))
}

/// Appends the NAL units of Annex B data that `keep` wants, each after its length in 4 bytes.
pub fn to_length_prefixed(annex_b: &[u8], mut keep: impl FnMut(&[u8]) -> bool, out: &mut Vec<u8>) {
    for nal in nals(annex_b).filter(|nal| keep(nal)) {
        // A frame is far below 4 GiB: the recorder and the bond bound it.
        out.put_u32(nal.len() as u32);
        out.put_slice(nal);
    }
}

/// The NAL units of length-prefixed data (4-byte lengths), the reverse of [`to_length_prefixed`].
pub fn length_prefixed_nals(mut data: &[u8]) -> impl Iterator<Item = Result<&[u8], H264Error>> {
    std::iter::from_fn(move || {
        if data.is_empty() {
            return None;
        }
        let split = data.split_first_chunk().and_then(|(length, rest)| {
            rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
        });
        let Some((nal, rest)) = split else {
            data = &[];
            return Some(Err(H264Error::BadLength));
        };
        data = rest;
        Some(Ok(nal))
    })
}

/// Appends one NAL unit behind a 4-byte start code.
pub fn put_annex_b(nal: &[u8], out: &mut Vec<u8>) {
    out.put_slice(&START_CODE);
    out.put_slice(nal);
}

/// The WebCodecs codec string of an SPS NAL unit, such as `avc3.42c01f`; `avc3` says that the
/// parameter sets are in band.
pub fn codec_string(sps: &[u8]) -> Result<String, H264Error> {
    match sps {
        &[_, profile, constraints, level, ..] if NalType::of(sps) == NalType::Sps => {
            Ok(format!("avc3.{profile:02x}{constraints:02x}{level:02x}"))
        }
        [_, ..] if NalType::of(sps) == NalType::Sps => Err(H264Error::Truncated),
        _ => Err(H264Error::NotAnSps),
    }
}

/// Whether a stream of the codec string `found` may be too much for a decoder that was set up for `configured`: another
/// profile, or a higher level. (A stream of a lower level is not, so that a smaller picture costs no new decoder.)
pub fn exceeds(configured: &str, found: &str) -> bool {
    let bytes = |codec: &str| -> Option<[u8; 3]> {
        let (_, hex) =
            codec.split_once('.').filter(|(name, hex)| name.starts_with("avc") && hex.len() == 6)?;
        let byte = |at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        Some([byte(0)?, byte(2)?, byte(4)?])
    };
    match (bytes(configured), bytes(found)) {
        (Some([profile, _, level]), Some(found)) => found[0] != profile || found[2] > level,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::sps::tests::SPS_720P;
    use super::*;

    const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

    #[test]
    fn nals_with_either_start_code() {
        let data = [0, 0, 0, 1, 9, 0x10, 0, 0, 1, 0x67, 1, 0, 0, 0, 0, 1, 0x65, 0, 2, 0, 0, 0];
        let found: Vec<_> = nals(&data).collect();
        assert_eq!(found, [&[9u8, 0x10][..], &[0x67, 1], &[0x65, 0, 2]]);
        let kinds: Vec<_> = nals(&data).map(NalType::of).collect();
        assert_eq!(kinds, [NalType::AccessUnitDelimiter, NalType::Sps, NalType::Idr]);
        assert!(is_idr(&data));
        assert!(!is_idr(&[0, 0, 1, 0x41, 1, 0, 0, 1, 0x65]));
    }

    #[test]
    fn nothing_in_nothing() {
        for data in [&[][..], &[0], &[0, 0, 1], &[0, 0, 1, 0, 0, 1], &[5; 40]] {
            assert_eq!(nals(data).count(), 0, "{data:?}");
            assert!(!is_idr(data));
        }
    }

    #[test]
    fn avcc_round_trip() {
        let other = &[0x68, 0x5b, 1];
        let unit = [
            &[0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1],
            SPS_720P,
            &[0, 0, 1],
            PPS,
            &[0, 0, 1],
            other,
            &[0, 0, 1, 0x65, 7],
        ]
        .concat();
        let sets = ParameterSets::of(&unit).unwrap();
        assert!(sets.iter().eq([SPS_720P, PPS, other]));
        assert!(sets.contains(other) && !sets.contains(&[0x68]));
        let record = sets.avcc().unwrap();
        assert_eq!(record[..6], [1, 0x42, 0xc0, 0x1f, 0xff, 0xe1]);
        assert_eq!(ParameterSets::from_avcc(&record), Some(sets));
        for len in 0..record.len() {
            assert_eq!(ParameterSets::from_avcc(&record[..len]), None);
        }
        assert_eq!(ParameterSets::of(&[0, 0, 1, 0x65, 1]), None);
    }

    #[test]
    fn length_prefixed_round_trip() {
        let unit = [0, 0, 0, 1, 9, 0xf0, 0, 0, 1, 0x65, 7, 8];
        let mut out = Vec::new();
        to_length_prefixed(&unit, |nal| NalType::of(nal) != NalType::AccessUnitDelimiter, &mut out);
        assert_eq!(out, [0, 0, 0, 3, 0x65, 7, 8]);
        let mut back = Vec::new();
        length_prefixed_nals(&out).for_each(|nal| put_annex_b(nal.unwrap(), &mut back));
        assert_eq!(back, [0, 0, 0, 1, 0x65, 7, 8]);
        for bad in [&[0, 0, 0][..], &[0, 0, 0, 2, 1], &[0xff; 9]] {
            assert!(length_prefixed_nals(bad).any(|nal| nal == Err(H264Error::BadLength)));
        }
    }

    #[test]
    fn a_decoder_is_set_up_anew_for_another_profile_or_a_higher_level() {
        for (configured, found, more) in [
            ("avc3.42c01f", "avc3.42c01f", false),
            ("avc3.42c01f", "avc3.42c01e", false),
            ("avc3.42c01f", "avc3.42c028", true),
            ("avc1.42c01f", "avc3.64001f", true),
            ("vp8", "avc3.64001f", false),
            ("avc3.42c0", "avc3.64001f", false),
            ("avc3.\u{e9}\u{e9}\u{e9}", "avc3.64001f", false),
        ] {
            assert_eq!(exceeds(configured, found), more, "{configured} {found}");
        }
    }
}
