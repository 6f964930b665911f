//! What a session's bytes go over: WebTransport, or WebSocket where no UDP gets through.

mod quic;
mod socket;

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::{Either, select};
use wasm_bindgen::prelude::*;
use web_sys::{ReadableStreamDefaultReader, WritableStreamDefaultWriter};

use super::js::{self, get};
use super::player::Shared;
use crate::moq::Version;
use crate::state::Trouble;
use crate::way::Way;

use quic::Quic;
use socket::{Socket, Stream};

/// Longest wait for a handshake.
const CONNECT_LIMIT_MILLIS: u32 = 3_000;

/// WebSocket is tried beside WebTransport when that has not come up in this time: longer than its handshake takes on a
/// satellite, shorter than a viewer waits.
const HEAD_START_MILLIS: u32 = 500;

/// A session that is open until it is dropped.
pub struct Transport {
    session: Session,
    /// What was agreed on.
    pub version: Version,
}

enum Session {
    Quic(Quic),
    Socket(Rc<Socket>),
}

/// Our half of a bidirectional stream.
#[derive(Clone)]
pub enum Writer {
    /// Of WebTransport.
    Quic(WritableStreamDefaultWriter),
    /// Of QMux.
    Socket(Stream),
}

/// The server's half of a stream.
#[derive(Clone)]
pub enum Reader {
    /// Of WebTransport.
    Quic(ReadableStreamDefaultReader),
    /// Of QMux.
    Socket(Stream),
}

/// Why there is no session.
pub type NoSession = (Trouble, JsValue);

impl Transport {
    /// Connects by the way that the page asks for, else by the first that is open. `config` is the relay's `/api/config`.
    pub async fn connect(shared: &Shared, config: &JsValue) -> Result<Self, NoSession> {
        match shared.way {
            Some(Way::WebTransport) => return Self::quic(shared, config).await,
            Some(Way::WebSocket) => return Self::socket(shared).await,
            None if !Quic::is_here() => return Self::socket(shared).await,
            None => {}
        }
        let quic = Box::pin(Self::quic(shared, config));
        let quic = match select(quic, Box::pin(js::sleep(HEAD_START_MILLIS))).await {
            Either::Left((Ok(transport), _)) => return Ok(transport),
            Either::Left((Err(error), _)) => return Self::socket(shared).await.map_err(|_| error),
            Either::Right(((), quic)) => quic,
        };
        // Whichever comes second is dropped, and with it closed.
        match select(quic, Box::pin(Self::socket(shared))).await {
            Either::Left((Ok(transport), _)) | Either::Right((Ok(transport), _)) => Ok(transport),
            Either::Left((Err(error), socket)) => socket.await.map_err(|_| error),
            Either::Right((Err(_), quic)) => quic.await,
        }
    }

    async fn quic(shared: &Shared, config: &JsValue) -> Result<Self, NoSession> {
        let (session, version) = Quic::connect(config, shared.ticket.as_deref()).await?;
        Ok(Self { session: Session::Quic(session), version })
    }

    async fn socket(shared: &Shared) -> Result<Self, NoSession> {
        let (session, version) = Socket::connect(&shared.origin, shared.ticket.as_deref()).await?;
        Ok(Self { session: Session::Socket(session), version })
    }

    /// Which one it is.
    pub fn way(&self) -> Way {
        match &self.session {
            Session::Quic(_) => Way::WebTransport,
            Session::Socket(_) => Way::WebSocket,
        }
    }

    /// Opens a bidirectional stream.
    ///
    /// # Errors
    /// When the session is over, or the server allows no more streams.
    pub async fn open(&self) -> Result<(Writer, Reader), JsValue> {
        match &self.session {
            Session::Quic(quic) => {
                let (writer, reader) = quic.open().await?;
                Ok((Writer::Quic(writer), Reader::Quic(reader)))
            }
            Session::Socket(socket) => {
                let stream = socket.open().ok_or("the relay allows no more streams")?;
                Ok((Writer::Socket(stream.clone()), Reader::Socket(stream)))
            }
        }
    }

    /// The next unidirectional stream of the server's; `None`: the session is over.
    pub async fn accept(&self) -> Option<Reader> {
        match &self.session {
            Session::Quic(quic) => quic.accept().await.map(Reader::Quic),
            Session::Socket(socket) => socket.accept().await.map(Reader::Socket),
        }
    }

    /// Ends the session.
    pub fn close(&self) {
        match &self.session {
            Session::Quic(quic) => quic.close(),
            Session::Socket(socket) => socket.close(),
        }
    }

    /// Waits for the session's end.
    pub async fn closed(&self) {
        match &self.session {
            Session::Quic(quic) => quic.closed().await,
            Session::Socket(socket) => socket.closed().await,
        }
    }
}

impl Writer {
    /// Sends bytes. That they cannot be sent shows in the session's end, or in that of the other half.
    pub fn write(&self, data: &[u8]) {
        match self {
            Self::Quic(writer) => js::ignore(writer.write_with_chunk(&js::bytes(data))),
            Self::Socket(stream) => stream.write(data, false),
        }
    }

    /// Ends our half.
    pub fn close(&self) {
        match self {
            Self::Quic(writer) => js::ignore(writer.close()),
            Self::Socket(stream) => stream.write(&[], true),
        }
    }
}

impl Reader {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// When the stream was reset, or the session is over.
    pub async fn read(&self) -> Result<Option<Bytes>, JsValue> {
        match self {
            Self::Quic(reader) => quic::read(reader).await,
            Self::Socket(stream) => stream.read().await.map_err(JsValue::from_str),
        }
    }

    /// The rest is not wanted.
    pub fn cancel(&self) {
        match self {
            Self::Quic(reader) => js::ignore(reader.cancel()),
            Self::Socket(stream) => stream.stop(),
        }
    }
}

/// `address` with the viewer's ticket.
fn with_ticket(mut address: String, ticket: Option<&str>) -> String {
    if let Some(ticket) = ticket {
        address.push_str("?jwt=");
        address.push_str(&String::from(js_sys::encode_uri_component(ticket)));
    }
    address
}

/// After the longest wait for a handshake.
async fn too_late() -> JsValue {
    js::sleep(CONNECT_LIMIT_MILLIS).await;
    JsValue::from_str("no answer in time")
}

fn text(object: &JsValue, key: &str) -> String {
    get(object, key).as_string().unwrap_or_default()
}
