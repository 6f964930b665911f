//! H.264 as bytes: NAL units in Annex B and length-prefixed form, the sequence parameter set, the
//! codec string and the `avcC` record (ITU-T H.264 clauses 7.3 and 7.4 and annex B, ISO/IEC 14496-15 5.3.3).

use bytes::{BufMut, Bytes};

/// Wider or higher pictures are refused: level 6.2 ends at 16384 pixels.
const MAX_SIDE: u32 = 16_384;

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
    #[error("the sequence parameter set ends too early")]
    Truncated,
    /// A value lies outside of what the standard allows, or is larger than any real stream has.
    #[error("the sequence parameter set has an impossible value in {0}")]
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

/// What is read of a sequence parameter set (7.3.2.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`: 66 is baseline, 77 main, 100 high.
    pub profile: u8,
    /// The constraint flags, set 0 in the highest bit. Baseline with 0xc0 is constrained baseline.
    pub constraints: u8,
    /// `level_idc`: ten times the level, so 31 is level 3.1.
    pub level: u8,
    /// `chroma_format_idc`: 1 is 4:2:0.
    pub chroma_format: u8,
    /// Bits per luma sample, 8 to 14.
    pub bit_depth_luma: u8,
    /// Bits per chroma sample, 8 to 14.
    pub bit_depth_chroma: u8,
    /// Pixels that are shown: after cropping.
    pub width: u32,
    /// Pixels that are shown: after cropping.
    pub height: u32,
}

impl Sps {
    /// Parses an SPS NAL unit (without start code) as far as the size of the picture.
    pub fn parse(nal: &[u8]) -> Result<Self, H264Error> {
        if NalType::of(nal) != NalType::Sps {
            return Err(H264Error::NotAnSps);
        }
        let rbsp = without_emulation_prevention(&nal[1..]);
        let mut bits = Bits { data: &rbsp, position: 0 };
        let profile = bits.take(8)? as u8;
        let constraints = bits.take(8)? as u8;
        let level = bits.take(8)? as u8;
        bits.ue(31, "seq_parameter_set_id")?;

        let (mut chroma_format, mut separate_planes) = (1, false);
        let (mut bit_depth_luma, mut bit_depth_chroma) = (8, 8);
        // The profiles that 7.3.2.1.1 lists.
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma_format = bits.ue(3, "chroma_format_idc")? as u8;
            separate_planes = chroma_format == 3 && bits.flag()?;
            bit_depth_luma = 8 + bits.ue(6, "bit_depth_luma_minus8")? as u8;
            bit_depth_chroma = 8 + bits.ue(6, "bit_depth_chroma_minus8")? as u8;
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.ue(12, "log2_max_frame_num_minus4")?;
        match bits.ue(2, "pic_order_cnt_type")? {
            0 => {
                bits.ue(12, "log2_max_pic_order_cnt_lsb_minus4")?;
            }
            1 => {
                bits.flag()?;
                bits.se()?;
                bits.se()?;
                for _ in 0..bits.ue(255, "num_ref_frames_in_pic_order_cnt_cycle")? {
                    bits.se()?;
                }
            }
            _ => {}
        }
        bits.ue(16, "max_num_ref_frames")?;
        bits.flag()?; // gaps_in_frame_num_value_allowed_flag
        let columns = bits.ue(MAX_SIDE / 16 - 1, "pic_width_in_mbs_minus1")? + 1;
        let rows = bits.ue(MAX_SIDE / 16 - 1, "pic_height_in_map_units_minus1")? + 1;
        let frame_only = bits.flag()?;
        if !frame_only {
            bits.flag()?; // mb_adaptive_frame_field_flag
        }
        bits.flag()?; // direct_8x8_inference_flag
        let (width, height) = (columns * 16, rows * 16 * if frame_only { 1 } else { 2 });
        let (mut crop_x, mut crop_y) = (0, 0);
        if bits.flag()? {
            let (unit_x, unit_y) = match (chroma_format, separate_planes) {
                (1, _) => (2, 2),
                (2, _) => (2, 1),
                _ => (1, 1),
            };
            let unit_y = unit_y * if frame_only { 1 } else { 2 };
            let mut side = || bits.ue(MAX_SIDE, "frame_cropping");
            crop_x = (side()? + side()?) * unit_x;
            crop_y = (side()? + side()?) * unit_y;
        }
        let shown = |full: u32, crop: u32| {
            full.checked_sub(crop).filter(|&left| left > 0).ok_or(H264Error::OutOfRange("frame_cropping"))
        };
        Ok(Self {
            profile,
            constraints,
            level,
            chroma_format,
            bit_depth_luma,
            bit_depth_chroma,
            width: shown(width, crop_x)?,
            height: shown(height, crop_y)?,
        })
    }
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

/// The payload with each `00 00 03` turned back into `00 00` (7.4.1).
fn without_emulation_prevention(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut zeros = 0;
    for &byte in data {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Result<(), H264Error> {
    let (mut last, mut next) = (8i64, 8i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.se()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Ok(())
}

/// Reads bits, most significant first, and never beyond the end.
struct Bits<'a> {
    data: &'a [u8],
    position: usize,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<u32, H264Error> {
        let byte = *self.data.get(self.position / 8).ok_or(H264Error::Truncated)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Ok(u32::from(bit))
    }

    fn flag(&mut self) -> Result<bool, H264Error> {
        Ok(self.bit()? == 1)
    }

    /// Up to 32 bits.
    fn take(&mut self, count: u32) -> Result<u32, H264Error> {
        (0..count).try_fold(0, |value, _| Ok(value << 1 | self.bit()?))
    }

    /// `ue(v)` (9.1) of at most `max`.
    fn ue(&mut self, max: u32, field: &'static str) -> Result<u32, H264Error> {
        let value = self.golomb(field)?;
        if value > max { Err(H264Error::OutOfRange(field)) } else { Ok(value) }
    }

    /// `se(v)` (9.1.1).
    fn se(&mut self) -> Result<i64, H264Error> {
        let code = i64::from(self.golomb("a signed value")?);
        Ok(if code % 2 == 1 { (code + 1) / 2 } else { -code / 2 })
    }

    fn golomb(&mut self, field: &'static str) -> Result<u32, H264Error> {
        let mut zeros = 0;
        while self.bit()? == 0 {
            zeros += 1;
            if zeros > 31 {
                return Err(H264Error::OutOfRange(field));
            }
        }
        Ok((1u32 << zeros) - 1 + self.take(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x264, 1280x720, constrained baseline, level 3.1 (0x67 is nal_ref_idc 3, type 7).
    const SPS_720P: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1f, 0xd9, 0x00, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00,
        0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x24, 0x80,
    ];
    const PPS: &[u8] = &[0x68, 0xcb, 0x83, 0xcb, 0x20];

    /// Writes an SPS field by field, so that tests can say what they mean.
    struct SpsBits(Vec<bool>);

    impl SpsBits {
        fn new(profile: u32) -> Self {
            let mut bits = Self(Vec::new());
            bits.put(profile, 8);
            bits.put(0, 8);
            bits.put(40, 8);
            bits.ue(0);
            bits
        }
        fn put(&mut self, value: u32, count: u32) {
            self.0.extend((0..count).rev().map(|bit| value >> bit & 1 == 1));
        }
        fn ue(&mut self, value: u32) {
            let bits = 32 - (value + 1).leading_zeros();
            self.put(0, bits - 1);
            self.put(value + 1, bits);
        }
        fn nal(&self) -> Vec<u8> {
            let mut out = vec![0x67];
            let mut zeros = 0;
            for byte in
                self.0.chunks(8).map(|c| (0..8).fold(0u8, |v, i| v << 1 | u8::from(c.get(i) == Some(&true))))
            {
                if zeros >= 2 && byte <= 3 {
                    out.push(3);
                    zeros = 0;
                }
                zeros = if byte == 0 { zeros + 1 } else { 0 };
                out.push(byte);
            }
            out
        }
        /// From `log2_max_frame_num` to the end, for a progressive picture.
        fn tail(&mut self, columns: u32, rows: u32, crop: Option<[u32; 4]>) -> Vec<u8> {
            self.ue(0);
            self.ue(2); // pic_order_cnt_type
            self.ue(1);
            self.put(0, 1);
            self.ue(columns - 1);
            self.ue(rows - 1);
            self.put(1, 1); // frame_mbs_only
            self.put(1, 1);
            self.put(u32::from(crop.is_some()), 1);
            crop.into_iter().flatten().for_each(|side| self.ue(side));
            self.put(0, 1); // no VUI
            self.put(1, 1); // stop bit
            self.nal()
        }
    }

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
    fn sps_of_x264() {
        let sps = Sps::parse(SPS_720P).unwrap();
        assert_eq!((sps.profile, sps.constraints, sps.level), (66, 0xc0, 31));
        assert_eq!((sps.width, sps.height), (1280, 720));
        assert_eq!(codec_string(SPS_720P).unwrap(), "avc3.42c01f");
    }

    #[test]
    fn sps_with_cropping() {
        let nal = SpsBits::new(66).tail(120, 68, Some([0, 0, 0, 4]));
        let sps = Sps::parse(&nal).unwrap();
        assert_eq!((sps.width, sps.height), (1920, 1080));
        // Cropped away to nothing.
        let nal = SpsBits::new(66).tail(1, 1, Some([4, 4, 0, 0]));
        assert_eq!(Sps::parse(&nal), Err(H264Error::OutOfRange("frame_cropping")));
    }

    #[test]
    fn sps_of_the_high_profiles() {
        let mut bits = SpsBits::new(110);
        bits.ue(2); // 4:2:2
        bits.ue(2); // 10 bits
        bits.ue(2);
        bits.put(0, 1);
        bits.put(1, 1); // scaling matrices
        bits.put(1, 1); // the first one: all equal to 8 by deltas of zero
        (0..16).for_each(|_| bits.ue(0));
        bits.put(0, 7);
        let nal = bits.tail(20, 12, Some([0, 0, 0, 12]));
        let sps = Sps::parse(&nal).unwrap();
        assert_eq!((sps.width, sps.height), (320, 180));
        assert_eq!((sps.chroma_format, sps.bit_depth_luma), (2, 10));
        let sets = ParameterSets { sps: vec![nal.into()], pps: vec![Bytes::from_static(PPS)] };
        assert_eq!(sets.avcc().unwrap()[sets.sps().len() + PPS.len() + 11..], [0xfe, 0xfa, 0xfa, 0]);
    }

    #[test]
    fn broken_sps_is_an_error_and_never_a_panic() {
        assert_eq!(Sps::parse(&[]), Err(H264Error::NotAnSps));
        assert_eq!(Sps::parse(PPS), Err(H264Error::NotAnSps));
        assert_eq!(codec_string(&SPS_720P[..3]), Err(H264Error::Truncated));
        for len in 1..9 {
            assert_eq!(Sps::parse(&SPS_720P[..len]), Err(H264Error::Truncated), "{len}");
        }
        assert!(matches!(Sps::parse(&[0x67; 40]), Err(_) | Ok(_)));
        assert!(matches!(Sps::parse(&[[0x67].as_slice(), &[0; 64]].concat()), Err(H264Error::OutOfRange(_))));
        // A cheap generator: the values are arbitrary, what counts is that none of them panics.
        let mut state = 1u64;
        for _ in 0..20_000 {
            let mut nal = SPS_720P.to_vec();
            for _ in 0..3 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = 1 + (state >> 33) as usize % (nal.len() - 1);
                nal[at] = (state >> 24) as u8;
            }
            if let Ok(sps) = Sps::parse(&nal) {
                assert!(sps.width <= MAX_SIDE && sps.height <= 2 * MAX_SIDE);
            }
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
}
