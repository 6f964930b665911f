//! Both ends of the bond show that they know the token without telling it.
//!
//! Each sends an HMAC-SHA256 under the token over the TLS exporter of this very connection (RFC 8446,
//! section 7.5) and what the `hello` claims. A proof that was overheard, or given to an edge that is not
//! the right one, is worth nothing on any other connection, for its exporter is another.
//! See `docs/decisions/0007-handshake.md`.

use ring::hmac;

/// The exporter's label.
pub const LABEL: &[u8] = b"EXPORTER-roadie-bond-1";

/// Bytes taken from the exporter.
const SECRET: usize = 32;

/// Who shows it: an edge cannot send a venue's proof back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Side {
    /// In the `hello`.
    Venue = 1,
    /// In the `welcome`.
    Edge = 2,
}

/// What is proved: this connection, for this uplink of this session of this broadcast.
#[derive(Clone, Debug)]
pub struct Claim<'a> {
    secret: [u8; SECRET],
    session: &'a str,
    path: u8,
    broadcast: &'a str,
}

impl<'a> Claim<'a> {
    /// `None` where TLS gives no exporter, which it does once the handshake is done.
    pub fn on(
        connection: &quinn::Connection,
        session: &'a str,
        path: u8,
        broadcast: &'a str,
    ) -> Option<Self> {
        let mut secret = [0; SECRET];
        connection.export_keying_material(&mut secret, LABEL, b"").ok()?;
        Some(Self { secret, session, path, broadcast })
    }

    /// In hex.
    pub fn prove(&self, side: Side, token: &str) -> String {
        let tag = hmac::sign(&key(token), &self.message(side));
        tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Takes the same time whatever is wrong.
    pub fn verify(&self, side: Side, token: &str, proof: &str) -> bool {
        let proof = unhex(proof).unwrap_or_default();
        hmac::verify(&key(token), &self.message(side), &proof).is_ok()
    }

    /// All but the last part have a fixed length: nothing can be shifted from one into the next.
    fn message(&self, side: Side) -> Vec<u8> {
        [
            &[side as u8][..],
            &self.secret,
            &[self.path],
            self.session.as_bytes(),
            b"/",
            self.broadcast.as_bytes(),
        ]
        .concat()
    }
}

fn key(token: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, token.as_bytes())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = "00112233445566778899aabbccddeeff";

    fn claim(byte: u8, path: u8, broadcast: &str) -> Claim<'_> {
        Claim { secret: [byte; SECRET], session: SESSION, path, broadcast }
    }

    #[test]
    fn a_proof_holds_for_its_connection_its_claim_its_side_and_its_token_only() {
        let mine = claim(7, 1, "tour/london");
        let proof = mine.prove(Side::Venue, "secret");
        assert!(mine.verify(Side::Venue, "secret", &proof));
        assert!(!mine.verify(Side::Edge, "secret", &proof), "sent back");
        assert!(!mine.verify(Side::Venue, "Secret", &proof));
        assert!(!claim(8, 1, "tour/london").verify(Side::Venue, "secret", &proof), "another connection");
        assert!(!claim(7, 2, "tour/london").verify(Side::Venue, "secret", &proof));
        assert!(!claim(7, 1, "tour/paris").verify(Side::Venue, "secret", &proof));
        let other = Claim { session: "ffeeddccbbaa99887766554433221100", ..mine.clone() };
        assert!(!other.verify(Side::Venue, "secret", &proof));
        for bad in ["", "00", &proof[1..], &format!("{proof}00"), &"zz".repeat(32), &"é".repeat(32)] {
            assert!(!mine.verify(Side::Venue, "secret", bad), "{bad}");
        }
    }

    /// The example in `docs/protocol.md`.
    #[test]
    fn the_bytes_on_the_wire() {
        let proof = claim(0x0b, 2, "demo").prove(Side::Venue, "secret");
        assert_eq!(proof, "9ddc3351be1211da28ed102ebd7354c21a21ff5d948c4f1eaf0659949dc38e9b");
    }
}
