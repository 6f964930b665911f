//! How loud sound is.

use serde::Serialize;

/// What counts as silence: the quietest that 16 bits can say, in dBFS.
const FLOOR: f32 = -96.0;
/// Frames (a sample of each channel) in a window: 100 ms at 48 kHz.
const WINDOW: u32 = 4_800;

/// Levels per channel (left, right), in dBFS: 0 is the loudest that there is, -96 silence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Levels {
    /// The loudest sample of the last 200 ms.
    pub peak: [f32; 2],
    /// The mean power of the last 200 ms; a full-scale sine has -3.
    pub rms: [f32; 2],
}

impl Levels {
    /// No sound.
    pub const SILENCE: Levels = Levels { peak: [FLOOR; 2], rms: [FLOOR; 2] };
}

/// Measures a stereo sound of 48 kHz as it passes.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// The window being filled, and the two before it.
    now: Window,
    before: [Window; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    frames: u32,
    peak: [u16; 2],
    power: [u64; 2],
}

impl Meter {
    /// Takes interleaved samples.
    pub(crate) fn feed(&mut self, samples: &[i16]) {
        for frame in samples.as_chunks::<2>().0 {
            for (channel, sample) in frame.iter().enumerate() {
                let loud = sample.unsigned_abs();
                self.now.peak[channel] = self.now.peak[channel].max(loud);
                self.now.power[channel] += u64::from(loud) * u64::from(loud);
            }
            self.now.frames += 1;
            if self.now.frames == WINDOW {
                self.before = [std::mem::take(&mut self.now), self.before[0]];
            }
        }
    }

    /// Forgets what it heard.
    pub(crate) fn clear(&mut self) {
        *self = Meter::default();
    }

    /// The levels of the last two full windows.
    pub(crate) fn read(&self) -> Levels {
        let [a, b] = self.before;
        let frames = u64::from(a.frames + b.frames).max(1);
        let decibels = |value: f32| if value <= 0.0 { FLOOR } else { (20.0 * value.log10()).max(FLOOR) };
        let full = 32_768.0;
        let peak = [0, 1].map(|channel| decibels(f32::from(a.peak[channel].max(b.peak[channel])) / full));
        let rms = [0, 1].map(|channel| {
            let mean = (a.power[channel] + b.power[channel]) as f32 / frames as f32;
            decibels(mean.sqrt() / full)
        });
        Levels { peak, rms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f32, wanted: f32) -> bool {
        (found - wanted).abs() < 0.05
    }

    #[test]
    fn a_sine_of_half_the_scale_is_told_per_channel() {
        let mut meter = Meter::default();
        let sine = |n: u32| (f64::from(n) * std::f64::consts::TAU / 48.0).sin();
        let samples: Vec<i16> = (0..9_600).flat_map(|n| [(sine(n) * 16_384.0) as i16, 0]).collect();
        meter.feed(&samples);
        let Levels { peak, rms } = meter.read();
        assert!(near(peak[0], -6.02) && near(rms[0], -9.03), "{peak:?} {rms:?}");
        assert_eq!((peak[1], rms[1]), (FLOOR, FLOOR));
    }

    #[test]
    fn the_loudest_sample_is_zero_and_what_is_past_is_forgotten() {
        let mut meter = Meter::default();
        meter.feed(&[i16::MIN; 9_600]);
        assert!(near(meter.read().peak[1], 0.0));
        meter.feed(&[0; 19_200]);
        assert_eq!(meter.read(), Levels::SILENCE);
        meter.feed(&[i16::MIN; 9_600]);
        meter.clear();
        assert_eq!(meter.read(), Levels::SILENCE);
    }
}
