//! CPU time and memory of other processes, from `/proc`.

use std::fs;
use std::time::Duration;

/// What one process has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// User and system time of all its threads. The kernel counts in steps of 10 ms.
    pub cpu: Duration,
    /// Bytes that are resident now.
    pub resident: u64,
}

/// Looks at a process; `None` where it is gone, or this is no Linux.
#[must_use]
pub fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage { cpu: cpu(&stat)?, resident: resident(&status)? })
}

/// proc_pid_stat(5): the second field, the name, may hold spaces and parentheses; utime and stime are fields 14 and 15.
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
}
