//! CPU time and memory of other processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// How much the two counts may differ where both have counted all: user and system time are each
/// cut to a step, at both ends.
const STEPS: Duration = Duration::from_millis(40);

/// What one process has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads, in steps of 10 ms, also of those that have ended.
    cpu: Duration,
    /// What each of its threads has run, to the nanosecond.
    threads: BTreeMap<u32, Duration>,
    /// Bytes that are resident now.
    pub resident: u64,
}

impl Usage {
    /// CPU time since an earlier look: to the nanosecond, unless that leaves out threads that have
    /// ended since, also such as began since.
    #[must_use]
    pub fn since(&self, earlier: &Usage) -> Duration {
        let sum = |threads: &BTreeMap<u32, Duration>| threads.values().sum::<Duration>();
        let steps = self.cpu.saturating_sub(earlier.cpu);
        let exact = sum(&self.threads).saturating_sub(sum(&earlier.threads));
        let all_are_there = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        if all_are_there && exact.saturating_add(STEPS) >= steps { exact } else { steps }
    }
}

/// Looks at a process; `None` where it is gone, or this is no Linux.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage {
        cpu: cpu(&stat)?,
        threads: threads(pid).unwrap_or_default(),
        resident: resident(&status)?,
    })
}

/// The first figure of `schedstat` is the time that the thread has run, in nanoseconds (the
/// kernel's `Documentation/scheduler/sched-stats.rst`); a kernel may be built without it.
fn threads(pid: u32) -> Option<BTreeMap<u32, Duration>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let ran = |task: std::io::Result<fs::DirEntry>| {
        let task = task.ok()?;
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let ran = Duration::from_nanos(schedstat.split(' ').next()?.parse().ok()?);
        Some((task.file_name().to_str()?.parse().ok()?, ran))
    };
    // One that ends while it is looked at is none that is there.
    Some(tasks.filter_map(ran).collect())
}

/// proc_pid_stat(5): the second field, the name, may hold spaces and parentheses; utime and stime
/// are fields 14 and 15.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    // USER_HZ is 100 on every Linux that Rust runs on.
    Some(Duration::from_millis(ticks.checked_mul(10)?))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1000 0 0 0 123 45 0 0 20 0 4 0 900 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1680)));
        assert_eq!(resident("Name:\tx\nVmRSS:\t   6116 kB\nThreads:\t4\n"), Some(6116 * 1024));
        assert_eq!(cpu("77 (a"), None);
        assert_eq!(resident("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn this_process_has_used_something() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20);
    }

    #[test]
    fn nanoseconds_count_unless_a_thread_has_ended() {
        let of = |cpu, threads: &[(u32, u64)]| Usage {
            cpu: Duration::from_millis(cpu),
            threads: threads
                .iter()
                .map(|(thread, ran)| (*thread, Duration::from_micros(*ran)))
                .collect(),
            resident: 0,
        };
        let before = of(100, &[(1, 50_000), (2, 60_000)]);
        assert_eq!(
            of(110, &[(1, 70_001), (2, 60_000), (3, 5)]).since(&before),
            Duration::from_micros(20_006)
        );
        // One that was there, one that came and went, and a kernel that does not count threads.
        assert_eq!(of(110, &[(1, 70_000)]).since(&before), Duration::from_millis(10));
        assert_eq!(of(700, &[(1, 50_001), (2, 60_000)]).since(&before), Duration::from_millis(600));
        assert_eq!(of(200, &[]).since(&of(90, &[])), Duration::from_millis(110));
    }
}
