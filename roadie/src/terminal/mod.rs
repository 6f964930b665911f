//! What the creator sees: one calm screen that is redrawn in place on a terminal, plain lines elsewhere, and
//! lines of JSON for tools.

use std::io::{IsTerminal, Write};
use std::time::Duration;

pub mod alarms;
pub mod json;
pub mod keys;
pub mod lines;
mod style;

pub use lines::Meter;

/// Where there is no terminal to redraw, the state is printed this often.
const PLAIN_INTERVAL: Duration = Duration::from_secs(5);

/// Writes the status to standard output.
pub struct Screen {
    terminal: bool,
    colours: bool,
    drawn: usize,
    last_plain: Option<Duration>,
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// Looks whether standard output is a terminal. `NO_COLOR` is heeded (no-color.org).
    pub fn new() -> Self {
        let terminal = std::io::stdout().is_terminal();
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { terminal, colours, drawn: 0, last_plain: None }
    }

    /// Whether somebody looks at a terminal.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows the state in place of the last one.
    pub fn draw(&mut self, lines: &[String], elapsed: Duration) {
        let mut out = String::new();
        if self.terminal {
            let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
            if self.drawn > 0 {
                out.push_str(&format!("\x1b[{}A", self.drawn));
            }
            out.push_str("\x1b[J");
            // What scrolled out at the top could not be redrawn. The last lines are the alarms and the keys.
            let shown = &lines[lines.len().saturating_sub(usize::from(rows.max(2)) - 1)..];
            for line in shown {
                // A line that wraps would break the way back up. Raw mode wants the carriage return.
                out.push_str(&style::cut(line, usize::from(columns).saturating_sub(1), self.colours));
                out.push_str("\r\n");
            }
            self.drawn = shown.len();
        } else {
            if self.last_plain.is_some_and(|last| elapsed.saturating_sub(last) < PLAIN_INTERVAL) {
                return;
            }
            self.last_plain = Some(elapsed);
            for line in lines.iter().filter(|line| !line.is_empty()) {
                out.push_str(&style::cut(line, usize::MAX, false));
                out.push('\n');
            }
        }
        print(&out);
    }

    /// Says something that stays.
    pub fn note(&mut self, line: &str) {
        let mut out = String::new();
        if self.terminal && self.drawn > 0 {
            // In place of the state, which is drawn again below it.
            out.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        self.drawn = 0;
        print(&format!("{out}{}\r\n", style::cut(line, usize::MAX, self.colours)));
    }

    /// The last words, below the last state.
    pub fn finish(&mut self, lines: &[String]) {
        self.drawn = 0;
        for line in lines {
            self.note(line);
        }
    }
}

/// Prints a line for tools.
pub fn say(line: &impl std::fmt::Display) {
    print(&format!("{line}\n"));
}

/// A closed pipe (`roadie live | head`) is no reason to end a show.
fn print(text: &str) {
    let text = if std::io::stdout().is_terminal() { text.to_owned() } else { text.replace('\r', "") };
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
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
