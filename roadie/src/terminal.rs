//! One calm screen: redrawn in place on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use bond::PathState;
use encoder::record::{RecordState, RecordStatus};
use media::Time;
use relay::uplink::cost::amount;
use relay::venue;

use crate::show;

/// Where there is no terminal to redraw, the state is printed this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Characters of a bar.
const BAR: usize = 10;

/// Writes the status to standard output.
pub struct Screen {
    terminal: bool,
    drawn: usize,
    last_plain: Option<Duration>,
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// Looks whether standard output is a terminal.
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), drawn: 0, last_plain: None }
    }

    /// Shows the state in place of the last one.
    pub fn draw(&mut self, lines: &[String], elapsed: Duration) {
        let mut out = String::new();
        if self.terminal {
            let width = crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns));
            if self.drawn > 0 {
                out.push_str(&format!("\x1b[{}A", self.drawn));
            }
            out.push_str("\x1b[J");
            for line in lines {
                // A line that wraps would break the way back up. Raw mode wants the carriage return.
                out.extend(line.chars().take(width.saturating_sub(1)));
                out.push_str("\r\n");
            }
            self.drawn = lines.len();
        } else {
            if self.last_plain.is_some_and(|last| elapsed.saturating_sub(last) < PLAIN_INTERVAL) {
                return;
            }
            self.last_plain = Some(elapsed);
            for line in lines.iter().filter(|line| !line.is_empty()) {
                out.push_str(line);
                out.push('\n');
            }
        }
        print(&out);
    }

    /// Says something that stays.
    pub fn note(&mut self, line: &str) {
        self.drawn = 0;
        print(&format!("{line}\r\n"));
    }

    /// The last words, below the last state.
    pub fn finish(&mut self, lines: &[String]) {
        for line in lines {
            self.note(line);
        }
    }
}

/// A closed pipe (`roadie live | head`) is no reason to end a show.
fn print(text: &str) {
    let text = if std::io::stdout().is_terminal() { text.to_owned() } else { text.replace('\r', "") };
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

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

/// `Roadie · demo   on the air 00:17`.
pub fn title(broadcast: &str, elapsed: Duration, status: &show::Status) -> String {
    let connected = status.venue.uplinks.iter().filter(|uplink| uplink.connected).count();
    let refused = status.venue.uplinks.iter().any(|uplink| uplink.refused);
    let state = match connected {
        0 if refused => "REFUSED BY THE EDGE",
        0 => "NOT REACHING THE EDGE, trying",
        _ => "on the air",
    };
    format!("Roadie · {broadcast} · {state} · {}", clock(elapsed))
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
    let mut lines = vec![format!(
        "  {:<12} {:<9} {:>10} {:>8} {:>7}  share",
        "uplink", "state", "sending", "delay", "loss"
    )];
    let total: f64 = rates.iter().sum();
    for (position, uplink) in status.uplinks.iter().enumerate() {
        let number = position + 1;
        let stats = status.bond.paths.iter().find(|stats| stats.path.0 == uplink.path);
        let Some(stats) = stats.filter(|_| uplink.connected) else {
            let reason = uplink.reason.as_deref().unwrap_or("calling the edge");
            lines.push(format!("{number} {:<12} {:<9} {reason}", uplink.name, "○ down"));
            continue;
        };
        let state = match stats.state {
            PathState::Active => "● up",
            PathState::Suspect => "✕ silent",
            PathState::Probing => "◌ probing",
        };
        let rate = rates.get(position).copied().unwrap_or(0.0);
        let share = if total > 0.0 { rate / total } else { 0.0 };
        let delay = stats.owd.map_or("–".into(), |owd| format!("{:.0} ms", owd.as_secs_f64() * 1e3));
        lines.push(format!(
            "{number} {:<12} {state:<9} {:>10} {delay:>8} {:>7}  {} {:>3.0} %{}",
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
        0 => "  the uplinks carry nothing now".into(),
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
        let state = match &copy.state {
            RecordState::Recording => String::new(),
            RecordState::Degraded { reason } => format!("  HAS A GAP: {reason}"),
            RecordState::Failed { reason } => format!("  FAILED: {reason}"),
        };
        let length = clock(Duration::from_secs_f64(copy.seconds.max(0.0)));
        let size = copy.bytes as f64 / 1e6;
        format!("  recording {letter}  {length}  {size:>7.1} MB  {}{state}", copy.path.display())
    };
    recordings.iter().enumerate().map(line).collect()
}

/// Resolves at Ctrl-C, at SIGTERM, and when the terminal is closed (SIGHUP): each ends a show properly.
pub async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
        (Ok(mut terminate), Ok(mut hangup)) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        },
        _ => drop(tokio::signal::ctrl_c().await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        assert_eq!(clock(Duration::from_secs(75)), "01:15");
        assert_eq!(clock(Duration::from_secs(3675)), "1:01:15");
        assert_eq!(bar(0.5), "█████░░░░░");
        assert_eq!(megabits(2_540_000.0), "2.5 Mb/s");
    }
}
