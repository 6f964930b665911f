//! The player's counters as JavaScript objects; `www/README.md` documents them.

use js_sys::{Array, Object};
use wasm_bindgen::prelude::*;

use super::js::{micros, nullable, object, set};
use super::player::Shared;
use crate::stats::{DropCause, Histogram};

fn quantiles(histogram: &Histogram) -> JsValue {
    let quantile = |part| nullable(histogram.quantile_millis(part));
    let seen = histogram.total() > 0;
    object([
        ("p50", quantile(0.50)),
        ("p95", quantile(0.95)),
        ("p99", quantile(0.99)),
        ("max", nullable(seen.then(|| histogram.max_millis()))),
        ("last", nullable(seen.then(|| histogram.last_millis()))),
        ("count", (histogram.total() as f64).into()),
    ])
    .into()
}

fn count(number: u64) -> JsValue {
    (number as f64).into()
}

/// All counters.
pub fn stats(shared: &Shared) -> Object {
    let video = shared.video.borrow();
    let audio = shared.audio.borrow();
    let dropped = Object::new();
    for cause in DropCause::ALL {
        set(&dropped, cause.name(), count(video.stats.dropped[cause as usize]));
    }
    let frames = object([
        ("received", count(video.stats.received)),
        ("decoded", count(video.stats.decoded)),
        ("painted", count(video.stats.painted)),
        ("late", count(video.stats.late)),
        ("missing", count(video.missing())),
        ("dropped", dropped.into()),
    ]);
    let stages = object([
        ("arrival", quantiles(&video.stats.arrival)),
        ("wait", quantiles(&video.stats.wait)),
        ("decode", quantiles(&video.stats.decode)),
        ("hold", quantiles(&video.stats.hold)),
    ]);
    let sound = object([
        ("underruns", audio.heard.underruns.into()),
        ("drift_ms", nullable(audio.heard.drift_millis)),
        ("playing", audio.heard.playing.into()),
        ("buffered_ms", audio.heard.buffered_millis.into()),
        ("resyncs", audio.heard.resyncs.into()),
        ("running", audio.running().into()),
        ("received", count(audio.received)),
        ("dropped", count(audio.dropped)),
        ("missing", count(audio.missing())),
    ]);
    let clock = shared.clock_estimate();
    let clock = object([
        ("offset_us", nullable(clock.map(|c| c.offset_us.round()))),
        ("error_us", nullable(clock.map(|c| c.error_us.round()))),
    ]);
    let (width, height) = video.size();
    let connected = shared.connected.get();
    object([
        ("state", shared.machine.borrow().state().name().into()),
        ("transport", nullable(connected.map(|(way, _)| way.name()))),
        ("version", nullable(connected.map(|(_, version)| version.name()))),
        ("codec", nullable(video.codec())),
        ("width", width.into()),
        ("height", height.into()),
        ("now_us", micros(shared.now())),
        ("latency_ms", quantiles(&video.stats.latency)),
        ("delay_ms", delay_millis(shared).into()),
        ("stages_ms", stages.into()),
        ("frames", frames.into()),
        ("stalls", count(video.stats.stalls.count())),
        ("stalled_ms", video.stats.stalls.total_millis().into()),
        ("first_frame_ms", nullable(video.first_picture_millis)),
        ("audio", sound.into()),
        ("clock", clock.into()),
        ("reconnects", shared.reconnects.get().into()),
    ])
}

fn delay_millis(shared: &Shared) -> f64 {
    shared.playout.borrow().delay().as_micros() as f64 / 1_000.0
}

/// The few numbers that the page shows.
pub fn readout(shared: &Shared) -> Object {
    let video = shared.video.borrow();
    let latency = &video.stats.latency;
    object([
        ("type", "readout".into()),
        ("latency_ms", nullable((latency.total() > 0).then(|| latency.last_millis()))),
        ("delay_ms", delay_millis(shared).into()),
        ("painted", count(video.stats.painted)),
        ("stalls", count(video.stats.stalls.count())),
        ("missing", count(video.missing())),
        ("sound", shared.audio.borrow().heard.playing.into()),
        ("height", video.size().1.into()),
    ])
}

/// The frames since the last call, oldest first.
pub fn take_trace(shared: &Shared) -> Array {
    let records = shared.video.borrow_mut().trace.take();
    records
        .map(|record| {
            let mark = record.mark.map(|mark| {
                object([("counter", mark.counter.into()), ("time_ms", (mark.time_millis as f64).into())])
            });
            JsValue::from(object([
                ("track", "video".into()),
                ("group", count(record.group)),
                ("frame", record.frame.into()),
                ("capture_us", micros(record.capture)),
                ("arrived_us", micros(record.arrived)),
                ("decode_start_us", record.decode_start.map_or(JsValue::NULL, micros)),
                ("decoded_us", record.decoded.map_or(JsValue::NULL, micros)),
                ("painted_us", record.painted.map_or(JsValue::NULL, micros)),
                ("cause", nullable(record.cause.map(DropCause::name))),
                ("mark", nullable(mark)),
            ]))
        })
        .collect()
}
