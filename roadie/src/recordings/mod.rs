//! `roadie recordings`: what is on the disks, whether it is whole, and what can be made of it.
//!
//! The files and their indexes are read by [`encoder::record::RecordingFile`]. Nothing here ever writes into a file
//! that it reads; everything that is made has a temporary name until it is whole.

mod clip;
mod compare;
mod export;
mod list;
mod merge;
mod output;
mod plan;
mod play;
mod repair;
mod scan;
mod shows;
mod sync;
pub(crate) mod times;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Look at recordings, check them, mend them, and make files of them that open everywhere.
#[derive(Args, Debug)]
pub struct Raw {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(list::Raw),
    Verify(verify::Raw),
    Repair(repair::Raw),
    Merge(merge::Raw),
    Export(export::Raw),
    Clip(clip::Raw),
    Sync(sync::Raw),
}

/// Which recordings are meant.
#[derive(Args, Clone, Debug)]
pub struct Which {
    /// Recordings, or folders of recordings; both copies of a show are better than one
    #[arg(value_name = "FILE|DIR", required = true)]
    places: Vec<PathBuf>,

    /// Which show, where there are several: its number in `roadie recordings list` of the same folders
    #[arg(long, value_name = "NUMBER")]
    show: Option<usize>,
}

/// Makes `NAME.repaired.mp4` of `NAME.mp4`: its intact frames, as a plain MP4 with an index beside it. Returns how many
/// they are.
pub fn repair(file: &std::path::Path) -> anyhow::Result<u64> {
    let target = file.with_extension("repaired.mp4");
    repair::rewrite(&encoder::record::RecordingFile::open(file)?, &target)
}

/// Does what was asked for. It waits for disks, so call it where that is allowed.
pub async fn run(raw: Raw) -> anyhow::Result<()> {
    match raw.command {
        Command::List(raw) => list::run(&raw),
        Command::Verify(raw) => verify::run(&raw),
        Command::Repair(raw) => repair::run(&raw),
        Command::Merge(raw) => merge::run(&raw),
        Command::Export(raw) => export::run(&raw),
        Command::Clip(raw) => clip::run(&raw),
        Command::Sync(raw) => sync::run(raw).await,
    }
}
