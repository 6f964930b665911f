//! `roadie-bench record-disk`: what a disk in trouble costs the show, the other copy and the creator's patience.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use encoder::record::{RecordState, RecordStatus};
use media::FrameId;

use super::copies;
use super::mounts::Mount;
use super::rig::Rig;

/// The creator is told within so long.
const MOST: Duration = Duration::from_secs(2);

/// Size of the disk that gets into trouble.
const MEGABYTES: u64 = 64;

/// Records the test picture twice while the second disk gets full, becomes read-only, loses its folder or does not
/// answer. It is a loop device, so this takes root. The encoder must not be held up, nothing may be missing from live
/// and from the first copy, and the trouble must be told within two seconds.
#[derive(Args, Clone, Debug)]
pub struct Raw {
    /// How long the disk does not answer, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    freeze: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Full,
    ReadOnly,
    Removed,
    Blocked,
}

/// Runs and prints.
pub fn run(raw: Raw) -> anyhow::Result<()> {
    let base = std::env::temp_dir().join(format!("roadie-bench-disk-{}", std::process::id()));
    let result = all(&raw, &base);
    let _ = fs::remove_dir_all(&base);
    result
}

fn all(raw: &Raw, base: &Path) -> anyhow::Result<()> {
    println!(
        "trouble    told after  held up   not sent  raw dropped  missing in A  parts of B  in either  then"
    );
    let mut failures = 0;
    for trouble in [Trouble::None, Trouble::Full, Trouble::ReadOnly, Trouble::Removed, Trouble::Blocked] {
        let folder = base.join(format!("{trouble:?}"));
        fs::create_dir_all(&folder)?;
        failures += u32::from(!one(raw, &folder, trouble)?);
    }
    match failures {
        0 => println!("PASS  nothing missing from live and from copy A, and every trouble told within 2 s"),
        _ => bail!("{failures} troubles cost more than copy B, or were told too late"),
    }
    Ok(())
}

fn one(raw: &Raw, folder: &Path, trouble: Trouble) -> anyhow::Result<bool> {
    let image = folder.join("disk.img");
    Mount::format(&image, MEGABYTES)?;
    let mount = Mount::new(&image, &folder.join("disk"))?;
    let (a, b) = (folder.join("a"), mount.point().join("show"));
    let rig = Rig::start(vec![a.clone(), b.clone()])?;
    std::thread::sleep(Duration::from_secs(3));
    let begun = Instant::now();
    let filler = mount.point().join("filler");
    match trouble {
        Trouble::None => {}
        Trouble::Full => fill(&filler),
        Trouble::ReadOnly => mount.break_it()?,
        Trouble::Removed => fs::remove_dir_all(&b)?,
        Trouble::Blocked => mount.freeze()?,
    }
    let told = (trouble != Trouble::None).then(|| wait_told(&rig, begun)).flatten();
    let length = if trouble == Trouble::Blocked { raw.freeze } else { 5 };
    std::thread::sleep(Duration::from_secs(length).saturating_sub(begun.elapsed()));
    match trouble {
        Trouble::Full => fs::remove_file(&filler)?,
        Trouble::Removed => fs::create_dir(&b)?,
        Trouble::Blocked => mount.thaw()?,
        Trouble::None | Trouble::ReadOnly => {}
    }
    // A new file is tried every two seconds, at a keyframe.
    std::thread::sleep(Duration::from_secs(5));
    let seen = rig.seen.clone();
    let (ends, counters, not_sent) = rig.stop();
    let encoded: BTreeSet<FrameId> = seen.frames().into_keys().collect();
    let held = copies::read(&a)?;
    let missing = encoded.iter().filter(|id| !held.frames.contains_key(id)).count();
    let parts = ends.get(1).map_or(0, |end| end.parts.len());
    let in_b = copies::read(&b).unwrap_or_default();
    let in_neither =
        encoded.iter().filter(|id| !held.frames.contains_key(id) && !in_b.frames.contains_key(id)).count();
    let told_in_time = trouble == Trouble::None || told.as_ref().is_some_and(|(after, _)| *after <= MOST);
    // The raw frames that a busy machine drops before the encoder are not the disk's doing, and are shown only.
    let good = missing == 0 && not_sent == 0 && in_neither == 0 && told_in_time && comes_back(trouble, &ends);
    let after =
        told.as_ref().map_or_else(|| "–".into(), |(after, _)| format!("{:.2} s", after.as_secs_f64()));
    println!(
        "{:9}  {after:>10}  {:5.2} ms  {not_sent:8}  {:11}  {missing:12}  {parts:10}  {:9}  {}{}",
        format!("{trouble:?}"),
        seen.longest().as_secs_f64() * 1e3,
        counters.dropped,
        encoded.len() - in_neither,
        ends.get(1).map(|end| words(&end.state)).unwrap_or_default(),
        if good { "" } else { "  FAIL" },
    );
    if let Some((_, words)) = told {
        println!("           {words}");
    }
    Ok(good)
}

/// Whether the copy is well again at the end, where the disk is.
fn comes_back(trouble: Trouble, ends: &[RecordStatus]) -> bool {
    let well = ends.get(1).is_some_and(|end| end.state == RecordState::Recording);
    well || trouble == Trouble::ReadOnly
}

fn wait_told(rig: &Rig, begun: Instant) -> Option<(Duration, String)> {
    while begun.elapsed() < MOST * 3 {
        if let Some(copy) = rig.recordings().get(1) {
            let state = words(&copy.state);
            match &copy.warning {
                _ if copy.state != RecordState::Recording => return Some((begun.elapsed(), state)),
                Some(warning) => return Some((begun.elapsed(), warning.clone())),
                None => {}
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

fn words(state: &RecordState) -> String {
    match state {
        RecordState::Recording => "recording".into(),
        RecordState::Degraded { reason } => format!("DEGRADED: {reason}"),
        RecordState::Failed { reason } => format!("FAILED: {reason}"),
    }
}

/// Takes all space.
fn fill(path: &PathBuf) {
    let Ok(file) = fs::File::create(path) else { return };
    let piece = vec![1; 1 << 16];
    // It ends with the error that is wanted.
    while std::io::Write::write_all(&mut &file, &piece).is_ok() {}
}
