//! How long the kernel let a process run.

use anyhow::Context;

/// Seconds that the threads of a process have run, user and system: the scheduler's own count in nanoseconds.
/// Threads that have ended are not in it.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    let folder = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let mut nanos = 0;
    for thread in threads.flatten() {
        // A thread that has just ended has no file any more.
        let Ok(text) = std::fs::read_to_string(thread.path().join("schedstat")) else { continue };
        let ran = text.split_whitespace().next().and_then(|ran| ran.parse::<u64>().ok());
        nanos += ran.with_context(|| format!("{text:?} is not as schedstat should be"))?;
    }
    Ok(nanos as f64 / 1e9)
}
