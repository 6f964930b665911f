//! What a scenario must show, and whether it did.

use serde::{Deserialize, Serialize};

use super::summary::Figures;

/// Beside an uplink that is of no use, the P99 may be this much above that without it: the two runs draw
/// other dice. Milliseconds.
const SAME_MS: f64 = 5.0;

/// The figures that a scenario must reach; what is not said is not asked.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Must {
    /// At most so many frames and audio packets late or lost, in all runs in which the oracle loses none.
    pub late: Option<u64>,
    /// At most this part of all frames more than the oracle, of video and of audio.
    pub above_oracle: Option<f64>,
    /// P99 of the video frames below this, ms.
    pub p99_ms: Option<f64>,
    /// P95 of the video frames below this, ms.
    pub p95_ms: Option<f64>,
    /// The worst video frame below this, ms.
    pub max_ms: Option<f64>,
    /// Repeats and parity at most this part of the media.
    pub redundancy: Option<f64>,
    /// Wire bytes in time at least this part of the sum of all capacities.
    pub goodput: Option<f64>,
    /// Video in time at least this part of what the oracle sustains.
    pub follow: Option<f64>,
    /// At least this part of the contested uplink for each, us and the other.
    pub share: Option<f64>,
    /// Not worse than without this uplink, from 1.
    pub without: Option<usize>,
}

/// One figure, and whether it is good enough.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// What, and how it compares.
    pub text: String,
    /// Whether it is.
    pub pass: bool,
}

fn verdict(pass: bool, text: String) -> Verdict {
    Verdict { text, pass }
}

impl Must {
    /// Compares. `without` are the figures of the same seeds without that uplink.
    pub fn judge(&self, f: &Figures, without: Option<&Figures>) -> Vec<Verdict> {
        let mut verdicts = Vec::new();
        if f.broken_runs > 0 || f.runs == 0 {
            verdicts.push(verdict(false, format!("{} runs broken, {} ended", f.broken_runs, f.runs)));
        }
        if let Some(most) = self.late {
            let missed = f.missed_where_feasible;
            verdicts.push(verdict(missed <= most, format!("{missed} late (at most {most})")));
        }
        if let Some(most) = self.above_oracle {
            let above =
                |missed: u64, oracle: u64, of: u64| (missed as f64 - oracle as f64) / of.max(1) as f64;
            let video = above(f.late + f.lost, f.oracle_lost, f.frames);
            // Audio packets are as many as they are: 50 a second against the frames' rate.
            let audio = above(f.audio_missed, f.oracle_audio_lost, f.frames);
            let text = format!(
                "{:.2} % of frames above the oracle, audio {:.2} % (at most {:.0} %)",
                100.0 * video,
                100.0 * audio,
                100.0 * most
            );
            verdicts.push(verdict(video <= most && audio <= most, text));
        }
        let below = |name: &str, is: f64, most: Option<f64>| {
            most.map(|most| verdict(is < most, format!("{name} {is:.0} ms (below {most:.0})")))
        };
        verdicts.extend(below("P95", f.p95_ms, self.p95_ms));
        verdicts.extend(below("P99", f.p99_ms, self.p99_ms));
        verdicts.extend(below("worst", f.max_ms, self.max_ms));
        if let Some(most) = self.redundancy {
            let text = format!("redundancy {:.2} % (at most {:.0} %)", 100.0 * f.redundancy, 100.0 * most);
            verdicts.push(verdict(f.redundancy <= most, text));
        }
        if let Some(least) = self.goodput {
            verdicts
                .push(verdict(f.goodput >= least, format!("goodput {:.3} (at least {least})", f.goodput)));
        }
        if let Some(least) = self.follow {
            let ratio = f.follow_ratio.unwrap_or(0.0);
            verdicts.push(verdict(
                ratio >= least,
                format!("bitrate {ratio:.3} of the oracle's (at least {least})"),
            ));
        }
        if let Some(least) = self.share {
            let (ours, theirs) = f.shares.unwrap_or((0.0, 0.0));
            let text = format!("we have {ours:.2} and Cubic {theirs:.2} of the uplink (at least {least})");
            verdicts.push(verdict(ours >= least && theirs >= least, text));
        }
        if let (Some(_), Some(without)) = (self.without, without) {
            verdicts.push(never_worse(f, without));
        }
        verdicts
    }
}

/// Whether one count is not above another beyond chance: where both count rare misfortunes of the same seeds,
/// which go apart with the first datagram that differs, two standard deviations of their difference are allowed.
/// Nothing is allowed above none.
fn not_more(with: u64, without: u64) -> bool {
    let chance = if without == 0 { 0.0 } else { 2.0 * ((with + without) as f64).sqrt() };
    with as f64 <= without as f64 + chance
}

/// Not more frames late or lost, and not slower.
pub fn never_worse(with: &Figures, without: &Figures) -> Verdict {
    let missed = |f: &Figures| f.late + f.lost + f.audio_missed;
    let pass = not_more(missed(with), missed(without)) && with.p99_ms <= without.p99_ms + SAME_MS;
    let text = format!(
        "{} late, P99 {:.0} ms with it; {} late, P99 {:.0} ms without",
        missed(with),
        with.p99_ms,
        missed(without),
        without.p99_ms
    );
    verdict(pass, text)
}

/// Parity does no harm: not more frames late or lost with it.
pub fn fec_harmless(on: &Figures, off: &Figures) -> Verdict {
    let missed = |f: &Figures| f.late + f.lost + f.audio_missed;
    let text = format!(
        "{} late, P99 {:.0}, max {:.0} ms with FEC; {} late, P99 {:.0}, max {:.0} ms without",
        missed(on),
        on.p99_ms,
        on.max_ms,
        missed(off),
        off.p99_ms,
        off.max_ms
    );
    verdict(not_more(missed(on), missed(off)), text)
}
