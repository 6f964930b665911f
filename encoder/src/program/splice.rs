//! Cutting sound so that nobody hears it. Pure.

/// Samples over which a step between two sounds is smoothed away: 5 ms.
const RAMP: usize = 240;

/// Lets `next` begin where the sound before it ended, at `tail`: the step between them is added to
/// the beginning of `next` and fades away. A step is a click; so much slower than that it is nothing.
pub(super) fn smooth_joint(tail: [i16; 2], next: &mut [[i16; 2]]) {
    let Some(first) = next.first().copied() else { return };
    let step = [0, 1].map(|channel| f32::from(tail[channel]) - f32::from(first[channel]));
    let length = RAMP.min(next.len());
    for (index, sample) in next.iter_mut().take(length).enumerate() {
        let part = 1.0 - index as f32 / length as f32;
        for channel in 0..2 {
            sample[channel] = (f32::from(sample[channel]) + step[channel] * part) as i16;
        }
    }
}

/// Makes a sound longer by `by` samples, or shorter where that is negative, by interpolation.
pub(super) fn stretch(samples: &[[i16; 2]], by: i64) -> Vec<[i16; 2]> {
    let length = (samples.len() as i64 + by).max(0) as usize;
    if by == 0 || length == 0 || samples.len() < 2 {
        return samples.to_vec();
    }
    let last = samples.len() - 1;
    let step = samples.len() as f64 / length as f64;
    let at = |index: usize| {
        let place = index as f64 * step;
        let whole = (place as usize).min(last);
        let (a, b) = (samples[whole], samples[(whole + 1).min(last)]);
        let part = place - whole as f64;
        [0, 1].map(|c| (f64::from(a[c]) + (f64::from(b[c]) - f64::from(a[c])) * part).round() as i16)
    };
    (0..length).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn largest_step(samples: &[[i16; 2]]) -> i32 {
        let steps = samples.windows(2).map(|pair| (i32::from(pair[1][0]) - i32::from(pair[0][0])).abs());
        steps.max().unwrap_or(0)
    }

    #[test]
    fn the_loudest_step_becomes_a_slope() {
        let mut next = vec![[i16::MIN, 100]; 960];
        smooth_joint([i16::MAX, 100], &mut next);
        assert_eq!(next[0], [i16::MAX, 100]);
        assert!(largest_step(&next) < 300, "{}", largest_step(&next));
        assert_eq!(next[RAMP..], vec![[i16::MIN, 100]; 960 - RAMP]);
    }

    #[test]
    fn a_stretched_sine_is_a_sine_of_the_new_length() {
        let sine = |n: f64| (n / 48.0 * std::f64::consts::TAU).sin() * 20_000.0;
        let samples: Vec<_> = (0..480).map(|n| [sine(f64::from(n)) as i16; 2]).collect();
        for by in [-2, -1, 1, 2] {
            let stretched = stretch(&samples, by);
            assert_eq!(stretched.len() as i64, 480 + by);
            // What follows begins at the start of the sine's next turn.
            assert!(largest_step(&[&stretched[..], &samples[..1]].concat()) < 2 * largest_step(&samples));
        }
        assert_eq!(stretch(&samples, 0), samples);
    }

    #[test]
    fn nothing_is_joined_and_stretched_without_harm() {
        smooth_joint([1, 1], &mut []);
        assert!(stretch(&[], 1).is_empty());
        assert_eq!(stretch(&[[1, 2]], -1), [[1, 2]]);
    }
}
