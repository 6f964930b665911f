//! How long the kernel let a process run.

use std::collections::BTreeMap;

use anyhow::Context;

/// Seconds that the threads of a process have run, user and system, by their names: the scheduler's own count in
/// nanoseconds. Threads that have ended are not in it.
pub fn threads(pid: u32) -> anyhow::Result<BTreeMap<String, f64>> {
    let folder = format!("/proc/{pid}/task");
    let threads = std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
    let mut seconds = BTreeMap::new();
    for thread in threads.flatten() {
        let read = |file| std::fs::read_to_string(thread.path().join(file));
        // A thread that has just ended has no files any more.
        let (Ok(name), Ok(text)) = (read("comm"), read("schedstat")) else { continue };
        let ran = text.split_whitespace().next().and_then(|ran| ran.parse::<u64>().ok());
        let nanos = ran.with_context(|| format!("{text:?} is not as schedstat should be"))?;
        *seconds.entry(name.trim_end().to_owned()).or_default() += nanos as f64 / 1e9;
    }
    Ok(seconds)
}

/// Seconds that the threads of a process have run, all together.
pub fn cpu(pid: u32) -> anyhow::Result<f64> {
    Ok(threads(pid)?.values().sum())
}
