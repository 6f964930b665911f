//! What only exists in WASM: 32-bit `usize`, and times as JavaScript numbers. Runs under node.
#![cfg(target_arch = "wasm32")]

use bytes::Bytes;
use media::{Time, container, varint};
use roadie_player_wasm::clock::ClockFilter;
use roadie_player_wasm::moq::{GroupEvent, GroupParser, WireError};
use roadie_player_wasm::playout::{Media, Playout};
use wasm_bindgen::JsValue;
use wasm_bindgen_test::wasm_bindgen_test;

const NOW_US: u64 = 1_795_000_000_123_456;

#[wasm_bindgen_test]
fn a_length_beyond_32_bits_is_refused_not_cut() {
    let mut bytes = vec![0, 2, 0, 1];
    varint::put((1 << 32) + 5, &mut bytes);
    bytes.extend_from_slice(b"hello");
    let mut parser = GroupParser::default();
    parser.push(&bytes);
    assert!(matches!(parser.next_event(), Ok(Some(GroupEvent::Header(_)))));
    assert_eq!(parser.next_event(), Err(WireError::TooLarge((1 << 32) + 5)));
}

#[wasm_bindgen_test]
fn broadcast_times_survive_as_javascript_numbers() {
    let frame = container::encode(Time::from_micros(NOW_US), b"x");
    let (time, data) = container::decode(frame).expect("a whole frame");
    let number = JsValue::from_f64(time.as_micros() as f64);
    assert_eq!(number.as_f64().map(|n| n as u64), Some(NOW_US));
    assert_eq!(data, Bytes::from_static(b"x"));
}

#[wasm_bindgen_test]
fn clock_and_playout_in_64_bits() {
    let mut clock = ClockFilter::default();
    let local = NOW_US as f64;
    clock.sample(local, local + 1_000.0 + 2.5e9, local + 2_000.0, 0.0);
    let estimate = clock.estimate(local + 2_000.0).expect("one sample");
    assert_eq!(estimate.offset_us, 2.5e9);

    let mut playout = Playout::default();
    for step in 0..2_000u64 {
        let now = Time::from_micros(NOW_US + step * 33_333);
        playout.observe(Media::Video, 20_000, now);
    }
    assert_eq!(playout.delay().as_millis(), 60);
}
