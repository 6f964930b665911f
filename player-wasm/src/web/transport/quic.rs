//! WebTransport.

use std::time::Duration;

use bytes::Bytes;
use js_sys::{Array, Promise, Reflect, Uint8Array};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    ReadableStreamDefaultReader, WebTransport, WebTransportBidirectionalStream,
    WebTransportCongestionControl, WebTransportHash, WebTransportOptions, WritableStreamDefaultWriter,
};

use super::super::js::{self, from_hex, get, ignore, local_now, within};
use super::{CONNECT_LIMIT_MILLIS, NoSession, text, with_ticket};
use crate::moq::Version;
use crate::state::Trouble;

/// What fails sooner was refused: somebody answered. Of what is blocked nobody says anything, and it fails late.
const SOON: Duration = Duration::from_millis(1_500);

/// A session.
pub struct Quic {
    session: Open,
    closed: Promise,
    incoming: ReadableStreamDefaultReader,
}

/// Closed when it is dropped, be it a session by then or not yet.
struct Open(WebTransport);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Quic {
    /// Whether this browser has WebTransport.
    pub fn is_here() -> bool {
        Reflect::has(&js_sys::global(), &"WebTransport".into()).unwrap_or(false)
    }

    /// Connects to the address in the relay's `/api/config`.
    pub async fn connect(config: &JsValue, ticket: Option<&str>) -> Result<(Self, Version), NoSession> {
        let begun = local_now();
        let session = Open(dial(config, ticket).map_err(|error| (Trouble::Ended, error))?);
        // A failed session rejects `closed` too; someone must look at it.
        let closed: Promise = session.0.closed().unchecked_into();
        ignore(closed.clone());
        let ready: Promise = session.0.ready().unchecked_into();
        within(&ready, CONNECT_LIMIT_MILLIS).await.map_err(|error| {
            let trouble =
                if local_now().saturating_since(begun) < SOON { Trouble::NoTrust } else { Trouble::NoQuic };
            (trouble, error)
        })?;
        let version = version(&session.0)?;
        let incoming = ReadableStreamDefaultReader::new(&session.0.incoming_unidirectional_streams())
            .map_err(|error| (Trouble::Ended, error))?;
        Ok((Self { session, closed, incoming }, version))
    }

    /// See [`Transport::open`](super::Transport::open).
    pub async fn open(&self) -> Result<(WritableStreamDefaultWriter, ReadableStreamDefaultReader), JsValue> {
        let stream: WebTransportBidirectionalStream =
            JsFuture::from(self.session.0.create_bidirectional_stream()).await?.unchecked_into();
        let writer = WritableStreamDefaultWriter::new(stream.writable().unchecked_ref())?;
        let reader = ReadableStreamDefaultReader::new(stream.readable().unchecked_ref())?;
        Ok((writer, reader))
    }

    /// See [`Transport::accept`](super::Transport::accept).
    pub async fn accept(&self) -> Option<ReadableStreamDefaultReader> {
        let next = JsFuture::from(self.incoming.read()).await.ok()?;
        if get(&next, "done").is_truthy() {
            return None;
        }
        ReadableStreamDefaultReader::new(get(&next, "value").unchecked_ref()).ok()
    }

    /// Ends the session.
    pub fn close(&self) {
        self.session.0.close();
    }

    /// Waits for the end. Clean or not, the end is the end.
    pub async fn closed(&self) {
        let _ = JsFuture::from(self.closed.clone()).await;
    }
}

fn dial(config: &JsValue, ticket: Option<&str>) -> Result<WebTransport, JsValue> {
    let url = get(config, "webtransport").as_string().ok_or("the relay offers no WebTransport address")?;
    let options = WebTransportOptions::new();
    options.set_congestion_control(WebTransportCongestionControl::LowLatency);
    if let Some(hash) = get(config, "certificate_hash").as_string().and_then(|hex| from_hex(&hex)) {
        let entry = WebTransportHash::new();
        entry.set_algorithm("sha-256");
        entry.set_value_u8_array(&js::bytes(&hash));
        options.set_server_certificate_hashes(&[entry]);
    }
    let protocols: Array = Version::OFFER.iter().copied().map(JsValue::from_str).collect();
    Reflect::set(&options, &"protocols".into(), &protocols)?;
    WebTransport::new_with_options(&with_ticket(url, ticket), &options)
}

fn version(session: &WebTransport) -> Result<Version, NoSession> {
    if get(session, "protocol").is_undefined() {
        let words = "this browser's WebTransport cannot choose a sub-protocol";
        return Err((Trouble::NoVersion, JsValue::from_str(words)));
    }
    Version::from_protocol(&text(session, "protocol")).ok_or_else(|| {
        let words = "the relay speaks neither moq-lite-04 nor moq-lite-03";
        (Trouble::NoVersion, JsValue::from_str(words))
    })
}

/// See [`Reader::read`](super::Reader::read).
pub async fn read(reader: &ReadableStreamDefaultReader) -> Result<Option<Bytes>, JsValue> {
    let result = JsFuture::from(reader.read()).await?;
    if get(&result, "done").is_truthy() {
        return Ok(None);
    }
    Ok(Some(get(&result, "value").unchecked_into::<Uint8Array>().to_vec().into()))
}
