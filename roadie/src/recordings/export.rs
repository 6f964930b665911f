//! `roadie recordings export`.

use std::path::PathBuf;

use clap::Args;

use super::play::{self, Kind};
use super::{Which, merge, plan, shows};

/// Make one plain MP4 file of a show, for any player, phone or editor.
///
/// Picture and sound are copied as they are, not encoded again, from the best of all copies and parts; the tables
/// (moov) are at the end of the file. Pauses stay as long as they were.
#[derive(Args, Debug)]
pub struct Raw {
    #[command(flatten)]
    which: Which,

    /// All renditions of the picture, each as a track, instead of the best one alone
    #[arg(long)]
    all_renditions: bool,

    /// The file to make, NAME.mp4
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    merge::check_output(&raw.output)?;
    let mut plan = plan::plan(shows::one(&raw.which)?)?;
    if !raw.all_renditions {
        plan.best_picture_only();
    }
    let made = play::write(&plan, Kind::Plain, &raw.output, None, "exporting")?;
    merge::tell(&made, Kind::Plain)?;
    if let Some(missing) = merge::missing(&made) {
        crate::say!(
            "{missing} missing: the picture stands or has blocks there; `roadie recordings verify` tells where."
        );
    }
    Ok(())
}
