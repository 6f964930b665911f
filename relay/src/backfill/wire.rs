//! The words between the two ends of backfill, see "Backfill" in `docs/protocol.md`. Numbers are big endian,
//! `varint` is QUIC's. What cannot be understood completely is no word at all.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::cmaf::Digest;
use media::{Frame, FrameId, Time, TrackId, varint};

use super::{Entry, GroupId, MAX_GROUP_BYTES};

/// Entries in one manifest: some 16 KB.
pub const MAX_ENTRIES: usize = 512;

/// Bytes of a group in one object. Small, so that little waits in the bond when live wants it all.
pub const PIECE: usize = 64 * 1024;

/// Groups that are asked for at once. They make a message of at most 150 bytes.
pub const WINDOW: usize = 16;

const MANIFEST: u8 = 1;
const GROUP: u8 = 2;
const GONE: u8 = 3;

const WANT: u8 = 1;
const KEPT: u8 = 2;

/// On the object lane, from the venue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToEdge {
    /// What the recording has, further on.
    Manifest {
        /// In the order in which they were finished.
        entries: Vec<Entry>,
        /// No more will come.
        complete: bool,
    },
    /// A part of a group's body, see [`put_body`]. The parts come in order, and those of one group without
    /// others' between.
    Piece {
        /// Of which group.
        id: GroupId,
        /// Bytes of the whole body.
        total: u64,
        /// Where this part belongs.
        offset: u64,
        /// It.
        data: Bytes,
    },
    /// The venue cannot read it any more.
    Gone(GroupId),
}

/// On the message lane, from the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToVenue {
    /// Please send these, in this order, after those that were asked for before.
    Want(Vec<GroupId>),
    /// How the edge's copy stands.
    Kept(Kept),
}

/// How the edge's copy stands, of what the manifest named so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Groups that are on its disk, proven by digest.
    pub kept: u64,
    /// Groups that it lacks.
    pub missing: u64,
    /// Groups that nobody has any more.
    pub gone: u64,
    /// The manifest is complete, and all of it is kept.
    pub whole: bool,
    /// The edge's disk does not take anything now.
    pub stuck: bool,
}

impl ToEdge {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Manifest { entries, complete } => {
                out.put_u8(MANIFEST);
                out.put_u8(u8::from(*complete));
                for Entry { id, frames, first_capture, digest } in entries {
                    put_id(*id, &mut out);
                    varint::put(u64::from(*frames), &mut out);
                    out.put_u64(first_capture.as_micros());
                    out.put_slice(&digest.0);
                }
            }
            Self::Piece { id, total, offset, data } => {
                out.put_u8(GROUP);
                put_id(*id, &mut out);
                varint::put(*total, &mut out);
                varint::put(*offset, &mut out);
                out.put_slice(data);
            }
            Self::Gone(id) => {
                out.put_u8(GONE);
                put_id(*id, &mut out);
            }
        }
        out.freeze()
    }

    /// The word, or `None` where it is none.
    pub fn parse(mut bytes: Bytes) -> Option<Self> {
        match u8(&mut bytes)? {
            MANIFEST => {
                let complete = flags(&mut bytes, 1)? != 0;
                let mut entries = Vec::new();
                while bytes.has_remaining() {
                    if entries.len() == MAX_ENTRIES {
                        return None;
                    }
                    entries.push(entry(&mut bytes)?);
                }
                Some(Self::Manifest { entries, complete })
            }
            GROUP => {
                let id = id(&mut bytes)?;
                let (total, offset) = (varint::get(&mut bytes)?, varint::get(&mut bytes)?);
                let end = offset.checked_add(bytes.len() as u64)?;
                (end <= total && !bytes.is_empty()).then_some(Self::Piece { id, total, offset, data: bytes })
            }
            GONE => {
                let id = id(&mut bytes)?;
                bytes.is_empty().then_some(Self::Gone(id))
            }
            _ => None,
        }
    }
}

impl ToVenue {
    /// Its bytes, at most [`bond::MAX_MESSAGE_BYTES`].
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Want(ids) => {
                out.put_u8(WANT);
                ids.iter().take(WINDOW).for_each(|id| put_id(*id, &mut out));
            }
            Self::Kept(Kept { kept, missing, gone, whole, stuck }) => {
                out.put_u8(KEPT);
                out.put_u8(u8::from(*whole) | u8::from(*stuck) << 1);
                [kept, missing, gone].into_iter().for_each(|count| varint::put(*count, &mut out));
            }
        }
        out.freeze()
    }

    /// The word, or `None` where it is none.
    pub fn parse(mut bytes: Bytes) -> Option<Self> {
        match u8(&mut bytes)? {
            WANT => {
                let mut ids = Vec::new();
                while bytes.has_remaining() {
                    if ids.len() == WINDOW {
                        return None;
                    }
                    ids.push(id(&mut bytes)?);
                }
                Some(Self::Want(ids))
            }
            KEPT => {
                let flags = flags(&mut bytes, 2)?;
                let mut count = || varint::get(&mut bytes);
                let (kept, missing, gone) = (count()?, count()?, count()?);
                let word = Kept { kept, missing, gone, whole: flags & 1 != 0, stuck: flags & 2 != 0 };
                bytes.is_empty().then_some(Self::Kept(word))
            }
            _ => None,
        }
    }
}

/// The body of a group: of each frame its number (varint), whether it is a keyframe (u8), its capture time
/// (u64), its length (varint) and its bytes.
pub fn put_body(frames: &[Frame]) -> Bytes {
    let mut out = BytesMut::with_capacity(frames.iter().map(|frame| frame.data.len() + 20).sum());
    for frame in frames {
        varint::put(u64::from(frame.id.frame), &mut out);
        out.put_u8(u8::from(frame.keyframe));
        out.put_u64(frame.capture_time.as_micros());
        varint::put(frame.data.len() as u64, &mut out);
        out.put_slice(&frame.data);
    }
    out.freeze()
}

/// The frames of a group's body, or `None` where it is none. They share the body's bytes.
pub fn parse_body(id: GroupId, mut body: Bytes) -> Option<Vec<Frame>> {
    let mut frames = Vec::new();
    while body.has_remaining() {
        let frame = u32::try_from(varint::get(&mut body)?).ok()?;
        let keyframe = flags(&mut body, 1)? != 0;
        let capture_time = Time::from_micros(u64(&mut body)?);
        let len = usize::try_from(varint::get(&mut body)?).ok().filter(|len| *len <= body.len())?;
        let data = body.split_to(len);
        let id = FrameId { track: id.track, group: id.group, frame };
        frames.push(Frame { id, capture_time, keyframe, data });
    }
    Some(frames)
}

/// A body of this length may be sent.
pub fn fits(total: u64) -> bool {
    (1..=MAX_GROUP_BYTES as u64).contains(&total)
}

fn put_id(id: GroupId, out: &mut BytesMut) {
    out.put_u8(id.track.0);
    varint::put(id.group, out);
}

fn id(bytes: &mut Bytes) -> Option<GroupId> {
    Some(GroupId { track: TrackId(u8(bytes)?), group: varint::get(bytes)? })
}

fn entry(bytes: &mut Bytes) -> Option<Entry> {
    let id = id(bytes)?;
    let frames = u32::try_from(varint::get(bytes)?).ok().filter(|frames| *frames > 0)?;
    let first_capture = Time::from_micros(u64(bytes)?);
    let mut digest = [0; 16];
    bytes.try_copy_to_slice(&mut digest).ok()?;
    Some(Entry { id, frames, first_capture, digest: Digest(digest) })
}

fn u8(bytes: &mut Bytes) -> Option<u8> {
    bytes.try_get_u8().ok()
}

fn u64(bytes: &mut Bytes) -> Option<u64> {
    bytes.try_get_u64().ok()
}

/// A byte of which only the lowest `count` bits may be set.
fn flags(bytes: &mut Bytes, count: u32) -> Option<u8> {
    u8(bytes).filter(|flags| flags >> count == 0)
}

#[cfg(test)]
mod tests {
    use super::super::samples::{entry as entry_of, group};
    use super::*;

    const ID: GroupId = GroupId { track: TrackId(1), group: 0x1234 };

    fn to_edge() -> Vec<ToEdge> {
        let entries = (0..5).map(|n| entry_of(&group(n, 7))).collect();
        vec![
            ToEdge::Manifest { entries, complete: false },
            ToEdge::Manifest { entries: Vec::new(), complete: true },
            ToEdge::Piece { id: ID, total: 900, offset: 800, data: Bytes::from(vec![5; 100]) },
            ToEdge::Gone(ID),
        ]
    }

    fn to_venue() -> Vec<ToVenue> {
        let kept = Kept { kept: 70_000, missing: 3, gone: 1, whole: false, stuck: true };
        let most = (0..WINDOW as u64).map(|n| GroupId { group: varint::MAX - n, ..ID }).collect();
        vec![ToVenue::Want(most), ToVenue::Want(Vec::new()), ToVenue::Kept(kept)]
    }

    #[test]
    fn words_there_and_back() {
        for word in to_edge() {
            assert_eq!(ToEdge::parse(word.encode()), Some(word));
        }
        for word in to_venue() {
            assert!(word.encode().len() <= bond::MAX_MESSAGE_BYTES);
            assert_eq!(ToVenue::parse(word.encode()), Some(word));
        }
        let frames = group(9, 300);
        let id = GroupId { track: TrackId(1), group: 9 };
        assert_eq!(parse_body(id, put_body(&frames)), Some(frames));
    }

    /// The examples in `docs/protocol.md`.
    #[test]
    fn the_bytes_on_the_wire() {
        let digest = Digest([0xd1; 16]);
        let first_capture = Time::from_micros(0x0102_0304_0506_0708);
        let entry = Entry { id: ID, frames: 60, first_capture, digest };
        let manifest = ToEdge::Manifest { entries: vec![entry], complete: true }.encode();
        assert_eq!(&manifest[..14], b"\x01\x01\x01\x52\x34\x3c\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(&manifest[14..], [0xd1; 16]);
        let piece = ToEdge::Piece { id: ID, total: 300, offset: 64, data: Bytes::from_static(b"hi") };
        assert_eq!(&piece.encode()[..], b"\x02\x01\x52\x34\x41\x2c\x40\x40hi");
        assert_eq!(&ToEdge::Gone(ID).encode()[..], b"\x03\x01\x52\x34");
        assert_eq!(&ToVenue::Want(vec![ID, ID]).encode()[..], b"\x01\x01\x52\x34\x01\x52\x34");
        let kept = Kept { kept: 300, missing: 2, gone: 0, whole: false, stuck: true };
        assert_eq!(&ToVenue::Kept(kept).encode()[..], b"\x02\x02\x41\x2c\x02\x00");
    }

    /// Cut off anywhere, with bytes left over, or with any byte changed: it is another word or none, and
    /// never a panic or more memory than came.
    #[test]
    fn garbage_is_no_word() {
        let mut seed = 3u64;
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        let words = to_edge().iter().map(ToEdge::encode).collect::<Vec<_>>();
        let words: Vec<Bytes> = words.into_iter().chain(to_venue().iter().map(ToVenue::encode)).collect();
        for word in &words {
            for len in 0..word.len() {
                ToEdge::parse(word.slice(..len));
                ToVenue::parse(word.slice(..len));
            }
            for _ in 0..2_000 {
                let mut bad = word.to_vec();
                let at = random() % bad.len();
                bad[at] = random() as u8;
                bad.truncate(1 + random() % (2 * word.len()));
                ToEdge::parse(bad.clone().into());
                ToVenue::parse(bad.clone().into());
                parse_body(ID, bad.into());
            }
        }
        for (kind, len) in [(GONE, 5), (KEPT, 6), (9, 4), (MANIFEST, 3)] {
            let bad = Bytes::from([vec![kind], vec![0; len]].concat());
            assert_eq!(ToEdge::parse(bad), None, "{kind}");
        }
        assert_eq!(ToEdge::parse(Bytes::from_static(&[GROUP, 1, 2, 3, 3, 9])), None, "beyond its end");
        let many = Bytes::from([vec![WANT], [1, 5].repeat(WINDOW + 1)].concat());
        assert_eq!(ToVenue::parse(many), None);
        assert_eq!(parse_body(ID, Bytes::from_static(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 1])), None);
    }
}
