//! What a page saw of the marks in a show's pictures (`marks.js`).

use media::Time;
use media::mark;
use serde_json::Value;

/// What the mark in a picture says.
pub struct Picture {
    pub counter: Option<u16>,
    pub late_ms: Option<u64>,
}

impl Picture {
    pub fn read(picture: &Value) -> Self {
        let cells: Vec<u8> =
            picture["cells"].as_array().unwrap().iter().map(|cell| cell.as_u64().unwrap() as u8).collect();
        let mark = mark::read(|x, y| cells[y / mark::CELL * mark::COLUMNS + x / mark::CELL]);
        let now = Time::from_millis(picture["time_ms"].as_u64().unwrap());
        let late = |mark: mark::Mark| now.saturating_since(mark.capture_time(now)).as_millis() as u64;
        Self { counter: mark.map(|mark| mark.counter), late_ms: mark.map(late) }
    }
}

/// Pictures less than so many milliseconds late.
pub fn fresh(pictures: &[Picture], live_ms: u64) -> usize {
    pictures.iter().filter(|picture| picture.late_ms.is_some_and(|late| late < live_ms)).count()
}
