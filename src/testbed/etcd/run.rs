//! Runs one or more members of etcd on 127.0.0.1 for the lifetime of a value.

mod options;
mod process;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use etcd_warden_gateway::http_client as http;
use tempfile::TempDir;

use super::find::{Programs, Version};
pub use options::{Options, Tls};
use process::Process;

/// Timeout for a member to become healthy.
const HEALTHY_WITHIN: Duration = Duration::from_secs(300);
/// Interval of health checks while a member starts.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Starts before giving up: ports are chosen before etcd binds them, and may be taken meanwhile.
const ATTEMPTS: usize = 5;

/// Why etcd could not be started.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An operation on a file, directory, port or process failed.
    #[error("{what}: {error}")]
    System {
        /// The operation.
        what: String,
        /// The cause.
        #[source]
        error: io::Error,
    },
    /// It exited, or never became healthy.
    #[error("etcd {how}; the end of its log:\n{log}")]
    NotHealthy {
        /// Exited, or not healthy in time.
        how: &'static str,
        /// The last lines of its log.
        log: String,
    },
}

/// A running etcd. When the value is dropped, its processes are killed and its data is removed. The
/// same happens if this process dies in any other way.
pub struct Etcd {
    programs: Programs,
    options: Options,
    members: Vec<Member>,
    folder: TempDir,
}

struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
    process: Option<Process>,
}

impl Etcd {
    /// Starts etcd and waits until every member serves linearizable reads.
    ///
    /// # Errors
    /// It cannot be started or does not become healthy. The error contains the end of its log.
    pub async fn start(programs: &Programs, options: Options) -> Result<Self, RunError> {
        let mut attempt = 1;
        loop {
            match Self::attempt(programs, options.clone()).await {
                Err(RunError::NotHealthy { log, .. })
                    if attempt < ATTEMPTS && log.contains("address already in use") =>
                {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn attempt(programs: &Programs, options: Options) -> Result<Self, RunError> {
        let folder = memory_backed_folder()
            .map_err(|error| system("cannot create a directory for etcd's data", error))?;
        let members = members(options.members.max(1))
            .map_err(|error| system("cannot choose ports for etcd", error))?;
        if let Some(tls) = &options.tls {
            tls.write(folder.path())
                .map_err(|error| system("cannot write etcd's certificates", error))?;
        }
        let mut etcd = Self { programs: programs.clone(), options, members, folder };
        for index in 0..etcd.members.len() {
            etcd.spawn(index)?;
        }
        for index in 0..etcd.members.len() {
            etcd.healthy(index).await?;
        }
        Ok(etcd)
    }

    /// The programs of this release.
    #[must_use]
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The client URLs of all members.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("{}://{}", self.scheme(), member.client)).collect()
    }

    /// The client address of each member.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The data directory of a member; `None` if the member does not exist. The other methods with
    /// a member number behave likewise.
    #[must_use]
    pub fn data_dir(&self, member: usize) -> Option<PathBuf> {
        Some(self.folder.path().join(&self.members.get(member)?.name))
    }

    /// The log of a member so far.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "a log, shown to a person")]
    pub fn log(&self, member: usize) -> String {
        let Some(member) = self.members.get(member) else { return String::new() };
        let log = std::fs::read(log_path(self.folder.path(), &member.name)).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The address of a member's metrics page, in plain text.
    #[must_use]
    pub fn metrics_address(&self, member: usize) -> Option<SocketAddr> {
        self.members.get(member).map(|member| member.metrics)
    }

    /// The Prometheus metrics of a member. `grpc_server_handled_total` counts the RPCs that it
    /// handled.
    ///
    /// # Errors
    /// The member does not respond.
    pub async fn metrics(&self, member: usize) -> io::Result<String> {
        let member = self.members.get(member).ok_or(io::ErrorKind::NotFound)?;
        Ok(http::get(member.metrics, "/metrics").await?.1)
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            member.process = None;
        }
    }

    /// True while the process of a member runs, responsive or not.
    pub fn is_running(&mut self, member: usize) -> bool {
        self.members
            .get_mut(member)
            .and_then(|member| member.process.as_mut())
            .is_some_and(Process::is_running)
    }

    /// Pauses a member with SIGSTOP: its connections stay open, but it does not respond.
    ///
    /// # Errors
    /// It is not running.
    pub fn pause(&self, member: usize) -> io::Result<()> {
        self.process(member)?.signal("STOP")
    }

    /// Resumes a paused member with SIGCONT.
    ///
    /// # Errors
    /// It is not running.
    pub fn resume(&self, member: usize) -> io::Result<()> {
        self.process(member)?.signal("CONT")
    }

    /// Kills and restarts a member with the same data and ports, and waits until it is healthy.
    ///
    /// # Errors
    /// As [`Etcd::start`].
    pub async fn restart(&mut self, member: usize) -> Result<(), RunError> {
        self.kill(member);
        self.spawn(member)?;
        self.healthy(member).await
    }

    fn scheme(&self) -> &'static str {
        if self.options.tls.is_some() { "https" } else { "http" }
    }

    fn process(&self, member: usize) -> io::Result<&Process> {
        let member = self.members.get(member).ok_or(io::ErrorKind::NotFound)?;
        member
            .process
            .as_ref()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the member is not running"))
    }

    fn spawn(&mut self, index: usize) -> Result<(), RunError> {
        let flags = self.flags(index);
        let folder = self.folder.path();
        let Some(member) = self.members.get_mut(index) else { return Ok(()) };
        let started =
            Process::start(&self.programs.etcd, &flags, folder, &log_path(folder, &member.name));
        member.process = Some(started.map_err(|error| system("cannot start etcd", error))?);
        Ok(())
    }

    fn flags(&self, index: usize) -> Vec<String> {
        let Some(member) = self.members.get(index) else { return Vec::new() };
        let peers: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://{}", member.name, member.peer))
            .collect();
        let client = format!("{}://{}", self.scheme(), member.client);
        // A single member elects itself at once. Several members need time to exchange messages on
        // a busy machine.
        let (heartbeat, election) = if self.members.len() == 1 { (10, 100) } else { (100, 1000) };
        let mut flags = vec![
            format!("--name={}", member.name),
            format!("--data-dir={}", self.folder.path().join(&member.name).display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls=http://{}", member.peer),
            format!("--initial-advertise-peer-urls=http://{}", member.peer),
            format!("--initial-cluster={}", peers.join(",")),
            format!("--listen-metrics-urls=http://{}", member.metrics),
            format!("--heartbeat-interval={heartbeat}"),
            format!("--election-timeout={election}"),
        ];
        // 3.4 does not have this flag; in memory it makes no difference.
        if self.programs.version >= Version::new(3, 5, 0) {
            flags.push("--unsafe-no-fsync".to_owned());
        }
        if self.options.tls.is_some() {
            flags.extend(Tls::flags(self.folder.path()));
        }
        flags.extend(self.options.flags.iter().cloned());
        flags
    }

    async fn healthy(&mut self, index: usize) -> Result<(), RunError> {
        let deadline = Instant::now() + HEALTHY_WITHIN;
        loop {
            if !self.is_running(index) {
                return Err(RunError::NotHealthy {
                    how: "exited",
                    log: last_lines(&self.log(index)),
                });
            }
            let Some(member) = self.members.get(index) else { return Ok(()) };
            if matches!(http::get(member.metrics, "/health").await, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(RunError::NotHealthy {
                    how: "did not become healthy",
                    log: last_lines(&self.log(index)),
                });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }
}

/// Creates members with free ports: each port is bound and released.
fn members(count: usize) -> io::Result<Vec<Member>> {
    // All listeners are kept until the end, so that no port is assigned twice.
    let mut held = Vec::new();
    let mut port = || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        held.push(listener);
        io::Result::Ok(address)
    };
    let member = |index| {
        Ok(Member {
            name: format!("m{index}"),
            client: port()?,
            peer: port()?,
            metrics: port()?,
            process: None,
        })
    };
    (0..count).map(member).collect()
}

/// A temporary directory, in memory if possible, for speed.
fn memory_backed_folder() -> io::Result<TempDir> {
    const PREFIX: &str = "etcd-warden-";
    TempDir::with_prefix_in(PREFIX, "/dev/shm").or_else(|_| TempDir::with_prefix(PREFIX))
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.log"))
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}

fn system(what: &str, error: io::Error) -> RunError {
    RunError::System { what: what.to_owned(), error }
}
