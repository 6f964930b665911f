//! Small bridges to JavaScript: time, waiting, objects, HTTP.

use js_sys::{Array, Function, Object, Promise, Reflect, Uint8Array};
use media::Time;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};
use web_sys::{DedicatedWorkerGlobalScope, Response};

/// The worker that we run in.
pub fn worker() -> DedicatedWorkerGlobalScope {
    js_sys::global().unchecked_into()
}

/// The local clock: microseconds since the Unix epoch, never going backwards, the same in the page
/// and in the worker (`timeOrigin` is its own in each).
pub fn local_now() -> Time {
    let millis = worker().performance().map_or(0.0, |p| p.time_origin() + p.now());
    Time::from_micros((millis * 1_000.0) as u64)
}

/// Calls `callback` after `millis`; gives a handle for [`cancel_timer`].
pub fn timer(callback: &Function, millis: f64) -> Option<i32> {
    let millis = millis.clamp(0.0, 60_000.0).floor() as i32;
    worker().set_timeout_with_callback_and_timeout_and_arguments_0(callback, millis).ok()
}

/// Forgets a timer.
pub fn cancel_timer(handle: i32) {
    worker().clear_timeout_with_handle(handle);
}

/// A promise that resolves after `millis`.
pub fn after(millis: u32) -> Promise {
    Promise::new(&mut |resolve, _| {
        timer(&resolve, f64::from(millis));
    })
}

/// Waits.
pub async fn sleep(millis: u32) {
    // A timer's promise is never rejected.
    let _ = JsFuture::from(after(millis)).await;
}

/// Lets a promise run whose outcome does not matter (cancelling something that may be gone already).
pub fn ignore(promise: Promise) {
    spawn_local(async move {
        let _ = JsFuture::from(promise).await;
    });
}

/// The first of two promises.
pub async fn race(a: &Promise, b: &Promise) -> Result<JsValue, JsValue> {
    JsFuture::from(Promise::race(&Array::of2(a, b))).await
}

/// `promise`, or an error after `millis`.
pub async fn within(promise: &Promise, millis: u32) -> Result<JsValue, JsValue> {
    let late = Promise::new(&mut |_, reject| {
        let reject = reject.bind1(&JsValue::NULL, &JsValue::from_str("no answer in time"));
        timer(reject.unchecked_ref(), f64::from(millis));
    });
    race(promise, &late).await
}

/// A property, or `undefined`.
pub fn get(object: &JsValue, key: &str) -> JsValue {
    Reflect::get(object, &JsValue::from_str(key)).unwrap_or(JsValue::UNDEFINED)
}

/// Sets a property of a plain object, which cannot fail.
pub fn set(object: &Object, key: &str, value: impl Into<JsValue>) {
    let _ = Reflect::set(object, &JsValue::from_str(key), &value.into());
}

/// An object literal.
pub fn object<const N: usize>(entries: [(&str, JsValue); N]) -> Object {
    let object = Object::new();
    for (key, value) in entries {
        set(&object, key, value);
    }
    object
}

/// A time as a JavaScript number of microseconds (exact until the year 2255).
pub fn micros(time: Time) -> JsValue {
    JsValue::from_f64(time.as_micros() as f64)
}

/// `null` for `None`.
pub fn nullable<T: Into<JsValue>>(value: Option<T>) -> JsValue {
    value.map_or(JsValue::NULL, Into::into)
}

/// Bytes for JavaScript, copied out of WASM memory.
pub fn bytes(data: &[u8]) -> Uint8Array {
    Uint8Array::from(data)
}

/// Hexadecimal to bytes; `None` when it is not.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// GETs JSON of the page's own relay, never from a cache, with the viewer's ticket. An error of the relay's is its
/// code, such as `ticket-expired`.
pub async fn fetch_json(url: &str, ticket: Option<&str>, limit_millis: u32) -> Result<JsValue, JsValue> {
    let options = object([("cache", "no-store".into())]);
    if let Some(ticket) = ticket {
        let headers = object([("authorization", format!("Bearer {ticket}").into())]);
        Reflect::set(&options, &"headers".into(), &headers)?;
    }
    let fetched = worker().fetch_with_str_and_init(url, options.unchecked_ref());
    let response: Response = within(&fetched, limit_millis).await?.unchecked_into();
    let body = within(&response.json()?, limit_millis).await;
    if !response.ok() {
        let code = body.map(|body| get(&body, "error")).ok().filter(JsValue::is_string);
        return Err(code.unwrap_or_else(|| JsValue::from_str("the relay answered with an error")));
    }
    body
}
