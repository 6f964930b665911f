//! The player as the worker's script sees it, and what its parts share.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use js_sys::{Array, Function, Object};
use media::Time;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::spawn_local;
use web_sys::{MessagePort, OffscreenCanvas};

use super::js::{self, fetch_json, get, local_now, object, sleep};
use super::{audio, report, session, video};
use crate::clock::{ClockEstimate, ClockFilter};
use crate::moq::Version;
use crate::playout::Playout;
use crate::state::{Machine, Refusal, State, Watch};
use crate::way::Way;

/// The heartbeat: watches for silence, moves the playout delay, catches a timer that got lost.
const TICK_MILLIS: u32 = 100;

/// The page's read-out is refreshed every so many ticks.
const TICKS_PER_READOUT: u32 = 5;

/// Questions to the clock in quick succession after each connection, then one every ...
const CLOCK_BURST: u32 = 5;

/// ... so many milliseconds.
const CLOCK_EVERY_MILLIS: u32 = 5_000;

/// Longest wait for an answer by HTTP.
pub const HTTP_LIMIT_MILLIS: u32 = 2_000;

/// What the parts of the player share. Nothing is borrowed across an `await`.
pub struct Shared {
    /// Path of the broadcast.
    pub name: String,
    /// Where `/api/...` is.
    pub origin: String,
    /// The viewer's ticket, from the page's own address. For this relay only.
    pub ticket: Option<String>,
    /// The relay's last word, where that was a refusal.
    pub refusal: Cell<Option<Refusal>>,
    /// Read marks from the canvas.
    pub probe: bool,
    /// When the page's navigation began (local clock).
    pub navigation: Time,
    notify: Function,
    /// Connection state.
    pub machine: RefCell<Machine>,
    /// Broadcast clock.
    pub clock: RefCell<ClockFilter>,
    /// Playout delay.
    pub playout: RefCell<Playout>,
    /// Pictures.
    pub video: RefCell<video::Video>,
    /// Sound.
    pub audio: RefCell<audio::Audio>,
    /// How the page wants the show to come; `None`: by the best way there is.
    pub way: Option<Way>,
    /// How the latest session came, and what it speaks.
    pub connected: Cell<Option<(Way, Version)>>,
    /// The session that is open now.
    pub session: RefCell<Option<Rc<session::Session>>>,
    /// Bursts of clock questions still to ask.
    clock_burst: Cell<u32>,
    /// Sessions that were lost.
    pub reconnects: Cell<u32>,
    told: Cell<Option<State>>,
    /// What exactly is missing, when unsupported.
    problem: RefCell<String>,
}

impl Shared {
    /// The offset to the broadcast clock, if known by now.
    pub fn clock_estimate(&self) -> Option<ClockEstimate> {
        self.clock.borrow().estimate(local_now().as_micros() as f64)
    }

    /// The broadcast clock. Before it is known, the local clock stands in.
    pub fn now(&self) -> Time {
        let offset = self.clock_estimate().map_or(0.0, |estimate| estimate.offset_us);
        local_now().offset_by(offset as i64)
    }

    /// A message to the page.
    pub fn tell(&self, message: &Object) {
        // The page's handler is ours and does not throw.
        let _ = self.notify.call1(&JsValue::NULL, message);
    }

    /// Tells the page the state, if it changed.
    pub fn tell_state(&self) {
        let state = self.machine.borrow().state();
        if self.told.replace(Some(state)) != Some(state) {
            let problem = self.problem.borrow();
            let text = if problem.is_empty() { state.message() } else { problem.as_str() };
            self.tell(&object([
                ("type", "state".into()),
                ("state", state.name().into()),
                ("message", text.into()),
            ]));
        }
    }

    /// This browser lacks something; `problem` says what, in a whole sentence.
    pub fn unsupported(&self, problem: String) {
        *self.problem.borrow_mut() = problem;
        self.machine.borrow_mut().unsupported();
        self.tell_state();
    }

    /// Asks the clock a few times in quick succession.
    pub fn ask_clock(&self) {
        self.clock_burst.set(CLOCK_BURST);
    }
}

/// The player. Lives as long as its worker.
#[wasm_bindgen]
pub struct Player {
    shared: Rc<Shared>,
}

#[wasm_bindgen]
impl Player {
    /// Starts playing on `canvas`. `start` has the `name` of the broadcast, the relay's `origin`, and where the page's address
    /// has them a `ticket` and the `transport`; `probe`, whether marks are read back from the pixels; `navigation`, the page's
    /// `performance.timeOrigin`. `notify` gets the messages for the page.
    #[wasm_bindgen(constructor)]
    pub fn new(start: &JsValue, canvas: OffscreenCanvas, notify: Function) -> Result<Player, JsValue> {
        let text = |key| get(start, key).as_string();
        let way = text("transport");
        let navigation_millis = get(start, "navigation").as_f64().unwrap_or(0.0);
        let shared = Rc::new(Shared {
            name: text("name").unwrap_or_default(),
            origin: text("origin").unwrap_or_default(),
            ticket: text("ticket"),
            refusal: Cell::default(),
            probe: get(start, "probe").is_truthy(),
            navigation: Time::from_micros((navigation_millis * 1_000.0) as u64),
            notify,
            machine: RefCell::default(),
            clock: RefCell::default(),
            playout: RefCell::default(),
            video: RefCell::new(video::Video::new(canvas)?),
            audio: RefCell::default(),
            way: way.as_deref().and_then(Way::from_name),
            connected: Cell::new(None),
            session: RefCell::default(),
            clock_burst: Cell::new(CLOCK_BURST),
            reconnects: Cell::new(0),
            told: Cell::new(None),
            problem: RefCell::default(),
        });
        if let Some(unknown) = way.filter(|_| shared.way.is_none()) {
            let ways = Way::ALL.map(Way::name).join(" and ");
            shared.unsupported(format!(
                "This page's address asks for transport={unknown}, but there are {ways} only."
            ));
        }
        shared.tell_state();
        spawn_local(ask_clock_forever(shared.clone()));
        spawn_local(tick_forever(shared.clone()));
        spawn_local(session::run(shared.clone()));
        Ok(Player { shared })
    }

    /// The worklet's port. It is fed with sound as soon as the audio context runs.
    #[wasm_bindgen(js_name = setAudioPort)]
    pub fn set_audio_port(&self, port: MessagePort) {
        audio::set_port(&self.shared, port);
    }

    /// Where the sound card is: `context_seconds` of the audio context are heard at `local_millis`
    /// (`timeOrigin + now()`). `running`: the context is not suspended.
    #[wasm_bindgen(js_name = audioTime)]
    pub fn audio_time(&self, context_seconds: f64, local_millis: f64, running: bool) {
        audio::set_time(&self.shared, context_seconds, local_millis, running);
    }

    /// The counters of `window.roadie.stats()`.
    pub fn stats(&self) -> Object {
        report::stats(&self.shared)
    }

    /// The frames since the last call.
    #[wasm_bindgen(js_name = takeTrace)]
    pub fn take_trace(&self) -> Array {
        report::take_trace(&self.shared)
    }

    /// The ticks heard since the last call.
    #[wasm_bindgen(js_name = takeTicks)]
    pub fn take_ticks(&self) -> Array {
        self.shared.audio.borrow_mut().take_ticks()
    }
}

async fn ask_clock_forever(shared: Rc<Shared>) {
    let name = js_sys::encode_uri_component(&shared.name);
    let url = format!("{}/api/clock?broadcast={}", shared.origin, String::from(name));
    let mut waited = CLOCK_EVERY_MILLIS;
    loop {
        let burst = shared.clock_burst.get();
        if burst == 0 && waited < CLOCK_EVERY_MILLIS {
            sleep(TICK_MILLIS).await;
            waited += TICK_MILLIS;
            continue;
        }
        waited = 0;
        shared.clock_burst.set(burst.saturating_sub(1));
        let sent = local_now();
        if let Ok(answer) = fetch_json(&url, shared.ticket.as_deref(), HTTP_LIMIT_MILLIS).await {
            let received = local_now();
            let error = get(&answer, "error_us").as_f64().unwrap_or(0.0);
            if let Some(time) = get(&answer, "time_us").as_f64() {
                let [sent, received] = [sent, received].map(|t| t.as_micros() as f64);
                shared.clock.borrow_mut().sample(sent, time, received, error);
            }
        }
        sleep(20).await;
    }
}

async fn tick_forever(shared: Rc<Shared>) {
    let mut ticks: u32 = 0;
    loop {
        sleep(TICK_MILLIS).await;
        ticks = ticks.wrapping_add(1);
        let watch = shared.machine.borrow_mut().watch(local_now());
        match watch {
            Watch::Fine => {}
            Watch::AskRelay => spawn_local(session::check_relay(shared.clone())),
            Watch::Dead => session::give_up(&shared),
        }
        shared.playout.borrow_mut().update(shared.now());
        video::pump(&shared);
        audio::pump(&shared);
        shared.tell_state();
        if ticks.is_multiple_of(TICKS_PER_READOUT) {
            shared.tell(&report::readout(&shared));
        }
    }
}

/// Whether the state is one in which frames are wanted.
pub fn wants_frames(shared: &Shared) -> bool {
    shared.machine.borrow().state() != State::Unsupported
}

/// Reports that a frame came which was captured then.
pub fn saw_data(shared: &Shared, capture: Time) {
    shared.machine.borrow_mut().data(local_now(), capture);
    shared.tell_state();
}

/// Writes a line to the browser's console: for faults that the player survives.
pub fn log(what: &str, error: &JsValue) {
    web_sys::console::warn_2(&js::object([("roadie", what.into())]), error);
}
