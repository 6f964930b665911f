//! Whether a stream of H.264 can go out as it comes in. Pure; times are running times.

use std::collections::VecDeque;

use bytes::Bytes;
use gstreamer::ClockTime;
use media::h264::{self, NalType, ParameterSets, Sps};

use super::{Facts, Unit};

/// The bit rate is measured over the last so much of a stream.
const WINDOW: ClockTime = ClockTime::from_seconds(2);
/// Units in that time: 120 a second, and as many again for those that come in a burst of wrong stamps.
const WINDOW_UNITS: usize = 480;
/// Group numbers have room for four groups a second (`encode/groups.rs`).
const SHORTEST_GROUP: ClockTime = ClockTime::from_mseconds(250);
/// A viewer who joins waits for the next group, and a player's buffer is counted in groups.
const LONGEST_GROUP: ClockTime = ClockTime::from_seconds(4);

/// How much faster than the show a stream may be, in percent: clocks and stamps are never exact.
const FASTER_PERCENT: u64 = 115;

/// Why a stream is not passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// It takes a whole group to know.
    #[error("a whole group of it has not been seen yet")]
    Unknown,
    #[error("its keyframes come without parameter sets that can be read")]
    NoParameterSets,
    #[error("its profile is neither baseline, main nor high with 8 bits and 4:2:0, which all browsers play")]
    Profile,
    #[error("its pictures are interlaced")]
    Interlaced,
    #[error("its pictures have {0}x{1} pixels; set --size to that")]
    Size(u32, u32),
    #[error("it has more pictures a second than the show; set --fps to what it has")]
    FrameRate,
    #[error("it has B-frames, which cost delay; switch them off at the sender (zerolatency)")]
    Reordered,
    #[error("its keyframes (IDR) are more than 4 s apart; set 1 or 2 s at the sender")]
    LongGroups,
    #[error("its keyframes (IDR) are less than 250 ms apart; set 1 or 2 s at the sender")]
    ShortGroups,
}

/// Checks one stream, unit by unit, in the order of decoding.
#[derive(Debug)]
pub(crate) struct Stream {
    size: (u32, u32),
    fps: u32,
    number: u64,
    last: Option<ClockTime>,
    idr: Option<ClockTime>,
    /// What the latest parameter sets say.
    sets: Option<(ParameterSets, Result<Sps, Unfit>)>,
    /// `frame_num` of the last picture that others are predicted from.
    reference: Option<u32>,
    /// What is known of the groups: the last whole one decides.
    groups: Result<(), Unfit>,
    /// Once it has reordered, it may again.
    reorders: bool,
    window: VecDeque<(ClockTime, usize)>,
    bytes: usize,
}

impl Stream {
    /// A stream for a show whose pictures have this size, and of which there are so many a second.
    pub(crate) fn new((width, height): (u32, u32), fps: u32) -> Self {
        Stream {
            size: (width, height),
            fps,
            number: 0,
            last: None,
            idr: None,
            sets: None,
            reference: None,
            groups: Err(Unfit::Unknown),
            reorders: false,
            window: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Parameter sets that do not come in band.
    pub(crate) fn describe(&mut self, sets: ParameterSets) {
        let fit = self.check(&sets);
        self.sets = Some((sets, fit));
    }

    /// The next access unit, in Annex B. `gap`: something before it is missing.
    pub(crate) fn unit(&mut self, pts: ClockTime, data: Bytes, gap: bool) -> Unit {
        let idr = h264::is_idr(&data);
        let mut data = data;
        let inband = ParameterSets::of(&data);
        if let Some(sets) = &inband
            && self.sets.as_ref().is_none_or(|(known, _)| known != sets)
        {
            self.describe(sets.clone());
        }
        let gap = self.misses(&data, idr) || gap;
        if idr {
            if let (None, Some((sets, _))) = (&inband, &self.sets) {
                data = with_sets(&data, sets);
            }
            if let Some(last) = self.idr {
                let length = pts.saturating_sub(last);
                self.groups = match length {
                    _ if gap => self.groups,
                    length if length > LONGEST_GROUP => Err(Unfit::LongGroups),
                    length if length < SHORTEST_GROUP => Err(Unfit::ShortGroups),
                    _ => Ok(()),
                };
            }
            self.idr = Some(pts);
        } else if self.idr.is_some_and(|idr| pts.saturating_sub(idr) > LONGEST_GROUP) {
            self.groups = Err(Unfit::LongGroups);
        }
        self.reorders |= self.last.is_some_and(|last| pts <= last);
        self.last = Some(pts);
        self.measure(pts, data.len());
        self.number += 1;
        let facts = Facts { number: self.number, idr, joined: !gap, fit: self.fit() };
        Unit { pts, data, facts }
    }

    /// Whether a picture that this one may be predicted from did not come: a network lost it, and no
    /// demultiplexer says so.
    fn misses(&mut self, data: &[u8], idr: bool) -> bool {
        let Some((_, Ok(sps))) = &self.sets else { return false };
        let slice = |nal: &&[u8]| matches!(NalType::of(nal), NalType::Slice | NalType::Idr);
        let Some(first) = h264::nals(data).find(slice) else { return true };
        let Ok(number) = h264::frame_num(first, sps) else { return true };
        let expected = self.reference.map(|last| (last + 1) % (1 << sps.frame_num_bits));
        // `nal_ref_idc`: pictures without are nobody's reference.
        if first.first().is_some_and(|header| header & 0x60 != 0) {
            self.reference = Some(number);
        }
        !idr && expected.is_some_and(|expected| expected != number)
    }

    fn fit(&self) -> Result<u32, Unfit> {
        self.idr.ok_or(Unfit::Unknown)?;
        let (_, sets) = self.sets.as_ref().ok_or(Unfit::NoParameterSets)?;
        sets.as_ref().map_err(|unfit| *unfit)?;
        if self.reorders {
            return Err(Unfit::Reordered);
        }
        self.groups?;
        let (pictures, rate) = self.rate();
        if pictures * 100 > u64::from(self.fps) * FASTER_PERCENT {
            return Err(Unfit::FrameRate);
        }
        Ok(rate)
    }

    fn check(&self, sets: &ParameterSets) -> Result<Sps, Unfit> {
        let sps = Sps::parse(sets.sps()).map_err(|_| Unfit::NoParameterSets)?;
        let eight_bits = (sps.bit_depth_luma, sps.bit_depth_chroma) == (8, 8);
        if !matches!(sps.profile, 66 | 77 | 100) || sps.chroma_format != 1 || !eight_bits {
            return Err(Unfit::Profile);
        }
        if sps.interlaced {
            return Err(Unfit::Interlaced);
        }
        if (sps.width, sps.height) != self.size {
            return Err(Unfit::Size(sps.width, sps.height));
        }
        Ok(sps)
    }

    fn measure(&mut self, pts: ClockTime, bytes: usize) {
        self.window.push_back((pts, bytes));
        self.bytes += bytes;
        let old = |first: &(ClockTime, usize)| pts.saturating_sub(first.0) >= WINDOW;
        while self.window.len() > WINDOW_UNITS || self.window.front().is_some_and(old) {
            self.bytes -= self.window.pop_front().map_or(0, |(_, bytes)| bytes);
        }
    }

    /// Pictures and bits per second.
    fn rate(&self) -> (u64, u32) {
        let (Some((first, _)), Some((last, bytes))) = (self.window.front(), self.window.back()) else {
            return (0, 0);
        };
        // The last one's own time is not over.
        let nanos = last.saturating_sub(*first).nseconds().max(1);
        let bits = (self.bytes - bytes) as u128 * 8;
        let pictures = (self.window.len() as u64 - 1) * 1_000_000_000 / nanos;
        (pictures, u32::try_from(bits * 1_000_000_000 / u128::from(nanos)).unwrap_or(u32::MAX))
    }
}

/// The unit with these parameter sets in front; an access unit delimiter stays the first.
fn with_sets(unit: &[u8], sets: &ParameterSets) -> Bytes {
    let mut out = Vec::with_capacity(unit.len() + 256);
    let is_delimiter = |nal: &&[u8]| NalType::of(nal) == NalType::AccessUnitDelimiter;
    let own = |nal: &&[u8]| matches!(NalType::of(nal), NalType::Sps | NalType::Pps);
    h264::nals(unit).filter(is_delimiter).for_each(|nal| h264::put_annex_b(nal, &mut out));
    sets.iter().for_each(|set| h264::put_annex_b(set, &mut out));
    let rest = h264::nals(unit).filter(|nal| !is_delimiter(nal) && !own(nal));
    rest.for_each(|nal| h264::put_annex_b(nal, &mut out));
    Bytes::from(out)
}

/// Length-prefixed units (4-byte lengths) as Annex B. `None`: they are damaged.
pub(crate) fn annex_b(prefixed: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(prefixed.len() + 16);
    for nal in h264::length_prefixed_nals(prefixed) {
        h264::put_annex_b(nal.ok()?, &mut out);
    }
    Some(Bytes::from(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 640x360, constrained baseline, of x264.
    pub(crate) const SPS: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x2f, 0xf9, 0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00,
        0x00, 0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2e, 0x48,
    ];
    const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

    fn unit(nals: &[&[u8]]) -> Bytes {
        let mut out = Vec::new();
        nals.iter().for_each(|nal| h264::put_annex_b(nal, &mut out));
        out.into()
    }

    fn idr() -> Bytes {
        unit(&[SPS, PPS, &[&[0x65, 0b1001_1010, 1][..], &[0x55; 997]].concat()])
    }

    /// With this `frame_num`, of 4 bits.
    fn delta(number: u64) -> Bytes {
        let number = number as u8 & 15;
        let head = [0x41, 0b1001_1010 | number >> 3, (number & 7) << 5 | 1];
        unit(&[&[&head[..], &[0x55; 997]].concat()])
    }

    /// Units of 30 a second, an IDR every `gop`; the verdict of the last.
    fn run(stream: &mut Stream, from: u64, to: u64, gop: u64) -> Unit {
        let unit = |n: u64| {
            let data = if n.is_multiple_of(gop) { idr() } else { delta(n % gop) };
            stream.unit(ClockTime::from_useconds(n * 33_333), data, false)
        };
        (from..to).map(unit).last().expect("units")
    }

    fn stream() -> Stream {
        let sps = Sps::parse(SPS).expect("it is one");
        Stream::new((sps.width, sps.height), 30)
    }

    #[test]
    fn it_takes_a_whole_group_to_know_that_it_fits() {
        let mut stream = stream();
        assert_eq!(run(&mut stream, 0, 30, 30).facts.fit, Err(Unfit::Unknown));
        let rate = run(&mut stream, 30, 90, 30).facts.fit.expect("it fits");
        assert!((235_000..250_000).contains(&rate), "1005 bytes 30 times a second: {rate}");
    }

    #[test]
    fn what_does_not_fit_says_why() {
        assert_eq!(run(&mut stream(), 0, 200, 150).facts.fit, Err(Unfit::LongGroups));
        assert_eq!(run(&mut stream(), 0, 99, 5).facts.fit, Err(Unfit::ShortGroups));
        let sps = Sps::parse(SPS).expect("it is one");
        let mut other = Stream::new((1280, 720), 30);
        assert_eq!(run(&mut other, 0, 99, 30).facts.fit, Err(Unfit::Size(sps.width, sps.height)));
        let mut slow = Stream::new((sps.width, sps.height), 25);
        assert_eq!(run(&mut slow, 0, 99, 30).facts.fit, Err(Unfit::FrameRate));
        let mut bare = stream();
        let found = bare.unit(ClockTime::ZERO, unit(&[&[0x65; 9]]), false);
        assert_eq!(found.facts.fit, Err(Unfit::NoParameterSets));
        let mut profile = SPS.to_vec();
        profile[1] = 110;
        let found = stream().unit(ClockTime::ZERO, unit(&[&profile, PPS, &[0x65; 9]]), false);
        assert!(found.facts.fit.is_err());
    }

    #[test]
    fn one_that_reorders_once_is_never_trusted_again() {
        let mut stream = stream();
        run(&mut stream, 0, 90, 30);
        let found = stream.unit(ClockTime::from_useconds(88 * 33_333), delta(0), false);
        assert_eq!(found.facts.fit, Err(Unfit::Reordered));
        assert_eq!(run(&mut stream, 90, 200, 30).facts.fit, Err(Unfit::Reordered));
    }

    #[test]
    fn a_picture_that_did_not_come_shows() {
        let mut stream = stream();
        run(&mut stream, 0, 70, 30);
        let mut joined = |n: u64| {
            let data = if n.is_multiple_of(30) { idr() } else { delta(n % 30) };
            stream.unit(ClockTime::from_useconds(n * 33_333), data, false).facts.joined
        };
        assert_eq!([70, 72, 73, 90, 91].map(&mut joined), [true, false, true, true, true]);
        assert!(!joined(94));
    }

    #[test]
    fn parameter_sets_that_came_before_are_put_in_front_of_each_keyframe() {
        let mut stream = stream();
        stream.unit(ClockTime::ZERO, idr(), false);
        let delimiter: &[u8] = &[9, 0xf0];
        let found = stream.unit(ClockTime::SECOND, unit(&[delimiter, &[0x65; 9]]), false);
        let nals: Vec<_> = h264::nals(&found.data).collect();
        assert_eq!(nals, [delimiter, SPS, PPS, &[0x65; 9]]);
        let whole = idr();
        assert_eq!(stream.unit(ClockTime::SECOND * 2, whole.clone(), false).data, whole);
    }

    #[test]
    fn damaged_lengths_are_no_panic() {
        assert_eq!(annex_b(&[0, 0, 0, 9, 1]), None);
        assert_eq!(annex_b(&[0, 0, 0, 2, 0x65, 7]), Some(unit(&[&[0x65, 7]])));
        assert!(annex_b(&[]).is_some_and(|empty| empty.is_empty()));
    }

    #[test]
    fn memory_is_bounded_whatever_the_stamps_say() {
        let mut stream = stream();
        for _ in 0..5_000 {
            stream.unit(ClockTime::SECOND, delta(1), false);
        }
        assert!(stream.window.len() <= WINDOW_UNITS);
    }
}
