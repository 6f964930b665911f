//! `--cut 2@5s+4s`: uplink 2 is dead from second 5 on, for 4 seconds.

use std::str::FromStr;
use std::time::Duration;

/// A planned outage of one uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Counts from 0 (people count from 1).
    pub uplink: usize,
    /// From the start of the show.
    pub at: Duration,
    /// How long.
    pub length: Duration,
}

/// Not a cut.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cut: write UPLINK@START+LENGTH, such as 2@5s+4s for uplink 2 from second 5 for 4 s")]
pub struct CutError(String);

impl FromStr for Cut {
    type Err = CutError;

    fn from_str(text: &str) -> Result<Self, CutError> {
        let parse = || {
            let (uplink, times) = text.split_once('@')?;
            let (at, length) = times.split_once('+')?;
            let uplink = uplink.parse::<usize>().ok()?.checked_sub(1)?;
            Some(Cut { uplink, at: seconds(at)?, length: seconds(length)? })
        };
        parse().ok_or_else(|| CutError(text.into()))
    }
}

fn seconds(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let value: f64 = digits.parse().ok()?;
    // A week is longer than any show.
    (0.0..=604_800.0).contains(&(value * unit)).then(|| Duration::from_secs_f64(value * unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_as_people_write_them() {
        let cut = |uplink, at, length| Cut {
            uplink,
            at: Duration::from_millis(at),
            length: Duration::from_millis(length),
        };
        assert_eq!("2@5s+4s".parse(), Ok(cut(1, 5000, 4000)));
        assert_eq!("1@0.5+250ms".parse(), Ok(cut(0, 500, 250)));
        for bad in ["", "2", "0@5s+4s", "2@5s", "x@5s+4s", "2@-5s+4s", "2@5s+inf", "2@NaN+1s", "2@1h+1s"] {
            assert!(bad.parse::<Cut>().is_err(), "{bad}");
        }
    }
}
