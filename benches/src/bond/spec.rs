//! A scenario as it is written, on the command line or in a file: words only, checked in `scenario.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use serde::{Deserialize, Deserializer};

use super::judge::Must;

/// Conditions, media and outages. In a scenario file the same names, without the dashes in front.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Spec {
    /// What the scenario shows, in a line (files only)
    #[arg(skip)]
    pub about: Option<String>,

    /// Rates of the uplinks, Mb/s [default: 5,4,3]
    #[arg(long, value_name = "MBPS,...")]
    #[serde(deserialize_with = "word")]
    pub rates: Option<String>,

    /// In place of rates: mahimahi traces by file name, or `mobile:3` for a made-up mobile uplink of 3 Mb/s
    /// in the mean
    #[arg(long, value_name = "FILE,...")]
    #[serde(deserialize_with = "word")]
    pub traces: Option<String>,

    /// Where in its trace each uplink begins: `random` (another place for each seed) or seconds, such as `0`
    /// [default: random]
    #[arg(long, value_name = "WHERE")]
    #[serde(deserialize_with = "word")]
    pub trace_start: Option<String>,

    /// One-way delays, ms; one for all, or one for each [default: 25,35,15]
    #[arg(long, value_name = "MS,...")]
    #[serde(deserialize_with = "word")]
    pub delays: Option<String>,

    /// An uplink whose delay swings: 3@1200/1s takes uplink 3 to 1200 ms and back once a second
    #[arg(long, value_name = "UPLINK@MS/SECONDS")]
    #[serde(deserialize_with = "word")]
    pub swing: Option<String>,

    /// Up to so much more delay for each packet, in order, ms; one for all, or one for each [default: 3]
    #[arg(long, value_name = "MS,...")]
    #[serde(deserialize_with = "word")]
    pub jitter: Option<String>,

    /// Loss, both ways: `2%`, `3%burst:5` (bursts of 5 packets in the mean), `0`; one for all, or one for
    /// each [default: 0]
    #[arg(long, value_name = "LOSS,...")]
    #[serde(deserialize_with = "word")]
    pub loss: Option<String>,

    /// Queue of the bottlenecks: ms of waiting, or `codel` for one that keeps itself short (RFC 8289); one for
    /// all, or one for each [default: 200]
    #[arg(long, value_name = "MS|codel,...")]
    #[serde(deserialize_with = "word")]
    pub queue: Option<String>,

    /// Uplinks that end in one bottleneck: 1+2@6 lets uplinks 1 and 2 share 6 Mb/s
    #[arg(long, value_name = "UPLINKS@MBPS")]
    #[serde(deserialize_with = "word")]
    pub share: Option<String>,

    /// An uplink on which somebody else's Cubic flow (RFC 9438) sends all the time
    #[arg(long, value_name = "UPLINK")]
    #[serde(deserialize_with = "word")]
    pub cubic: Option<String>,

    /// The two ends' clocks drift apart by up to this, parts per million; they always differ by hours
    /// [default: 50]
    #[arg(long, value_name = "PPM")]
    #[serde(deserialize_with = "word")]
    pub drift: Option<String>,

    /// Silent blackout: 1@4s+3s cuts uplink 1 from second 4 for 3 s; 1>@... data only, 1<@... feedback only;
    /// *@... each uplink in turn. May be repeated
    #[arg(long, value_name = "CUT")]
    #[serde(deserialize_with = "words")]
    pub cut: Vec<String>,

    /// Each seed moves the cuts back by up to this, so that they fall everywhere [default: 0s]
    #[arg(long, value_name = "SECONDS")]
    #[serde(deserialize_with = "word")]
    pub spread: Option<String>,

    /// Rate of the video, Mb/s; or `90%`: so much that video and audio take this part of all uplinks, with
    /// headers [default: 6]
    #[arg(long, value_name = "MBPS")]
    #[serde(deserialize_with = "word")]
    pub video: Option<String>,

    /// Video frames per second [default: 30]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "word")]
    pub fps: Option<String>,

    /// Frame sizes: `2.5@2s` makes a keyframe of 2.5 mean frames every 2 s [default: 1@2s, constant size]
    #[arg(long, value_name = "RATIO@SECONDS")]
    #[serde(deserialize_with = "word")]
    pub keyframes: Option<String>,

    /// Rate of the audio in packets of 20 ms, kb/s; 0 for none [default: 96]
    #[arg(long, value_name = "KBPS")]
    #[serde(deserialize_with = "word")]
    pub audio: Option<String>,

    /// The video's rate follows the bond's word within these bounds, Mb/s [without a value: 0.3..8]
    #[arg(long, value_name = "LOW..HIGH", num_args = 0..=1, require_equals = true, default_missing_value = "0.3..8")]
    #[serde(deserialize_with = "word")]
    pub follow: Option<String>,

    /// A frame is worth nothing this long after its capture, ms [default: 400]
    #[arg(long, value_name = "MS")]
    #[serde(deserialize_with = "word")]
    pub deadline: Option<String>,

    /// Parity: on or off [default: on]
    #[arg(long, value_name = "on|off")]
    #[serde(deserialize_with = "word")]
    pub fec: Option<String>,

    /// How long frames come, s [default: 12]
    #[arg(long, value_name = "SECONDS")]
    #[serde(deserialize_with = "word")]
    pub seconds: Option<String>,

    /// What it must show (files only)
    #[arg(skip)]
    pub must: Must,
}

impl Spec {
    /// This one, and from the other one what this one does not say.
    pub fn over(self, below: Spec) -> Spec {
        Spec {
            about: self.about.or(below.about),
            // Rates and traces stand for each other: naming one lifts the other.
            rates: self.rates.or(if self.traces.is_some() { None } else { below.rates }),
            traces: self.traces.or(below.traces),
            trace_start: self.trace_start.or(below.trace_start),
            delays: self.delays.or(below.delays),
            swing: self.swing.or(below.swing),
            jitter: self.jitter.or(below.jitter),
            loss: self.loss.or(below.loss),
            queue: self.queue.or(below.queue),
            share: self.share.or(below.share),
            cubic: self.cubic.or(below.cubic),
            drift: self.drift.or(below.drift),
            cut: if self.cut.is_empty() { below.cut } else { self.cut },
            spread: self.spread.or(below.spread),
            video: self.video.or(below.video),
            fps: self.fps.or(below.fps),
            keyframes: self.keyframes.or(below.keyframes),
            audio: self.audio.or(below.audio),
            follow: self.follow.or(below.follow),
            deadline: self.deadline.or(below.deadline),
            fec: self.fec.or(below.fec),
            seconds: self.seconds.or(below.seconds),
            must: below.must,
        }
    }
}

/// Where the named scenarios lie.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).join("fixtures/scenarios")
}

/// A scenario's file by its name, or a file of one's own; returns its name too.
pub fn load(name_or_file: &str) -> anyhow::Result<(String, Spec)> {
    let given = Path::new(name_or_file);
    let named = folder().join(format!("{name_or_file}.toml"));
    let path = if given.is_file() { given.to_owned() } else { named };
    let text = fs::read_to_string(&path).with_context(|| {
        format!("there is no scenario {name_or_file:?}; known are: {}, or give a file", names().join(", "))
    })?;
    let spec = toml::from_str(&text).with_context(|| format!("the scenario {} is wrong", path.display()))?;
    let name = path.file_stem().map_or_else(|| name_or_file.into(), |stem| stem.to_string_lossy().into());
    Ok((name, spec))
}

/// The names of all scenarios that are shipped.
pub fn names() -> Vec<String> {
    let entries = fs::read_dir(folder()).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    names
}

/// In TOML a number need not be quoted.
#[derive(Deserialize)]
#[serde(untagged)]
enum Word {
    Text(String),
    Whole(i64),
    Number(f64),
    Switch(bool),
}

impl Word {
    fn into_text(self) -> String {
        match self {
            Word::Text(text) => text,
            Word::Whole(number) => number.to_string(),
            Word::Number(number) => number.to_string(),
            Word::Switch(switch) => switch.to_string(),
        }
    }
}

fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Word::deserialize(from).map(|word| Some(word.into_text()))
}

fn words<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(Word),
        All(Vec<Word>),
    }
    Ok(match Words::deserialize(from)? {
        Words::One(word) => vec![word.into_text()],
        Words::All(words) => words.into_iter().map(Word::into_text).collect(),
    })
}

/// Says which flag a text came from, when it is wrong.
pub fn named<T>(flag: &str, value: anyhow::Result<T>) -> anyhow::Result<T> {
    value.with_context(|| format!("--{flag} cannot be used"))
}

/// One value for each uplink, of one for all or one for each.
pub fn spread_out<T: Clone>(flag: &str, mut values: Vec<T>, uplinks: usize) -> anyhow::Result<Vec<T>> {
    match values.len() {
        1 => Ok(vec![values.remove(0); uplinks]),
        count if count == uplinks => Ok(values),
        count => {
            bail!("--{flag} has {count} values for {uplinks} uplinks: give one for all, or one for each")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let file: Spec =
            toml::from_str("rates = \"5,4\"\nvideo = 6\ncut = \"1@4s+3s\"\n[must]\nlate = 0").unwrap();
        let flags = Spec { video: Some("3".into()), ..Spec::default() };
        let both = flags.over(file.clone());
        assert_eq!((both.video.as_deref(), both.rates.as_deref()), (Some("3"), Some("5,4")));
        assert_eq!((both.cut.len(), both.must.late), (1, Some(0)));
        let traces = Spec { traces: Some("x".into()), ..Spec::default() };
        assert_eq!(traces.over(file).rates, None);
        assert!(toml::from_str::<Spec>("vidoe = 6").unwrap_err().to_string().contains("vidoe"));
    }

    #[test]
    fn unknown_scenarios_are_told_with_the_known_ones() {
        let error = load("stedy").unwrap_err().to_string();
        assert!(error.contains("steady") && error.contains("give a file"), "{error}");
    }

    #[test]
    fn one_for_all_or_one_for_each() {
        assert_eq!(spread_out("delays", vec![3], 3).unwrap(), [3, 3, 3]);
        let error = spread_out("delays", vec![1, 2], 3).unwrap_err().to_string();
        assert_eq!(error, "--delays has 2 values for 3 uplinks: give one for all, or one for each");
    }
}
