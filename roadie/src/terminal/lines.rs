//! The state of a show in words and colours.

use std::collections::BTreeMap;
use std::time::Duration;

use bond::PathState;
use encoder::record::{RecordState, RecordStatus};
use encoder::{InputStatus, Levels, SourceState};
use media::Time;
use relay::control::Audience;
use relay::uplink::cost::amount;
use relay::venue;

use super::style::{Tone, paint};
use crate::show;

/// Characters of a bar.
const BAR: usize = 10;

/// The meter of the sound shows from here to 0 dBFS.
const METER_FLOOR: f32 = -60.0;
/// Louder than this is near the end of the scale.
const LOUD: f32 = -6.0;
/// Characters of the meter.
const METER: usize = 20;

/// A disk that is full in less than this is shown in another colour.
const SOON: Duration = Duration::from_secs(30 * 60);

/// Rates from two looks at the counters.
#[derive(Default)]
pub struct Meter {
    last: Option<(Time, BTreeMap<u8, u64>)>,
}

impl Meter {
    /// Bits per second of each uplink since the last look, in the order of the status.
    pub fn update(&mut self, status: &venue::Status, now: Time) -> Vec<f64> {
        let bytes: BTreeMap<u8, u64> =
            status.bond.paths.iter().map(|stats| (stats.path.0, stats.bytes_sent)).collect();
        let rates = match &self.last {
            Some((then, before)) => {
                let seconds = now.saturating_since(*then).as_secs_f64().max(0.001);
                let sent = |uplink: &venue::UplinkState| {
                    let of = |counts: &BTreeMap<u8, u64>| counts.get(&uplink.path).copied().unwrap_or(0);
                    of(&bytes).saturating_sub(of(before)) as f64 * 8.0 / seconds
                };
                status.uplinks.iter().map(sent).collect()
            }
            None => vec![0.0; status.uplinks.len()],
        };
        self.last = Some((now, bytes));
        rates
    }
}

/// The state in words.
pub fn state(status: &show::Status) -> &'static str {
    let connected = status.venue.uplinks.iter().any(|uplink| uplink.connected);
    let refused = status.venue.uplinks.iter().any(|uplink| uplink.refused);
    let slate = status.inputs.iter().any(|input| input.on_air && input.state != SourceState::Live);
    match (connected, refused) {
        (true, _) if slate => "ON THE AIR, with a still picture",
        (true, _) => "ON THE AIR",
        (false, true) => "REFUSED BY THE EDGE",
        (false, false) => "NOT REACHING THE EDGE, trying",
    }
}

/// `● ON THE AIR   tour/london   00:17`.
pub fn title(broadcast: &str, elapsed: Duration, status: &show::Status) -> String {
    let words = state(status);
    let tone = match words {
        "ON THE AIR" => Tone::Good,
        _ if words.starts_with("ON THE AIR") => Tone::Uneasy,
        _ => Tone::Bad,
    };
    let state = paint(tone, &format!("● {words}"));
    format!("{state}   {}   {}", paint(Tone::Strong, broadcast), clock(elapsed))
}

/// What is shown: the inputs, where there are several to choose from or one is away.
pub fn inputs(inputs: &[InputStatus]) -> Vec<String> {
    if let [only] = inputs
        && only.state == SourceState::Live
    {
        return Vec::new();
    }
    let line = |(number, input): (usize, &InputStatus)| {
        let (mark, name) = match input.on_air {
            true => (paint(Tone::Strong, "▶"), paint(Tone::Strong, &input.name)),
            false => (" ".into(), input.name.clone()),
        };
        let state = match &input.state {
            SourceState::Live => paint(Tone::Good, "live"),
            SourceState::Waiting => paint(Tone::Uneasy, "waiting for it"),
            SourceState::Away { reason } => {
                let reason = reason.strip_prefix(&input.name).unwrap_or(reason).trim_start();
                paint(Tone::Bad, &format!("away: {reason}"))
            }
            other => format!("{other:?}"),
        };
        format!("  {mark} input {}  {name}  {state}", number + 1)
    };
    inputs.iter().enumerate().map(line).collect()
}

/// Why an input is away. Most reasons name it themselves.
pub fn away(name: &str, reason: &str) -> String {
    if reason.contains(name) { reason.to_owned() } else { format!("{name} is away: {reason}") }
}

/// What the encoders make, and how loud it is.
pub fn program(status: &show::Status) -> String {
    let delay = status.encode_ms.map_or(String::new(), |ms| format!(" in {ms:.0} ms"));
    format!("  picture{}{delay}   sound {}", picture(status), meter(status.levels))
}

fn picture(status: &show::Status) -> String {
    let dropped = status.encoder.dropped;
    if dropped == 0 {
        String::new()
    } else {
        format!(" {}", paint(Tone::Uneasy, &format!("({dropped} dropped)")))
    }
}

/// A bar for the louder channel, its mean with its peak as a mark, and the peak in dBFS.
fn meter(levels: Levels) -> String {
    let cells = |level: f32| {
        let share = ((level - METER_FLOOR) / -METER_FLOOR).clamp(0.0, 1.0);
        (share * METER as f32).round() as usize
    };
    let loudest = |levels: [f32; 2]| levels[0].max(levels[1]);
    let (peak, rms) = (loudest(levels.peak), loudest(levels.rms));
    let (mean, top) = (cells(rms), cells(peak));
    let bar: String = (1..=METER)
        .map(|n| {
            if n <= mean {
                '█'
            } else if n == top {
                '│'
            } else {
                '░'
            }
        })
        .collect();
    let tone = if peak > LOUD { Tone::Uneasy } else { Tone::Good };
    let words = if peak < METER_FLOOR { "silence".to_owned() } else { format!("{peak:.0} dB") };
    format!("{} {words}", paint(tone, &bar))
}

/// `mm:ss`, with hours where there are any.
pub fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes:02}:{seconds:02}")
    }
}

/// The table of uplinks.
pub fn uplinks(status: &venue::Status, rates: &[f64]) -> Vec<String> {
    let heading =
        format!("  {:<12} {:<9} {:>10} {:>8} {:>7}  share", "uplink", "state", "sending", "delay", "loss");
    let mut lines = vec![paint(Tone::Quiet, &heading)];
    let total: f64 = rates.iter().sum();
    for (position, uplink) in status.uplinks.iter().enumerate() {
        let number = position + 1;
        let stats = status.bond.paths.iter().find(|stats| stats.path.0 == uplink.path);
        let Some(stats) = stats.filter(|_| uplink.connected) else {
            let reason = uplink.reason.as_deref().unwrap_or("calling the edge");
            let state = paint(Tone::Bad, &format!("{:<9}", "○ down"));
            lines.push(format!("{number} {:<12} {state} {reason}", uplink.name));
            continue;
        };
        let (tone, state) = match stats.state {
            PathState::Active => (Tone::Good, "● up"),
            PathState::Suspect => (Tone::Bad, "✕ silent"),
            PathState::Probing => (Tone::Uneasy, "◌ probing"),
        };
        let state = paint(tone, &format!("{state:<9}"));
        let rate = rates.get(position).copied().unwrap_or(0.0);
        let share = if total > 0.0 { rate / total } else { 0.0 };
        let delay = stats.owd.map_or("–".into(), |owd| format!("{:.0} ms", owd.as_secs_f64() * 1e3));
        lines.push(format!(
            "{number} {:<12} {state} {:>10} {delay:>8} {:>7}  {} {:>3.0} %{}",
            uplink.name,
            megabits(rate),
            format!("{:.1} %", stats.loss_ratio * 100.0),
            bar(share),
            share * 100.0,
            uplink.reason.as_ref().map_or_else(|| cap(uplink), |reason| format!("   {reason}")),
        ));
    }
    lines
}

/// What is used of a data cap, where there is one.
fn cap(uplink: &venue::UplinkState) -> String {
    let Some(cap) = uplink.cap else { return String::new() };
    let used = format!("   {} of {}", amount(uplink.bytes), amount(cap));
    match (uplink.emergency, uplink.bytes >= cap) {
        (true, _) => format!("{used}: used up, but nothing else works"),
        (false, true) => format!("{used}: used up, for emergencies only"),
        (false, false) => used,
    }
}

/// What the encoder follows.
pub fn target(status: &venue::Status) -> String {
    match status.target_rate {
        0 => paint(Tone::Uneasy, "  the uplinks carry nothing now"),
        rate => format!("  the uplinks carry {} of picture and sound", megabits(f64::from(rate))),
    }
}

/// `1.2 Mb/s`.
pub fn megabits(bits_per_second: f64) -> String {
    format!("{:.1} Mb/s", bits_per_second / 1e6)
}

fn bar(share: f64) -> String {
    let full = (share * BAR as f64).round() as usize;
    (0..BAR).map(|n| if n < full { '█' } else { '░' }).collect()
}

/// One line for each copy.
pub fn recordings(recordings: &[RecordStatus]) -> Vec<String> {
    let line = |(n, copy): (usize, &RecordStatus)| {
        let letter = char::from(b'A' + (n % 26) as u8);
        let (tone, state) = match &copy.state {
            RecordState::Recording => (Tone::Good, String::new()),
            RecordState::Degraded { .. } => (Tone::Uneasy, paint(Tone::Uneasy, "  HAS A GAP")),
            RecordState::Failed { .. } => (Tone::Bad, paint(Tone::Bad, "  STOPPED")),
        };
        let length = clock(Duration::from_secs_f64(copy.seconds.max(0.0)));
        let size = copy.bytes as f64 / 1e6;
        let left = copy.time_left.map_or(String::new(), |left| {
            let words = format!("{} left", time_left(left));
            format!("  {}", if left < SOON { paint(Tone::Uneasy, &words) } else { words })
        });
        format!(
            "  {} recording {letter}  {length}  {size:>7.1} MB{left}  {}{state}",
            paint(tone, "●"),
            copy.path.display()
        )
    };
    recordings.iter().enumerate().map(line).collect()
}

/// The last words of each copy: nothing is left out, because nothing comes after.
pub fn recorded(recordings: &[RecordStatus]) -> Vec<String> {
    let line = |(copy, line): (&RecordStatus, String)| match &copy.state {
        RecordState::Recording => line,
        RecordState::Degraded { reason } | RecordState::Failed { reason } => format!("{line}: {reason}"),
    };
    let whole: Vec<_> =
        recordings.iter().map(|copy| RecordStatus { time_left: None, ..copy.clone() }).collect();
    whole.iter().zip(self::recordings(&whole)).map(line).collect()
}

/// `3 h 40 min`, `12 min`, `40 s`.
fn time_left(left: Duration) -> String {
    let minutes = left.as_secs() / 60;
    match minutes {
        0 => format!("{} s", left.as_secs()),
        1..=59 => format!("{minutes} min"),
        // Nobody plans for longer.
        60..=5999 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => "days".into(),
    }
}

/// How the viewers fare, as the edge says.
pub fn audience(status: &venue::Status) -> Option<String> {
    status.audience.map(|audience| format!("  {}", viewers(audience)))
}

/// How the viewers in the room fare.
pub fn room(audience: Audience) -> String {
    format!("  in the room: {}", viewers(audience))
}

fn viewers(audience: Audience) -> String {
    let viewers = match audience.viewers {
        0 => "nobody watches yet".into(),
        1 => "1 viewer".into(),
        many => format!("{many} viewers"),
    };
    let latency = audience.p95_ms.map_or(String::new(), |ms| format!("   P95 {ms} ms from camera to screen"));
    let stalls = match audience.stalls {
        0 => String::new(),
        stalls => paint(Tone::Uneasy, &format!("   up to {stalls} freezes")),
    };
    format!("{viewers}{latency}{stalls}")
}

/// How the edge's copy of the show stands, where it keeps one.
pub fn backfill(status: &venue::Status) -> Option<String> {
    let standing = status.backfill.as_ref().filter(|standing| standing.on)?;
    let gone = match standing.gone {
        0 => String::new(),
        gone => format!("; {gone} groups cannot be had from any recording here"),
    };
    let words = if standing.stuck {
        paint(Tone::Uneasy, "the edge's disk takes nothing now")
    } else {
        // The newest are always on their way.
        format!("{} of {} groups", standing.kept, standing.recorded)
    };
    let again = match standing.sent_bytes {
        0 => String::new(),
        bytes => format!("   {:.1} MB sent again", bytes as f64 / 1e6),
    };
    Some(format!("  copy at the edge  {words}{again}{gone}"))
}

/// Something that the creator must act on.
pub fn alarm(words: &str) -> String {
    paint(Tone::Bad, &format!("! {words}"))
}

/// What keys do.
pub fn keys(inputs: usize) -> String {
    let cut = match inputs {
        0 | 1 => String::new(),
        inputs => format!("1-{inputs}: cut to an input   "),
    };
    paint(Tone::Quiet, &format!("  {cut}q q: end the show"))
}

#[cfg(test)]
mod tests {
    use relay::backfill::supply::Standing;

    use super::*;

    #[test]
    fn a_cap_is_told_with_what_it_means() {
        let uplink = |bytes, emergency| {
            cap(&venue::UplinkState {
                bytes,
                emergency,
                cap: Some(5_000_000_000),
                ..venue::UplinkState::default()
            })
        };
        assert_eq!(uplink(1_200_000_000, false), "   1.2 GB of 5.0 GB");
        assert!(uplink(5_000_000_000, false).contains("for emergencies only"));
        assert!(uplink(5_000_000_000, true).contains("nothing else works"));
        assert_eq!(cap(&venue::UplinkState::default()), "");
    }

    #[test]
    fn the_edge_says_how_viewers_and_copy_fare() {
        let plain = |line: Option<String>| super::super::style::cut(&line.unwrap(), 200, false);
        let mut status = venue::Status::default();
        assert_eq!((audience(&status), backfill(&status)), (None, None));
        status.audience = Some(Audience { viewers: 12, p95_ms: Some(182), stalls: 2 });
        assert_eq!(
            plain(audience(&status)),
            "  12 viewers   P95 182 ms from camera to screen   up to 2 freezes"
        );
        status.audience = Some(Audience::default());
        assert_eq!(plain(audience(&status)), "  nobody watches yet");
        let standing = Standing { on: true, recorded: 60, kept: 60, ..Standing::default() };
        status.backfill = Some(standing);
        assert_eq!(plain(backfill(&status)), "  copy at the edge  60 of 60 groups");
        status.backfill = Some(Standing { kept: 48, owed: 12, sent_bytes: 1_200_000, gone: 1, ..standing });
        let words = plain(backfill(&status));
        assert!(words.contains("48 of 60 groups   1.2 MB sent again; 1 groups"), "{words}");
    }

    #[test]
    fn how_long_a_disk_lasts() {
        let words = |seconds| time_left(Duration::from_secs(seconds));
        assert_eq!(
            [words(40), words(12 * 60), words(13_200), words(400_000)],
            ["40 s", "12 min", "3 h 40 min", "days"]
        );
    }

    #[test]
    fn the_meter() {
        let bar = |peak, rms| {
            super::super::style::cut(&meter(Levels { peak: [peak; 2], rms: [rms; 2] }), 99, false)
        };
        assert_eq!(bar(-12.0, -30.0), "██████████░░░░░│░░░░ -12 dB");
        assert_eq!(bar(-96.0, -96.0), "░░░░░░░░░░░░░░░░░░░░ silence");
        assert_eq!(bar(0.0, -3.0), "███████████████████│ 0 dB");
    }

    #[test]
    fn words() {
        assert_eq!(clock(Duration::from_secs(75)), "01:15");
        assert_eq!(clock(Duration::from_secs(3675)), "1:01:15");
        assert_eq!(bar(0.5), "█████░░░░░");
        assert_eq!(megabits(2_540_000.0), "2.5 Mb/s");
    }
}
