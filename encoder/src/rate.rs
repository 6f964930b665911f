//! How much the encoder may send at once, as a function of bit rate and picture.

/// Milliseconds of the bit rate that an IDR may take, where that gives a usable picture. The
/// largest IDR at 720p and 2.5 Mb/s is 28 KB at 100 ms, and 140 KB at x264's default of 600 ms:
/// half a second on the way.
const VBV_MILLIS: u32 = 100;
/// Above this a group of one second is nothing but its IDR.
const MAX_VBV_MILLIS: u32 = 600;
/// Least size of the buffer for each macroblock of 16 x 16 pixels. Below it x264 fails the IDR
/// altogether and then spends half of what it may: at 720p and 300 kb/s, 100 ms (8 bits) left no
/// mark readable and 200 ms (16 bits) left all readable.
const VBV_BITS_PER_MACROBLOCK: u64 = 17;

/// Size of x264's rate control buffer in milliseconds of the bit rate (bits per second).
pub(crate) fn vbv_millis(bitrate: u32, width: u32, height: u32) -> u32 {
    let macroblocks = u64::from(width.div_ceil(16)) * u64::from(height.div_ceil(16));
    let least = macroblocks * VBV_BITS_PER_MACROBLOCK * 1000 / u64::from(bitrate.max(1));
    (least.min(MAX_VBV_MILLIS.into()) as u32).max(VBV_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_where_it_can_be_and_large_where_it_must_be() {
        assert_eq!(vbv_millis(2_500_000, 1280, 720), 100);
        assert_eq!(vbv_millis(800_000, 1280, 720), 100);
        assert_eq!(vbv_millis(300_000, 1280, 720), 204);
        assert_eq!(vbv_millis(300_000, 640, 360), 100);
        assert_eq!(vbv_millis(50_000, 1280, 720), 600);
        assert_eq!(vbv_millis(0, 4096, 4096), 600);
    }
}
