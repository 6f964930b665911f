//! Times and sizes as people write them.

use std::time::Duration;

use anyhow::Context;
use media::Time;

/// `1:02:03.5`, `12:30` or `90`: hours, minutes and seconds.
pub fn parse(text: &str) -> anyhow::Result<Duration> {
    let words = || format!("{text:?} is no time: write it as 12:30 or 1:02:03.5");
    let fields: Vec<&str> = text.split(':').collect();
    let (seconds, larger) = fields.split_last().with_context(words)?;
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if larger.len() > 2 || !plain(seconds) {
        anyhow::bail!(words());
    }
    let mut total: f64 = seconds.parse().with_context(words)?;
    for (field, unit) in larger.iter().rev().zip([60.0, 3600.0]) {
        // Rust reads a plus sign too.
        let digits = field.bytes().all(|byte| byte.is_ascii_digit());
        let value: u32 = field.parse().ok().filter(|_| digits).with_context(words)?;
        total += f64::from(value) * unit;
    }
    Duration::try_from_secs_f64(total).with_context(words)
}

/// `1:02:03.500`.
pub fn exact(time: Duration) -> String {
    let millis = time.as_millis();
    let (hours, minutes, seconds) = (millis / 3_600_000, millis / 60_000 % 60, millis / 1000 % 60);
    format!("{hours}:{minutes:02}:{seconds:02}.{:03}", millis % 1000)
}

/// `2026-11-18 11:06:40 UTC`.
pub fn date(time: Time) -> String {
    let stamp = media::cmaf::utc(time);
    // YYYYMMDDTHHMMSSZ, ASCII by its making.
    let part = |from: usize, to: usize| stamp.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{} {}:{}:{} UTC",
        part(0, 4),
        part(4, 6),
        part(6, 8),
        part(9, 11),
        part(11, 13),
        part(13, 15)
    )
}

/// `1.9 GB`.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= 1e9 => format!("{:.1} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.0} kB", (bytes / 1e3).ceil()),
    }
}

/// `1 frame`, `2 frames`.
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (text, millis) in
            [("12:30", 750_000), ("1:02:03.5", 3_723_500), ("90", 90_000), ("0.25", 250), ("0:0:1", 1000)]
        {
            assert_eq!(parse(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for bad in
            ["", ":", "1:", "x", "-1", "1:2:3:4", "1.5:00", "nan", "1e3", "+1:00", "99999999999999999999"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert_eq!(exact(Duration::from_millis(3_723_500)), "1:02:03.500");
        assert_eq!(date(Time::from_millis(1_795_000_000_000)), "2026-11-18 11:06:40 UTC");
        assert_eq!([size(1), size(2_500_000), size(1_900_000_000)], ["1 kB", "2.5 MB", "1.9 GB"]);
    }
}
