//! `roadie live`, on the air: the show, the screen, the keys.

use std::time::Duration;

use encoder::{EncoderEvent, InputStatus};
use media::Time;

use crate::heal::heal;
use crate::live::Settings;
use crate::room::Links;
use crate::show::{EncodeDelay, Show, Status};
use crate::terminal::alarms::Alarms;
use crate::terminal::json;
use crate::terminal::keys::Keys;
use crate::terminal::{self, Meter, Screen, lines};

/// How often the screen is refreshed: fast enough for the meter of the sound.
const REFRESH: Duration = Duration::from_millis(250);

/// How often the state is printed for tools.
const JSON_INTERVAL: Duration = Duration::from_secs(1);

/// The end of a show takes the same key twice within this time.
const SURE: Duration = Duration::from_secs(3);

/// Runs the show until Ctrl-C, `q` twice, the end of `--seconds` or of the input, or the encoder's failure.
///
/// # Errors
/// When the show cannot start, or the encoder fails for good.
pub async fn run(settings: Settings) -> anyhow::Result<()> {
    let broadcast = settings.show.venue.broadcast.clone();
    let mut out = match settings.json {
        true => Out::Json { last: None },
        false => Out::Screen(Screen::new()),
    };
    if settings.show.record.is_empty() {
        out.note("This show is not recorded: give --record DIR, better twice.");
    }
    let show = Show::start(settings.show).await?;
    if let Some(links) = show.links() {
        out.links(links);
    }
    let started = show.clock().now();
    let mut refresh = tokio::time::interval(REFRESH);
    let (mut meter, mut alarms, mut delay) = (Meter::default(), Alarms::default(), EncodeDelay::default());
    let mut keys = if settings.json { None } else { Some(Keys::start()).filter(Keys::there) };
    let mut asked_to_end: Option<Time> = None;
    let mut stop = std::pin::pin!(terminal::stop_signal());
    let failure = loop {
        let key = async {
            match &mut keys {
                Some(keys) => keys.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = refresh.tick() => {}
            () = &mut stop => break None,
            key = key => match key {
                Some('\x03') => break None,
                Some('q') if asked_to_end.is_some_and(|at| show.clock().now().saturating_since(at) < SURE) => {
                    break None;
                }
                Some('q') => asked_to_end = Some(show.clock().now()),
                Some(digit @ '1'..='9') => {
                    let input = digit as usize - '1' as usize;
                    if let Err(error) = show.select(input) {
                        out.note(&error.to_string());
                    }
                }
                _ => continue,
            },
        }
        let mut ended = None;
        while let Some(event) = show.poll_event() {
            match event {
                EncoderEvent::Failed(error) => ended = Some(Some(anyhow::Error::new(error))),
                EncoderEvent::EndOfStream => ended = Some(None),
                event => out.note(&words(&event, &show.status().inputs)),
            }
        }
        if let Some(ended) = ended {
            break ended;
        }
        let now = show.clock().now();
        let elapsed = now.saturating_since(started);
        if settings.seconds.is_some_and(|limit| elapsed >= limit) {
            break None;
        }
        show.take_notices().iter().for_each(|notice| out.note(notice));
        let mut status = show.status();
        status.encode_ms = delay.update(&show.take_log());
        let rates = meter.update(&status.venue, now);
        let alarms = alarms.update(&status, now);
        match &mut out {
            Out::Json { last } => {
                if last.is_none_or(|last| now.saturating_since(last) >= JSON_INTERVAL) {
                    *last = Some(now);
                    terminal::say(&json::state(&broadcast, now, elapsed, &status, &rates, &alarms));
                }
            }
            Out::Screen(screen) => {
                let sure = asked_to_end.is_some_and(|at| now.saturating_since(at) < SURE);
                let hint = keys.is_some().then_some(sure);
                screen.draw(&picture(&broadcast, elapsed, &status, &rates, &alarms, hint), elapsed);
            }
        }
    };
    drop(keys);
    let ending = show.end().await;
    let recordings = ending.recordings();
    heal(&ending, |words| out.note(words)).await;
    ending.hang_up().await;
    match out {
        Out::Json { .. } => terminal::say(&json::end(&recordings)),
        Out::Screen(mut screen) => screen.finish(&lines::recorded(&recordings)),
    }
    failure.map_or(Ok(()), Err)
}

/// Where words go.
enum Out {
    Screen(Screen),
    Json { last: Option<Time> },
}

impl Out {
    fn note(&mut self, words: &str) {
        match self {
            Out::Screen(screen) => screen.note(words),
            Out::Json { .. } => terminal::say(&json::note(words)),
        }
    }

    /// Where the room finds the show: above all that is drawn later, so that it can be scrolled to.
    fn links(&mut self, links: &Links) {
        match self {
            Out::Screen(screen) => {
                let code = screen.is_terminal();
                links.words(code).iter().for_each(|line| screen.note(line));
            }
            Out::Json { .. } => terminal::say(&json::room(links)),
        }
    }
}

/// The whole screen. `hint`: there are keys, and whether `q` was pressed once.
fn picture(
    broadcast: &str,
    elapsed: Duration,
    status: &Status,
    rates: &[f64],
    alarms: &[String],
    hint: Option<bool>,
) -> Vec<String> {
    let mut all = vec![lines::title(broadcast, elapsed, status)];
    all.extend(lines::inputs(&status.inputs));
    all.push(lines::program(status));
    all.extend(lines::audience(&status.venue));
    all.extend(status.room.map(lines::room));
    all.extend(lines::uplinks(&status.venue, rates));
    all.push(lines::target(&status.venue));
    all.extend(lines::recordings(&status.recordings));
    all.extend(lines::backfill(&status.venue));
    all.extend(alarms.iter().map(|words| lines::alarm(words)));
    all.extend(hint.map(|sure| match sure {
        true => lines::alarm("press q again to end the show"),
        false => lines::keys(status.inputs.len()),
    }));
    all
}

/// What happened to the encoder, in words that stay.
fn words(event: &EncoderEvent, inputs: &[InputStatus]) -> String {
    let name = |input: &usize| inputs.get(*input).map_or("the input", |input| input.name.as_str());
    match event {
        EncoderEvent::SourceLost { input, reason } => {
            let away = lines::away(name(input), reason);
            format!("{away}: viewers see its last picture, and it is tried again.")
        }
        EncoderEvent::SourceBack { input } => format!("{} is there.", name(input)),
        EncoderEvent::MicrophoneLost { reason } => {
            format!("The microphone is away ({reason}): silence is sent, and it is tried again.")
        }
        EncoderEvent::MicrophoneBack => "The microphone is there.".into(),
        EncoderEvent::EncoderReplaced { failed, with, reason } => {
            format!("The video encoder {failed} failed ({reason}): {with} goes on in its place.")
        }
        EncoderEvent::PassedThrough { input } => {
            format!("{} goes out as it comes in, without a second encoding.", name(input))
        }
        EncoderEvent::Transcoded { input, reason } => format!("{} is encoded anew: {reason}.", name(input)),
        EncoderEvent::Failed(error) => error.to_string(),
        _ => format!("{event:?}"),
    }
}
