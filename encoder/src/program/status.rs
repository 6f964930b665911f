//! How the sources of a show stand.

use serde::Serialize;

use crate::Levels;

/// How an input stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SourceState {
    /// It is being opened, or waits for its sender.
    Waiting,
    /// It gives pictures (a microphone: sound).
    Live,
    /// It gave something and does not any more, or cannot be opened; it is tried again and again.
    Away {
        /// Why, in words for the creator.
        reason: String,
    },
}

/// An input of the show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InputStatus {
    /// As it is written, without secrets.
    pub name: String,
    /// How it stands.
    pub state: SourceState,
    /// Whether viewers see it, or its slate.
    pub on_air: bool,
    /// How loud its sound is, on air or not.
    pub levels: Levels,
}

/// How each source stands, and what of it is news. Pure.
#[derive(Clone, Debug)]
pub(super) struct States(Vec<SourceState>);

impl States {
    /// So many sources, of which nothing is known.
    pub(super) fn new(sources: usize) -> Self {
        States(vec![SourceState::Waiting; sources])
    }

    /// How a source stands.
    pub(super) fn of(&self, source: usize) -> SourceState {
        self.0.get(source).cloned().unwrap_or(SourceState::Waiting)
    }

    /// A source gives something. Whether that is news: it was away, or comes for the first time and that `matters`.
    pub(super) fn live(&mut self, source: usize, matters: bool) -> bool {
        let Some(state) = self.0.get_mut(source).filter(|state| **state != SourceState::Live) else {
            return false;
        };
        let before = std::mem::replace(state, SourceState::Live);
        matters || matches!(before, SourceState::Away { .. })
    }

    /// A source gives nothing more. Whether that is news; the newest reason is the best known.
    pub(super) fn away(&mut self, source: usize, reason: &str) -> bool {
        let Some(state) = self.0.get_mut(source) else { return false };
        let away = SourceState::Away { reason: reason.to_owned() };
        !matches!(std::mem::replace(state, away), SourceState::Away { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coming_and_going_is_news_once_and_the_last_reason_counts() {
        let mut states = States::new(2);
        assert!(!states.live(0, false), "that a camera works is what everybody expects");
        assert!(states.live(1, true), "that a stream comes is not");
        assert!(!states.live(1, true));
        assert!(states.away(0, "no picture"));
        assert!(!states.away(0, "pulled"));
        assert_eq!(states.of(0), SourceState::Away { reason: "pulled".into() });
        assert!(states.live(0, false));
        assert!(!states.away(9, "there is no such source"));
    }
}
