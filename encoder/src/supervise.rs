//! Keeps a source open: a thread for each opens it, watches it, closes it when it fails, and tries
//! again. A driver that hangs holds up its own thread, and nobody else.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use gstreamer::ClockTime;

use crate::capture::{self, Told, Wanted, Watch};
use crate::events::Events;
use crate::program::Program;
use crate::{EncoderError, Input, Microphone, VideoSettings};

/// A source that was opened has so long for its first picture; after that it is opened anew. Cameras
/// need a second or two, a stream its next keyframe.
const FIRST_LIMIT: ClockTime = ClockTime::from_seconds(8);
/// A source that gave something and stops for so long is opened anew. The slate is on by then.
const STALL_LIMIT: ClockTime = ClockTime::from_seconds(1);
/// How often it is looked whether a source has stopped, or should.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pause before a source is opened anew, which doubles while it keeps failing.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Which source to keep open.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) wanted: Wanted,
    /// Its number in the program.
    pub(crate) source: usize,
    /// Failing before it gave anything is the end of the show: a typing error must not go on air.
    pub(crate) required: bool,
}

/// The thread that keeps a source open.
pub(crate) struct Supervisor {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
    ended: Mutex<Receiver<()>>,
}

/// How one opening of a source ended.
enum Ending {
    /// The owner wants no more.
    Stopped,
    /// It is to be opened anew.
    Lost(EncoderError),
    /// There is no more of it.
    Over,
}

impl Plan {
    fn name(&self) -> String {
        match &self.wanted {
            Wanted::Input(input) => input.to_string(),
            Wanted::Microphone(microphone) => format!("microphone {microphone}"),
        }
    }

    /// Whether it may wait for its sender for as long as that takes.
    fn listens(&self) -> bool {
        matches!(&self.wanted, Wanted::Input(Input::Network(stream)) if stream.transport().listens())
    }

    /// Why it counts as stopped, from what is known of it. Pure.
    fn stalled(&self, opened: ClockTime, now: ClockTime, watch: &Watch) -> Option<EncoderError> {
        let (what, last) = match self.wanted {
            Wanted::Input(_) => ("picture", watch.last_picture()),
            Wanted::Microphone(_) => ("sound", watch.last_sound()),
        };
        let (since, limit) = (last.unwrap_or(opened), if last.is_some() { STALL_LIMIT } else { FIRST_LIMIT });
        let waits = last.is_none() && self.listens() && !watch.has_data();
        if waits || now.saturating_sub(since) < limit {
            return None;
        }
        let (input, seconds) = (self.name(), limit.seconds());
        Some(match (last, watch.undecodable()) {
            (Some(_), _) => EncoderError::Stopped { input },
            (None, Some(what)) => EncoderError::MissingDecoder { what },
            (None, None) if watch.has_data() => EncoderError::NoVideoInStream { input, seconds },
            (None, None) => EncoderError::NoFrames { input, what, seconds },
        })
    }
}

impl Supervisor {
    pub(crate) fn start(
        plan: Plan,
        video: VideoSettings,
        program: Arc<Program>,
        events: Arc<Events>,
    ) -> Result<Supervisor, EncoderError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (end, ended) = sync_channel(1);
        let run = Run { plan, video, program, events, stop: stop.clone() };
        let failed = |error: std::io::Error| EncoderError::Pipeline {
            element: "source".into(),
            message: error.to_string(),
        };
        let thread =
            std::thread::Builder::new().name(format!("source-{}", run.plan.source)).spawn(move || {
                run.keep_open();
                let _ = end.try_send(());
            });
        Ok(Supervisor { stop, thread: thread.map_err(failed)?, ended: Mutex::new(ended) })
    }

    /// Asks the thread to close its source and to end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Waits for the thread, at most so long. `false`: its device hangs, and it is left to itself.
    pub(crate) fn join(self, timeout: Duration) -> bool {
        use std::sync::mpsc::RecvTimeoutError::Timeout;
        let ended = self.ended.into_inner().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(timeout) == Err(Timeout) {
            return false;
        }
        if self.thread.join().is_err() {
            tracing::error!("the thread of a source panicked");
        }
        true
    }
}

struct Run {
    plan: Plan,
    video: VideoSettings,
    program: Arc<Program>,
    events: Arc<Events>,
    stop: Arc<AtomicBool>,
}

impl Run {
    fn keep_open(&self) {
        let mut pause = FIRST_PAUSE;
        let mut gave = false;
        while !self.stopped() {
            let watch = Arc::new(Watch::new());
            // Once on air, a picture that is too small is better than none.
            let ending = self.open(&watch, self.plan.required && !gave);
            let gave_now = watch.last_picture().or(watch.last_sound()).is_some();
            gave |= gave_now;
            match ending {
                Ending::Stopped => return,
                Ending::Over => {
                    // One that is not on air leaves its slate behind, and the show goes on.
                    if self.program.is_on_air(self.plan.source) {
                        self.events.end_of_stream();
                    }
                    self.program.lost(self.plan.source, format!("{} is over", self.plan.name()));
                    return;
                }
                // What is not installed does not come by itself.
                Ending::Lost(error @ EncoderError::MissingElement { .. }) if !gave => {
                    return self.events.fail(error);
                }
                Ending::Lost(error) if self.plan.required && !gave => return self.events.fail(error),
                Ending::Lost(error) => self.program.lost(self.plan.source, error.to_string()),
            }
            pause = if gave_now { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            self.sleep(pause);
        }
    }

    /// Opens the source, and comes back when it is closed again.
    fn open(&self, watch: &Arc<Watch>, exact: bool) -> Ending {
        let epoch = self.program.epoch();
        let to = (&self.program, self.plan.source);
        let opened = match capture::open(&self.plan.wanted, &self.video, exact, to, watch) {
            Ok(opened) => opened,
            Err(error) => return Ending::Lost(error),
        };
        let begun = epoch.running_time();
        let ending = loop {
            let told = watch.wait(LOOK_EVERY);
            if self.stopped() {
                break Ending::Stopped;
            }
            let input = || self.plan.name();
            match told {
                Some(Told::Failed(error)) => break Ending::Lost(error),
                Some(Told::Jumped) => break Ending::Lost(EncoderError::ClockJumped { input: input() }),
                Some(Told::Ended) if matches!(self.plan.wanted, Wanted::Input(Input::FileOnce(_))) => {
                    break Ending::Over;
                }
                Some(Told::Ended) => break Ending::Lost(EncoderError::Stopped { input: input() }),
                None => {}
            }
            if let Some(error) = self.plan.stalled(begun, epoch.running_time(), watch) {
                break Ending::Lost(error);
            }
        };
        watch.close();
        if let Ending::Lost(error) = &ending {
            // Before it is closed, which may take long.
            if watch.last_picture().or(watch.last_sound()).is_some() {
                self.program.lost(self.plan.source, error.to_string());
            }
        }
        drop(opened);
        ending
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn sleep(&self, pause: Duration) {
        let mut left = pause;
        while !left.is_zero() && !self.stopped() {
            let step = left.min(LOOK_EVERY);
            std::thread::sleep(step);
            left -= step;
        }
    }
}

/// The plans of a show: one for each input, and one for the microphone where an input uses it.
pub(crate) fn plans(inputs: &[Input], microphone: &Microphone) -> Vec<Plan> {
    let alone = inputs.len() == 1;
    let plan = |(source, input): (usize, &Input)| Plan {
        wanted: Wanted::Input(input.clone()),
        source,
        required: alone && !input.is_network(),
    };
    let mut plans: Vec<_> = inputs.iter().enumerate().map(plan).collect();
    if *microphone != Microphone::None && inputs.iter().any(Input::uses_microphone) {
        plans.push(Plan {
            wanted: Wanted::Microphone(microphone.clone()),
            source: inputs.len(),
            // The default is taken where there is one; a name is meant.
            required: *microphone != Microphone::Default,
        });
    }
    plans
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPENED: ClockTime = ClockTime::from_seconds(100);

    fn plan(input: &str) -> Plan {
        plans(&[input.parse().expect("an input")], &Microphone::Default).remove(0)
    }

    /// What is said so many milliseconds after the source was opened.
    fn after(plan: &Plan, watch: &Watch, ms: u64) -> Option<String> {
        let now = OPENED + ClockTime::from_mseconds(ms);
        plan.stalled(OPENED, now, watch).map(|error| error.to_string())
    }

    #[test]
    fn a_listener_waits_for_its_sender_and_a_caller_tries_again() {
        let (listener, caller) = (plan("udp://:5000"), plan("rtsp://camera.local/live"));
        let watch = Watch::new();
        assert_eq!(after(&listener, &watch, 3_600_000), None);
        assert_eq!(after(&caller, &watch, 7_900), None);
        let said = after(&caller, &watch, 8_000).expect("long enough");
        assert!(said.contains("rtsp://camera.local/live gave no picture within 8 s"), "{said}");
    }

    #[test]
    fn a_stream_without_pictures_is_told() {
        let (listener, watch) = (plan("srt://:9000"), Watch::new());
        watch.data();
        watch.sound(OPENED + ClockTime::from_seconds(8));
        assert_eq!(after(&listener, &watch, 7_900), None);
        let said = after(&listener, &watch, 8_000).expect("long enough");
        assert!(said.contains("carries no picture"), "{said}");
    }

    #[test]
    fn what_has_stopped_is_opened_anew_after_a_second() {
        for input in ["udp://:5000", "camera", "test"] {
            let (plan, watch) = (plan(input), Watch::new());
            watch.picture(OPENED + ClockTime::from_seconds(20));
            assert_eq!(after(&plan, &watch, 20_900), None);
            let said = after(&plan, &watch, 21_000).expect("long enough");
            assert!(said.contains("has stopped"), "{said}");
        }
    }

    #[test]
    fn one_microphone_serves_all_cameras_and_is_opened_for_them_only() {
        let inputs =
            |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an input")).collect::<Vec<_>>();
        let opened = |texts: &[&str], microphone: &Microphone| {
            let plans = plans(&inputs(texts), microphone);
            plans.iter().map(|plan| (plan.source, plan.required)).collect::<Vec<_>>()
        };
        let default = Microphone::Default;
        assert_eq!(opened(&["camera", "screen"], &default), [(0, false), (1, false), (2, false)]);
        assert_eq!(opened(&["camera"], &Microphone::Alsa("hw:1".into())), [(0, true), (1, true)]);
        assert_eq!(opened(&["camera"], &Microphone::None), [(0, true)]);
        assert_eq!(opened(&["test"], &default), [(0, true)]);
        assert_eq!(opened(&["udp://:5000"], &default), [(0, false)]);
    }
}
