//! AV1 (its specification, version 1.0.0 with errata 1): what of a temporal unit has to be known outside of a decoder.
//! Nothing is out of band: each keyframe has the sequence header before it, so one stream may change its picture's size.

use std::fmt;

/// Kinds of OBU (section 6.2.2).
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

/// A unit of the bitstream (section 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Obu<'a> {
    kind: u8,
    /// With its header.
    whole: &'a [u8],
    payload: &'a [u8],
}

/// The OBUs of a temporal unit. `None` stands for the rest of one that is broken.
fn obus(mut unit: &[u8]) -> impl Iterator<Item = Option<Obu<'_>>> {
    std::iter::from_fn(move || {
        if unit.is_empty() {
            return None;
        }
        let found = split_obu(unit);
        unit = found.map_or(&[], |(_, rest)| rest);
        Some(found.map(|(obu, _)| obu))
    })
}

fn split_obu(data: &[u8]) -> Option<(Obu<'_>, &[u8])> {
    const FORBIDDEN: u8 = 0x80;
    const EXTENSION: u8 = 4;
    const HAS_SIZE: u8 = 2;
    let &header = data.first()?;
    let start = if header & EXTENSION != 0 { 2 } else { 1 };
    let after = data.get(start..).filter(|_| header & FORBIDDEN == 0)?;
    let (from, len) = if header & HAS_SIZE == 0 {
        (start, after.len())
    } else {
        let (len, bytes) = leb128(after)?;
        (start + bytes, len)
    };
    let end = from.checked_add(len)?;
    let obu = Obu { kind: header >> 3 & 15, whole: data.get(..end)?, payload: data.get(from..end)? };
    Some((obu, data.get(end..)?))
}

/// A number, and how many bytes it takes (section 4.10.5: at most eight, and 32 bits).
fn leb128(data: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0_u64;
    for (at, &byte) in data.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).ok()?;
            return Some((value as usize, at + 1));
        }
    }
    None
}

/// The temporal unit without its delimiters, as WebCodecs and MP4 have it. `None`: it is broken.
pub fn without_delimiters(unit: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(unit.len());
    for obu in obus(unit) {
        let obu = obu?;
        if obu.kind != TEMPORAL_DELIMITER {
            out.extend_from_slice(obu.whole);
        }
    }
    Some(out)
}

/// Whether decoding can start at this temporal unit: it has a sequence header, and its first frame is a keyframe that
/// is shown (section 7.6.2 calls this a random access point).
pub fn is_keyframe(unit: &[u8]) -> bool {
    let mut described = false;
    for obu in obus(unit) {
        match obu {
            Some(Obu { kind: SEQUENCE_HEADER, .. }) => described = true,
            Some(Obu { kind: FRAME_HEADER | FRAME, payload, .. }) => {
                // From the highest bit: show_existing_frame 0, frame_type 00, show_frame 1.
                return described && payload.first().is_some_and(|first| first >> 4 == 0b0001);
            }
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// What a sequence header says (section 5.5), as far as a codec string, a recording and a size need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// 0 main, 1 high, 2 professional.
    pub profile: u8,
    /// `seq_level_idx` of the first operating point: 5 is level 3.1, 720p30.
    pub level: u8,
    /// Whether it may take the bit rates of the high tier.
    pub high_tier: bool,
    /// Bits of a sample: 8, 10 or 12.
    pub bit_depth: u8,
    /// The largest picture in pixels.
    pub width: u32,
    /// See `width`.
    pub height: u32,
}

impl Sequence {
    /// Of a temporal unit on which decoding can start.
    pub fn of(keyframe: &[u8]) -> Option<Self> {
        if !is_keyframe(keyframe) {
            return None;
        }
        let header = obus(keyframe).flatten().find(|obu| obu.kind == SEQUENCE_HEADER)?;
        read_sequence(&mut Bits { data: header.payload, at: 0 })
    }
}

/// The codec string of WebCodecs and MP4, such as `av01.0.05M.08` ("AV1 Codec ISO Media File Format Binding",
/// section 5).
impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tier = if self.high_tier { 'H' } else { 'M' };
        write!(f, "av01.{}.{:02}{tier}.{:02}", self.profile, self.level, self.bit_depth)
    }
}

/// Bits from the highest on.
struct Bits<'a> {
    data: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn read(&mut self, count: usize) -> Option<u32> {
        (0..count).try_fold(0, |value, _| {
            let byte = self.data.get(self.at / 8)?;
            let bit = byte >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(value << 1 | u32::from(bit))
        })
    }

    fn flag(&mut self) -> Option<bool> {
        Some(self.read(1)? == 1)
    }

    fn skip(&mut self, count: usize) {
        // What lies beyond the end is found by the next read.
        self.at += count;
    }

    /// `uvlc()`, section 4.10.3. Its value is of no use here.
    fn skip_uvlc(&mut self) -> Option<()> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        if zeros < 32 {
            self.skip(zeros);
        }
        Some(())
    }
}

fn read_sequence(bits: &mut Bits<'_>) -> Option<Sequence> {
    let profile = bits.read(3)? as u8;
    bits.skip(1); // still_picture
    let reduced = bits.flag()?;
    let (level, high_tier) = if reduced { (bits.read(5)?, false) } else { operating_points(bits)? };
    let [width_bits, height_bits] = [bits.read(4)? as usize + 1, bits.read(4)? as usize + 1];
    let [width, height] = [bits.read(width_bits)? + 1, bits.read(height_bits)? + 1];
    if !reduced && bits.flag()? {
        bits.skip(4 + 3); // lengths of frame numbers
    }
    bits.skip(3); // 128x128, filter_intra, intra_edge_filter
    if !reduced {
        tools(bits)?;
    }
    bits.skip(3); // superres, cdef, restoration
    let high = bits.flag()?;
    let bit_depth = match (profile, high) {
        (2, true) if bits.flag()? => 12,
        (_, true) => 10,
        (_, false) => 8,
    };
    Some(Sequence { profile, level: level as u8, high_tier, bit_depth, width, height })
}

/// Level and tier of the first one.
fn operating_points(bits: &mut Bits<'_>) -> Option<(u32, bool)> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(32 + 32); // display tick and time scale
        if bits.flag()? {
            bits.skip_uvlc()?;
        }
        if bits.flag()? {
            delay_bits = Some(bits.read(5)? as usize + 1);
            bits.skip(32 + 5 + 5);
        }
    }
    let display_delays = bits.flag()?;
    let count = bits.read(5)? + 1;
    let mut first = None;
    for _ in 0..count {
        bits.skip(12);
        let level = bits.read(5)?;
        let high_tier = level > 7 && bits.flag()?;
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1);
        }
        if display_delays && bits.flag()? {
            bits.skip(4);
        }
        first.get_or_insert((level, high_tier));
    }
    first
}

/// Passes over the tools between pictures.
fn tools(bits: &mut Bits<'_>) -> Option<()> {
    bits.skip(4); // interintra, masked, warped, dual filter
    let order_hint = bits.flag()?;
    if order_hint {
        bits.skip(2); // jnt_comp, ref_frame_mvs
    }
    let choose_screen = bits.flag()?;
    let screen = choose_screen || bits.flag()?;
    if screen && !bits.flag()? {
        bits.skip(1); // seq_force_integer_mv
    }
    if order_hint {
        bits.skip(3);
    }
    Some(())
}

/// Whether a codec string is that of AV1.
pub fn is_codec(codec: &str) -> bool {
    av1c(codec).is_some()
}

/// Body of an `av1C` box ("AV1 Codec ISO Media File Format Binding", section 2.3) for a track with this codec string,
/// of 4:2:0 pictures. It has no sequence header in it, so that those in the keyframes may differ in size.
pub(crate) fn av1c(codec: &str) -> Option<[u8; 4]> {
    const MARKER_AND_VERSION: u8 = 0x81;
    const SUBSAMPLED_BOTH_WAYS: u8 = 3 << 2;
    let mut parts = codec.strip_prefix("av01.")?.split('.');
    let profile = number(parts.next()?, 1).filter(|profile| *profile <= 2)?;
    let level = parts.next()?;
    let (level, tier) = level.split_at_checked(2)?;
    let level = number(level, 2).filter(|level| *level < 32)?;
    let high_tier = match tier {
        "M" => 0,
        "H" => 1,
        _ => return None,
    };
    let depth = match parts.next()? {
        "08" => 0,
        "10" => 0b10,
        "12" => 0b11,
        _ => return None,
    };
    Some([MARKER_AND_VERSION, profile << 5 | level, high_tier << 7 | depth << 5 | SUBSAMPLED_BOTH_WAYS, 0])
}

fn number(text: &str, digits: usize) -> Option<u8> {
    let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of a keyframe of 1280x720 as SVT-AV1 makes it: delimiter, sequence header, the first bytes of a frame
    /// whose size is cut to fit.
    const MAIN: [u8; 19] = [
        0x12, 0x00, 0x0a, 0x0b, 0x00, 0x00, 0x00, 0x2d, 0x4c, 0xff, 0xb3, 0xcf, 0xbf, 0x90, 0x04, 0x32, 0x02,
        0x10, 0x00,
    ];
    /// The same of libaom: 640x360 in 4:4:4, and in ten bits.
    const HIGH: &[u8] = &[
        0x0a, 0x0d, 0x20, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x3f, 0xfe, 0x68, 0x08, 0x68, 0x01, 0x32, 0x01,
        0x14,
    ];
    const TEN: &[u8] =
        &[0x0a, 0x0b, 0x00, 0x00, 0x00, 0x0c, 0xc4, 0xff, 0x67, 0x36, 0xbe, 0x50, 0x10, 0x32, 0x01, 0x10];

    #[test]
    fn a_keyframe_tells_its_codec_and_size() {
        let of = |unit: &[u8]| Sequence::of(unit).map(|found| (found.to_string(), found.width, found.height));
        assert_eq!(of(&MAIN), Some(("av01.0.05M.08".into(), 1280, 720)));
        assert_eq!(of(HIGH), Some(("av01.1.01M.08".into(), 640, 360)));
        assert_eq!(of(TEN), Some(("av01.0.01M.10".into(), 640, 360)));
    }

    #[test]
    fn the_delimiter_goes_and_the_rest_stays() {
        assert_eq!(without_delimiters(&MAIN).as_deref(), Some(&MAIN[2..]));
        assert_eq!(without_delimiters(HIGH).as_deref(), Some(HIGH));
        assert_eq!(without_delimiters(&MAIN[..10]), None, "cut off");
    }

    #[test]
    fn other_frames_and_garbage_are_no_keyframes() {
        assert!(is_keyframe(&MAIN));
        let [mut delta, mut hidden, mut shown_again, mut forbidden] = [MAIN; 4];
        (delta[17], hidden[17], shown_again[17], forbidden[2]) = (0x30, 0x00, 0x90, 0x8a);
        for unit in [delta, hidden, shown_again, forbidden] {
            assert!(!is_keyframe(&unit), "{unit:x?}");
        }
        assert!(!is_keyframe(&MAIN[15..]), "no sequence header");
        assert!(!is_keyframe(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]), "no size");
        for len in 0..MAIN.len() - 1 {
            assert!(!is_keyframe(&MAIN[..len]), "{len}");
            assert_eq!(Sequence::of(&MAIN[..len]), None);
        }
        // Whatever the bits are, reading them ends.
        for byte in 0..=255 {
            let header = [&[0x0a, 0x08][..], &[byte; 8], &[0x32, 0x01, 0x10]].concat();
            let _ = Sequence::of(&header);
        }
    }

    #[test]
    fn a_recording_has_what_the_codec_string_says() {
        // Bytes 1 and 2 as FFmpeg writes them for the same streams.
        assert_eq!(av1c("av01.0.05M.08"), Some([0x81, 0x05, 0x0c, 0]));
        assert_eq!(av1c("av01.0.13H.10"), Some([0x81, 0x0d, 0xcc, 0]));
        assert_eq!(av1c("av01.0.05M.08.0.110"), Some([0x81, 0x05, 0x0c, 0]), "the long form");
        for other in
            ["av01", "av01.0.5M.08", "av01.3.05M.08", "av01.0.05X.08", "av01.0.é.08", "av01.0.05M.09", "vp8"]
        {
            assert!(!is_codec(other), "{other}");
        }
    }
}
