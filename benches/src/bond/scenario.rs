//! A scenario, checked: what every seed makes a plan of.

use std::path::Path;
use std::time::Duration;

use anyhow::{anyhow, bail};
use sim::{Conditions, Outage, Rate, Rng, Way};

use super::judge::Must;
use super::line::{Line, lines};
use super::media::{Media, video_rate_for};
use super::plan::{Follow, Plan, START, Shared, Uplink};
use super::spec::{Spec, named};
use super::text::{self, Cut};

/// Quartz clocks: two of them drift apart by up to this, parts per million.
const DRIFT_PPM: f64 = 50.0;

/// No clock is worse, parts per million.
const MOST_DRIFT_PPM: f64 = 10_000.0;

/// Conditions, media, outages, and what must come of it.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its file's name, or `flags`.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// What it must show.
    pub must: Must,
    lines: Vec<Line>,
    media: Media,
    /// Set where [`Media::video`] depends on the uplinks: the part of their sum.
    video_part: Option<f64>,
    cuts: Vec<Cut>,
    spread: Duration,
    /// `None`: at random.
    trace_start: Option<Duration>,
    follow: Option<Follow>,
    shared: Vec<Shared>,
    rivals: Vec<usize>,
    drift_ppm: u64,
    deadline: Duration,
    fec: bool,
    without: Option<usize>,
}

impl Scenario {
    /// Checks what was written. Traces by a bare name are looked for in `traces`.
    pub fn new(name: &str, spec: &Spec, traces: &Path) -> anyhow::Result<Self> {
        let lines = lines(spec, traces)?;
        let (media, video_part) = media(spec)?;
        let cuts: Vec<Cut> = named("cut", spec.cut.iter().map(|cut| text::cut(cut)).collect())?;
        let known = |flag: &str, uplink: usize| match lines.get(uplink) {
            Some(_) => Ok(uplink),
            None => Err(anyhow!(
                "--{flag} cannot be used: there is no uplink {}, there are {}",
                uplink.wrapping_add(1),
                lines.len()
            )),
        };
        for cut in &cuts {
            cut.uplink.map(|uplink| known("cut", uplink)).transpose()?;
        }
        let mut shared = Vec::new();
        if let Some(share) = &spec.share {
            let (uplinks, rate) = named("share", text::share(share))?;
            uplinks.iter().try_for_each(|&uplink| known("share", uplink).map(drop))?;
            let conditions = Conditions { rate: Rate::Fixed(rate), ..Conditions::default() };
            shared.push(Shared { uplinks, conditions });
        }
        let mut rivals = Vec::new();
        if let Some(uplink) = &spec.cubic {
            let uplink = named("cubic", text::number(uplink))? as usize;
            rivals.push(known("cubic", uplink.wrapping_sub(1))?);
        }
        let drift = named("drift", spec.drift.as_deref().map_or(Ok(DRIFT_PPM), text::number))?;
        let trace_start = match spec.trace_start.as_deref() {
            None | Some("random") => None,
            Some(at) => Some(named("trace-start", text::seconds(at))?),
        };
        let follow = match &spec.follow {
            None => None,
            Some(range) => {
                let (least, most) = named("follow", text::range(range))?;
                Some(Follow { least, most })
            }
        };
        let deadline = spec.deadline.as_deref().map_or(Ok(400.0), text::number);
        let deadline = text::millis(named("deadline", deadline)?);
        if deadline.is_zero() {
            bail!("--deadline cannot be used: 0 ms leave no time for anything");
        }
        let fec = named("fec", spec.fec.as_deref().map_or(Ok(true), text::switch))?;
        Ok(Self {
            name: name.to_owned(),
            about: spec.about.clone().unwrap_or_default(),
            must: spec.must.clone(),
            lines,
            media,
            video_part,
            cuts,
            spread: named("spread", spec.spread.as_deref().map_or(Ok(Duration::ZERO), text::seconds))?,
            trace_start,
            follow,
            shared,
            rivals,
            drift_ppm: drift.min(MOST_DRIFT_PPM) as u64,
            deadline,
            fec,
            without: None,
        })
    }

    /// How many uplinks there are.
    pub fn uplinks(&self) -> usize {
        self.lines.len()
    }

    /// How long frames come.
    pub fn length(&self) -> Duration {
        self.media.length
    }

    /// Whether the encoder follows.
    pub fn follow(&self) -> Option<Follow> {
        self.follow
    }

    /// Whether it can be run with real sockets, where each uplink has an emulator of its own.
    pub fn check_real(&self) -> anyhow::Result<()> {
        if !self.shared.is_empty() {
            bail!("--share is simulated only: add --simulate");
        }
        Ok(())
    }

    /// The same without an uplink (from 0): it is never there.
    pub fn without(&self, uplink: usize) -> anyhow::Result<Self> {
        if uplink >= self.lines.len() || self.lines.len() < 2 {
            bail!("--without cannot be used: there is no uplink {} to leave out", uplink + 1);
        }
        Ok(Self {
            name: format!("{} without {}", self.name, uplink + 1),
            without: Some(uplink),
            ..self.clone()
        })
    }

    /// The same with parity, or without.
    pub fn with_fec(&self, fec: bool) -> Self {
        let name = format!("{} fec {}", self.name, if fec { "on" } else { "off" });
        Self { name, fec, ..self.clone() }
    }

    /// Every seed is run so many times: once for each uplink where one is cut in turn.
    pub fn variants(&self) -> usize {
        if self.cuts.iter().any(|cut| cut.uplink.is_none()) { self.lines.len() } else { 1 }
    }

    /// The plan of a seed's day. The same seed and variant give the same plan.
    pub fn plan(&self, seed: u64, variant: usize) -> Plan {
        let mut rng = Rng::new(seed ^ 0x706c_616e);
        let shift = Duration::from_micros(rng.below(self.spread.as_micros() as u64 + 1));
        let mut uplinks: Vec<Uplink> = self
            .lines
            .iter()
            .map(|line| line.uplink(self.trace_start, self.media.length, &mut Rng::new(rng.next_u64())))
            .collect();
        for cut in &self.cuts {
            let from = START + cut.at + shift;
            let outage = Outage { from, until: from + cut.length };
            let Some(uplink) = uplinks.get_mut(cut.uplink.unwrap_or(variant)) else { continue };
            if cut.up {
                uplink.up.outages.push(outage);
            }
            if cut.down {
                uplink.down.outages.push(outage);
            }
        }
        let first =
            self.without.map(|out| (0..uplinks.len() as u8).filter(|&n| usize::from(n) != out).collect());
        let mut plan = Plan {
            deadline: self.deadline,
            first,
            follow: self.follow,
            shared: self.shared.clone(),
            rivals: self.rivals.clone(),
            drift_ppm: self.drift_ppm,
            fec: self.fec,
            ..Plan::new(uplinks, self.media)
        };
        if let Some(part) = self.video_part {
            let sum = capacity(&plan) / self.media.length.as_secs_f64().max(1e-6);
            plan.media.video = video_rate_for(&self.media, sum * part);
        }
        plan
    }
}

/// Bits that the uplinks of a plan could carry while frames come.
pub fn capacity(plan: &Plan) -> f64 {
    (0..plan.uplinks.len()).map(|uplink| capacity_of(plan, uplink)).sum()
}

/// Bits that one uplink of a plan could carry while frames come; 0 where it is not there.
pub fn capacity_of(plan: &Plan, uplink: usize) -> f64 {
    match plan.uplinks.get(uplink) {
        Some(line) if plan.is_first(uplink) => {
            Way { conditions: &line.up, began: plan.began() }.capacity(START, START + plan.media.length)
        }
        _ => 0.0,
    }
}

fn media(spec: &Spec) -> anyhow::Result<(Media, Option<f64>)> {
    let mut media = Media::default();
    let fps = named("fps", spec.fps.as_deref().map_or(Ok(30.0), text::number))?;
    if !(1.0..=1000.0).contains(&fps) {
        bail!("--fps cannot be used: {fps} is not between 1 and 1000");
    }
    media.fps = fps as u32;
    if let Some(shape) = &spec.keyframes {
        let (ratio, every) = named("keyframes", text::keyframes(shape))?;
        media.group = (every.as_secs_f64() * fps).round().max(1.0) as u32;
        media.keyframe_ratio = ratio.min(f64::from(media.group));
    } else {
        media.group = (2.0 * fps).round() as u32;
    }
    media.audio = (named("audio", spec.audio.as_deref().map_or(Ok(96.0), text::number))? * 1e3) as u64;
    media.length = named("seconds", spec.seconds.as_deref().map_or(Ok(media.length), text::seconds))?;
    if media.length.is_zero() {
        bail!("--seconds cannot be used: 0 s measure nothing");
    }
    let mut part = None;
    match spec.video.as_deref() {
        Some(video) if video.ends_with('%') => part = Some(named("video", text::percent(video))?),
        Some(video) => media.video = text::megabits(named("video", text::number(video))?),
        None => {}
    }
    Ok((media, part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(toml: &str) -> anyhow::Result<Scenario> {
        Scenario::new("test", &toml::from_str(toml)?, Path::new("/nowhere"))
    }

    #[test]
    fn a_seed_is_a_day() {
        let scenario =
            scenario("traces = \"mobile:3,mobile:2\"\ncut = \"*>@4s+3s\"\nspread = \"1s\"").unwrap();
        assert_eq!(scenario.variants(), 2);
        let (first, second) = (scenario.plan(1, 0), scenario.plan(1, 1));
        assert_eq!(first.uplinks[0].up.rate, second.uplinks[0].up.rate);
        assert_ne!(first.uplinks[0].up.rate, scenario.plan(2, 0).uplinks[0].up.rate);
        let outage = first.uplinks[0].up.outages[0];
        assert!((4.0..5.0).contains(&outage.from.saturating_since(START).as_secs_f64()));
        assert!(first.uplinks[1].up.outages.is_empty() && first.uplinks[0].down.outages.is_empty());
        assert_eq!(second.uplinks[1].up.outages, [outage]);
    }

    #[test]
    fn a_part_of_what_is_there() {
        let scenario = scenario("rates = \"5,4,3\"\nvideo = \"50%\"").unwrap();
        let plan = scenario.plan(1, 0);
        assert!((5_300_000..5_500_000).contains(&plan.media.video), "{}", plan.media.video);
        let plan = scenario.without(1).unwrap().plan(1, 0);
        assert!(plan.media.video < 3_700_000 && !plan.is_first(1));
        assert_eq!(capacity(&plan), 8e6 * 12.0);
    }

    #[test]
    fn the_bad_flag_is_named() {
        for (toml, says) in [
            ("rates = \"5,x\"", "--rates"),
            ("rates = \"5,0\"", "--cut"),
            ("traces = \"no-such\"", "--trace-dir"),
            ("rates = \"5\"\ntraces = \"mobile:3\"", "--traces"),
            ("delays = \"1,2\"", "--delays has 2 values for 3"),
            ("loss = \"2\"", "--loss"),
            ("cut = \"4@1s+1s\"", "no uplink 4"),
            ("share = \"1+4@3\"", "--share cannot be used: there is no uplink 4"),
            ("cubic = 0", "--cubic"),
            ("queue = \"red\"", "--queue"),
            ("deadline = 0", "--deadline"),
            ("fps = 0", "--fps"),
            ("seconds = 0", "--seconds"),
            ("keyframes = 3", "--keyframes"),
            ("follow = 3", "--follow"),
            ("fec = \"perhaps\"", "--fec"),
            ("delays = 70000", "uplink 1"),
            ("rates = \"1,1,1,1,1,1,1,1,1\"", "bound of 8"),
        ] {
            let error = format!("{:#}", scenario(toml).unwrap_err());
            assert!(error.contains(says), "{toml}: {error}");
        }
    }
}
