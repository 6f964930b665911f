//! The state that the viewer sees, and when to connect again.

use std::time::Duration;

use media::Time;

/// First wait after a failure; it doubles ...
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// ... up to this, so that the page plays within about a second after the relay is back.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// The wait after a refusal: a seat may become free, a ticket's time may come.
const REFUSED_WAIT: Duration = Duration::from_secs(3);

/// A trouble that comes so often in a row is told: what heals by itself within a second or two is not worth a word.
const TOLD_AFTER: u32 = 3;

/// How often a show that has not started is asked for, in case an announcement was missed.
pub const ASK_AGAIN: Duration = Duration::from_millis(500);

/// Playing, and nothing came for this long: ask the relay by HTTP whether it is still the same one.
/// A killed relay closes nothing, and QUIC's own idle timeout is half a minute.
const SUSPECT_AFTER: Duration = Duration::from_millis(600);

/// Ask again this often while nothing comes.
const ASK_RELAY: Duration = Duration::from_millis(300);

/// Playing, and nothing came for this long: connect anew in any case.
const DEAD_AFTER: Duration = Duration::from_secs(2);

/// Capture times so far back are those of another show, whose clock is another. A relay sends the running group again to
/// whoever comes anew, no more.
const ANOTHER_SHOW: Duration = Duration::from_secs(60);

/// What the viewer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first connection is being made.
    Connecting,
    /// Connected; the broadcast is not there yet.
    WaitingForShow,
    /// Pictures or sound come.
    Playing,
    /// It played; the connection is being made again.
    Reconnecting,
    /// It played; the relay is there and has the show, but nothing new comes.
    Paused,
    /// There is no way to the relay from here, again and again.
    Unreachable(Trouble),
    /// It played; then the publisher went away.
    Ended,
    /// The relay does not let us in with our ticket, or without one.
    Refused(Refusal),
    /// This browser cannot play it.
    Unsupported,
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// There was one, and it is gone.
    Ended,
    /// The relay does not answer by HTTP.
    NoRelay,
    /// It answers by HTTP, but nothing comes by QUIC.
    NoQuic,
    /// QUIC was refused at once: a certificate that this browser does not trust.
    NoTrust,
    /// WebSocket was refused, or nothing comes by it.
    NoSocket,
    /// The other side speaks no version that we speak.
    NoVersion,
}

impl Trouble {
    /// For the page and its console; empty: nothing that a person could do anything about.
    fn message(self) -> &'static str {
        match self {
            Self::Ended => "",
            Self::NoRelay => "The relay does not answer. Trying again…",
            Self::NoQuic => {
                "The show does not get through on this network, though the page does: it needs UDP, which may be \
                 blocked here. Another network, a phone's perhaps, may work. Trying again…"
            }
            Self::NoTrust => {
                "The relay's connection is refused by this browser: its certificate may not be valid for this \
                 address. Whoever runs the relay can mend that. Trying again…"
            }
            Self::NoSocket => {
                "The show does not get through on this network, though the page does: something on the way, a proxy \
                 perhaps, refuses WebSocket. Another network, a phone's perhaps, may work. Trying again…"
            }
            Self::NoVersion => {
                "This page and the relay have no version of their protocol in common. Please reload the page, or use \
                 a current Chrome or Edge. Trying again…"
            }
        }
    }
}

/// Why the relay does not let a viewer in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no ticket in the page's address.
    Missing,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYet,
    /// It is for another show.
    OtherShow,
    /// It is used as often as it may be.
    InUse,
    /// The relay does not trust it.
    Wrong,
}

impl Refusal {
    /// By the relay's own code (`relay/src/admission/refusal.rs`); `None`: that is no refusal of a ticket.
    pub fn from_code(code: &str) -> Option<Self> {
        Some(match code {
            "ticket-missing" => Self::Missing,
            "ticket-expired" => Self::Expired,
            "ticket-not-yet" => Self::NotYet,
            "ticket-not-for-this" => Self::OtherShow,
            "ticket-in-use" => Self::InUse,
            "ticket-malformed" | "ticket-untrusted" => Self::Wrong,
            _ => return None,
        })
    }

    fn message(self) -> &'static str {
        match self {
            Self::Missing => "You need a ticket for this show: please open the link that came with yours.",
            Self::Expired => "Your ticket for this show has expired.",
            Self::NotYet => "Your ticket is not valid yet. The show will play here by itself when it is.",
            Self::OtherShow => "Your ticket is for another show: please open the link that came with it.",
            Self::InUse => {
                "Your ticket is in use on another device or in another window. Close the show there, and \
                            it will play here by itself."
            }
            Self::Wrong => {
                "Your ticket is not valid for this show: please open the link that came with it once more."
            }
        }
    }
}

impl State {
    /// For `stats().state` and CSS.
    pub fn name(self) -> &'static str {
        match self {
            State::Connecting => "connecting",
            State::WaitingForShow => "waiting",
            State::Playing => "playing",
            State::Reconnecting => "reconnecting",
            State::Paused => "paused",
            State::Unreachable(_) => "unreachable",
            State::Ended => "ended",
            State::Refused(_) => "refused",
            State::Unsupported => "unsupported",
        }
    }

    /// The sentence over the picture; empty while playing.
    pub fn message(self) -> &'static str {
        match self {
            State::Connecting => "Connecting…",
            State::WaitingForShow => "The show has not started. It will play here by itself.",
            State::Playing => "",
            State::Reconnecting => "Reconnecting…",
            State::Paused => "Nothing comes from the venue at the moment. It goes on here by itself.",
            State::Unreachable(trouble) => trouble.message(),
            State::Ended => "The show has stopped. If it goes on, it will play here by itself.",
            State::Refused(refusal) => refusal.message(),
            State::Unsupported => "This browser cannot play the show.",
        }
    }
}

/// What [`Machine::watch`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// Nothing to do.
    Fine,
    /// Ask the relay by HTTP: if it does not answer or has another certificate, the session is dead.
    AskRelay,
    /// Give the session up and connect anew.
    Dead,
}

/// Follows the connection. Times are local and never go backwards.
#[derive(Debug)]
pub struct Machine {
    state: State,
    played: bool,
    failures: u32,
    /// The latest trouble, and how often in a row it came.
    trouble: (Trouble, u32),
    last_data: Option<Time>,
    /// Capture time of the newest frame that ever came.
    newest: Option<Time>,
    asked: Option<Time>,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            state: State::Connecting,
            played: false,
            failures: 0,
            trouble: (Trouble::Ended, 0),
            last_data: None,
            newest: None,
            asked: None,
        }
    }
}

impl Machine {
    /// The state now.
    pub fn state(&self) -> State {
        self.state
    }

    /// A frame came. One that had come before a reconnect shows that the relay is there, but not that the show goes on.
    pub fn data(&mut self, now: Time, capture: Time) {
        if self.state == State::Unsupported {
            return;
        }
        let again = self.newest.is_some_and(|newest| {
            capture <= newest
                && newest.saturating_since(capture) < ANOTHER_SHOW
                && self.state != State::Playing
        });
        if !again {
            self.state = State::Playing;
            let before = self.newest.filter(|newest| newest.saturating_since(capture) < ANOTHER_SHOW);
            self.newest = before.max(Some(capture));
        }
        self.played = true;
        self.failures = 0;
        self.last_data = Some(now);
        self.asked = None;
    }

    /// The relay is there but does not know the broadcast.
    pub fn no_broadcast(&mut self) {
        if self.state == State::Unsupported {
            return;
        }
        self.failures = 0;
        self.last_data = None;
        self.state = if self.played { State::Ended } else { State::WaitingForShow };
    }

    /// The relay does not let us in. Gives the time to wait before the next try.
    pub fn refused(&mut self, refusal: Refusal) -> Duration {
        if self.state != State::Unsupported {
            self.state = State::Refused(refusal);
        }
        self.failures = 0;
        self.last_data = None;
        REFUSED_WAIT
    }

    /// The session is gone or could not be made. Gives the time to wait before the next try.
    pub fn lost(&mut self, trouble: Trouble) -> Duration {
        let before = if self.trouble.0 == trouble { self.trouble.1 } else { 0 };
        self.trouble = (trouble, before.saturating_add(1));
        if self.state != State::Unsupported {
            self.state = match self.trouble {
                (trouble, TOLD_AFTER..) if trouble != Trouble::Ended => State::Unreachable(trouble),
                (Trouble::Ended, _) if self.state == State::Paused => State::Paused,
                _ if self.played => State::Reconnecting,
                _ => State::Connecting,
            };
        }
        self.last_data = None;
        let wait = FIRST_WAIT.saturating_mul(1 << self.failures.min(8)).min(LAST_WAIT);
        self.failures = self.failures.saturating_add(1);
        wait
    }

    /// This browser lacks something. Final.
    pub fn unsupported(&mut self) {
        self.state = State::Unsupported;
    }

    /// To be called a few times per second.
    pub fn watch(&mut self, now: Time) -> Watch {
        let Some(last) = self.last_data else { return Watch::Fine };
        let silence = now.saturating_since(last);
        if self.state == State::Reconnecting && silence >= SUSPECT_AFTER {
            self.state = State::Paused;
        }
        if silence >= DEAD_AFTER {
            return Watch::Dead;
        }
        let asked = self.asked.is_some_and(|at| now.saturating_since(at) < ASK_RELAY);
        if silence >= SUSPECT_AFTER && !asked {
            self.asked = Some(now);
            return Watch::AskRelay;
        }
        Watch::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000_000 + ms)
    }

    #[test]
    fn from_nothing_to_playing() {
        let mut machine = Machine::default();
        assert_eq!(machine.state(), State::Connecting);
        machine.lost(Trouble::Ended);
        assert_eq!(machine.state(), State::Connecting, "it never played: nothing to reconnect");
        machine.no_broadcast();
        assert_eq!(machine.state(), State::WaitingForShow);
        machine.data(at(0), at(0));
        assert_eq!(machine.state(), State::Playing);
        machine.no_broadcast();
        assert_eq!(machine.state(), State::Ended);
        machine.data(at(9), at(9));
        machine.lost(Trouble::Ended);
        assert_eq!(machine.state(), State::Reconnecting);
    }

    #[test]
    fn waits_grow_and_start_over_after_success() {
        let mut machine = Machine::default();
        let waits: Vec<u128> = (0..5).map(|_| machine.lost(Trouble::Ended).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 500, 500]);
        machine.data(at(0), at(0));
        assert_eq!(machine.lost(Trouble::Ended).as_millis(), 100);
    }

    #[test]
    fn what_came_before_is_no_sign_of_life_of_the_show() {
        let mut machine = Machine::default();
        machine.data(at(1_000), at(900));
        machine.data(at(1_001), at(890));
        assert_eq!(machine.state(), State::Playing, "sound and pictures do not come in order");
        assert_eq!(machine.watch(at(3_001)), Watch::Dead);
        machine.lost(Trouble::Ended);
        // The running group once more.
        machine.data(at(3_200), at(880));
        machine.data(at(3_200), at(900));
        machine.watch(at(3_300));
        assert_eq!(machine.state(), State::Reconnecting, "new frames may follow in a moment");
        machine.watch(at(3_900));
        assert_eq!(machine.state(), State::Paused);
        assert_eq!(machine.watch(at(5_300)), Watch::Dead);
        machine.lost(Trouble::Ended);
        assert_eq!(machine.state(), State::Paused, "it is told once");
        machine.data(at(5_500), at(900));
        assert_eq!(machine.state(), State::Paused);
        machine.data(at(5_600), at(5_500));
        assert_eq!(machine.state(), State::Playing);
        // Another show under the same name, by a clock that is an hour behind.
        machine.lost(Trouble::Ended);
        let behind = |ms| Time::from_millis(ms);
        let mut other = Machine::default();
        other.data(at(0), behind(3_600_000));
        other.lost(Trouble::Ended);
        other.data(at(0), behind(0));
        assert_eq!(other.state(), State::Playing);
        other.lost(Trouble::Ended);
        other.data(at(0), behind(0));
        assert_eq!(other.state(), State::Reconnecting);
    }

    #[test]
    fn a_trouble_that_stays_is_told() {
        for trouble in
            [Trouble::NoRelay, Trouble::NoQuic, Trouble::NoTrust, Trouble::NoSocket, Trouble::NoVersion]
        {
            let mut machine = Machine::default();
            for _ in 1..TOLD_AFTER {
                machine.lost(trouble);
                assert_eq!(machine.state(), State::Connecting, "it may be over in a moment");
            }
            machine.lost(trouble);
            assert_eq!(machine.state(), State::Unreachable(trouble));
            assert_ne!(machine.state().message(), "");
            machine.data(at(0), at(0));
            machine.lost(Trouble::Ended);
            assert_eq!(machine.state(), State::Reconnecting);
            machine.lost(trouble);
            assert_eq!(machine.state(), State::Reconnecting, "counted anew");
        }
    }

    #[test]
    fn silence_is_first_suspect_then_death() {
        let mut machine = Machine::default();
        assert_eq!(machine.watch(at(5_000)), Watch::Fine, "not playing");
        machine.data(at(0), at(0));
        assert_eq!(machine.watch(at(500)), Watch::Fine);
        assert_eq!(machine.watch(at(600)), Watch::AskRelay);
        assert_eq!(machine.watch(at(700)), Watch::Fine);
        assert_eq!(machine.watch(at(900)), Watch::AskRelay);
        machine.data(at(1_000), at(1_000));
        assert_eq!(machine.watch(at(1_500)), Watch::Fine);
        assert_eq!(machine.watch(at(3_000)), Watch::Dead);
    }

    #[test]
    fn a_viewer_without_a_good_ticket_is_told_so_and_tries_again_in_peace() {
        for code in
            ["ticket-missing", "ticket-expired", "ticket-not-yet", "ticket-not-for-this", "ticket-in-use"]
        {
            let refusal = Refusal::from_code(code).unwrap();
            let mut machine = Machine::default();
            machine.data(at(0), at(0));
            assert_eq!(machine.refused(refusal), REFUSED_WAIT);
            assert_eq!(machine.state().name(), "refused");
            assert!(machine.state().message().contains("icket"), "{code}");
            assert_eq!(machine.watch(at(9_000)), Watch::Fine, "nothing is expected to come");
            machine.data(at(10_000), at(10_000));
            assert_eq!(machine.state(), State::Playing);
        }
        assert_eq!(Refusal::from_code("ticket-untrusted"), Some(Refusal::Wrong));
        assert_eq!(Refusal::from_code("no-keys"), None);
    }

    #[test]
    fn unsupported_is_final() {
        let mut machine = Machine::default();
        machine.unsupported();
        machine.data(at(0), at(0));
        machine.lost(Trouble::Ended);
        machine.no_broadcast();
        assert_eq!(machine.state(), State::Unsupported);
    }
}
