//! VP8 (RFC 6386): what of a frame's header has to be known outside of a decoder. Nothing is out of band: each
//! keyframe has the picture's size in it, so one stream may change it.

/// WebCodecs codec string.
pub const CODEC: &str = "vp8";

/// What follows the frame tag of a keyframe (section 9.1).
const START_CODE: [u8; 3] = [0x9d, 0x01, 0x2a];

/// Whether the frame is a keyframe, on which decoding can start: bit 0 of the frame tag is 0, and the start code
/// follows.
pub fn is_keyframe(frame: &[u8]) -> bool {
    size(frame).is_some()
}

/// Width and height of a keyframe in pixels; `None` of other frames, and of what is no frame.
pub fn size(frame: &[u8]) -> Option<(u32, u32)> {
    let [tag, _, _, start @ ..] = frame else { return None };
    let size = start.strip_prefix(&START_CODE).filter(|_| tag & 1 == 0)?;
    // 14 bits each; the two above them ask for scaling on the screen.
    let [width, height] = [size.get(0..2)?, size.get(2..4)?]
        .map(|field| field.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte)) & 0x3fff);
    (width > 0 && height > 0).then_some((width, height))
}

/// Body of a `vpcC` box for 8-bit 4:2:0 without colour information ("VP Codec ISO Media File Format Binding",
/// version 1). VP8 has no levels; 10 is what FFmpeg writes.
pub(crate) fn vpcc() -> [u8; 8] {
    const BITS_AND_CHROMA: u8 = 8 << 4 | 1 << 1;
    const UNSPECIFIED: u8 = 2;
    [0, 10, BITS_AND_CHROMA, UNSPECIFIED, UNSPECIFIED, UNSPECIFIED, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of a frame of 1280x720 as libvpx makes it.
    const KEY: [u8; 12] = [0x50, 0x3d, 0x01, 0x9d, 0x01, 0x2a, 0x00, 0x05, 0xd0, 0x02, 0x39, 0x47];

    #[test]
    fn a_keyframe_tells_its_size() {
        assert_eq!(size(&KEY), Some((1280, 720)));
        assert!(is_keyframe(&KEY));
        let mut scaled = KEY;
        scaled[7] |= 0x40;
        assert_eq!(size(&scaled), Some((1280, 720)));
    }

    #[test]
    fn other_frames_and_garbage_are_none() {
        let mut delta = KEY;
        delta[0] |= 1;
        assert!(!is_keyframe(&delta));
        let mut wrong = KEY;
        wrong[5] = 0;
        assert!(!is_keyframe(&wrong));
        let empty = [&KEY[..6], &[0, 0, 0xd0, 2]].concat();
        assert_eq!(size(&empty), None, "a picture of no width");
        for len in 0..10 {
            assert!(!is_keyframe(&KEY[..len]), "{len}");
        }
    }
}
