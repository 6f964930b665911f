//! File names: the broadcast and when the recording began.

use crate::Time;

/// Longer broadcast names are cut, because a file name ends at 255 bytes on most disks.
const MAX_NAME_BYTES: usize = 120;

/// `BROADCAST-YYYYMMDDTHHMMSSZ`, without path tricks: the result is one harmless path component.
pub fn file_stem(broadcast: &str, start: Time) -> String {
    format!("{}-{}", safe(broadcast), utc(start))
}

/// Letters, digits, dots, dashes and underscores stay (no dot in front, where it would hide the file).
fn safe(broadcast: &str) -> String {
    let broadcast = broadcast.trim_matches('/');
    let mut name = String::new();
    for char in broadcast.chars() {
        let keep = char.is_alphanumeric() || char == '-' || (char == '.' && !name.is_empty());
        if name.len() + char.len_utf8() > MAX_NAME_BYTES {
            break;
        }
        name.push(if keep { char } else { '_' });
    }
    if name.is_empty() { "show".into() } else { name }
}

/// The time as `YYYYMMDDTHHMMSSZ` (ISO 8601, basic form).
pub fn utc(time: Time) -> String {
    let (year, month, day, hour, minute, second) = calendar(time);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// The time as `YYYY-MM-DDTHH:MM:SS.mmmZ` (ISO 8601, to the millisecond).
pub fn date_time(time: Time) -> String {
    let (year, month, day, hour, minute, second) = calendar(time);
    let millis = time.as_micros() / 1000 % 1000;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Year, month, day, hour, minute, second.
fn calendar(time: Time) -> (u64, u64, u64, u64, u64, u64) {
    let seconds = time.as_micros() / 1_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let second = seconds % 86_400;
    (year, month, day, second / 3600, second / 60 % 60, second % 60)
}

/// Year, month and day of a day number since 1970 (proleptic Gregorian calendar).
fn civil(days_since_1970: u64) -> (u64, u64, u64) {
    // Years begin in March here: the leap day is the last day of its year, and no month length varies.
    const DAYS_FROM_0000_03_01: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let day = days_since_1970 + DAYS_FROM_0000_03_01;
    let (cycle, day) = (day / DAYS_IN_400_YEARS, day % DAYS_IN_400_YEARS);
    // The last day of a cycle and of four years is the leap day, which belongs to the year before.
    let century = (day / 36_524).min(3);
    let day = day - century * 36_524;
    let (four, day) = (day / 1461, day % 1461);
    let year = (day / 365).min(3);
    let day = day - year * 365;
    // From March, five months have 153 days: 31 30 31 30 31.
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let year = 400 * cycle + 100 * century + 4 * four + year;
    if month < 10 { (year, month + 3, day_of_month) } else { (year + 1, month - 9, day_of_month) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (951_868_800, "20000301T000000Z"),
            (1_078_012_800, "20040229T000000Z"),
            (1_735_689_599, "20241231T235959Z"),
            (1_795_000_000, "20261118T110640Z"),
            (4_107_542_400, "21000301T000000Z"),
            (4_107_456_000, "21000228T000000Z"),
        ] {
            assert_eq!(utc(Time::from_millis(seconds * 1000)), text);
        }
    }

    /// Every day of 500 years follows the one before it.
    #[test]
    fn days_follow_each_other() {
        let mut last = civil(0);
        for day in 1..182_621 {
            let (year, month, date) = civil(day);
            let next_day = (year, month) == (last.0, last.1) && date == last.2 + 1;
            let next_month = date == 1 && last.2 >= 28 && (year, month) == (last.0, last.1 + 1);
            let next_year = (month, date) == (1, 1) && (last.1, last.2) == (12, 31) && year == last.0 + 1;
            assert!(next_day || next_month || next_year, "{last:?} {:?}", (year, month, date));
            last = (year, month, date);
        }
    }

    #[test]
    fn names_without_tricks() {
        assert_eq!(file_stem("tour/london", Time::ZERO), "tour_london-19700101T000000Z");
        for (broadcast, name) in [
            ("/demo/", "demo"),
            ("../../etc/passwd", "_._.._etc_passwd"),
            (".hidden", "_hidden"),
            ("a\0b\nc d:e\\f", "a_b_c_d_e_f"),
            ("Über/Straße", "Über_Straße"),
            ("", "show"),
            ("///", "show"),
        ] {
            assert_eq!(safe(broadcast), name);
        }
        assert!(safe(&"ä".repeat(500)).len() <= MAX_NAME_BYTES);
    }
}
