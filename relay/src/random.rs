//! Names and secrets that nobody can guess.

use std::sync::Arc;

use ring::rand::{SecureRandom, SystemRandom};

use crate::clock::Clock;

/// 128 random bits in hex. Where the system has no random numbers, no TLS would work either; the clock
/// is good enough to tell sessions apart.
pub fn random_name() -> Arc<str> {
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bytes[..8].copy_from_slice(&Clock::start().now().as_micros().to_be_bytes());
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}
