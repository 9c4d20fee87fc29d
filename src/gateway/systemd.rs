//! Reports the state of the service to systemd (`sd_notify(3)`, `Type=notify-reload`), by datagrams
//! to the socket that `NOTIFY_SOCKET` names.
//!
//! A lost datagram does not affect the gateway, so callers may ignore the errors.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a send waits while the queue of the service manager is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);

/// Sends states to the service manager, if there is one.
#[derive(Clone, Debug, Default)]
pub struct Notifier {
    socket: Option<OsString>,
}

impl Notifier {
    /// Uses `NOTIFY_SOCKET`. If it is not set, every call does nothing.
    pub fn from_env() -> Self {
        Self { socket: std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) }
    }

    /// Uses this socket: a path, or `@NAME` for an abstract one.
    pub fn new(socket: impl Into<OsString>) -> Self {
        Self { socket: Some(socket.into()) }
    }

    /// Reports that the service is ready, at the start and after a reload.
    ///
    /// # Errors
    /// The datagram could not be sent.
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1")
    }

    /// Reports that a reload begins; [`Notifier::ready`] ends it. systemd requires the time, to
    /// match this message with the signal that it sent.
    ///
    /// # Errors
    /// The datagram could not be sent.
    pub fn reloading(&self) -> io::Result<()> {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1_000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"))
    }

    /// Reports that the service drains.
    ///
    /// # Errors
    /// The datagram could not be sent.
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1")
    }

    /// Reports one line of text, which `systemctl status` shows.
    ///
    /// # Errors
    /// The datagram could not be sent.
    pub fn status(&self, line: &str) -> io::Result<()> {
        // A line break would begin another assignment.
        self.send(&format!("STATUS={}", line.replace(char::is_control, " ")))
    }

    fn send(&self, state: &str) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let from = UnixDatagram::unbound()?;
        // The thread that accepts connections waits for this call: a service manager that does not
        // read must not block it.
        from.set_write_timeout(Some(SEND_TIMEOUT))?;
        from.send_to_addr(state.as_bytes(), &address(socket)?).map(|_| ())
    }
}

fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    #[test]
    fn a_service_manager_that_does_not_read_blocks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _unread = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path);
        let sent = std::iter::repeat_with(|| notifier.ready())
            .take(100_000)
            .take_while(Result::is_ok)
            .count();
        assert!(sent < 100_000, "the queue must be bounded");
    }

    #[test]
    fn each_state_is_one_datagram() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let notifier = Notifier::new(path);
        notifier.ready().unwrap();
        notifier.stopping().unwrap();
        notifier.status("serving\nREADY=1").unwrap();
        assert_eq!(
            [received(&socket), received(&socket), received(&socket)],
            ["READY=1", "STOPPING=1", "STATUS=serving READY=1"]
        );
    }

    #[test]
    fn a_reload_reports_the_monotonic_time() {
        let name = format!("etcd-warden-test-{}", std::process::id());
        let socket =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let notifier = Notifier::new(format!("@{name}"));
        let mut times = Vec::new();
        for _ in 0..2 {
            notifier.reloading().unwrap();
            let message = received(&socket);
            times.push(
                message
                    .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
                    .expect(&message)
                    .parse::<u64>()
                    .unwrap(),
            );
        }
        assert!(times[0] > 0 && times.is_sorted());
    }

    #[test]
    fn without_a_service_manager_nothing_is_sent() {
        assert!(Notifier::default().ready().is_ok());
        assert!(Notifier::new("/nonexistent/notify").ready().is_err());
    }
}
