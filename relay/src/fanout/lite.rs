//! The part of moq-lite that live forwarding needs: SUBSCRIBE and its answers, and what begins a group's stream. Pure.
//!
//! Source: draft-lcurley-moq-lite, versions 03 to 06 (what they differ in is said at each field). All numbers are QUIC's
//! variable-length integers.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use media::varint;

/// The type of a bidirectional stream that begins a subscription.
const STREAM_SUBSCRIBE: u64 = 2;

/// The type of a unidirectional stream that carries a group.
const STREAM_GROUP: u64 = 0;

/// A control message of ours is some hundred bytes long, of which most is the name of a broadcast.
const MAX_MESSAGE: u64 = 4 * 1024;

/// A version of moq-lite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    Lite03,
    Lite04,
    Lite05,
    Lite06,
}

impl Version {
    /// By what both sides have agreed upon: an ALPN, or a sub-protocol of WebTransport.
    pub fn from_protocol(protocol: &str) -> Option<Self> {
        match protocol {
            "moq-lite-03" => Some(Self::Lite03),
            "moq-lite-04" => Some(Self::Lite04),
            "moq-lite-05" => Some(Self::Lite05),
            "moq-lite-06" => Some(Self::Lite06),
            _ => None,
        }
    }

    /// Frames have their time in front, as the difference to the one before; and the range of a subscription is told
    /// when it is known, where an OK came at once before.
    pub fn is_timed(self) -> bool {
        self >= Self::Lite05
    }

    /// A retired byte stands between priority and age.
    fn has_order(self) -> bool {
        self <= Self::Lite05
    }

    /// The first group is a floor, not a place to begin; and frames within a group can be asked for.
    fn has_floor(self) -> bool {
        self >= Self::Lite06
    }
}

/// What a subscriber sent is not moq-lite, or more than anybody has reason to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed SUBSCRIBE")]
pub(super) struct Malformed;

/// Which part of a track is wanted, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// Higher ones go first.
    pub priority: u8,
    /// A group is not wanted any more so long after a newer one has begun.
    pub max_age: Duration,
    /// Not before this group. `None`: from the newest on.
    pub first: Option<u64>,
    /// Not after this group.
    pub last: Option<u64>,
    /// Parts of groups are wanted.
    pub partial: bool,
}

/// A subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Subscribe {
    pub id: u64,
    pub broadcast: String,
    pub track: String,
    pub wish: Wish,
}

impl Subscribe {
    /// Takes the stream's type and the message from the front of `input`. `None`: more bytes are needed.
    pub fn take(input: &mut &[u8], version: Version) -> Result<Option<Self>, Malformed> {
        let mut ahead = *input;
        match varint::get(&mut ahead) {
            None => return Ok(None),
            Some(STREAM_SUBSCRIBE) => {}
            Some(_) => return Err(Malformed),
        }
        let Some(mut body) = sized(&mut ahead)? else { return Ok(None) };
        let id = need(&mut body)?;
        let broadcast = text(&mut body)?;
        let track = text(&mut body)?;
        let wish = Wish::take(&mut body, version)?;
        *input = ahead;
        Ok(Some(Self { id, broadcast, track, wish }))
    }
}

impl Wish {
    fn take(body: &mut &[u8], version: Version) -> Result<Self, Malformed> {
        let priority = body.try_get_u8().map_err(|_| Malformed)?;
        if version.has_order() {
            body.try_get_u8().map_err(|_| Malformed)?;
        }
        let max_age = Duration::from_millis(need(body)?);
        let first = match (version.has_floor(), need(body)?) {
            (_, 0) => None,
            (true, floor) => Some(floor),
            (false, next) => Some(next - 1),
        };
        let last = need(body)?.checked_sub(1);
        let mut partial = false;
        if version.has_floor() {
            partial = need(body)? != 0;
            partial |= need(body)? != 0;
        }
        if body.is_empty() { Ok(Self { priority, max_age, first, last, partial }) } else { Err(Malformed) }
    }

    /// Takes a SUBSCRIBE_UPDATE from the front of `input`. `None`: more bytes are needed.
    pub fn take_update(input: &mut &[u8], version: Version) -> Result<Option<Self>, Malformed> {
        let mut ahead = *input;
        let Some(mut body) = sized(&mut ahead)? else { return Ok(None) };
        let wish = Self::take(&mut body, version)?;
        *input = ahead;
        Ok(Some(wish))
    }
}

/// What is answered as soon as a subscription stands: an OK, where the version has one.
pub(super) fn accepted(version: Version, priority: u8) -> Option<Bytes> {
    let mut body = BytesMut::new();
    body.put_u8(priority);
    body.put_u8(0);
    // No age and no range: as asked for.
    (0..3).for_each(|_| varint::put(0, &mut body));
    (!version.is_timed()).then(|| typed(0, &body))
}

/// What is answered when the first group is known, where the version has that.
pub(super) fn begins(version: Version, group: u64) -> Option<Bytes> {
    let mut body = BytesMut::new();
    varint::put(group, &mut body);
    version.is_timed().then(|| typed(0, &body))
}

/// What is answered when there will be no groups from this one on, where the version has that.
pub(super) fn ends(version: Version, group: u64) -> Option<Bytes> {
    let mut body = BytesMut::new();
    varint::put(group, &mut body);
    version.is_timed().then(|| typed(1, &body))
}

/// The beginning of a group's stream.
pub(super) fn group(version: Version, subscription: u64, sequence: u64) -> Bytes {
    let mut body = BytesMut::new();
    varint::put(subscription, &mut body);
    varint::put(sequence, &mut body);
    if version.has_floor() {
        // Whole groups only.
        varint::put(0, &mut body);
    }
    typed(STREAM_GROUP, &body)
}

/// Maps signed numbers to unsigned ones, small to small.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn typed(kind: u64, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(body.len() + 9);
    varint::put(kind, &mut out);
    varint::put(body.len() as u64, &mut out);
    out.put_slice(body);
    out.freeze()
}

/// A length-prefixed body at the front of `input`, which moves on behind it.
fn sized<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let Some(length) = varint::get(input) else { return Ok(None) };
    if length > MAX_MESSAGE {
        return Err(Malformed);
    }
    let Some((body, rest)) = input.split_at_checked(length as usize) else { return Ok(None) };
    *input = rest;
    Ok(Some(body))
}

fn need(body: &mut &[u8]) -> Result<u64, Malformed> {
    varint::get(body).ok_or(Malformed)
}

fn text(body: &mut &[u8]) -> Result<String, Malformed> {
    let bytes = sized(body)?.ok_or(Malformed)?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERSIONS: [Version; 4] = [Version::Lite03, Version::Lite04, Version::Lite05, Version::Lite06];

    fn subscribe(version: Version, first: u64, last: u64) -> Vec<u8> {
        let mut body = vec![7, 4];
        body.extend(b"demo");
        body.push(5);
        body.extend(b"audio");
        body.push(80);
        if version.has_order() {
            body.push(0);
        }
        body.extend([0x42, 0xbc, first as u8, last as u8]);
        if version.has_floor() {
            body.extend([0, 0]);
        }
        let mut out = vec![2, body.len() as u8];
        out.extend(body);
        out
    }

    #[test]
    fn a_subscription_is_read_in_every_version() {
        for version in VERSIONS {
            let bytes = [&subscribe(version, 0, 0)[..], b"rest"].concat();
            let mut input = &bytes[..];
            let read = Subscribe::take(&mut input, version).unwrap().unwrap();
            assert_eq!((read.id, read.broadcast.as_str(), read.track.as_str()), (7, "demo", "audio"));
            let max_age = Duration::from_millis(700);
            let wish = Wish { priority: 80, max_age, first: None, last: None, partial: false };
            assert_eq!((read.wish, input), (wish, &b"rest"[..]));
            // 6 is the sixth group as a floor, and the fifth as a beginning.
            let read = Subscribe::take(&mut &subscribe(version, 6, 9)[..], version).unwrap().unwrap();
            let first = if version == Version::Lite06 { 6 } else { 5 };
            assert_eq!((read.wish.first, read.wish.last), (Some(first), Some(8)));
        }
    }

    #[test]
    fn a_part_is_waited_for_and_garbage_is_refused() {
        for version in VERSIONS {
            let good = subscribe(version, 0, 0);
            for end in 0..good.len() {
                assert_eq!(Subscribe::take(&mut &good[..end], version), Ok(None), "{end}");
            }
            for at in 0..good.len() {
                for value in [0, 1, 0x3f, 0x7f, 0xff] {
                    let mut bad = good.clone();
                    bad[at] = value;
                    // No panic, and nothing is taken from what is no message.
                    let mut input = &bad[..];
                    if !matches!(Subscribe::take(&mut input, version), Ok(Some(_))) {
                        assert_eq!(input.len(), bad.len());
                    }
                }
            }
            assert_eq!(Subscribe::take(&mut &[2, 0x9f, 0xff, 0xff, 0xff][..], version), Err(Malformed));
            assert_eq!(Subscribe::take(&mut &[1, 0][..], version), Err(Malformed));
        }
    }

    #[test]
    fn small_differences_are_small_numbers() {
        let small = [0, -1, 1, -2, 2].map(zigzag);
        assert_eq!(small, [0, 1, 2, 3, 4]);
    }
}
