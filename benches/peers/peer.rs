//! A proxy under test, in a separate process, so that its CPU time and memory can be measured.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use etcd_warden_tools::bench::process::usage;

/// A proxy, or etcd itself.
pub struct Peer {
    pub name: String,
    pub address: SocketAddr,
    process: Option<Child>,
    /// Resident bytes after its start, before any load.
    pub fresh: u64,
}

impl Peer {
    /// etcd itself, whose process is not measured.
    pub fn direct(address: SocketAddr) -> Self {
        Self { name: "direct".to_owned(), address, process: None, fresh: 0 }
    }

    pub fn new(name: &str, address: SocketAddr, process: Child) -> Self {
        Self { name: name.to_owned(), address, process: Some(process), fresh: 0 }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// CPU time that `work` took, and the peak of additional memory in bytes.
    pub async fn measured(&self, work: impl Future) -> Option<(Duration, u64)> {
        let Some(pid) = self.pid() else {
            work.await;
            return None;
        };
        // proc(5): writing 5 resets the peak to the present resident size.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        let before = usage(pid).unwrap();
        work.await;
        let after = usage(pid).unwrap();
        Some((after.since(&before), self.peak().saturating_sub(before.resident)))
    }

    /// Peak memory since the last reset, in bytes.
    fn peak(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Option<u64> {
        self.pid().map(|pid| usage(pid).unwrap().resident)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
