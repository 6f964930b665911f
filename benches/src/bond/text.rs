//! How conditions are written: on the command line and in scenario files alike.

use std::time::Duration;

use anyhow::{Context, bail};
use sim::{CoDel, Loss, Swing};

/// The longest time that makes sense: a day of soak.
const LONGEST_SECONDS: f64 = 1_000_000.0;

/// Numbers with commas between, such as `5,4,3`.
pub fn numbers(text: &str) -> anyhow::Result<Vec<f64>> {
    text.split(',').map(|part| number(part.trim())).collect()
}

/// One number, not negative.
pub fn number(text: &str) -> anyhow::Result<f64> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => bail!("{text:?} is not a number"),
    }
}

/// `5%`.
pub fn percent(text: &str) -> anyhow::Result<f64> {
    let digits = text.strip_suffix('%').with_context(|| format!("{text:?} has no % sign: write 2%"))?;
    let value = number(digits.trim())? / 100.0;
    if value > 1.0 { bail!("{text:?} is more than everything") } else { Ok(value) }
}

/// `4s`, `250ms`, `1.5`.
pub fn seconds(text: &str) -> anyhow::Result<Duration> {
    let (digits, unit) = match text.strip_suffix("ms") {
        Some(digits) => (digits, 0.001),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let bad = || format!("{text:?} is not a time: write 4s, 250ms or 1.5");
    let value = number(digits).ok().map(|value| value * unit).filter(|value| *value <= LONGEST_SECONDS);
    Ok(Duration::from_secs_f64(value.with_context(bad)?))
}

/// A time in milliseconds without its unit, as `--delays` has them.
pub fn millis(value: f64) -> Duration {
    Duration::from_secs_f64((value / 1000.0).min(LONGEST_SECONDS))
}

/// `2%`, `2%random`, `3%burst:5` (bursts of 5 packets in the mean), `0`.
pub fn loss(text: &str) -> anyhow::Result<Loss> {
    let text = text.trim();
    if text == "0" {
        return Ok(Loss::None);
    }
    let end = text.find('%').map_or(text.len(), |at| at + 1);
    let (ratio, kind) = text.split_at(end);
    let bad = || format!("{text:?} is not a loss: write 2%, 2%random or 3%burst:5");
    let ratio = percent(ratio).with_context(bad)?;
    match kind.trim_start_matches(':').split_once(':') {
        Some(("burst", length)) => match number(length).with_context(bad)? {
            length if length >= 1.0 && ratio < 1.0 => Ok(Loss::bursts(ratio, length)),
            _ => bail!("{text:?}: a burst is at least 1 packet long, and not everything is lost"),
        },
        None if kind.is_empty() || kind.trim_start_matches(':') == "random" => Ok(Loss::Random(ratio)),
        _ => bail!(bad()),
    }
}

/// An outage: of which uplink, which ways, when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Counts from 0 (people count from 1); `None`: every uplink in turn, a variant for each.
    pub uplink: Option<usize>,
    /// Data goes dark.
    pub up: bool,
    /// Feedback goes dark.
    pub down: bool,
    /// From the first frame.
    pub at: Duration,
    /// How long.
    pub length: Duration,
}

/// `1@4s+3s` (both ways), `1>@4s+3s` (data only), `1<@4s+3s` (feedback only), `*@4s+3s` (each in turn).
pub fn cut(text: &str) -> anyhow::Result<Cut> {
    let parse = || {
        let (who, times) = text.split_once('@')?;
        let (at, length) = times.split_once('+')?;
        let name = who.trim_end_matches(['<', '>']);
        let (up, down) = match &who[name.len()..] {
            "" => (true, true),
            ">" => (true, false),
            "<" => (false, true),
            _ => return None,
        };
        let uplink = match name {
            "*" => None,
            name => Some(name.parse::<usize>().ok()?.checked_sub(1)?),
        };
        Some(Cut { uplink, up, down, at: seconds(at).ok()?, length: seconds(length).ok()? })
    };
    parse().with_context(|| {
        format!(
            "{text:?} is not a cut: write 1@4s+3s for uplink 1 from second 4 for 3 s; 1>@4s+3s cuts the data \
             only, 1<@4s+3s the feedback only, and *@4s+3s each uplink in turn"
        )
    })
}

/// `2.5@2s`: a keyframe weighs 2.5 mean frames, and comes every 2 s.
pub fn keyframes(text: &str) -> anyhow::Result<(f64, Duration)> {
    let bad = || format!("{text:?} is not a shape: write 2.5@2s for a keyframe of 2.5 mean frames every 2 s");
    let (ratio, every) = text.split_once('@').with_context(bad)?;
    let (ratio, every) = (number(ratio).with_context(bad)?, seconds(every).with_context(bad)?);
    if ratio < 1.0 || every.is_zero() { bail!(bad()) } else { Ok((ratio, every)) }
}

/// `3@1200/1s`: uplink 3 (counted from 0 here) swings to 1200 ms and back once a second.
pub fn swing(text: &str) -> anyhow::Result<(usize, Swing)> {
    let parse = || {
        let (uplink, times) = text.split_once('@')?;
        let (to, period) = times.split_once('/')?;
        let uplink = uplink.parse::<usize>().ok()?.checked_sub(1)?;
        let period = seconds(period).ok().filter(|period| !period.is_zero())?;
        Some((uplink, Swing { to: millis(number(to).ok()?), period }))
    };
    parse().with_context(|| {
        format!("{text:?} is not a swing: write 3@1200/1s to take uplink 3 to 1200 ms and back once a second")
    })
}

/// `200` ms of waiting, or `codel`.
pub fn queue(text: &str) -> anyhow::Result<(Duration, Option<CoDel>)> {
    match text.trim() {
        // It keeps itself short; the end of the memory is far.
        "codel" => Ok((Duration::from_secs(1), Some(CoDel::default()))),
        text => {
            Ok((millis(number(text).with_context(|| format!("{text:?} is neither ms nor codel"))?), None))
        }
    }
}

/// `1+2@6`: uplinks 1 and 2 (counted from 0 here) share 6 Mb/s.
pub fn share(text: &str) -> anyhow::Result<(Vec<usize>, u64)> {
    let parse = || {
        let (uplinks, rate) = text.split_once('@')?;
        let uplink = |number: &str| number.parse::<usize>().ok()?.checked_sub(1);
        let uplinks = uplinks.split('+').map(uplink).collect::<Option<Vec<_>>>()?;
        let rate = megabits(number(rate).ok()?);
        (uplinks.len() > 1 && rate > 0).then_some((uplinks, rate))
    };
    parse().with_context(|| {
        format!("{text:?} shares nothing: write 1+2@6 for uplinks 1 and 2 that share 6 Mb/s")
    })
}

/// `0.3..8` in Mb/s.
pub fn range(text: &str) -> anyhow::Result<(u64, u64)> {
    let bad = || format!("{text:?} is not a range of rates: write 0.3..8 in Mb/s");
    let (low, high) = text.split_once("..").with_context(bad)?;
    let (low, high) = (number(low).with_context(bad)?, number(high).with_context(bad)?);
    if low <= 0.0 || high < low { bail!(bad()) } else { Ok((megabits(low), megabits(high))) }
}

/// Mb/s as bits per second.
pub fn megabits(value: f64) -> u64 {
    (value * 1e6).round() as u64
}

/// `on` or `off`.
pub fn switch(text: &str) -> anyhow::Result<bool> {
    match text {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => bail!("{text:?} is neither on nor off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_as_people_write_them() {
        assert_eq!(loss("2%").unwrap(), Loss::Random(0.02));
        assert_eq!(loss("2%random").unwrap(), Loss::Random(0.02));
        assert_eq!(loss("3%burst:5").unwrap(), Loss::bursts(0.03, 5.0));
        assert_eq!(loss("3%:burst:5").unwrap(), Loss::bursts(0.03, 5.0));
        assert_eq!(loss("0").unwrap(), Loss::None);
        for bad in ["2", "x%", "-1%", "101%", "2%burst", "2%burst:0.5", "100%burst:3", "2%rain"] {
            assert!(loss(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn cuts_as_people_write_them() {
        let second = Duration::from_secs(1);
        let cut_of = |uplink, up, down| Cut { uplink, up, down, at: 4 * second, length: second / 2 };
        assert_eq!(cut("2@4s+500ms").unwrap(), cut_of(Some(1), true, true));
        assert_eq!(cut("1>@4+0.5s").unwrap(), cut_of(Some(0), true, false));
        assert_eq!(cut("1<@4s+0.5").unwrap(), cut_of(Some(0), false, true));
        assert_eq!(cut("*@4s+0.5").unwrap(), cut_of(None, true, true));
        for bad in ["", "1", "0@1s+1s", "1@1s", "1<>@1s+1s", "1@-1s+1s", "1@NaN+1s", "**@1s+1s"] {
            assert!(cut(bad).unwrap_err().to_string().contains("1@4s+3s"), "{bad}");
        }
    }

    #[test]
    fn shapes_and_ranges() {
        assert_eq!(keyframes("2.5@2s").unwrap(), (2.5, Duration::from_secs(2)));
        assert!(keyframes("0.5@2s").is_err() && keyframes("2@0s").is_err());
        assert_eq!(range("0.3..8").unwrap(), (300_000, 8_000_000));
        let to = Swing { to: Duration::from_millis(1200), period: Duration::from_secs(1) };
        assert_eq!(swing("3@1200/1s").unwrap(), (2, to));
        assert!(swing("0@1200/1s").is_err() && swing("1@1200/0s").is_err());
        assert_eq!(share("1+3@1.5").unwrap(), (vec![0, 2], 1_500_000));
        assert!(share("1@3").is_err() && share("1+2").is_err() && share("0+1@3").is_err());
        assert_eq!(queue("150").unwrap(), (Duration::from_millis(150), None));
        assert_eq!(queue("codel").unwrap().1, Some(CoDel::default()));
        assert!(queue("fq").is_err());
        assert!(range("8..0.3").is_err() && range("0..3").is_err());
        assert_eq!(numbers("5, 4,3").unwrap(), [5.0, 4.0, 3.0]);
        assert!(numbers("5,,3").is_err());
        assert!(switch("maybe").is_err());
    }
}
