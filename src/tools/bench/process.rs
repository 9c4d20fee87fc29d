//! CPU time and memory of processes, from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Tolerance between the two measures of CPU time: user and system time are each rounded to a step
/// of 10 ms, at both ends.
const STEPS: Duration = Duration::from_millis(40);

/// What a process has used so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all threads, including those that have ended, in steps of 10 ms.
    cpu: Duration,
    /// CPU time of each present thread, in nanoseconds.
    threads: BTreeMap<u32, Duration>,
    /// Resident memory in bytes.
    pub resident: u64,
}

impl Usage {
    /// CPU time since an earlier call. Exact to the nanosecond, unless threads have ended
    /// meanwhile, whose time only the coarser measure contains.
    #[must_use]
    pub fn since(&self, earlier: &Usage) -> Duration {
        let sum = |threads: &BTreeMap<u32, Duration>| threads.values().sum::<Duration>();
        let steps = self.cpu.saturating_sub(earlier.cpu);
        let exact = sum(&self.threads).saturating_sub(sum(&earlier.threads));
        let all_are_there = earlier.threads.keys().all(|thread| self.threads.contains_key(thread));
        if all_are_there && exact.saturating_add(STEPS) >= steps { exact } else { steps }
    }
}

/// The usage of a process; `None` if it does not exist or this is not Linux.
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

/// The first field of `schedstat` is the CPU time of the thread in nanoseconds (the kernel's
/// `Documentation/scheduler/sched-stats.rst`). A kernel may be built without it.
fn threads(pid: u32) -> Option<BTreeMap<u32, Duration>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    let cpu_time = |task: std::io::Result<fs::DirEntry>| {
        let task = task.ok()?;
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let cpu_time = Duration::from_nanos(schedstat.split(' ').next()?.parse().ok()?);
        Some((task.file_name().to_str()?.parse().ok()?, cpu_time))
    };
    // A thread may end while its file is read; it is left out.
    Some(tasks.filter_map(cpu_time).collect())
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
    fn fields_are_found_after_any_process_name() {
        let stat = "77 (a) b (c) S 1 77 77 0 -1 4194560 1000 0 0 0 123 45 0 0 20 0 4 0 900 1 2 3";
        assert_eq!(cpu(stat), Some(Duration::from_millis(1680)));
        assert_eq!(resident("Name:\tx\nVmRSS:\t   6116 kB\nThreads:\t4\n"), Some(6116 * 1024));
        assert_eq!(cpu("77 (a"), None);
        assert_eq!(resident("Name:\tkthreadd\n"), None);
    }

    #[test]
    fn this_process_has_a_usage() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.resident > 1 << 20);
    }

    #[test]
    fn nanoseconds_are_used_unless_a_thread_has_ended() {
        let of = |cpu, threads: &[(u32, u64)]| Usage {
            cpu: Duration::from_millis(cpu),
            threads: threads
                .iter()
                .map(|(thread, cpu_time)| (*thread, Duration::from_micros(*cpu_time)))
                .collect(),
            resident: 0,
        };
        let before = of(100, &[(1, 50_000), (2, 60_000)]);
        assert_eq!(
            of(110, &[(1, 70_001), (2, 60_000), (3, 5)]).since(&before),
            Duration::from_micros(20_006)
        );
        // A thread ended; a thread started and ended; a kernel without schedstat.
        assert_eq!(of(110, &[(1, 70_000)]).since(&before), Duration::from_millis(10));
        assert_eq!(of(700, &[(1, 50_001), (2, 60_000)]).since(&before), Duration::from_millis(600));
        assert_eq!(of(200, &[]).since(&of(90, &[])), Duration::from_millis(110));
    }
}
