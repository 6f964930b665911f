//! A look at a simulated run under way.

use std::time::Duration;

use media::Time;

use super::plan::START;
use super::simulate::millis;

/// A look at a run under way.
#[derive(Clone, Debug)]
pub struct Look {
    /// By the sender's clock.
    pub now: Time,
    /// The sender's counts and estimates,
    pub sender: bond::SenderStats,
    /// what it grants the encoder, bits per second,
    pub target_rate: u64,
    /// and the receiver's counts.
    pub receiver: bond::ReceiverStats,
    /// How long a packet would wait at each uplink now.
    pub waits: Vec<Duration>,
    /// Frames whose fate is not known.
    pub under_way: usize,
}

/// Somebody who looks, so often.
pub struct Watcher<'a> {
    /// Between two looks.
    pub every: Duration,
    /// What is seen.
    pub look: &'a mut dyn FnMut(&Look),
}

impl Look {
    /// The uplinks' state in a line.
    pub fn text(&self) -> String {
        let mut line = format!(
            "{:7.3} s  queued {:6}  target {:5.2}",
            self.now.micros_since(START) as f64 / 1e6,
            self.sender.queued_bytes,
            self.target_rate as f64 / 1e6,
        );
        for path in &self.sender.paths {
            line += &format!(
                "  [{} {:?} {:5.2} Mb/s, queue {:4.0} (real {:4.0}) ms, out {:6}, loss {:.3}]",
                path.path.0 + 1,
                path.state,
                path.rate as f64 / 1e6,
                millis(path.queueing),
                millis(self.waits.get(usize::from(path.path.0)).copied().unwrap_or_default()),
                path.outstanding_bytes,
                path.loss_ratio,
            );
        }
        line
    }
}
