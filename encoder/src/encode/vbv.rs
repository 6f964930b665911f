//! How much an encoder may send at once, as a function of bit rate and picture.

/// Milliseconds of the bit rate that an IDR may take, where that gives a usable picture. x264's
/// default of 600 lets an IDR be 140 KB at 720p and 2.5 Mb/s: half a second on the way. From 200 to
/// 100 the IDR hardly shrinks (30 to 28 KB), but with noise in the picture 100 breaks pictures: at
/// 600 kb/s 148 of 240 marks were lost and half of the rate unused, against none at 133.
const VBV_MILLIS: u32 = 150;
/// Above this a group of one second is nothing but its IDR.
const MAX_VBV_MILLIS: u32 = 600;
/// Least size of the buffer for each macroblock of 16 x 16 pixels. Below it x264 fails the IDR
/// altogether and then spends half of what it may: at 720p and 300 kb/s, 150 ms (12 bits) lost 227
/// of 240 marks and 200 ms (17 bits) lost 2.
const VBV_BITS_PER_MACROBLOCK: u64 = 17;

/// Macroblocks of 16 x 16 pixels in a picture.
pub(crate) fn macroblocks(width: u32, height: u32) -> u64 {
    u64::from(width.div_ceil(16)) * u64::from(height.div_ceil(16))
}

/// Size of the rate control's buffer in milliseconds of the bit rate (bits per second).
pub(crate) fn vbv_millis(bitrate: u32, width: u32, height: u32) -> u32 {
    let least = macroblocks(width, height) * VBV_BITS_PER_MACROBLOCK * 1000 / u64::from(bitrate.max(1));
    (least.min(MAX_VBV_MILLIS.into()) as u32).max(VBV_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_where_it_can_be_and_large_where_it_must_be() {
        assert_eq!(vbv_millis(2_500_000, 1280, 720), 150);
        assert_eq!(vbv_millis(800_000, 1280, 720), 150);
        assert_eq!(vbv_millis(300_000, 1280, 720), 204);
        assert_eq!(vbv_millis(300_000, 640, 360), 150);
        assert_eq!(vbv_millis(50_000, 1280, 720), 600);
        assert_eq!(vbv_millis(0, 4096, 4096), 600);
    }
}
