//! Single keys, where standard input and output are a terminal.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::mpsc;

/// Keys typed faster than they are handled; more are dropped.
const KEY_QUEUE: usize = 16;

/// How often the thread that reads keys looks whether it is still wanted.
const POLL: Duration = Duration::from_millis(100);

/// Reads keys without waiting for the line's end; the terminal is as before when this goes.
pub struct Keys {
    keys: Option<mpsc::Receiver<char>>,
}

impl Keys {
    /// Starts, where there is a terminal. Ctrl-C comes as U+0003, Escape as U+001B.
    pub fn start() -> Self {
        let terminal = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        if !terminal || crossterm::terminal::enable_raw_mode().is_err() {
            return Self { keys: None };
        }
        let (sender, keys) = mpsc::channel(KEY_QUEUE);
        std::thread::spawn(move || {
            use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
            while !sender.is_closed() {
                if !poll(POLL).unwrap_or(false) {
                    continue;
                }
                let Ok(Event::Key(key)) = read() else { continue };
                let char = match key.code {
                    // Raw mode swallows the signal.
                    KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => '\x03',
                    KeyCode::Char(char) => char,
                    KeyCode::Esc => '\x1b',
                    _ => continue,
                };
                let _ = sender.try_send(char);
            }
        });
        Self { keys: Some(keys) }
    }

    /// Whether there is somebody who can press a key.
    pub fn there(&self) -> bool {
        self.keys.is_some()
    }

    /// The next key; never, where there is no terminal.
    pub async fn next(&mut self) -> Option<char> {
        match &mut self.keys {
            Some(keys) => keys.recv().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if self.keys.is_some() {
            let _ = crossterm::terminal::disable_raw_mode();
        }
    }
}
