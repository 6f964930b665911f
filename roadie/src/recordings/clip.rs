//! `roadie recordings clip`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use media::Track;

use super::play::{self, Cut, Kind};
use super::{Which, merge, plan, shows, times};

/// Cut a piece out of a show, as a plain MP4 file.
///
/// Nothing is encoded again. Times count from the start of the show (of the files that are named). The file holds the
/// pictures from the keyframe before `--from` on, because they decode only from there; players begin to show it at
/// `--from`.
#[derive(Args, Debug)]
pub struct Raw {
    #[command(flatten)]
    which: Which,

    /// Where it begins, such as 12:30 or 1:02:03.5
    #[arg(long, value_name = "TIME")]
    from: String,

    /// Where it ends
    #[arg(long, value_name = "TIME")]
    to: String,

    /// All renditions of the picture, each as a track, instead of the best one alone
    #[arg(long)]
    all_renditions: bool,

    /// The file to make, NAME.mp4
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    let from = times::parse(&raw.from).context("--from")?;
    let to = times::parse(&raw.to).context("--to")?;
    if to <= from {
        bail!("--to {} is not after --from {}", raw.to, raw.from);
    }
    merge::check_output(&raw.output)?;
    let show = shows::one(&raw.which)?;
    if from >= show.length() {
        bail!("--from {}: this show is only {} long", raw.from, times::exact(show.length()));
    }
    let mut plan = plan::plan(show)?;
    if !raw.all_renditions {
        plan.best_picture_only();
    }
    let (show_from, end) = (plan.zero + from, plan.zero + to);
    // The main picture leads; of a show without pictures, the first track.
    let leading = plan
        .tracks
        .iter()
        .find(|track| track.is_video())
        .or(plan.tracks.first())
        .map(|track: &Track| track.id);
    let before = |group: &&plan::Planned| Some(group.track) == leading && group.first_capture <= show_from;
    let keyframe = plan.groups.iter().rfind(before).map(|group| group.first_capture);
    let decode_from = keyframe.unwrap_or(plan.zero);
    let cut = Cut { decode_from, show_from, to: end };
    let made = play::write(&plan, Kind::Plain, &raw.output, Some(cut), "cutting")?;
    merge::tell(&made, Kind::Plain)?;
    let lead = show_from.saturating_since(decode_from);
    if lead > Duration::ZERO {
        crate::say!(
            "It is shown from {} on; a player that knows no edit lists begins {:.2} s earlier, at the keyframe.",
            times::exact(from),
            lead.as_secs_f64()
        );
    }
    if end > plan.end {
        crate::say!("The show ends at {}, before --to.", times::exact(plan.end.saturating_since(plan.zero)));
    }
    Ok(())
}
