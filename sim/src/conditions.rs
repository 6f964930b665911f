//! What a link does to packets.

use std::time::Duration;

use media::Time;

use crate::{CoDel, Trace};

/// The longest delay, jitter or queue that makes sense, so that a slip of units shows.
const LONGEST: Duration = Duration::from_secs(60);

/// How bad a link is. Any value is accepted by [`crate::Link`], which holds probabilities to 0..=1;
/// call [`Conditions::check`] on what a person typed.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    /// How fast.
    pub rate: Rate,
    /// From leaving the queue to arriving.
    pub delay: Duration,
    /// Whether the delay swings to another one and back.
    pub swing: Option<Swing>,
    /// Up to this much more, evenly spread, for each packet on its own.
    pub jitter: Duration,
    /// Whether jitter may let a packet overtake another one. Real uplinks seldom do.
    pub reorder: bool,
    /// A packet that would wait longer than this before its turn is dropped.
    pub queue: Duration,
    /// Whether the queue is kept short besides.
    pub codel: Option<CoDel>,
    /// Which packets vanish.
    pub loss: Loss,
    /// When all packets vanish, silently.
    pub outages: Vec<Outage>,
}

impl Default for Conditions {
    /// A good link: 100 Mb/s, nothing else, and a queue of 200 ms.
    fn default() -> Self {
        Self {
            rate: Rate::Fixed(100_000_000),
            delay: Duration::ZERO,
            swing: None,
            jitter: Duration::ZERO,
            reorder: false,
            queue: Duration::from_millis(200),
            codel: None,
            loss: Loss::None,
            outages: Vec::new(),
        }
    }
}

/// A delay that swings: [`Conditions::delay`] for half of each period, this one for the other half. Periods
/// are counted from the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swing {
    /// The other delay.
    pub to: Duration,
    /// There and back.
    pub period: Duration,
}

/// How fast a link takes packets from its queue.
#[derive(Clone, Debug, PartialEq)]
pub enum Rate {
    /// Always this many bits per second.
    Fixed(u64),
    /// As recorded. The trace starts at the first packet.
    Trace(Trace),
}

/// Which packets vanish, beside those that find the queue full.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loss {
    /// None.
    None,
    /// Each on its own, with this probability.
    Random(f64),
    /// In bursts: a Markov chain of a good and a bad state (Gilbert 1960, Elliott 1963), one step per
    /// packet. The bad state lasts `1 / to_good` packets in the mean.
    GilbertElliott {
        /// Probability per packet of turning bad.
        to_bad: f64,
        /// Probability per packet of turning good.
        to_good: f64,
        /// Loss in the good state.
        loss_good: f64,
        /// Loss in the bad state.
        loss_bad: f64,
    },
}

impl Loss {
    /// Bursts of a mean length in packets, all lost, so that this part of all packets is lost.
    pub fn bursts(ratio: f64, mean_length: f64) -> Self {
        let to_good = 1.0 / mean_length.max(1.0);
        let to_bad = to_good * ratio / (1.0 - ratio).max(f64::EPSILON);
        Loss::GilbertElliott { to_bad, to_good, loss_good: 0.0, loss_bad: 1.0 }
    }
}

/// A silent blackout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// From here,
    pub from: Time,
    /// up to but not including here.
    pub until: Time,
}

impl Outage {
    /// Whether it is dark at this time.
    pub fn covers(&self, at: Time) -> bool {
        self.from <= at && at < self.until
    }
}

/// Conditions that mean nothing.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionsError {
    /// Not a probability.
    #[error("{name} is {value}: give a probability between 0 and 1 (2 % is 0.02)")]
    Probability {
        /// Which.
        name: &'static str,
        /// What it is.
        value: f64,
    },
    /// A link that never sends.
    #[error("the rate is 0: use an outage for a link that carries nothing")]
    NoRate,
    /// Longer than a minute.
    #[error("{name} is {value:?}, above one minute: check the unit")]
    TooLong {
        /// Which.
        name: &'static str,
        /// What it is.
        value: Duration,
    },
    /// An outage that ends before it begins.
    #[error("outage number {index} ends before it begins")]
    Outage {
        /// From 0.
        index: usize,
    },
}

impl Conditions {
    /// The delay of what leaves the queue at this time, without jitter.
    pub fn delay_at(&self, at: Time) -> Duration {
        match self.swing {
            Some(swing) => {
                let period = (swing.period.as_micros() as u64).max(2);
                if at.as_micros() % period < period / 2 { self.delay } else { swing.to }
            }
            None => self.delay,
        }
    }

    /// The shortest delay of all.
    pub fn least_delay(&self) -> Duration {
        self.swing.map_or(self.delay, |swing| swing.to.min(self.delay))
    }

    /// Whether it is dark at this time.
    pub fn dark(&self, at: Time) -> bool {
        self.outages.iter().any(|outage| outage.covers(at))
    }

    /// Whether all values mean something.
    pub fn check(&self) -> Result<(), ConditionsError> {
        if self.rate == Rate::Fixed(0) {
            return Err(ConditionsError::NoRate);
        }
        let swing = self.swing.unwrap_or(Swing { to: Duration::ZERO, period: Duration::ZERO });
        for (name, value) in [
            ("the delay", self.delay),
            ("the delay it swings to", swing.to),
            ("the swing's period", swing.period),
            ("the jitter", self.jitter),
            ("the queue", self.queue),
        ] {
            if value > LONGEST {
                return Err(ConditionsError::TooLong { name, value });
            }
        }
        let probabilities = match self.loss {
            Loss::None => vec![],
            Loss::Random(loss) => vec![("the loss", loss)],
            Loss::GilbertElliott { to_bad, to_good, loss_good, loss_bad } => vec![
                ("the chance of turning bad", to_bad),
                ("the chance of turning good", to_good),
                ("the loss in the good state", loss_good),
                ("the loss in the bad state", loss_bad),
            ],
        };
        for (name, value) in probabilities {
            if !(0.0..=1.0).contains(&value) {
                return Err(ConditionsError::Probability { name, value });
            }
        }
        match self.outages.iter().position(|outage| outage.until < outage.from) {
            Some(index) => Err(ConditionsError::Outage { index }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_named() {
        let good = Conditions::default();
        assert_eq!(good.check(), Ok(()));
        let bad = Conditions { rate: Rate::Fixed(0), ..good.clone() };
        assert_eq!(bad.check(), Err(ConditionsError::NoRate));
        let bad = Conditions { loss: Loss::Random(2.0), ..good.clone() };
        assert_eq!(bad.check(), Err(ConditionsError::Probability { name: "the loss", value: 2.0 }));
        assert!(Conditions { loss: Loss::Random(f64::NAN), ..good.clone() }.check().is_err());
        let bad = Conditions { delay: Duration::from_secs(61), ..good.clone() };
        assert!(bad.check().unwrap_err().to_string().contains("check the unit"));
        let outage = Outage { from: Time::from_millis(2), until: Time::from_millis(1) };
        assert_eq!(
            Conditions { outages: vec![outage], ..good }.check(),
            Err(ConditionsError::Outage { index: 0 })
        );
    }
}
