//! What the process itself uses, under the names that all of Prometheus's clients have for it.

use std::fs;

use super::text::{Kind, Text};

/// From Linux's `/proc`; what cannot be read there is left out.
pub(super) fn write(text: &mut Text) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        let cpu = stat.cpu_ticks as f64 / ticks;
        text.one(Kind::Counter, "process_cpu_seconds_total", "CPU time, user and system.", cpu);
        let resident = stat.resident_pages * rustix::param::page_size() as u64;
        text.one(Kind::Gauge, "process_resident_memory_bytes", "Memory that is resident.", resident);
        if let Some(boot) = boot_time() {
            let start = boot as f64 + stat.start_ticks as f64 / ticks;
            text.one(
                Kind::Gauge,
                "process_start_time_seconds",
                "When the process started, Unix time.",
                start,
            );
        }
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is this look's own.
        let open = open.count().saturating_sub(1);
        text.one(Kind::Gauge, "process_open_fds", "Open file descriptors.", open);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        text.one(Kind::Gauge, "process_max_fds", "File descriptors that may be open.", most);
    }
}

/// Seconds of Unix time.
fn boot_time() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// The fields of `proc_pid_stat(5)` that are shown.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name may hold anything, spaces and parentheses too; the third field follows the last one.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)?, resident_pages: field(24)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_any_name_is_read() {
        let line = "4242 (a) (b c) S 1 4242 4242 0 -1 4194560 900 0 0 0 70 30 0 0 20 0 4 0 5555 100000000 2048 184467";
        let expected = Stat { cpu_ticks: 100, start_ticks: 5555, resident_pages: 2048 };
        assert_eq!(Stat::parse(line), Some(expected));
        assert_eq!(Stat::parse("4242 (a) S 1"), None);
        assert_eq!(Stat::parse(""), None);
    }
}
