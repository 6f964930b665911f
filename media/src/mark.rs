//! Machine-readable marks in the picture: the frame's number and capture time, drawn into the luma
//! before the encoder and read back from the painted picture. They measure glass to glass, on the
//! very frame that a viewer sees.
//!
//! A mark covers [`WIDTH`] x [`HEIGHT`] pixels in the top left corner: three rows of 32 cells of
//! 16 x 16 pixels. The first row alternates black and white and calibrates the reader; the other
//! two hold 64 bits, most significant bit first: counter (16), time (40), CRC-8 (8).

use crate::Time;

/// Side of a cell in pixels: one H.264 macroblock, so that cells do not smear into each other.
pub const CELL: usize = 16;
/// Cells per row.
pub const COLUMNS: usize = 32;
/// Width of the mark in pixels. Narrower pictures carry no mark.
pub const WIDTH: usize = COLUMNS * CELL;
/// Height of the mark in pixels.
pub const HEIGHT: usize = 3 * CELL;

/// Bits of the time field.
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Black and white of video range (BT.709), so that nothing is clipped on the way.
const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Least difference between the white and the black cells of the calibration row. Encoded pictures
/// keep about 200; a picture without a mark rarely alternates at all.
const MIN_CONTRAST: u32 = 48;

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Number of the captured frame, wrapping at 65536.
    pub counter: u16,
    /// Capture time: the low 40 bits of milliseconds since the Unix epoch (wraps after 34 years).
    pub time_millis: u64,
}

impl Mark {
    /// A mark for a frame captured at `capture_time`.
    pub fn new(counter: u16, capture_time: Time) -> Self {
        Mark { counter, time_millis: (capture_time.as_micros() / 1000) & TIME_MASK }
    }

    /// The whole capture time, to the millisecond: the one nearest to `reference` (such as the
    /// time of painting) whose low 40 bits are the mark's.
    pub fn capture_time(&self, reference: Time) -> Time {
        const SPAN: u64 = TIME_MASK + 1;
        let reference = reference.as_micros() / 1000;
        let candidate = (reference & !TIME_MASK) | (self.time_millis & TIME_MASK);
        let millis = if candidate > reference + SPAN / 2 {
            candidate.saturating_sub(SPAN)
        } else if candidate + SPAN / 2 < reference {
            candidate + SPAN
        } else {
            candidate
        };
        Time::from_millis(millis)
    }

    fn to_bits(self) -> u64 {
        let payload = u64::from(self.counter) << TIME_BITS | (self.time_millis & TIME_MASK);
        payload << 8 | u64::from(crc8(payload))
    }

    fn from_bits(bits: u64) -> Option<Self> {
        let payload = bits >> 8;
        (crc8(payload) == bits as u8)
            .then_some(Mark { counter: (payload >> TIME_BITS) as u16, time_millis: payload & TIME_MASK })
    }
}

/// CRC-8 (polynomial 0x07) over the 56 payload bits. It starts at 0xff so that a black area is not
/// a valid mark.
fn crc8(payload: u64) -> u8 {
    payload.to_be_bytes()[1..].iter().fold(0xff, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| if crc & 0x80 != 0 { crc << 1 ^ 0x07 } else { crc << 1 })
    })
}

/// Draws the mark into the top left corner of a plane of luma. `stride` is the distance in bytes
/// from one line to the next.
///
/// A plane too small for the mark stays as it is.
pub fn draw(luma: &mut [u8], stride: usize, mark: Mark) {
    if stride < WIDTH || luma.len() < stride * (HEIGHT - 1) + WIDTH {
        return;
    }
    let bits = mark.to_bits();
    for (y, line) in luma.chunks_mut(stride).take(HEIGHT).enumerate() {
        for (column, cell) in line[..WIDTH].chunks_mut(CELL).enumerate() {
            let white = match y / CELL {
                0 => calibration_is_white(column),
                row => bit(bits, row - 1, column),
            };
            cell.fill(if white { WHITE } else { BLACK });
        }
    }
}

/// Reads a mark. `luma_at(x, y)` gives the luma of a pixel, with `x` below [`WIDTH`] and `y` below
/// [`HEIGHT`]; from RGBA, `(77 * r + 150 * g + 29 * b) >> 8` or the green byte alone will do.
///
/// `None`: there is no mark, or it is too damaged to be sure.
pub fn read(luma_at: impl Fn(usize, usize) -> u8) -> Option<Mark> {
    // The middle 8 x 8 of a cell, every other pixel: away from the edges that the encoder softens.
    let cell = |column: usize, row: usize| -> u32 {
        let mut sum = 0;
        for y in (CELL / 4..CELL * 3 / 4).step_by(2) {
            for x in (CELL / 4..CELL * 3 / 4).step_by(2) {
                sum += u32::from(luma_at(column * CELL + x, row * CELL + y));
            }
        }
        sum / 16
    };

    let mut levels = [0; COLUMNS];
    let (mut white, mut black) = (0, 0);
    for (column, level) in levels.iter_mut().enumerate() {
        *level = cell(column, 0);
        if calibration_is_white(column) {
            white += *level;
        } else {
            black += *level;
        }
    }
    let (white, black) = (white / (COLUMNS as u32 / 2), black / (COLUMNS as u32 / 2));
    if white < black + MIN_CONTRAST {
        return None;
    }
    let threshold = (white + black) / 2;
    if levels.iter().enumerate().any(|(column, level)| (*level > threshold) != calibration_is_white(column)) {
        return None;
    }

    let mut bits = 0;
    for row in 1..3 {
        for column in 0..COLUMNS {
            bits = bits << 1 | u64::from(cell(column, row) > threshold);
        }
    }
    Mark::from_bits(bits)
}

fn calibration_is_white(column: usize) -> bool {
    column % 2 == 1
}

fn bit(bits: u64, row: usize, column: usize) -> bool {
    bits >> (63 - (row * COLUMNS + column)) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const W: usize = 640;
    const H: usize = 360;
    const MARK: Mark = Mark { counter: 0xbeef, time_millis: 0xa1_2345_6789 };

    fn picture(mark: Mark) -> Vec<u8> {
        let mut luma = vec![90; W * H];
        draw(&mut luma, W, mark);
        luma
    }

    /// A small generator with a given seed, so that a failure repeats.
    fn noise(seed: u64) -> impl FnMut() -> i32 {
        let mut state = seed | 1;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as i32
        }
    }

    #[test]
    fn what_is_drawn_is_read() {
        for (counter, time_millis) in
            [(0, 0), (1, 1), (u16::MAX, TIME_MASK), (MARK.counter, MARK.time_millis)]
        {
            let mark = Mark { counter, time_millis };
            let luma = picture(mark);
            assert_eq!(read(|x, y| luma[y * W + x]), Some(mark));
        }
    }

    #[test]
    fn survives_noise_and_full_range_and_low_contrast() {
        let clean = picture(MARK);
        let mut noise = noise(42);
        for _ in 0..200 {
            let noisy: Vec<u8> =
                clean.iter().map(|v| (i32::from(*v) + noise() % 90 - 45).clamp(0, 255) as u8).collect();
            assert_eq!(read(|x, y| noisy[y * W + x]), Some(MARK));
        }
        assert_eq!(read(|x, y| ((i32::from(clean[y * W + x]) - 16) * 255 / 219) as u8), Some(MARK));
        assert_eq!(read(|x, y| clean[y * W + x] / 3 + 60), Some(MARK));
    }

    #[test]
    fn survives_a_blur_and_a_small_shift() {
        let luma = picture(MARK);
        let blurred = |x: usize, y: usize| {
            let mut sum = 0;
            for dy in 0..5 {
                for dx in 0..5 {
                    let (x, y) = ((x + dx).saturating_sub(2), (y + dy).saturating_sub(2));
                    sum += u32::from(luma[y * W + x]);
                }
            }
            (sum / 25) as u8
        };
        assert_eq!(read(blurred), Some(MARK));
        assert_eq!(read(|x, y| luma[(y + 2) * W + x + 2]), Some(MARK));
    }

    #[test]
    fn nothing_is_read_where_nothing_is_drawn() {
        assert_eq!(read(|_, _| 0), None);
        assert_eq!(read(|_, _| 255), None);
        assert_eq!(read(|x, _| (x / 2) as u8), None);
        let mut noise = noise(7);
        let luma: Vec<u8> = (0..W * H).map(|_| noise() as u8).collect();
        assert_eq!(read(|x, y| luma[y * W + x]), None);
    }

    #[test]
    fn a_flipped_cell_is_noticed() {
        let mut luma = picture(MARK);
        for y in CELL..2 * CELL {
            for x in 0..CELL {
                luma[y * W + x] = 255 - luma[y * W + x];
            }
        }
        assert_eq!(read(|x, y| luma[y * W + x]), None);
    }

    #[test]
    fn a_picture_too_small_stays_untouched() {
        let mut luma = vec![7; 320 * 180];
        draw(&mut luma, 320, MARK);
        assert!(luma.iter().all(|v| *v == 7));
        let mut luma = vec![7; W * (HEIGHT - 1)];
        draw(&mut luma, W, MARK);
        assert!(luma.iter().all(|v| *v == 7));
    }

    #[test]
    fn the_whole_time_comes_back_from_forty_bits() {
        let captured = Time::from_millis(1_795_000_000_123);
        let mark = Mark::new(9, captured);
        assert_eq!(mark.capture_time(captured + std::time::Duration::from_millis(700)), captured);
        assert_eq!(mark.capture_time(captured.offset_by(-5_000_000)), captured);

        let wrap = Time::from_millis((TIME_MASK + 1) * 2 - 3);
        let mark = Mark::new(9, wrap);
        assert_eq!(mark.capture_time(wrap + std::time::Duration::from_millis(50)), wrap);
    }
}
