//! Opus as bytes: how long a packet plays (RFC 6716, section 3.1), and the identification header that
//! WebCodecs and Ogg (`OpusHead`, RFC 7845) and MP4 (`dOps`, "Encapsulation of Opus in ISO BMFF") want.

use std::time::Duration;

use bytes::BufMut;

/// Opus always decodes at this rate.
pub const SAMPLE_RATE: u32 = 48_000;

/// No packet may play longer (RFC 6716, R5).
pub const MAX_PACKET: Duration = Duration::from_millis(120);

/// How long a packet plays, or `None` if it is no Opus packet.
pub fn duration(packet: &[u8]) -> Option<Duration> {
    let &toc = packet.first()?;
    let frame = Duration::from_micros(match toc >> 3 {
        config @ 0..=11 => [10_000, 20_000, 40_000, 60_000][usize::from(config % 4)], // SILK
        config @ 12..=15 => [10_000, 20_000][usize::from(config % 2)],                // hybrid
        config => [2_500, 5_000, 10_000, 20_000][usize::from(config % 4)],            // CELT
    });
    let count = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    let total = frame * count;
    (count > 0 && total <= MAX_PACKET).then_some(total)
}

/// What a decoder is told before the first packet: mono or stereo (channel mapping family 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpusHead {
    /// 1 or 2.
    pub channels: u8,
    /// Samples at 48 kHz that the decoder throws away at the start.
    pub pre_skip: u16,
    /// The rate of the original input in Hz; decoders ignore it.
    pub input_sample_rate: u32,
}

impl OpusHead {
    /// The header of Ogg, and of WebCodecs' `description` (RFC 7845, section 5.1).
    pub fn ogg(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(19);
        out.put_slice(b"OpusHead\x01");
        out.put_u8(self.channels);
        out.put_u16_le(self.pre_skip);
        out.put_u32_le(self.input_sample_rate);
        out.put_slice(&[0; 3]); // no gain, mapping family 0
        out
    }

    /// The body of MP4's `dOps` box: the same fields, big endian.
    pub fn dops(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(11);
        out.put_u8(0);
        out.put_u8(self.channels);
        out.put_u16(self.pre_skip);
        out.put_u32(self.input_sample_rate);
        out.put_slice(&[0; 3]);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let micros = |packet: &[u8]| duration(packet).map(|d| d.as_micros());
        assert_eq!(micros(&[0x78]), Some(20_000)); // hybrid fullband, one frame
        assert_eq!(micros(&[0xfc, 0, 0]), Some(20_000)); // CELT fullband, stereo, one frame
        assert_eq!(micros(&[0xf4]), Some(10_000));
        assert_eq!(micros(&[0xe0]), Some(2_500));
        assert_eq!(micros(&[3 << 3]), Some(60_000)); // SILK narrowband
        assert_eq!(micros(&[3 << 3 | 1]), Some(120_000));
        assert_eq!(micros(&[0xfb, 3]), Some(60_000));
        assert_eq!(micros(&[0xfb, 0x80 | 6]), Some(120_000)); // flags beside the count
        assert_eq!(micros(&[]), None);
        assert_eq!(micros(&[0xfb]), None); // the count is missing
        assert_eq!(micros(&[0xfb, 0]), None);
        assert_eq!(micros(&[0xfb, 7]), None); // 140 ms
        assert_eq!(micros(&[3 << 3 | 3, 3]), None);
    }

    #[test]
    fn headers() {
        let head = OpusHead { channels: 2, pre_skip: 312, input_sample_rate: 48_000 };
        assert_eq!(head.ogg(), b"OpusHead\x01\x02\x38\x01\x80\xbb\x00\x00\x00\x00\x00");
        assert_eq!(head.dops(), b"\x00\x02\x01\x38\x00\x00\xbb\x80\x00\x00\x00");
    }
}
