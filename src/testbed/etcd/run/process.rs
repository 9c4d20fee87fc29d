//! A child process that never outlives this process.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running program. Killed with SIGKILL and reaped when dropped.
///
/// If this process is killed itself, a watchdog shell does it: the shell reads from a pipe of this
/// process, and when the pipe closes without a message, it kills the program and removes its
/// directory. This needs neither `unsafe` nor a signal handler, and works for statics, which are
/// never dropped.
pub(super) struct Process {
    child: Child,
    watchdog: Child,
}

impl Process {
    /// Starts `program` in its own process group, so that Ctrl-C does not reach it. Its output is
    /// appended to `log`.
    pub(super) fn start(
        program: &Path,
        flags: &[String],
        folder: &Path,
        log: &Path,
    ) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut child = Command::new(program)
            .args(flags)
            // etcd reads ETCD_* variables as flags; those of the user must not apply here.
            .env_clear()
            .envs(
                std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("ETCD")),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        match watchdog(child.id(), folder) {
            Ok(watchdog) => Ok(Self { child, watchdog }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// True until it has exited.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal with `kill`. After SIGSTOP, waits until every thread has stopped.
    pub(super) fn signal(&self, name: &str) -> io::Result<()> {
        // On a busy machine a process continues for some milliseconds after `kill -STOP` returns.
        const SCRIPT: &str = r#"kill -"$0" "$1" || exit
            while [ "$0" = STOP ] && grep -qs "^State:[[:space:]]*[RSD]" /proc/"$1"/task/*/status; do sleep 0.01; done"#;
        let status =
            Command::new("sh").args(["-c", SCRIPT, name, &self.child.id().to_string()]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("cannot send SIG{name}")))
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failure cannot be handled here; usually the program has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Stop the watchdog first: the process id may be reused from now on.
        if let Some(mut pipe) = self.watchdog.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.watchdog.wait();
    }
}

fn watchdog(process: u32, folder: &Path) -> io::Result<Child> {
    Command::new("sh")
        .args([OsStr::new("-c"), OsStr::new("read -r word || { kill -9 \"$0\"; rm -rf \"$1\"; }")])
        .arg(process.to_string())
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}
