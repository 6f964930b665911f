//! Sound: reorder, decode, hand over to the worklet with its capture time.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use js_sys::{Array, Float32Array};
use media::Time;
use media::catalog::AudioRendition;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{
    AudioData, AudioDataCopyToOptions, AudioDecoder, AudioDecoderConfig, AudioDecoderInit, AudioSampleFormat,
    CodecState, EncodedAudioChunk, EncodedAudioChunkInit, EncodedAudioChunkType, MessagePort,
};

use super::js::{self, get, micros, object};
use super::player::{Shared, log};
use crate::playout::Media;
use crate::reorder::{Reorder, Skip};

/// Packets in the decoder. It takes less than a millisecond for one; this many are a fault.
const MAX_DECODING: usize = 64;

/// Ticks kept for `takeTicks()`.
const MAX_TICKS: usize = 512;

/// Pairs of (context time, local time) that are looked at. The page sends five per second.
const PAIRS: usize = 16;

/// A pair this far from the others is another truth: the context was suspended in between.
const PAIR_JUMP_US: f64 = 50_000.0;

struct Decoder {
    decoder: AudioDecoder,
    _output: Closure<dyn FnMut(AudioData)>,
    _error: Closure<dyn FnMut(JsValue)>,
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // After an error it is closed already; that is fine.
        let _ = self.decoder.close();
    }
}

/// What the worklet reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Times that it had nothing to play after it had started.
    pub underruns: f64,
    /// Sound minus picture: positive when the sound is behind its due time. Milliseconds.
    pub drift_millis: Option<f64>,
    /// Sound is coming out.
    pub playing: bool,
    /// Sound that lies ready, milliseconds.
    pub buffered_millis: f64,
    /// Times it jumped because it was off by more than it can glide.
    pub resyncs: f64,
}

/// Everything about sound.
pub struct Audio {
    config: Option<AudioDecoderConfig>,
    reorder: Reorder,
    decoder: Option<Decoder>,
    /// Capture times of the packets inside.
    decoding: VecDeque<Time>,
    /// The decoder counts time from here.
    epoch: Time,
    port: Option<MessagePort>,
    on_report: Option<Closure<dyn FnMut(JsValue)>>,
    running: bool,
    live_since: Option<Time>,
    pairs: VecDeque<f64>,
    /// The worklet's last report.
    pub heard: Heard,
    ticks: VecDeque<(f64, f64)>,
    /// Packets received.
    pub received: u64,
    /// Packets left out because nobody listens, or the decoder failed on them.
    pub dropped: u64,
}

impl Default for Audio {
    fn default() -> Self {
        Self {
            config: None,
            reorder: Reorder::new(Skip::InOrder),
            decoder: None,
            decoding: VecDeque::new(),
            epoch: Time::ZERO,
            port: None,
            on_report: None,
            running: false,
            live_since: None,
            pairs: VecDeque::new(),
            heard: Heard::default(),
            ticks: VecDeque::new(),
            received: 0,
            dropped: 0,
        }
    }
}

impl Audio {
    /// The ticks since the last call: `{capture_us, heard_us}`.
    pub fn take_ticks(&mut self) -> Array {
        self.ticks
            .drain(..)
            .map(|(capture, heard)| {
                JsValue::from(object([("capture_us", capture.into()), ("heard_us", heard.into())]))
            })
            .collect()
    }

    /// There is a worklet and its context runs.
    pub fn running(&self) -> bool {
        self.running && self.port.is_some()
    }

    /// Packets that never came.
    pub fn missing(&self) -> u64 {
        self.reorder.missing()
    }
}

/// The worklet's port.
pub fn set_port(shared: &Rc<Shared>, port: MessagePort) {
    let on_report = {
        let shared = shared.clone();
        Closure::<dyn FnMut(JsValue)>::new(move |event: JsValue| report(&shared, &get(&event, "data")))
    };
    port.set_onmessage(Some(on_report.as_ref().unchecked_ref()));
    let mut audio = shared.audio.borrow_mut();
    audio.port = Some(port);
    audio.on_report = Some(on_report);
}

fn report(shared: &Shared, data: &JsValue) {
    let number = |key: &str| get(data, key).as_f64();
    let mut audio = shared.audio.borrow_mut();
    audio.heard = Heard {
        underruns: number("underruns").unwrap_or(0.0),
        drift_millis: number("drift_ms"),
        playing: get(data, "playing").is_truthy(),
        buffered_millis: number("buffered_ms").unwrap_or(0.0),
        resyncs: number("resyncs").unwrap_or(0.0),
    };
    for tick in Array::from(&get(data, "ticks")).iter() {
        if let (Some(capture), Some(heard)) =
            (get(&tick, "capture_us").as_f64(), get(&tick, "heard_us").as_f64())
        {
            if audio.ticks.len() == MAX_TICKS {
                audio.ticks.pop_front();
            }
            audio.ticks.push_back((capture, heard));
        }
    }
}

/// Where the sound card is. The worklet gets the mapping from its time to capture time.
pub fn set_time(shared: &Shared, context_seconds: f64, local_millis: f64, running: bool) {
    let estimate = shared.clock_estimate();
    let mut audio = shared.audio.borrow_mut();
    if audio.running != running {
        audio.running = running;
        audio.pairs.clear();
        if !running {
            shared.playout.borrow_mut().forget_audio();
        }
    }
    let (true, Some(estimate)) = (running, estimate) else { return };
    // Local time at which context time 0 was heard. The page's reading jitters by its blocks, so the
    // middle of the last readings is used.
    let origin = local_millis * 1_000.0 - context_seconds * 1e6;
    let middle = median(&audio.pairs);
    if middle.is_some_and(|middle| (middle - origin).abs() > PAIR_JUMP_US) {
        audio.pairs.clear();
    }
    if audio.pairs.len() == PAIRS {
        audio.pairs.pop_front();
    }
    audio.pairs.push_back(origin);
    let (Some(origin), Some(port)) = (median(&audio.pairs), &audio.port) else { return };
    let delay = shared.playout.borrow().delay().as_micros() as f64;
    let message = object([
        // Capture time that is to be heard at context time 0.
        ("map_us", (origin + estimate.offset_us - delay).into()),
        ("delay_us", delay.into()),
    ]);
    let _ = port.post_message(&message);
}

fn median(values: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// A subscription begins.
pub fn start(shared: &Shared, rendition: &AudioRendition) {
    let config =
        AudioDecoderConfig::new(&rendition.codec, rendition.number_of_channels, rendition.sample_rate);
    if let Some(bytes) = rendition.description.as_deref().and_then(js::from_hex) {
        config.set_description_u8_array(&js::bytes(&bytes));
    }
    let mut audio = shared.audio.borrow_mut();
    audio.config = Some(config);
    audio.live_since = Some(shared.now());
}

/// The subscription ended.
pub fn stop(shared: &Shared) {
    let mut audio = shared.audio.borrow_mut();
    audio.reorder = Reorder::new(Skip::InOrder);
    audio.decoder = None;
    audio.decoding.clear();
    audio.live_since = None;
}

/// A group stream began. `false`: not wanted.
pub fn open(shared: &Shared, group: u64) -> bool {
    shared.audio.borrow_mut().reorder.open(group)
}

/// A group stream ended.
pub fn close(shared: &Rc<Shared>, group: u64) {
    shared.audio.borrow_mut().reorder.close(group);
    pump(shared);
}

/// A packet came. `false`: its group is not wanted any more.
pub fn push(shared: &Rc<Shared>, group: u64, capture: Time, data: Bytes) -> bool {
    let now = shared.now();
    let wanted = {
        let mut audio = shared.audio.borrow_mut();
        audio.received += 1;
        let live = audio.live_since.is_some_and(|since| capture >= since);
        if audio.running() && live && shared.clock_estimate().is_some() {
            shared.playout.borrow_mut().observe(Media::Audio, now.micros_since(capture), now);
        }
        audio.reorder.push(group, capture, now, data)
    };
    pump(shared);
    wanted
}

/// Decodes what is in order.
pub fn pump(shared: &Rc<Shared>) {
    let now = shared.now();
    let delay = shared.playout.borrow().delay();
    loop {
        let mut audio = shared.audio.borrow_mut();
        let Some(packet) = audio.reorder.poll(|capture| capture + delay <= now) else { return };
        // Sound that nobody hears is not decoded; sound that is late is not worth it.
        if !audio.running() || packet.capture + delay <= now {
            audio.dropped += 1;
            continue;
        }
        if let Err(error) = decode(shared, &mut audio, packet.capture, &packet.data) {
            log("audio decoder", &error);
            audio.dropped += 1;
            audio.decoder = None;
            audio.decoding.clear();
        }
    }
}

fn decode(shared: &Rc<Shared>, audio: &mut Audio, capture: Time, data: &[u8]) -> Result<(), JsValue> {
    let usable = audio.decoder.as_ref().is_some_and(|d| d.decoder.state() == CodecState::Configured);
    if !usable {
        audio.decoding.clear();
        let config = audio.config.as_ref().ok_or("no catalog yet")?;
        audio.decoder = Some(new_decoder(shared, config)?);
        audio.epoch = capture;
    }
    if audio.decoding.len() >= MAX_DECODING {
        return Err(JsValue::from_str("it does not answer"));
    }
    let init = EncodedAudioChunkInit::new_with_u8_array(&js::bytes(data), 0, EncodedAudioChunkType::Key);
    init.set_timestamp_f64(capture.micros_since(audio.epoch) as f64);
    let chunk = EncodedAudioChunk::new(&init)?;
    if let Some(decoder) = &audio.decoder {
        decoder.decoder.decode(&chunk)?;
    }
    audio.decoding.push_back(capture);
    Ok(())
}

fn new_decoder(shared: &Rc<Shared>, config: &AudioDecoderConfig) -> Result<Decoder, JsValue> {
    let output = {
        let shared = shared.clone();
        Closure::<dyn FnMut(AudioData)>::new(move |data: AudioData| {
            if let Err(error) = decoded(&shared, &data) {
                log("sound", &error);
            }
            data.close();
        })
    };
    let error = {
        let shared = shared.clone();
        Closure::<dyn FnMut(JsValue)>::new(move |error| {
            log("audio decoder", &error);
            let shared = shared.clone();
            // Not inside its own callback: this drops the decoder and the callback with it.
            spawn_local(async move { shared.audio.borrow_mut().decoder = None });
        })
    };
    let decoder = AudioDecoder::new(&AudioDecoderInit::new(
        error.as_ref().unchecked_ref(),
        output.as_ref().unchecked_ref(),
    ))?;
    decoder.configure(config)?;
    Ok(Decoder { decoder, _output: output, _error: error })
}

/// Hands decoded sound to the worklet. The decoder gives one block per packet, in order; its timestamps
/// are its own count of samples, so the packet is the one nearest to it.
fn decoded(shared: &Shared, data: &AudioData) -> Result<(), JsValue> {
    let mut audio = shared.audio.borrow_mut();
    let at = audio.epoch.offset_by(data.timestamp() as i64);
    let half = (data.duration() / 2.0) as i64;
    while audio.decoding.len() > 1
        && audio.decoding.front().is_some_and(|&front| at.micros_since(front) > half)
    {
        audio.decoding.pop_front();
    }
    let Some(capture) = audio.decoding.pop_front() else { return Ok(()) };
    let planes = Array::new();
    let transfer = Array::new();
    for channel in 0..data.number_of_channels().min(2) {
        let plane = Float32Array::new_with_length(data.number_of_frames());
        let options = AudioDataCopyToOptions::new(channel);
        options.set_format(AudioSampleFormat::F32Planar);
        data.copy_to_with_buffer_source(&plane, &options)?;
        transfer.push(&plane.buffer());
        planes.push(&plane);
    }
    let message = object([
        ("planes", planes.into()),
        ("capture_us", micros(capture)),
        ("rate", f64::from(data.sample_rate()).into()),
    ]);
    match &audio.port {
        Some(port) if audio.running => port.post_message_with_transferable(&message, &transfer),
        _ => Ok(()),
    }
}
