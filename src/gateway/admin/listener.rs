//! The two admin listeners: a TCP address, where nothing can be changed, and a Unix socket for root
//! and the user that the gateway runs as.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::origin_table::Origin;

/// Where admin clients connect.
#[derive(Debug)]
pub enum AdminListener {
    /// A TCP address. Any process that reaches it may connect.
    Address(TcpListener),
    /// A Unix socket. Root and its owner may connect.
    Socket(Socket),
}

/// The process at the other end of a Unix socket, as the kernel reports it (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its user id.
    pub uid: u32,
    /// Its process id.
    pub pid: Option<i32>,
}

/// A listening Unix socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that the gateway runs as: the files that it makes belong to this user.
    owner: u32,
}

/// A connection of either kind.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: Box<dyn Stream>,
    /// `None` for a TCP connection.
    pub(super) peer: Option<Peer>,
    /// Loopback for connections to the Unix socket.
    pub(super) origin: Origin,
}

impl From<TcpListener> for AdminListener {
    fn from(listener: TcpListener) -> Self {
        Self::Address(listener)
    }
}

impl AdminListener {
    /// Accepts the next connection. `None`: its user is not allowed, and it was closed.
    pub(super) async fn accept(&self) -> io::Result<Option<Accepted>> {
        match self {
            Self::Address(listener) => {
                let (stream, address) = listener.accept().await?;
                let origin = address.ip().into();
                Ok(Some(Accepted { stream: Box::new(stream), peer: None, origin }))
            }
            Self::Socket(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
                // The file mode is the same rule, but is set only after the socket exists.
                if !is_allowed(peer.uid, socket.owner) {
                    tracing::warn!(
                        uid = peer.uid,
                        "admin socket: refused a process of another user"
                    );
                    return Ok(None);
                }
                let origin = IpAddr::from(Ipv4Addr::LOCALHOST).into();
                Ok(Some(Accepted { stream: Box::new(stream), peer: Some(peer), origin }))
            }
        }
    }
}

impl Socket {
    /// Makes the socket with mode 0600. Replaces a socket that a process has left when it died.
    ///
    /// # Errors
    /// The socket cannot be made, another process listens on it, or the path is another kind of
    /// file.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "the file exists and is not a socket",
                ));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process listens on it",
                ));
            }
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        let owner = fs::symlink_metadata(path)?.uid();
        Ok(Self { listener, path: path.to_owned(), owner })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Best effort: the next start replaces a socket that is left over.
        let _ = fs::remove_file(&self.path);
    }
}

fn is_allowed(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_owner_are_allowed() {
        assert!(is_allowed(0, 1000) && is_allowed(1000, 1000));
        assert!(!is_allowed(1001, 1000) && !is_allowed(65534, 0));
    }

    #[tokio::test]
    async fn only_a_socket_without_a_listener_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let first = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        // As a process leaves it that was killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        drop(Socket::bind(&path).unwrap());
        fs::write(&path, "precious").unwrap();
        assert_eq!(Socket::bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
