//! The uplinks of a scenario, before a seed has said how their day goes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use sim::{CoDel, Conditions, Loss, Rate, Rng, Swing, Trace};

use super::plan::Uplink;
use super::spec::{Spec, named, spread_out};
use super::text;

/// With traces, which are one way only, feedback comes back at this rate. Bits per second.
const FEEDBACK_RATE: u64 = 5_000_000;

/// A made-up trace is at least a minute long; a show of more than ten minutes sees it again.
const MOBILE_SECONDS: std::ops::RangeInclusive<u64> = 60..=600;

/// How fast an uplink is.
#[derive(Clone, Debug)]
enum Speed {
    /// Bits per second.
    Fixed(u64),
    /// From a file.
    Recorded(Trace),
    /// Made up for each seed, with this mean in bits per second.
    Mobile(u64),
}

/// One uplink, before a seed has said how its day goes.
#[derive(Clone, Debug)]
pub struct Line {
    speed: Speed,
    delay: Duration,
    swing: Option<Swing>,
    jitter: Duration,
    queue: Duration,
    codel: Option<CoDel>,
    loss: Loss,
}

impl Line {
    /// A seed's day of this uplink: its trace begins at `start`, or anywhere, and a made-up one lasts as long as
    /// the show.
    pub fn uplink(&self, start: Option<Duration>, show: Duration, rng: &mut Rng) -> Uplink {
        let rate = match &self.speed {
            Speed::Fixed(rate) => Rate::Fixed(*rate),
            Speed::Recorded(trace) => {
                let start = match start {
                    Some(start) => start.as_millis() as u64,
                    None => rng.below(trace.period_millis()),
                };
                Rate::Trace(trace.from_millis(start))
            }
            Speed::Mobile(mean) => {
                let seconds = (show.as_secs() + 2).clamp(*MOBILE_SECONDS.start(), *MOBILE_SECONDS.end());
                // A mean that gives no packet in a minute was refused when it was read.
                Trace::mobile(*mean, seconds, rng).map_or(Rate::Fixed(*mean), Rate::Trace)
            }
        };
        let back = match &rate {
            Rate::Fixed(_) => rate.clone(),
            Rate::Trace(_) => Rate::Fixed(FEEDBACK_RATE),
        };
        let up = self.conditions(rate);
        Uplink { down: Conditions { rate: back, ..up.clone() }, up }
    }

    fn conditions(&self, rate: Rate) -> Conditions {
        Conditions {
            rate,
            delay: self.delay,
            swing: self.swing,
            jitter: self.jitter,
            queue: self.queue,
            codel: self.codel,
            loss: self.loss,
            ..Conditions::default()
        }
    }
}

/// Reads all uplinks. Traces by a bare name are looked for in `traces`.
pub fn lines(spec: &Spec, traces: &Path) -> anyhow::Result<Vec<Line>> {
    let speeds: Vec<Speed> = match (&spec.rates, &spec.traces) {
        (Some(_), Some(_)) => bail!("--rates and --traces stand for each other: give one of them"),
        (_, Some(names)) => {
            named("traces", names.split(',').map(|name| speed(name.trim(), traces)).collect())?
        }
        (rates, None) => {
            let rates = named("rates", text::numbers(rates.as_deref().unwrap_or("5,4,3")))?;
            if rates.iter().any(|&rate| text::megabits(rate) == 0) {
                bail!(
                    "--rates cannot be used: an uplink of 0 Mb/s carries nothing; use --cut for a dark one"
                );
            }
            rates.into_iter().map(|rate| Speed::Fixed(text::megabits(rate))).collect()
        }
    };
    let count = speeds.len();
    if count > bond::MAX_PATHS {
        bail!("{count} uplinks are over the bond's bound of {}", bond::MAX_PATHS);
    }
    let millis = |flag: &str, given: &Option<String>, default: &str| {
        let numbers = named(flag, text::numbers(given.as_deref().unwrap_or(default)))?;
        let times = numbers.into_iter().map(text::millis).collect();
        spread_out(flag, times, count)
    };
    let delays = if count == 3 { "25,35,15" } else { "25" };
    let delays = millis("delays", &spec.delays, delays)?;
    let jitters = millis("jitter", &spec.jitter, "3")?;
    let queues = spec.queue.as_deref().unwrap_or("200").split(',').map(text::queue).collect();
    let queues = spread_out("queue", named("queue", queues)?, count)?;
    let losses = spec.loss.as_deref().unwrap_or("0").split(',').map(text::loss).collect();
    let losses = spread_out("loss", named("loss", losses)?, count)?;
    let swing = spec.swing.as_deref().map(|swing| named("swing", text::swing(swing))).transpose()?;
    if let Some((uplink, _)) = swing.filter(|(uplink, _)| *uplink >= count) {
        bail!("--swing cannot be used: there is no uplink {}, there are {count}", uplink + 1);
    }
    let mut lines = Vec::new();
    for (index, speed) in speeds.into_iter().enumerate() {
        let line = Line {
            speed,
            delay: delays[index],
            swing: swing.filter(|(uplink, _)| *uplink == index).map(|(_, swing)| swing),
            jitter: jitters[index],
            queue: queues[index].0,
            codel: queues[index].1,
            loss: losses[index],
        };
        let conditions = line.conditions(Rate::Fixed(FEEDBACK_RATE));
        conditions.check().with_context(|| format!("uplink {} cannot be", index + 1))?;
        lines.push(line);
    }
    Ok(lines)
}

fn speed(name: &str, traces: &Path) -> anyhow::Result<Speed> {
    if let Some(mean) = name.strip_prefix("mobile:") {
        let mean = text::megabits(text::number(mean)?);
        if mean < 10_000 {
            bail!("{name:?}: a mobile uplink needs a mean of at least 0.01 Mb/s");
        }
        return Ok(Speed::Mobile(mean));
    }
    let path = [PathBuf::from(name), traces.join(name)].into_iter().find(|path| path.is_file());
    let path = path.with_context(|| {
        let folder = traces.display();
        format!("there is no trace {name:?}, nor is it in {folder}; --trace-dir (or ROADIE_TRACES) names another folder")
    })?;
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Speed::Recorded(text.parse().with_context(|| format!("{} is no trace", path.display()))?))
}
