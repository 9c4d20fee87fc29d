//! A process that never outlives us.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running program. Killed (SIGKILL) and reaped when dropped.
///
/// For the case that we are killed ourselves, a shell holds the other end of a pipe of ours (the
/// leash): when that closes without a word, it kills the program and removes its folder. That needs
/// neither `unsafe` nor a signal handler, and covers statics, which are never dropped.
pub(super) struct Process {
    child: Child,
    leash: Child,
}

impl Process {
    /// Starts `program` in a process group of its own (a Ctrl-C is ours to handle), its output
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
            // etcd reads ETCD_* variables as flags; those of the user are not meant for this one.
            .env_clear()
            .envs(
                std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("ETCD")),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        match leash(child.id(), folder) {
            Ok(leash) => Ok(Self { child, leash }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Whether it has not ended yet.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends a signal, by the shell's own `kill`, and waits until SIGSTOP has reached every thread.
    pub(super) fn signal(&self, name: &str) -> io::Result<()> {
        // On a busy machine a process goes on for some milliseconds after `kill -STOP` came back.
        const SCRIPT: &str = r#"kill -"$0" "$1" || exit
            while [ "$0" = STOP ] && grep -qs "^State:[[:space:]]*[RSD]" /proc/"$1"/task/*/status; do sleep 0.01; done"#;
        let status =
            Command::new("sh").args(["-c", SCRIPT, name, &self.child.id().to_string()]).status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("SIG{name} could not be sent")))
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing can be done about a failure here, and an ended program is a good one.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A word first: the id may belong to another process by now.
        if let Some(mut pipe) = self.leash.stdin.take() {
            let _ = pipe.write_all(b"done\n");
        }
        let _ = self.leash.wait();
    }
}

fn leash(process: u32, folder: &Path) -> io::Result<Child> {
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
