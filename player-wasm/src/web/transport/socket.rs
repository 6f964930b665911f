//! QMux over WebSocket.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures_util::future::{Either, select};
use js_sys::{Array, ArrayBuffer, Uint8Array};
use wasm_bindgen::prelude::*;
use web_sys::{BinaryType, MessageEvent, WebSocket};

use super::{NoSession, too_late, with_ticket};
use crate::moq::Version;
use crate::moq::qmux::{Client, Event, PREFIX, StreamId};
use crate::state::Trouble;

/// A session.
pub struct Socket {
    socket: WebSocket,
    state: RefCell<State>,
    handlers: OnceCell<Handlers>,
}

struct Handlers {
    _open: Closure<dyn FnMut()>,
    _message: Closure<dyn FnMut(MessageEvent)>,
    _end: Closure<dyn FnMut()>,
}

/// Bounded by QMux's windows: the server sends no more than it may.
#[derive(Default)]
struct State {
    client: Client,
    streams: BTreeMap<StreamId, Incoming>,
    opened: VecDeque<StreamId>,
    ready: bool,
    over: bool,
    /// Those that wait for the session, rather than for a stream.
    waiting: Vec<Waker>,
}

/// What came on a stream and was not read yet.
#[derive(Default)]
struct Incoming {
    pieces: VecDeque<Bytes>,
    end: Option<End>,
    waiting: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Clean,
    Reset,
}

/// A stream of a session.
#[derive(Clone)]
pub struct Stream {
    socket: Rc<Socket>,
    id: StreamId,
}

impl Socket {
    /// Connects to the relay that the page came from.
    pub async fn connect(origin: &str, ticket: Option<&str>) -> Result<(Rc<Self>, Version), NoSession> {
        let fail = |error: JsValue| (Trouble::NoSocket, error);
        let address = origin.strip_prefix("http").ok_or("the page came by neither https nor http");
        let address = format!("ws{}/", address.map_err(|words| fail(words.into()))?);
        let protocols: Array =
            Version::OFFER.iter().map(|name| JsValue::from_str(&format!("{PREFIX}{name}"))).collect();
        let socket =
            WebSocket::new_with_str_sequence(&with_ticket(address, ticket), &protocols).map_err(fail)?;
        socket.set_binary_type(BinaryType::Arraybuffer);
        let state = State { client: Client::new(), ..State::default() };
        let this = Rc::new(Self { socket, state: RefCell::new(state), handlers: OnceCell::new() });
        this.listen();
        match select(Box::pin(this.ready()), Box::pin(too_late())).await {
            Either::Left((true, _)) => {}
            Either::Left((false, _)) => return Err(fail("the WebSocket was refused".into())),
            Either::Right((error, _)) => return Err(fail(error)),
        }
        let protocol = this.socket.protocol();
        let version = protocol.strip_prefix(PREFIX).and_then(Version::from_protocol);
        let version = version.ok_or_else(|| {
            let words = format!("the relay chose the sub-protocol {protocol:?}, which was not offered");
            (Trouble::NoVersion, JsValue::from_str(&words))
        })?;
        Ok((this, version))
    }

    fn listen(self: &Rc<Self>) {
        let weak = Rc::downgrade(self);
        let message = Closure::new(move |event: MessageEvent| {
            if let Some(this) = Weak::upgrade(&weak) {
                this.receive(&event);
            }
        });
        let weak = Rc::downgrade(self);
        let open = Closure::new(move || {
            if let Some(this) = Weak::upgrade(&weak) {
                this.flush();
            }
        });
        let weak = Rc::downgrade(self);
        let end = Closure::new(move || {
            if let Some(this) = Weak::upgrade(&weak) {
                this.over();
            }
        });
        self.socket.set_onopen(Some(open.as_ref().unchecked_ref()));
        self.socket.set_onmessage(Some(message.as_ref().unchecked_ref()));
        self.socket.set_onclose(Some(end.as_ref().unchecked_ref()));
        // Once for each socket.
        let _ = self.handlers.set(Handlers { _open: open, _message: message, _end: end });
    }

    fn receive(&self, event: &MessageEvent) {
        let data = event.data();
        let record = data.dyn_ref::<ArrayBuffer>().map(|buffer| Uint8Array::new(buffer).to_vec());
        let taken = match record {
            Some(record) => self.state.borrow_mut().receive(record.into()),
            None => Err("the relay sent text in place of a record"),
        };
        self.flush();
        if let Err(error) = taken {
            super::super::player::log("bad session", &JsValue::from_str(error));
            self.close();
        }
    }

    /// Sends what the client has to say.
    fn flush(&self) {
        while self.socket.ready_state() == WebSocket::OPEN {
            let Some(record) = self.state.borrow_mut().client.poll_transmit() else { break };
            // A socket that cannot send is about to close.
            let _ = self.socket.send_with_u8_array(&record);
        }
    }

    fn over(&self) {
        self.state.borrow_mut().over();
    }

    /// The server's limits have come; `false`: the session is over.
    async fn ready(&self) -> bool {
        poll_fn(|context| self.poll(context, |state| (state.ready || state.over).then_some(!state.over)))
            .await
    }

    fn poll<T>(&self, context: &Context<'_>, what: impl FnOnce(&mut State) -> Option<T>) -> Poll<T> {
        let mut state = self.state.borrow_mut();
        match what(&mut state) {
            Some(it) => Poll::Ready(it),
            None => {
                state.waiting.push(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// See [`Transport::open`](super::Transport::open).
    pub fn open(self: &Rc<Self>) -> Option<Stream> {
        let mut state = self.state.borrow_mut();
        let id = state.client.open().filter(|_| !state.over)?;
        state.streams.insert(id, Incoming::default());
        Some(Stream { socket: self.clone(), id })
    }

    /// See [`Transport::accept`](super::Transport::accept).
    pub async fn accept(self: &Rc<Self>) -> Option<Stream> {
        let next = |state: &mut State| match state.opened.pop_front() {
            Some(id) => Some(Some(id)),
            None => state.over.then_some(None),
        };
        let id = poll_fn(|context| self.poll(context, next)).await?;
        Some(Stream { socket: self.clone(), id })
    }

    /// Ends the session.
    pub fn close(&self) {
        self.state.borrow_mut().client.close();
        self.flush();
        let _ = self.socket.close();
        self.over();
    }

    /// Waits for the end.
    pub async fn closed(&self) {
        poll_fn(|context| self.poll(context, |state| state.over.then_some(()))).await;
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        let _ = self.socket.close();
    }
}

impl State {
    fn receive(&mut self, record: Bytes) -> Result<(), &'static str> {
        self.client.receive(record).map_err(|_| "the relay sent what is no record of QMux")?;
        while let Some(event) = self.client.poll_event() {
            match event {
                Event::Ready => self.ready = true,
                Event::Opened(id) => {
                    self.streams.insert(id, Incoming::default());
                    self.opened.push_back(id);
                }
                Event::Data(id, piece) => self.on(id, |stream| stream.pieces.push_back(piece)),
                Event::Ended(id) => self.on(id, |stream| stream.end = Some(End::Clean)),
                Event::Reset(id) => self.on(id, |stream| stream.end = Some(End::Reset)),
                Event::Closed(_) => self.over(),
            }
        }
        if self.ready {
            self.waiting.drain(..).for_each(Waker::wake);
        }
        Ok(())
    }

    fn on(&mut self, id: StreamId, change: impl FnOnce(&mut Incoming)) {
        if let Some(stream) = self.streams.get_mut(&id) {
            change(stream);
            stream.waiting.take().into_iter().for_each(Waker::wake);
        }
    }

    fn over(&mut self) {
        self.over = true;
        for stream in self.streams.values_mut() {
            stream.end.get_or_insert(End::Reset);
            stream.waiting.take().into_iter().for_each(Waker::wake);
        }
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Stream {
    /// Sends bytes, and with `end` ends our half.
    pub fn write(&self, data: &[u8], end: bool) {
        // A server that takes no more of a subscriber's few words is not one of moq's; the subscription then never comes.
        let _ = self.socket.state.borrow_mut().client.send(self.id, data, end);
        self.socket.flush();
    }

    /// See [`Reader::read`](super::Reader::read).
    pub async fn read(&self) -> Result<Option<Bytes>, &'static str> {
        let piece = poll_fn(|context| {
            let mut state = self.socket.state.borrow_mut();
            let Some(stream) = state.streams.get_mut(&self.id) else { return Poll::Ready(Ok(None)) };
            if let Some(piece) = stream.pieces.pop_front() {
                state.client.consumed(self.id, piece.len());
                return Poll::Ready(Ok(Some(piece)));
            }
            let answer = match stream.end {
                Some(End::Clean) => Ok(None),
                Some(End::Reset) => Err("the stream was reset"),
                None => {
                    stream.waiting = Some(context.waker().clone());
                    return Poll::Pending;
                }
            };
            state.streams.remove(&self.id);
            Poll::Ready(answer)
        })
        .await;
        self.socket.flush();
        piece
    }

    /// The rest is not wanted.
    pub fn stop(&self) {
        let mut state = self.socket.state.borrow_mut();
        // What came and is not read counts as read, or the window would shrink.
        let unread =
            state.streams.remove(&self.id).map_or(0, |stream| stream.pieces.iter().map(Bytes::len).sum());
        if unread > 0 {
            state.client.consumed(self.id, unread);
        }
        state.client.stop(self.id);
        drop(state);
        self.socket.flush();
    }
}
