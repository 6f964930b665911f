//! Bytes in, frames out, however damaged the bytes are.

use bytes::{Buf, Bytes, BytesMut};

use super::boxes::{HEADER, Header};
use super::fragment::{Fragment, Moof};
use super::init::MDAT_HEADER;
use super::{MAX_PAYLOAD, Start};

/// Boxes beside `mdat` are buffered whole, except for sample tables, which are passed over.
const MAX_BOX: usize = 1 << 20;

/// Our `moof` is 150 bytes long.
const MAX_MOOF: usize = 4096;

/// What the reader finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The init segment, before any fragment.
    Start(Start),
    /// A frame.
    Fragment(Fragment),
}

/// Finds the frames of a recording that may be cut off or damaged anywhere.
///
/// Give it the file in pieces of any size with [`Reader::push`], and after each piece take items with
/// [`Reader::poll`] until there is none. At the end of the file call [`Reader::end`] and take the rest.
/// It holds at most one fragment (plus what was pushed at once), and its work is linear in the
/// size of the file. Where bytes make no sense it looks for the next fragment and counts what it passed.
///
/// ```
/// # use roadie_media as media;
/// use media::cmaf::{Item, Reader};
/// # fn frames(file: &[u8]) -> Vec<media::Frame> {
/// let (mut reader, mut start, mut frames) = (Reader::new(), None, Vec::new());
/// let mut pieces = file.chunks(64 * 1024);
/// loop {
///     while let Some(item) = reader.poll() {
///         match (item, &start) {
///             (Item::Start(found), _) => start = Some(found),
///             (Item::Fragment(found), Some(start)) if found.intact => frames.extend(start.restore(&found)),
///             _ => {}
///         }
///     }
///     match pieces.next() {
///         Some(piece) => reader.push(piece),
///         None if reader.ended() => break,
///         None => reader.end(),
///     }
/// }
/// # frames }
/// # assert!(frames(&[]).is_empty());
/// ```
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Where in the file the buffer begins.
    offset: u64,
    ended: bool,
    /// Inside of bytes that make no sense.
    lost: bool,
    /// The head was found: another `moov` holds sample tables.
    started: bool,
    /// Bytes still to pass over of a large box, and those already passed over.
    skip: (u64, u64),
    damaged: u64,
    good_until: u64,
    media_end: Option<u64>,
}

enum Step {
    /// Not all there yet.
    Wait,
    /// Passed over.
    Skip,
    Found(Item),
    Damaged,
}

impl Reader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// A reader at the start of a fragment in the middle of a file. It finds no [`Item::Start`].
    pub fn at(offset: u64) -> Self {
        Self { offset, good_until: offset, started: true, ..Self::default() }
    }

    /// The next bytes of the file.
    pub fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// There are no more bytes: what waits for more is cut off.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether [`Reader::end`] was called.
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes that were passed over because they made no sense, and those of a cut-off end.
    pub fn damaged_bytes(&self) -> u64 {
        self.damaged
    }

    /// Where the last whole box ended: a repair can cut the file here.
    pub fn good_until(&self) -> u64 {
        self.good_until
    }

    /// Where the media data of a finished file ends and its tables must begin, once its head was read. `None` for a
    /// file that was never finished.
    pub fn media_end(&self) -> Option<u64> {
        self.media_end
    }

    /// The next item, or `None` until more is pushed (or for good, after [`Reader::end`]).
    pub fn poll(&mut self) -> Option<Item> {
        loop {
            match self.step() {
                Step::Found(item) => return Some(item),
                Step::Skip => {}
                Step::Damaged => self.look_for_moof(),
                Step::Wait if self.ended && !self.buffer.is_empty() => self.look_for_moof(),
                Step::Wait => return None,
            }
        }
    }

    fn step(&mut self) -> Step {
        if self.skip.0 > 0 {
            return self.skip_on();
        }
        if self.buffer.len() < HEADER {
            return Step::Wait;
        }
        if !self.started && self.buffer.starts_with(b"\0\0\0\x01mdat") {
            // A finished file: what we look for is inside of its media data.
            return self.media(MDAT_HEADER);
        }
        let Some(header) = Header::read(&self.buffer) else { return Step::Damaged };
        match &header.kind {
            b"moof" if header.size <= MAX_MOOF => self.fragment(header.size),
            // While lost, only a moof counts: anything else may be four letters of a picture.
            _ if self.lost => Step::Damaged,
            b"moov" if self.started && header.size > MAX_BOX => {
                self.skip = (header.size as u64, 0);
                Step::Skip
            }
            b"moov" if !self.started && header.size <= MAX_BOX => self.head(header.size),
            b"moov" | b"ftyp" | b"styp" | b"prft" | b"free" if header.size <= MAX_BOX => {
                self.pass(header.size)
            }
            _ => Step::Damaged,
        }
    }

    fn head(&mut self, size: usize) -> Step {
        if self.buffer.len() < size {
            return Step::Wait;
        }
        let moov = self.take(size);
        let Some(start) = Start::read(&moov[HEADER..]) else { return Step::Skip };
        self.started = true;
        Step::Found(Item::Start(start))
    }

    fn media(&mut self, header: usize) -> Step {
        if self.buffer.len() < header {
            return Step::Wait;
        }
        let size =
            self.buffer.get(8..).and_then(|rest| rest.first_chunk()).map(|size| u64::from_be_bytes(*size));
        self.media_end = size.and_then(|size| self.offset.checked_add(size));
        self.pass(header)
    }

    fn pass(&mut self, size: usize) -> Step {
        if self.buffer.len() < size {
            return Step::Wait;
        }
        self.take(size);
        Step::Skip
    }

    fn skip_on(&mut self) -> Step {
        let (left, passed) = &mut self.skip;
        let now = (self.buffer.len() as u64).min(*left);
        self.buffer.advance(now as usize);
        self.offset += now;
        (*left, *passed) = (*left - now, *passed + now);
        if *left == 0 {
            self.good_until = self.offset;
            return Step::Skip;
        }
        if self.ended {
            self.damaged += std::mem::take(&mut self.skip).1;
        }
        Step::Wait
    }

    fn fragment(&mut self, moof: usize) -> Step {
        let Some(mdat) = self.buffer.get(moof..moof + HEADER) else { return Step::Wait };
        let read = || {
            let mdat = Header::read(mdat).filter(|header| header.kind == *b"mdat")?;
            let moof = Moof::read(&self.buffer[HEADER..moof])?;
            (moof.size as usize <= MAX_PAYLOAD && mdat.size == HEADER + moof.size as usize)
                .then_some((moof, mdat.size))
        };
        let Some((found, mdat)) = read() else { return Step::Damaged };
        if self.buffer.len() < moof + mdat {
            return Step::Wait;
        }
        let from = self.offset;
        let mut payload = self.take(moof + mdat);
        payload.advance(moof + HEADER);
        Step::Found(Item::Fragment(found.with_payload(payload, from..self.offset)))
    }

    /// Takes a whole box.
    fn take(&mut self, size: usize) -> Bytes {
        self.offset += size as u64;
        self.good_until = self.offset;
        self.lost = false;
        self.buffer.split_to(size).freeze()
    }

    /// Moves on by at least one byte, to where the next `moof` may begin, or near the end of the buffer.
    fn look_for_moof(&mut self) {
        let next = self.buffer.get(5..).unwrap_or_default().windows(4).position(|kind| kind == b"moof");
        let pass = match next {
            Some(position) => position + 1,
            None if self.ended => self.buffer.len(),
            // The last bytes may be the first ones of its header.
            None => (self.buffer.len() + 1).saturating_sub(HEADER).max(1),
        };
        self.buffer.advance(pass);
        self.offset += pass as u64;
        self.damaged += pass as u64;
        self.lost = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{SETS, VIDEO, ZERO, picture, show, sound, tracks};
    use super::super::{Ending, Writer};
    use super::*;
    use crate::Frame;
    use crate::h264::ParameterSets;

    /// A finished file, and where its fragments end.
    fn file(frames: &[Frame]) -> (Vec<u8>, Vec<usize>) {
        let sets = vec![(VIDEO, ParameterSets::of(SETS).unwrap())];
        let (mut writer, mut file) = Writer::new("tour/london", &tracks(), sets, ZERO).unwrap();
        let mut ends = Vec::new();
        for frame in frames {
            writer.fragment(frame, &mut file).unwrap();
            ends.push(file.len());
        }
        let Ending { moov, header } = writer.finish().unwrap();
        for patch in [writer.duration_patch(), header] {
            file[patch.at as usize..][..patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        file.extend(moov);
        (file, ends)
    }

    /// The intact frames, and the reader at its end.
    fn read(file: &[u8], piece: usize) -> (Vec<Frame>, Reader) {
        let (mut reader, mut start, mut frames) = (Reader::new(), None, Vec::new());
        let mut pieces = file.chunks(piece);
        loop {
            while let Some(item) = reader.poll() {
                match item {
                    Item::Start(found) => start = Some(found),
                    Item::Fragment(found) if found.intact => {
                        assert_eq!(&file[found.range.start as usize + 4..][..4], b"moof");
                        frames.extend(start.as_ref().and_then(|start: &Start| start.restore(&found)));
                    }
                    Item::Fragment(_) => {}
                }
            }
            match pieces.next() {
                Some(piece) => reader.push(piece),
                None if reader.ended() => return (frames, reader),
                None => reader.end(),
            }
        }
    }

    #[test]
    fn round_trip_in_pieces_of_any_size() {
        let frames = show(12, 18);
        let (file, _) = file(&frames);
        for piece in [1, 7, 100, file.len()] {
            let (found, reader) = read(&file, piece);
            assert_eq!(found, frames);
            assert_eq!((reader.damaged_bytes(), reader.good_until()), (0, file.len() as u64));
        }
    }

    #[test]
    fn the_start_comes_back() {
        let (file, _) = file(&[]);
        let mut reader = Reader::new();
        reader.push(&file);
        let Some(Item::Start(start)) = reader.poll() else { panic!("no start") };
        assert_eq!((start.broadcast.as_str(), start.zero), ("tour/london", ZERO));
        assert_eq!(start.tracks, tracks());
        assert_eq!(reader.poll(), None);
    }

    #[test]
    fn cut_off_at_every_byte() {
        let frames = show(7, 9);
        let (file, ends) = file(&frames);
        for len in 0..file.len() {
            let (found, reader) = read(&file[..len], 64);
            let whole = ends.iter().filter(|&&end| end <= len).count();
            assert_eq!(found, frames[..whole], "cut at {len}");
            assert_eq!(reader.good_until() + reader.damaged_bytes(), len as u64);
        }
    }

    #[test]
    fn large_tables_are_passed_over_without_being_held() {
        let frames = [picture(0), sound(0)];
        let (mut file, _) = file(&frames);
        let tables = file.windows(4).rposition(|kind| kind == b"moov").unwrap() - 4;
        file.truncate(tables);
        let size = MAX_BOX * 3;
        file.extend((size as u32).to_be_bytes());
        file.extend(b"moov");
        file.resize(tables + size, 0);
        let mut reader = Reader::new();
        for piece in file.chunks(1000) {
            reader.push(piece);
            while reader.poll().is_some() {}
            assert!(reader.buffer.len() < 10_000);
        }
        let (found, reader) = read(&file, 1000);
        assert_eq!((found.as_slice(), reader.damaged_bytes()), (&frames[..], 0));
        assert_eq!(reader.good_until(), file.len() as u64);
        let (found, reader) = read(&file[..file.len() - 1], 1000);
        assert_eq!((found.len(), reader.good_until()), (2, tables as u64));
        assert_eq!(reader.damaged_bytes(), size as u64 - 1);
    }

    #[test]
    fn one_wrong_byte_costs_at_most_two_frames() {
        let frames = show(7, 9);
        let (file, ends) = file(&frames);
        let fragments = file.windows(4).position(|kind| kind == b"prft").unwrap() - 4;
        assert!(fragments < ends[0]);
        for at in fragments..file.len() {
            let mut bad = file.clone();
            bad[at] ^= 0x55;
            let (found, _) = read(&bad, 512);
            assert!(
                found.iter().all(|frame| frames.contains(frame)),
                "a wrong frame was taken for a right one"
            );
            assert!(found.len() + 2 >= frames.len(), "byte {at}: {} of {}", found.len(), frames.len());
        }
    }

    #[test]
    fn a_hole_of_zeros_is_passed_over() {
        let frames = [picture(0), picture(1), picture(2), sound(0), sound(1)];
        let (mut file, ends) = file(&frames);
        file[ends[0] + 10..ends[2] + 50].fill(0);
        let (found, reader) = read(&file, 1000);
        assert_eq!(found, [&frames[..1], &frames[4..]].concat());
        assert!(reader.damaged_bytes() > 0);
    }

    #[test]
    fn garbage_is_no_frame_and_no_panic() {
        let (file, _) = file(&show(7, 9));
        let mut state = 7u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        let noise: Vec<u8> = (0..100_000).map(|_| random() as u8).collect();
        assert!(read(&noise, 999).0.is_empty());
        assert!(read(&b"moof".repeat(10_000), 999).0.is_empty());
        assert!(read(&[0, 0, 0, 8, b'm', b'o', b'o', b'f'].repeat(5_000), 999).0.is_empty());
        for _ in 0..500 {
            let mut bad = file.clone();
            for _ in 0..8 {
                let at = random() % bad.len();
                bad[at] = random() as u8;
            }
            read(&bad, 1 + random() % 3000);
        }
    }
}
