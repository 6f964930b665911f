//! Pictures: reorder, decode, paint when due.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use media::Time;
use media::catalog::VideoRendition;
use media::h264::{self, ParameterSets};
use media::mark::{self, Mark};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{
    CodecState, EncodedVideoChunk, EncodedVideoChunkInit, EncodedVideoChunkType, OffscreenCanvas,
    OffscreenCanvasRenderingContext2d, VideoDecoder, VideoDecoderConfig, VideoDecoderInit, VideoFrame,
};

use super::js::{self, cancel_timer, get, local_now, object};
use super::player::{Shared, log};
use crate::playout::{Media, choose};
use crate::reorder::{Received, Reorder, Skip};
use crate::stats::{DropCause, VideoStats};
use crate::trace::{Record, Trace};

/// A frame goes to the decoder this long before it is due: time enough to decode, and few decoded
/// pictures (3 MB each at 1080p) are held.
const DECODE_AHEAD: Duration = Duration::from_millis(250);

/// A group whose keyframe is due within this time replaces an older group that is not complete.
const SWITCH_AHEAD: Duration = Duration::from_millis(15);

/// Frames in the decoder at the live edge. A third of a second there means that it cannot keep up: then
/// the rest of the group is shed.
const MAX_DECODING_LIVE: u32 = 10;

/// Catching up ends after this long in any case: a machine that cannot do it by then never will.
const CATCH_UP_LIMIT: Duration = Duration::from_millis(700);

/// Frames in the decoder while catching up from a group's keyframe: a GOP of 2 s at 60 fps.
const MAX_DECODING: u32 = 120;

/// Decoded pictures held. With [`DECODE_AHEAD`] 15 are needed at 60 fps.
const MAX_DECODED: usize = 16;

/// While catching up, a picture is painted at least this often, so that something moves.
const CATCH_UP_PAINT: Duration = Duration::from_millis(100);

struct Decoder {
    decoder: VideoDecoder,
    // Held for the decoder's callbacks.
    _output: Closure<dyn FnMut(VideoFrame)>,
    _error: Closure<dyn FnMut(JsValue)>,
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // After an error it is closed already; that is fine.
        let _ = self.decoder.close();
    }
}

/// A frame on its way through decoder and paint queue.
struct Picture {
    sequence: i32,
    record: Record,
}

/// Everything about pictures.
pub struct Video {
    canvas: OffscreenCanvas,
    context: OffscreenCanvasRenderingContext2d,
    config: Option<VideoDecoderConfig>,
    reorder: Reorder,
    staged: Option<Received>,
    decoder: Option<Decoder>,
    sequence: i32,
    need_keyframe: bool,
    decoding: VecDeque<Picture>,
    decoded: VecDeque<(VideoFrame, Record)>,
    /// Frames captured before this were in the relay's cache when we subscribed.
    live_since: Option<Time>,
    /// The decoder has worked off the catch-up: from now on its delay is the picture's own.
    settled: bool,
    last_painted: Option<(u64, u32)>,
    last_paint: Time,
    timer: Option<i32>,
    wake: Option<Closure<dyn FnMut()>>,
    /// The first picture ever, in milliseconds after navigation.
    pub first_picture_millis: Option<f64>,
    missing_before: u64,
    /// Counters.
    pub stats: VideoStats,
    /// Frames whose life is over.
    pub trace: Trace,
}

impl Video {
    /// Paints on `canvas`.
    pub fn new(canvas: OffscreenCanvas) -> Result<Self, JsValue> {
        // Opaque and without a detour through the compositor's queue.
        let options = object([("alpha", false.into()), ("desynchronized", true.into())]);
        let context = canvas
            .get_context_with_context_options("2d", &options)?
            .ok_or("the canvas has no 2D context")?
            .unchecked_into();
        Ok(Self {
            canvas,
            context,
            config: None,
            reorder: Reorder::new(Skip::ToNewestGroup),
            staged: None,
            decoder: None,
            sequence: 0,
            need_keyframe: true,
            decoding: VecDeque::new(),
            decoded: VecDeque::new(),
            live_since: None,
            settled: false,
            last_painted: None,
            last_paint: Time::ZERO,
            timer: None,
            wake: None,
            first_picture_millis: None,
            missing_before: 0,
            stats: VideoStats::default(),
            trace: Trace::default(),
        })
    }

    /// Frames that never came, over all subscriptions.
    pub fn missing(&self) -> u64 {
        self.missing_before + self.reorder.missing()
    }

    /// The codec string in use.
    pub fn codec(&self) -> Option<String> {
        get(self.config.as_ref()?, "codec").as_string()
    }

    /// The picture's size.
    pub fn size(&self) -> (u32, u32) {
        (self.canvas.width(), self.canvas.height())
    }

    fn is_live(&self, capture: Time) -> bool {
        self.live_since.is_some_and(|since| capture >= since)
    }

    fn end(&mut self, mut record: Record, cause: DropCause) {
        record.cause = Some(cause);
        self.stats.drop(cause);
        self.trace.push(record);
    }

    /// Frames that the reorder buffer let go.
    fn end_left_out(&mut self, cause: DropCause) {
        for frame in self.reorder.take_left_out() {
            self.end(record_of(&frame), cause);
        }
    }

    /// Forgets everything that is inside the decoder and behind it.
    fn flush(&mut self, cause: DropCause) {
        self.decoder = None;
        self.need_keyframe = true;
        while let Some(picture) = self.decoding.pop_front() {
            self.end(picture.record, cause);
        }
        while let Some((frame, record)) = self.decoded.pop_front() {
            frame.close();
            self.end(record, cause);
        }
    }
}

fn record_of(frame: &Received) -> Record {
    Record {
        group: frame.group,
        frame: frame.frame,
        capture: frame.capture,
        arrived: frame.arrived,
        decode_start: None,
        decoded: None,
        painted: None,
        cause: None,
        mark: None,
    }
}

/// A subscription begins.
pub fn start(shared: &Rc<Shared>, rendition: &VideoRendition) {
    let config = VideoDecoderConfig::new(&rendition.codec);
    config.set_optimize_for_latency(true);
    if let Some(bytes) = rendition.description.as_deref().and_then(js::from_hex) {
        config.set_description_u8_array(&js::bytes(&bytes));
    }
    let codec = rendition.codec.clone();
    let support = VideoDecoder::is_config_supported(&config);
    let mut video = shared.video.borrow_mut();
    video.config = Some(config);
    video.live_since = Some(shared.now());
    drop(video);
    let shared = shared.clone();
    spawn_local(async move {
        let support: Result<JsValue, JsValue> = JsFuture::from(support).await.map(JsValue::from);
        if !support.is_ok_and(|answer| get(&answer, "supported").is_truthy()) {
            shared.unsupported(format!(
                "This browser has no decoder for the show's video ({codec}). Please use a current Chrome \
                 or Edge."
            ));
            give_up_for_good(&shared);
        }
    });
}

fn give_up_for_good(shared: &Shared) {
    super::session::give_up(shared);
}

/// The subscription ended: what waits is dropped, the last picture stays on the screen.
pub fn stop(shared: &Shared) {
    let mut video = shared.video.borrow_mut();
    if let Some(staged) = video.staged.take() {
        video.end(record_of(&staged), DropCause::Session);
    }
    video.flush(DropCause::Session);
    while let Some(frame) = video.reorder.poll(|_| true) {
        video.end(record_of(&frame), DropCause::Session);
    }
    video.end_left_out(DropCause::Session);
    video.missing_before += video.reorder.missing();
    video.reorder = Reorder::new(Skip::ToNewestGroup);
    video.live_since = None;
    video.settled = false;
}

/// A group stream began. `false`: not wanted.
pub fn open(shared: &Shared, group: u64) -> bool {
    shared.video.borrow_mut().reorder.open(group)
}

/// A group stream ended.
pub fn close(shared: &Rc<Shared>, group: u64) {
    shared.video.borrow_mut().reorder.close(group);
    pump(shared);
}

/// A frame came. `false`: its group is not wanted any more.
pub fn push(shared: &Rc<Shared>, group: u64, capture: Time, data: Bytes) -> bool {
    let now = shared.now();
    let wanted = {
        let mut video = shared.video.borrow_mut();
        video.stats.received += 1;
        if shared.clock_estimate().is_none() {
            // The local clock stands in; nothing measured against it would mean anything.
            video.live_since = Some(now.offset_by(1));
        } else if video.is_live(capture) {
            video.stats.arrival.record(now.micros_since(capture));
        }
        let wanted = video.reorder.push(group, capture, now, data);
        video.end_left_out(DropCause::LateGroup);
        wanted
    };
    pump(shared);
    wanted
}

/// Feeds the decoder with what is due soon, paints what is due, and sets the timer for the rest.
pub fn pump(shared: &Rc<Shared>) {
    let feed_at = feed(shared);
    let paint_at = paint(shared);
    let next = [feed_at, paint_at].into_iter().flatten().min();
    set_timer(shared, next);
}

fn set_timer(shared: &Rc<Shared>, at: Option<Time>) {
    let mut video = shared.video.borrow_mut();
    if let Some(timer) = video.timer.take() {
        cancel_timer(timer);
    }
    let Some(at) = at else { return };
    if video.wake.is_none() {
        let shared = shared.clone();
        video.wake = Some(Closure::new(move || {
            shared.video.borrow_mut().timer = None;
            pump(&shared);
        }));
    }
    let millis = at.saturating_since(shared.now()).as_micros() as f64 / 1_000.0;
    if let Some(wake) = &video.wake {
        video.timer = js::timer(wake.as_ref().unchecked_ref(), millis);
    }
}

/// Gives the decoder the frames that are due soon. Returns when to look again.
fn feed(shared: &Rc<Shared>) -> Option<Time> {
    let now = shared.now();
    let known = shared.clock_estimate().is_some();
    let delay = shared.playout.borrow().delay();
    loop {
        let mut video = shared.video.borrow_mut();
        if video.staged.is_none() {
            video.staged = video.reorder.poll(|capture| known && capture + delay <= now + SWITCH_AHEAD);
            video.end_left_out(DropCause::LateGroup);
        }
        let due = video.staged.as_ref()?.capture + delay;
        if known && due > now + DECODE_AHEAD {
            return Some(due - DECODE_AHEAD);
        }
        if video.decoded.len() >= MAX_DECODED {
            // Painting one calls us again.
            return None;
        }
        let frame = video.staged.take()?;
        drop(video);
        decode(shared, frame, now);
    }
}

fn decode(shared: &Rc<Shared>, frame: Received, now: Time) {
    let mut video = shared.video.borrow_mut();
    let mut record = record_of(&frame);
    if video.need_keyframe && !frame.keyframe() {
        video.end(record, DropCause::Decoder);
        return;
    }
    video.settled |= video.live_since.is_some_and(|since| now > since + CATCH_UP_LIMIT);
    let limit = if video.settled { MAX_DECODING_LIVE } else { MAX_DECODING };
    if video.decoding.len() as u32 >= limit && !video.need_keyframe {
        video.end(record, DropCause::Overload);
        video.reorder.abandon_group();
        video.end_left_out(DropCause::Overload);
        video.need_keyframe = true;
        return;
    }
    if frame.keyframe() {
        follow_stream(&mut video, &frame.data);
    }
    let usable =
        video.decoder.as_ref().is_some_and(|decoder| decoder.decoder.state() == CodecState::Configured);
    if !usable {
        match new_decoder(shared, video.config.as_ref()) {
            Ok(decoder) => video.decoder = Some(decoder),
            Err(error) => {
                log("no video decoder", &error);
                video.end(record, DropCause::Decoder);
                return;
            }
        }
    }
    video.sequence = video.sequence.wrapping_add(1);
    let sequence = video.sequence;
    let kind = if frame.keyframe() { EncodedVideoChunkType::Key } else { EncodedVideoChunkType::Delta };
    // The decoder hands the timestamp back; a counter is all that we need there.
    let init = EncodedVideoChunkInit::new_with_u8_array(&js::bytes(&frame.data), sequence, kind);
    let Some(decoder) = &video.decoder else { return };
    let sent = EncodedVideoChunk::new(&init).and_then(|chunk| decoder.decoder.decode(&chunk));
    if let Err(error) = sent {
        log("video frame refused", &error);
        video.end(record, DropCause::Decoder);
        video.flush(DropCause::Decoder);
        video.reorder.abandon_group();
        video.end_left_out(DropCause::Decoder);
        return;
    }
    video.need_keyframe = false;
    record.decode_start = Some(now);
    if video.is_live(frame.capture) {
        video.stats.wait.record(now.micros_since(frame.arrived));
    }
    video.decoding.push_back(Picture { sequence, record });
}

/// Sets the decoder up for what really comes. A show that passes a stream through that was encoded elsewhere may have
/// another profile than its catalog says, from one group to the next.
fn follow_stream(video: &mut Video, keyframe: &[u8]) {
    let Some((config, known)) = video.config.as_ref().zip(video.codec()) else { return };
    let sets = ParameterSets::of(keyframe);
    let Some(found) = sets.and_then(|sets| h264::codec_string(sets.sps()).ok()) else { return };
    if !h264::exceeds(&known, &found) {
        return;
    }
    config.set_codec(&found);
    if let Some(decoder) = &video.decoder
        && let Err(error) = decoder.decoder.configure(config)
    {
        log("video decoder", &error);
        video.flush(DropCause::Decoder);
    }
}

fn new_decoder(shared: &Rc<Shared>, config: Option<&VideoDecoderConfig>) -> Result<Decoder, JsValue> {
    let config = config.ok_or("no catalog yet")?;
    let output = {
        let shared = shared.clone();
        Closure::<dyn FnMut(VideoFrame)>::new(move |frame| decoded(&shared, frame))
    };
    let error = {
        let shared = shared.clone();
        Closure::<dyn FnMut(JsValue)>::new(move |error| {
            log("video decoder", &error);
            let shared = shared.clone();
            // Not inside its own callback: this drops the decoder and the callback with it.
            spawn_local(async move {
                let mut video = shared.video.borrow_mut();
                video.flush(DropCause::Decoder);
                video.reorder.abandon_group();
                video.end_left_out(DropCause::Decoder);
            });
        })
    };
    let decoder = VideoDecoder::new(&VideoDecoderInit::new(
        error.as_ref().unchecked_ref(),
        output.as_ref().unchecked_ref(),
    ))?;
    decoder.configure(config)?;
    Ok(Decoder { decoder, _output: output, _error: error })
}

/// The decoder gave a picture.
fn decoded(shared: &Rc<Shared>, frame: VideoFrame) {
    let now = shared.now();
    let sequence = frame.timestamp() as i32;
    {
        let mut video = shared.video.borrow_mut();
        // Frames that the decoder swallowed come before it.
        while video.decoding.front().is_some_and(|p| p.sequence.wrapping_sub(sequence) < 0)
            && let Some(lost) = video.decoding.pop_front()
        {
            video.end(lost.record, DropCause::Decoder);
        }
        let ours = video.decoding.front().is_some_and(|p| p.sequence == sequence);
        let Some(mut picture) = video.decoding.pop_front_if(|_| ours) else {
            // From a decoder of an earlier subscription.
            frame.close();
            return;
        };
        video.stats.decoded += 1;
        picture.record.decoded = Some(now);
        let started = picture.record.decode_start.unwrap_or(now);
        let capture = picture.record.capture;
        if video.is_live(capture) {
            let decode = now.micros_since(started);
            video.stats.decode.record(decode);
            let mut playout = shared.playout.borrow_mut();
            if now > playout.due(capture) {
                video.stats.late += 1;
            }
            video.settled |= video.decoding.len() <= 1;
            if video.settled {
                let lateness = picture.record.arrived.micros_since(capture).saturating_add(decode.max(0));
                playout.observe(Media::Video, lateness, now);
            }
        }
        video.decoded.push_back((frame, picture.record));
    }
    pump(shared);
}

/// Paints the newest picture that is due. Returns when to look again.
fn paint(shared: &Rc<Shared>) -> Option<Time> {
    let now = shared.now();
    let known = shared.clock_estimate().is_some();
    let delay = if known { shared.playout.borrow().delay() } else { Duration::ZERO };
    let mut video = shared.video.borrow_mut();
    let choice = if known {
        choose(video.decoded.iter().map(|(_, record)| record.capture), delay, now)
    } else {
        // Without a clock, show what there is.
        choose(video.decoded.iter().map(|_| Time::ZERO), delay, now)
    };
    for _ in 0..choice.superseded {
        if let Some((frame, record)) = video.decoded.pop_front() {
            frame.close();
            let cause =
                if video.is_live(record.capture) { DropCause::Superseded } else { DropCause::CatchUp };
            video.end(record, cause);
        }
    }
    if !choice.paint {
        return choice.wake;
    }
    let (frame, mut record) = video.decoded.pop_front()?;
    let catching_up = !video.is_live(record.capture) && !video.decoding.is_empty();
    if catching_up && now.saturating_since(video.last_paint) < CATCH_UP_PAINT {
        frame.close();
        video.end(record, DropCause::CatchUp);
        return choice.wake;
    }
    let place = (record.group, record.frame);
    // After a reconnect the group comes again from its keyframe. A show whose numbers start again from
    // far below is another one.
    let again = video
        .last_painted
        .is_some_and(|last| place <= last && last.0.saturating_sub(place.0) < GROUPS_OF_THE_SAME_SHOW);
    if again {
        frame.close();
        video.end(record, DropCause::Duplicate);
        return choice.wake;
    }
    fit(shared, &video.canvas, &frame);
    let drawn = video.context.draw_image_with_video_frame(&frame, 0.0, 0.0);
    frame.close();
    if let Err(error) = drawn {
        log("paint", &error);
        video.end(record, DropCause::Decoder);
        return choice.wake;
    }
    // Taken right after `drawImage`: the picture is on the canvas. What is not in it: the compositor's
    // next frame (up to 17 ms at 60 Hz) and the display's own delay.
    let painted = shared.now();
    record.painted = Some(painted);
    video.last_painted = Some(place);
    video.last_paint = painted;
    video.stats.painted += 1;
    video.stats.stalls.painted(painted);
    if known && video.is_live(record.capture) {
        video.stats.latency.record(painted.micros_since(record.capture));
        if let Some(decoded) = record.decoded {
            video.stats.hold.record(painted.micros_since(decoded));
        }
    }
    if video.first_picture_millis.is_none() {
        let since = local_now().micros_since(shared.navigation) as f64 / 1_000.0;
        video.first_picture_millis = Some(since);
        shared.tell(&object([("type", "first".into()), ("millis", since.into())]));
    }
    if shared.probe {
        record.mark = read_mark(&video);
    }
    video.trace.push(record);
    choice.wake
}

/// Group numbers of a show count up from Unix seconds times four; this far back is half an hour.
const GROUPS_OF_THE_SAME_SHOW: u64 = 7_200;

/// The canvas has the picture's own size; CSS scales it.
fn fit(shared: &Shared, canvas: &OffscreenCanvas, frame: &VideoFrame) {
    let (width, height) = (frame.display_width(), frame.display_height());
    if (canvas.width(), canvas.height()) != (width, height) {
        canvas.set_width(width);
        canvas.set_height(height);
        shared.tell(&object([("type", "size".into()), ("width", width.into()), ("height", height.into())]));
    }
}

/// Reads the mark back from the painted pixels. The mark is drawn for 1280 pixels of width; at other
/// sizes it is scaled with the picture.
fn read_mark(video: &Video) -> Option<Mark> {
    let scale = f64::from(video.canvas.width()) / MARK_PICTURE_WIDTH;
    let width = (mark::WIDTH as f64 * scale).ceil() as i32;
    let height = (mark::HEIGHT as f64 * scale).ceil() as i32;
    let image = video.context.get_image_data(0, 0, width, height).ok()?;
    let pixels = image.data();
    let green = |x: usize, y: usize| {
        let x = ((x as f64 + 0.5) * scale) as usize;
        let y = ((y as f64 + 0.5) * scale) as usize;
        pixels.get((y * width as usize + x) * 4 + 1).copied().unwrap_or(0)
    };
    mark::read(green)
}

/// The picture's width for which [`media::mark`] is laid out.
const MARK_PICTURE_WIDTH: f64 = 1_280.0;
