//! The state of a show as a line of JSON. Every line is an object with a `type`: `state`, `note`, `room` or `end`.

use std::time::Duration;

use bond::PathState;
use encoder::record::{RecordState, RecordStatus};
use media::Time;
use serde_json::{Value, json};

use super::lines;
use crate::room::Links;
use crate::show::Status;

/// The state once a second. Times in milliseconds, rates in bits per second, levels in dBFS.
pub fn state(
    broadcast: &str,
    now: Time,
    elapsed: Duration,
    status: &Status,
    rates: &[f64],
    alarms: &[String],
) -> Value {
    let venue = &status.venue;
    let uplink = |(position, uplink): (usize, &relay::venue::UplinkState)| {
        let stats = venue.bond.paths.iter().find(|stats| stats.path.0 == uplink.path);
        let state = stats.filter(|_| uplink.connected).map_or("down", |stats| match stats.state {
            PathState::Active => "up",
            PathState::Suspect => "silent",
            PathState::Probing => "probing",
        });
        json!({
            "name": uplink.name,
            "state": state,
            "reason": uplink.reason,
            "rate": rates.get(position).map(|rate| *rate as u64),
            "delay_ms": stats.and_then(|stats| stats.owd).map(|owd| owd.as_secs_f64() * 1e3),
            "loss": stats.map(|stats| stats.loss_ratio),
            "bytes": uplink.bytes,
            "cap": uplink.cap,
        })
    };
    json!({
        "type": "state",
        "broadcast": broadcast,
        "time_ms": now.as_micros() / 1000,
        "elapsed_ms": elapsed.as_millis() as u64,
        "state": lines::state(status),
        "target_rate": venue.target_rate,
        "media_bytes": venue.media_bytes,
        "encoder": {
            "captured": status.encoder.captured,
            "dropped": status.encoder.dropped,
            "encoded": status.encoder.encoded,
            "audio_packets": status.encoder.audio_packets,
            "delay_p95_ms": status.encode_ms,
        },
        "audience": venue.audience,
        "room": status.room,
        "backfill": venue.backfill,
        "inputs": status.inputs,
        "levels": status.levels,
        "uplinks": venue.uplinks.iter().enumerate().map(uplink).collect::<Vec<_>>(),
        "recordings": status.recordings.iter().map(recording).collect::<Vec<_>>(),
        "alarms": alarms,
    })
}

/// Something that happened.
pub fn note(words: &str) -> Value {
    json!({ "type": "note", "words": words })
}

/// Where the room finds the show.
pub fn room(links: &Links) -> Value {
    json!({ "type": "room", "links": links.room, "plain": links.plain, "here": links.here })
}

/// The last line.
pub fn end(recordings: &[RecordStatus]) -> Value {
    json!({ "type": "end", "recordings": recordings.iter().map(recording).collect::<Vec<_>>() })
}

fn recording(copy: &RecordStatus) -> Value {
    let (state, reason) = match &copy.state {
        RecordState::Recording => ("recording", None),
        RecordState::Degraded { reason } => ("degraded", Some(reason)),
        RecordState::Failed { reason } => ("failed", Some(reason)),
    };
    json!({
        "path": copy.path,
        "state": state,
        "reason": reason,
        "warning": copy.warning,
        "bytes": copy.bytes,
        "seconds": copy.seconds,
        "frames": copy.frames,
        "dropped": copy.dropped,
        "free_bytes": copy.free_bytes,
        "seconds_left": copy.time_left.map(|left| left.as_secs()),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_is_an_object_with_a_type_and_one_line_long() {
        let mut status = Status::default();
        let state_of = RecordState::Failed { reason: "full\nof \"it\"".into() };
        status.recordings = vec![RecordStatus::empty(Path::new("/a"), state_of)];
        let line =
            state("demo", Time::from_millis(7), Duration::from_secs(1), &status, &[], &["do it".into()]);
        assert_eq!((line["type"].as_str(), line["time_ms"].as_u64()), (Some("state"), Some(7)));
        assert_eq!(line["recordings"][0]["state"], "failed");
        assert_eq!(line.to_string().lines().count(), 1);
        assert_eq!(note("x").to_string(), r#"{"type":"note","words":"x"}"#);
    }
}
