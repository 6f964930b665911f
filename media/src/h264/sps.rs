//! The sequence parameter set (ITU-T H.264, 7.3.2.1.1).

use super::{H264Error, NalType};

/// Wider or higher pictures are refused: level 6.2 ends at 16384 pixels.
const MAX_SIDE: u32 = 16_384;

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
    /// `frame_mbs_only_flag` is not set: pictures may be coded as two fields.
    pub interlaced: bool,
    /// Bits of `frame_num` in the slice headers, 4 to 16.
    pub frame_num_bits: u8,
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
        let frame_num_bits = 4 + bits.ue(12, "log2_max_frame_num_minus4")? as u8;
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
            interlaced: !frame_only,
            frame_num_bits,
        })
    }
}

/// Bytes of a slice that hold the header up to `frame_num`, with emulation prevention.
const SLICE_HEAD: usize = 32;

/// `frame_num` of a picture of one colour plane, from its first slice (7.3.3): it counts the pictures that
/// others are predicted from, so that a missing one shows.
pub fn frame_num(slice: &[u8], sps: &Sps) -> Result<u32, H264Error> {
    let head = slice.get(1..).unwrap_or_default();
    let rbsp = without_emulation_prevention(&head[..head.len().min(SLICE_HEAD)]);
    let mut bits = Bits { data: &rbsp, position: 0 };
    bits.ue(u32::MAX, "first_mb_in_slice")?;
    bits.ue(9, "slice_type")?;
    bits.ue(255, "pic_parameter_set_id")?;
    bits.take(sps.frame_num_bits.into())
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
pub mod tests {
    use bytes::Bytes;

    use super::super::{ParameterSets, codec_string};
    use super::*;

    /// x264, 1280x720, constrained baseline, level 3.1 (0x67 is nal_ref_idc 3, type 7).
    pub const SPS_720P: &[u8] = &[
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
    fn sps_of_x264() {
        let sps = Sps::parse(SPS_720P).unwrap();
        assert_eq!((sps.profile, sps.constraints, sps.level), (66, 0xc0, 31));
        assert_eq!((sps.width, sps.height), (1280, 720));
        assert_eq!((sps.interlaced, sps.frame_num_bits), (false, 4));
        // first_mb_in_slice 0, slice_type 5, pic_parameter_set_id 0, frame_num 11.
        assert_eq!(frame_num(&[0x41, 0b1001_1011, 0b0110_0000], &sps), Ok(11));
        assert_eq!(frame_num(&[0x41, 0b1001_1011], &sps), Err(H264Error::Truncated));
        assert_eq!(frame_num(&[], &sps), Err(H264Error::Truncated));
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
}
