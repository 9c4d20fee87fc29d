//! Something that requests can go through: a process of its own, so that what it uses can be read.

use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use etcd_warden_tools::bench::process::usage;

/// A proxy, or etcd itself.
pub struct Peer {
    pub name: String,
    pub address: SocketAddr,
    process: Option<Child>,
    /// Bytes that it had when it had begun to listen, before any load.
    pub fresh: u64,
}

impl Peer {
    /// etcd itself, which is not measured.
    pub fn direct(address: SocketAddr) -> Self {
        Self { name: "direct".to_owned(), address, process: None, fresh: 0 }
    }

    pub fn new(name: &str, address: SocketAddr, process: Child) -> Self {
        Self { name: name.to_owned(), address, process: Some(process), fresh: 0 }
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// CPU time that `work` took it, and the most memory that it needed more than before, in bytes.
    pub async fn measured(&self, work: impl Future) -> Option<(Duration, u64)> {
        let Some(pid) = self.pid() else {
            work.await;
            return None;
        };
        // proc(5): 5 sets the peak back to what is resident now.
        std::fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
        let before = usage(pid).unwrap();
        work.await;
        let after = usage(pid).unwrap();
        Some((after.since(&before), self.peak().saturating_sub(before.resident)))
    }

    /// The most memory that it ever had, in bytes.
    fn peak(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Memory that is resident now, in bytes.
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
