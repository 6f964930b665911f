#![no_main]

#[path = "../../tests/replay/ticket.rs"]
mod ticket;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ticket::run(data));
