//! The few questions that the demo asks the edge over HTTP.

use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::report::EdgePassage;

/// A longer answer is not from our relay: 5,000 passages of 200 bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// An edge on this machine.
pub struct EdgeApi {
    client: Client<HttpConnector, Empty<std::io::Cursor<Vec<u8>>>>,
    port: u16,
}

impl EdgeApi {
    /// The relay whose HTTP port this is.
    pub fn new(port: u16) -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http(), port }
    }

    /// An answer in JSON; `Null` when there is none, such as while the relay is away.
    pub async fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.bytes(path).await).unwrap_or(Value::Null)
    }

    /// An answer in words; empty when there is none.
    pub async fn text(&self, path: &str) -> String {
        String::from_utf8_lossy(&self.bytes(path).await).into_owned()
    }

    async fn bytes(&self, path: &str) -> Vec<u8> {
        let Ok(uri) = format!("http://127.0.0.1:{}{path}", self.port).parse() else { return Vec::new() };
        let Ok(response) = self.client.get(uri).await else { return Vec::new() };
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        body.map(|body| body.to_bytes().into()).unwrap_or_default()
    }

    /// Frames that passed the edge, from number `from` on.
    pub async fn trace(&self, broadcast: &str, from: u64) -> Vec<EdgePassage> {
        let answer = self.get(&format!("/api/trace?broadcast={broadcast}&from={from}")).await;
        serde_json::from_value(answer).unwrap_or_default()
    }

    /// What the viewers' pages report, in the shape of the page's own `stats()`.
    pub async fn quality(&self, broadcast: &str) -> Value {
        self.get("/api/status").await["broadcasts"][broadcast]["quality"].take()
    }
}
