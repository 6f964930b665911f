//! The picture that is shown while an input is away: its last one, or black, with a message.

use std::ops::Range;

use font8x8::{BASIC_FONTS, UnicodeFonts};
use gstreamer as gst;
use gstreamer_video as gst_video;
use gstreamer_video::prelude::*;

/// Black and white of video range, and no colour.
const BLACK: u8 = 16;
const WHITE: u8 = 235;
const NO_COLOUR: u8 = 128;
/// Letters are 8 x 8 dots; a picture has room for so many lines of them.
const LINES_PER_PICTURE: usize = 20;
const LETTER: usize = 8;

/// Makes the slate of this size: `last` with `text`, on a picture of its own.
pub(super) fn make(
    last: Option<&gst::Buffer>,
    info: &gst_video::VideoInfo,
    text: &str,
) -> Option<gst::Buffer> {
    let mut buffer = match last {
        Some(last) => last.copy_deep().ok()?,
        None => black(info)?,
    };
    let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.make_mut(), info).ok()?;
    let stride = usize::try_from(*frame.plane_stride().first()?).ok()?;
    let (width, height) = (info.width() as usize, info.height() as usize);
    let band = write(frame.plane_data_mut(0).ok()?, stride, (width, height), text);
    // Half as many lines of colour.
    for plane in [1, 2] {
        let stride = usize::try_from(*frame.plane_stride().get(plane as usize)?).ok()?;
        let rows = frame.plane_data_mut(plane).ok()?.chunks_mut(stride.max(1));
        for row in rows.take(height.div_ceil(2)).skip(band.start / 2).take(band.len() / 2) {
            row.iter_mut().take(width.div_ceil(2)).for_each(|colour| *colour = NO_COLOUR);
        }
    }
    drop(frame);
    Some(buffer)
}

fn black(info: &gst_video::VideoInfo) -> Option<gst::Buffer> {
    let mut buffer = gst::Buffer::with_size(info.size()).ok()?;
    let mut frame = gst_video::VideoFrameRef::from_buffer_ref_writable(buffer.get_mut()?, info).ok()?;
    for (plane, value) in [(0, BLACK), (1, NO_COLOUR), (2, NO_COLOUR)] {
        frame.plane_data_mut(plane).ok()?.fill(value);
    }
    drop(frame);
    Some(buffer)
}

/// Writes one line into the lower third of the luma, on a dark band. Gives back the rows of the band.
fn write(luma: &mut [u8], stride: usize, (width, height): (usize, usize), text: &str) -> Range<usize> {
    let letters: Vec<[u8; 8]> = text.chars().filter_map(|letter| BASIC_FONTS.get(letter)).collect();
    let fits = width / (LETTER * (letters.len() + 2));
    let dot = (height / (LINES_PER_PICTURE * LETTER)).min(fits).max(1);
    let top = height * 4 / 5;
    let margin = LETTER * dot / 2;
    let band = top.saturating_sub(margin)..(top + LETTER * dot + margin).min(height);
    let rows = luma.chunks_mut(stride.max(1)).take(band.end).skip(band.start);
    for row in rows {
        row.iter_mut().take(width).for_each(|luma| *luma = BLACK + luma.saturating_sub(BLACK) / 4);
    }
    let left = width.saturating_sub(letters.len() * LETTER * dot) / 2;
    for (line, row) in luma.chunks_mut(stride.max(1)).take(height).skip(top).take(LETTER * dot).enumerate() {
        for (index, letter) in letters.iter().enumerate() {
            let bits = letter.get(line / dot).copied().unwrap_or(0);
            for bit in (0..LETTER).filter(|bit| bits >> bit & 1 == 1) {
                let start = left + (index * LETTER + bit) * dot;
                row.iter_mut().take(width).skip(start).take(dot).for_each(|luma| *luma = WHITE);
            }
        }
    }
    band
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(width: u32, height: u32) -> gst_video::VideoInfo {
        gst::init().expect("GStreamer");
        gst_video::VideoInfo::builder(gst_video::VideoFormat::I420, width, height).build().expect("I420")
    }

    #[test]
    fn the_last_picture_gets_a_line_and_is_not_touched() {
        let info = info(640, 360);
        let last = gst::Buffer::from_mut_slice(vec![200_u8; info.size()]);
        let slate = make(Some(&last), &info, "Back soon").expect("a slate");
        let (last, slate) = (last.map_readable().expect("bytes"), slate.map_readable().expect("bytes"));
        assert!(last.iter().all(|byte| *byte == 200));
        let luma = &slate[..640 * 360];
        let white = luma.iter().filter(|byte| **byte == WHITE).count();
        assert!(white > 300, "letters: {white}");
        let untouched = luma.iter().filter(|byte| **byte == 200).count();
        assert!(untouched > 640 * 360 * 3 / 4, "{untouched}");
        assert!(luma[640 * 270..].contains(&WHITE) && luma[..640 * 270].iter().all(|b| *b == 200));
        let colours = &slate[640 * 360..];
        assert!(colours[..320 * 135].iter().all(|byte| *byte == 200), "colours above the line stay");
        assert!(colours.contains(&NO_COLOUR), "and there are none behind it");
    }

    #[test]
    fn without_a_picture_it_is_black() {
        let info = info(322, 182);
        let slate = make(None, &info, "").expect("a slate");
        let frame =
            gst_video::VideoFrameRef::from_buffer_ref_readable(slate.as_ref(), &info).expect("a frame");
        assert!(frame.plane_data(0).expect("luma").iter().all(|byte| *byte == BLACK));
        assert!(frame.plane_data(2).expect("colour").iter().all(|byte| *byte == NO_COLOUR));
    }

    #[test]
    fn a_message_never_leaves_the_picture() {
        for (width, height) in [(64, 64), (66, 64), (4096, 64), (64, 4096)] {
            let info = info(width, height);
            let text = "A message that is far too long for such a small picture, and not even ASCII: \u{1F4A5} \u{e9}";
            assert!(make(None, &info, text).is_some());
        }
    }
}
