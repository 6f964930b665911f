//! One MoQ session after the other: connect, subscribe, read group streams, connect again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use js_sys::{Function, Promise};
use media::catalog::{self, Catalog};
use media::container;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

use super::js::{self, fetch_json, get, race, sleep};
use super::player::{HTTP_LIMIT_MILLIS, Shared, log, saw_data, wants_frames};
use super::transport::{NoSession, Reader, Transport, Writer};
use super::{audio, video};
use crate::moq::{
    Announce, AnnounceRequest, Control, ControlReader, GroupEvent, GroupParser, Reply, Subscribe,
};
use crate::state::{ASK_AGAIN, Refusal, Trouble};

/// Group streams read at a time. The server's newest groups come first, so more than this many open
/// ones means that we lag hopelessly; further ones are refused.
const MAX_STREAMS: u32 = 64;

/// How long the relay goes on sending a group after a newer one began. Longer than the largest
/// playout delay: what comes later cannot be shown.
const MAX_AGE_MILLIS: u64 = 700;

/// Sound suffers most from a gap, and costs least.
const PRIORITY_CATALOG: u8 = 250;
const PRIORITY_AUDIO: u8 = 200;
const PRIORITY_VIDEO: u8 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Track {
    Catalog,
    Video,
    Audio,
}

struct Subscription {
    id: u64,
    track: Track,
    writer: Writer,
}

/// An open session.
pub struct Session {
    transport: Transport,
    certificate: JsValue,
    next_id: Cell<u64>,
    streams: Cell<u32>,
    subscriptions: RefCell<Vec<Subscription>>,
    /// Wakes the subscription loop: an announcement came or a subscription ended.
    wake: RefCell<Option<Function>>,
    /// A media subscription ended, or the broadcast was retracted: subscribe anew.
    stale: Cell<bool>,
}

/// Connects for ever.
pub async fn run(shared: Rc<Shared>) {
    while wants_frames(&shared) {
        let trouble = match attempt(&shared).await {
            Ok(()) => Trouble::Ended,
            Err((trouble, error)) => {
                log("no session", &error);
                trouble
            }
        };
        shared.session.borrow_mut().take();
        video::stop(&shared);
        audio::stop(&shared);
        let wait = match shared.refusal.take() {
            Some(refusal) => shared.machine.borrow_mut().refused(refusal),
            None => shared.machine.borrow_mut().lost(trouble),
        };
        shared.tell_state();
        shared.reconnects.set(shared.reconnects.get() + 1);
        sleep(wait.as_millis() as u32).await;
    }
}

/// Closes the session; [`run`] makes the next one.
pub fn give_up(shared: &Shared) {
    if let Some(session) = shared.session.borrow().as_ref() {
        session.transport.close();
    }
}

/// Nothing came for a while: a relay that does not answer, or that has another certificate now, is
/// not the one that we are connected to.
pub async fn check_relay(shared: Rc<Shared>) {
    let Some(before) = shared.session.borrow().clone() else { return };
    let same = match config(&shared, HTTP_LIMIT_MILLIS / 2).await {
        Ok(config) => get(&config, "certificate_hash") == before.certificate,
        Err(_) => false,
    };
    if !same {
        before.transport.close();
    }
}

async fn config(shared: &Shared, limit: u32) -> Result<JsValue, JsValue> {
    fetch_json(&format!("{}/api/config", shared.origin), None, limit).await
}

/// Asks whether the relay would let us in: a browser does not tell why a session was refused.
async fn ask_refusal(shared: &Shared) -> Option<Refusal> {
    let name = String::from(js_sys::encode_uri_component(&shared.name));
    let url = format!("{}/api/ticket?broadcast={name}", shared.origin);
    let answer = fetch_json(&url, shared.ticket.as_deref(), HTTP_LIMIT_MILLIS).await;
    answer.err()?.as_string().as_deref().and_then(Refusal::from_code)
}

/// One session from its beginning to its end.
async fn attempt(shared: &Rc<Shared>) -> Result<(), NoSession> {
    let config = config(shared, HTTP_LIMIT_MILLIS).await.map_err(|error| (Trouble::NoRelay, error))?;
    shared.ask_clock();
    let transport = match Transport::connect(shared, &config).await {
        Ok(transport) => transport,
        Err(error) => {
            shared.refusal.set(ask_refusal(shared).await);
            return Err(error);
        }
    };
    shared.connected.set(Some((transport.way(), transport.version)));
    let session = Rc::new(Session {
        transport,
        certificate: get(&config, "certificate_hash"),
        next_id: Cell::new(0),
        streams: Cell::new(0),
        subscriptions: RefCell::default(),
        wake: RefCell::default(),
        stale: Cell::new(false),
    });
    *shared.session.borrow_mut() = Some(session.clone());
    spawn_local(watch_announcements(shared.clone(), session.clone()));
    spawn_local(accept_groups(shared.clone(), session.clone()));
    spawn_local(keep_subscribed(shared.clone(), session.clone()));
    session.transport.closed().await;
    session.stale.set(true);
    session.wake();
    Ok(())
}

impl Session {
    fn is_open(&self, shared: &Shared) -> bool {
        shared.session.borrow().as_ref().is_some_and(|open| std::ptr::eq(&**open, self))
    }

    fn wake(&self) {
        if let Some(resolve) = self.wake.borrow_mut().take() {
            let _ = resolve.call0(&JsValue::NULL);
        }
    }

    /// A promise that [`wake`](Self::wake) resolves.
    fn woken(&self) -> Promise {
        Promise::new(&mut |resolve, _| *self.wake.borrow_mut() = Some(resolve))
    }

    /// Subscribes; when the subscription ends, the loop is woken with `stale` set.
    async fn subscribe(
        self: &Rc<Self>,
        shared: &Shared,
        track: Track,
        name: &str,
        priority: u8,
    ) -> Result<(), JsValue> {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let message =
            Subscribe { id, broadcast: &shared.name, track: name, priority, max_age_millis: MAX_AGE_MILLIS };
        let (writer, reader) = self.transport.open().await?;
        writer.write(&message.encode());
        // Known before the first group can come.
        self.subscriptions.borrow_mut().push(Subscription { id, track, writer });
        let session = self.clone();
        spawn_local(async move {
            if let Err(error) = session.read_control::<Reply>(reader, |_| ()).await {
                // The usual way to learn that the broadcast is not there (yet).
                let _ = error;
            }
            if session.subscriptions.borrow().iter().any(|s| s.id == id) {
                session.stale.set(true);
                session.wake();
            }
        });
        Ok(())
    }

    fn track_of(&self, id: u64) -> Option<Track> {
        self.subscriptions.borrow().iter().find(|s| s.id == id).map(|s| s.track)
    }

    fn has(&self, track: Track) -> bool {
        self.subscriptions.borrow().iter().any(|s| s.track == track)
    }

    fn unsubscribe_all(&self) {
        for subscription in self.subscriptions.take() {
            // Closing our side of the stream ends the subscription.
            subscription.writer.close();
        }
    }

    async fn read_control<M: Control>(&self, reader: Reader, mut each: impl FnMut(M)) -> Result<(), JsValue> {
        let mut control = ControlReader::new(self.transport.version);
        while let Some(chunk) = reader.read().await? {
            control.push(&chunk);
            loop {
                match control.next_message::<M>() {
                    Ok(Some(message)) => each(message),
                    Ok(None) => break,
                    Err(error) => {
                        reader.cancel();
                        return Err(JsValue::from_str(&error.to_string()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Follows the comings and goings of our broadcast.
async fn watch_announcements(shared: Rc<Shared>, session: Rc<Session>) {
    let request = AnnounceRequest { prefix: &shared.name }.encode(session.transport.version);
    let Ok((writer, reader)) = session.transport.open().await else { return };
    writer.write(&request);
    let followed = session
        .read_control::<Announce>(reader, |announce| {
            if announce.suffix.is_empty() {
                if !announce.active {
                    session.stale.set(true);
                }
                session.wake();
            }
        })
        .await;
    if let Err(error) = followed
        && session.is_open(&shared)
    {
        log("no announcements", &error);
    }
}

/// Keeps the subscriptions alive as long as the session is open.
async fn keep_subscribed(shared: Rc<Shared>, session: Rc<Session>) {
    // A ticket for another show opens a session, in which ours is not to be seen. Asked once.
    let mut suspicious = true;
    while session.is_open(&shared) {
        session.stale.set(false);
        let subscribed =
            session.subscribe(&shared, Track::Catalog, catalog::TRACK_NAME, PRIORITY_CATALOG).await;
        if subscribed.is_err() {
            return;
        }
        while !session.stale.get() {
            let woken = session.woken();
            let _ = JsFuture::from(woken).await;
        }
        if !session.is_open(&shared) {
            return;
        }
        session.unsubscribe_all();
        video::stop(&shared);
        audio::stop(&shared);
        if std::mem::take(&mut suspicious) {
            // Our own seat is no reason to go.
            let refusal = ask_refusal(&shared).await.filter(|refusal| *refusal != Refusal::InUse);
            if refusal.is_some() {
                shared.refusal.set(refusal);
                session.transport.close();
                return;
            }
        }
        shared.machine.borrow_mut().no_broadcast();
        shared.tell_state();
        // An announcement cuts the wait short.
        let _ = race(&session.woken(), &js::after(ASK_AGAIN.as_millis() as u32)).await;
    }
}

/// Accepts group streams until the session ends.
async fn accept_groups(shared: Rc<Shared>, session: Rc<Session>) {
    while let Some(reader) = session.transport.accept().await {
        if session.streams.get() >= MAX_STREAMS {
            reader.cancel();
            continue;
        }
        session.streams.set(session.streams.get() + 1);
        let (shared, session) = (shared.clone(), session.clone());
        spawn_local(async move {
            read_group(&shared, &session, &reader).await;
            session.streams.set(session.streams.get() - 1);
        });
    }
}

/// Reads one group stream to its end.
async fn read_group(shared: &Rc<Shared>, session: &Rc<Session>, reader: &Reader) {
    let mut parser = GroupParser::default();
    let mut at = None;
    let wanted = loop {
        // A reset and an end are the same to the reorderer: no more frames in this group.
        let Ok(Some(chunk)) = reader.read().await else { break true };
        parser.push(&chunk);
        let keep = loop {
            match parser.next_event() {
                Ok(None) => break true,
                Ok(Some(GroupEvent::Header(header))) => {
                    let Some(track) = session.track_of(header.subscribe) else { break false };
                    at = Some((track, header.subscribe, header.group));
                    let open = match track {
                        Track::Catalog => true,
                        Track::Video => video::open(shared, header.group),
                        Track::Audio => audio::open(shared, header.group),
                    };
                    if !open {
                        break false;
                    }
                }
                Ok(Some(GroupEvent::Frame(data))) => {
                    // The subscription may have ended while the stream went on.
                    let Some((track, id, group)) = at else { break false };
                    if session.track_of(id).is_none() || !frame(shared, session, track, group, data).await {
                        break false;
                    }
                }
                Err(error) => {
                    log("bad group stream", &JsValue::from_str(&error.to_string()));
                    break false;
                }
            }
        };
        if !keep {
            break false;
        }
    };
    if !wanted {
        reader.cancel();
    }
    match at {
        Some((Track::Video, id, group)) if session.track_of(id).is_some() => video::close(shared, group),
        Some((Track::Audio, id, group)) if session.track_of(id).is_some() => audio::close(shared, group),
        _ => {}
    }
}

/// One frame of a track. `false`: its group is not wanted any more.
async fn frame(shared: &Rc<Shared>, session: &Rc<Session>, track: Track, group: u64, data: Bytes) -> bool {
    if track == Track::Catalog {
        if let Err(error) = apply_catalog(shared, session, &data).await {
            log("catalog", &error);
        }
        return true;
    }
    let Ok((capture, payload)) = container::decode(data) else { return false };
    saw_data(shared, capture);
    match track {
        Track::Video => video::push(shared, group, capture, payload),
        _ => audio::push(shared, group, capture, payload),
    }
}

/// Subscribes to what the catalog offers, unless that was done already.
async fn apply_catalog(shared: &Rc<Shared>, session: &Rc<Session>, json: &[u8]) -> Result<(), JsValue> {
    let catalog = Catalog::parse(json).map_err(|error| JsValue::from_str(&error.to_string()))?;
    if let Some((name, config)) = catalog.best_video()
        && !session.has(Track::Video)
    {
        video::start(shared, config);
        session.subscribe(shared, Track::Video, name, PRIORITY_VIDEO).await?;
    }
    if let Some((name, config)) = catalog.best_audio()
        && !session.has(Track::Audio)
    {
        audio::start(shared, config);
        session.subscribe(shared, Track::Audio, name, PRIORITY_AUDIO).await?;
    }
    Ok(())
}
