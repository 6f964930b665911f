//! `roadie recordings merge`.

use std::path::PathBuf;

use anyhow::bail;
use clap::Args;

use super::play::{self, Kind, Made};
use super::{Which, output, plan, shows, times};

/// Make one recording of all copies and parts of a show.
///
/// Each group is taken from a copy where it is whole, byte for byte, and where no copy has all of a group, frame by
/// frame. The originals are only read.
#[derive(Args, Debug)]
pub struct Raw {
    #[command(flatten)]
    which: Which,

    /// The file to make, NAME.mp4; an index NAME.index is made beside it
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

pub fn run(raw: &Raw) -> anyhow::Result<()> {
    check_output(&raw.output)?;
    let plan = plan::plan(shows::one(&raw.which)?)?;
    let made = play::write(&plan, Kind::Recording, &raw.output, None, "merging")?;
    tell(&made, Kind::Recording)?;
    if let Some(missing) = missing(&made) {
        bail!("{missing} in no copy; all the rest is in the file that was made");
    }
    Ok(())
}

/// What is in no copy, in words.
pub fn missing(made: &Made) -> Option<String> {
    let counts = [(made.missing_groups, "group"), (made.missing, "frame")];
    let words =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, noun)| times::count(count, noun));
    let words: Vec<_> = words.collect();
    (!words.is_empty()).then(|| words.join(" and "))
}

/// Found out before the disks are read.
pub fn check_output(path: &std::path::Path) -> anyhow::Result<()> {
    if path.extension().is_none_or(|extension| extension != "mp4") {
        bail!("--output {}: the name of the file must end with .mp4", path.display());
    }
    output::refuse_existing(path)
}

/// What was made, in words.
pub fn tell(made: &Made, kind: Kind) -> anyhow::Result<()> {
    if made.files.is_empty() {
        bail!("there is no intact frame to make a file of");
    }
    for problem in &made.problems {
        crate::say!("  {problem}");
    }
    for file in &made.files {
        let bytes = std::fs::metadata(file).map_or(0, |found| found.len());
        crate::say!("{}  {}", file.display(), times::size(bytes));
    }
    if made.files.len() > 1 {
        let why = match kind {
            Kind::Recording => "The picture changed its shape on the way (or there was a pause of 30 min)",
            Kind::Plain => "There was a pause of 30 min",
        };
        crate::say!("{why}, so there are several files.");
    }
    Ok(())
}
