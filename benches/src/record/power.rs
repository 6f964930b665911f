//! `roadie-bench record-power`: what a real file system has of a show when the power goes.
//!
//! The disk is an ext4 in a file that lies on another ext4. When the outer one is frozen, the file is just what the
//! disk had received by then: a copy of it is what is found after a power cut. What the system had not written back
//! is not in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use media::{FrameId, Time, TrackId};
use sim::Rng;

use super::copies;
use super::mounts::Mount;
use super::rig::Rig;

/// What may be lost.
const MOST: Duration = Duration::from_millis(500);

/// A frame that was captured just before has not been encoded yet, or is on its way through the queue.
const UNDER_WAY: Duration = Duration::from_millis(67);

const VIDEO: TrackId = TrackId(0);

/// Records the test picture on a loop device and looks at random moments what a power cut would leave. At most half a
/// second may be lost (and two frames that are under way), every file must play, and a repair must find just what a
/// scan finds. Takes root.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 20)]
    runs: u32,

    /// Repeats the moments of another run
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    if raw.runs == 0 {
        bail!("--runs 0 measures nothing");
    }
    let base = std::env::temp_dir().join(format!("roadie-bench-power-{}", std::process::id()));
    fs::create_dir_all(&base)?;
    let result = all(&raw, &base);
    let _ = fs::remove_dir_all(&base);
    result
}

fn all(raw: &Raw, base: &Path) -> anyhow::Result<()> {
    Mount::format(&base.join("outer.img"), 512)?;
    let outer = Mount::new(&base.join("outer.img"), &base.join("outer"))?;
    let image = outer.point().join("disk.img");
    Mount::format(&image, 256)?;
    let disk = Mount::new(&image, &base.join("disk"))?;
    let rig = Rig::start(vec![disk.point().join("show")])?;
    println!("seed {}", raw.seed);
    println!("cut  at        encoded  on the disk  lost      torn bytes  repair");
    let mut random = Rng::new(raw.seed);
    let (mut failures, mut worst, mut begun) = (0, Duration::ZERO, None);
    std::thread::sleep(Duration::from_secs(2));
    for number in 0..raw.runs {
        std::thread::sleep(Duration::from_secs_f64(0.5 + random.unit()));
        outer.freeze()?;
        let encoded = rig.seen.frames();
        let snapshot = base.join("snapshot.img");
        let copied = fs::copy(&image, &snapshot);
        outer.thaw()?;
        copied?;
        let found = look(base, &snapshot)?;
        let last = |names: &mut dyn Iterator<Item = (&FrameId, &Time)>| {
            names.filter(|(id, _)| id.track == VIDEO).map(|(_, time)| *time).max().unwrap_or_default()
        };
        let newest = last(&mut encoded.iter());
        let kept = last(&mut encoded.iter().filter(|(id, _)| found.frames.contains(id)));
        let first = *begun.get_or_insert(encoded.values().min().copied().unwrap_or_default());
        let lost = newest.saturating_since(kept);
        worst = worst.max(lost);
        // Everything up to the last picture is there, too.
        let hole =
            encoded.iter().any(|(id, time)| *time < kept && id.track == VIDEO && !found.frames.contains(id));
        let good = lost <= MOST + UNDER_WAY && !hole && found.repaired;
        failures += u32::from(!good);
        println!(
            "{number:3}  {:6.2} s  {:7}  {:11}  {:4} ms  {:10}  {}{}",
            newest.saturating_since(first).as_secs_f64(),
            encoded.len(),
            found.frames.len(),
            lost.as_millis(),
            found.torn,
            if found.repaired { "finds the same" } else { "FINDS SOMETHING ELSE" },
            if good { "" } else { "  FAIL" }
        );
    }
    rig.stop();
    match failures {
        0 => println!(
            "PASS  {} power cuts cost at most {} ms, and every file plays",
            raw.runs,
            worst.as_millis()
        ),
        _ => bail!("{failures} power cuts cost more than half a second, or left a hole"),
    }
    Ok(())
}

struct Found {
    frames: BTreeSet<FrameId>,
    torn: u64,
    repaired: bool,
}

/// Mounts the snapshot, which replays its journal, and plays and repairs what is on it.
fn look(base: &Path, snapshot: &Path) -> anyhow::Result<Found> {
    let mount = Mount::new(snapshot, &base.join("after"))?;
    let folder = mount.point().join("show");
    let held = copies::read(&folder)?;
    let mut repaired = true;
    for file in &held.files {
        copies::ffprobe(file)?;
        copies::gstreamer(file)?;
        roadie::recordings::repair(file)?;
        let after = copies::read_file(&file.with_extension("repaired.mp4"))?;
        let before = copies::read_file(file)?;
        repaired &= after.frames == before.frames && after.broken == 0 && after.torn == 0;
    }
    Ok(Found { frames: held.frames.into_keys().collect(), torn: held.torn, repaired })
}
