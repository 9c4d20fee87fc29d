//! The ways in: an address, where nothing can be changed, and a socket in the file system for those
//! who may: root, and the user that the proxy runs as.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use crate::crowd::Origin;

/// Where callers come in.
#[derive(Debug)]
pub enum Door {
    /// Anybody who reaches the address.
    Address(TcpListener),
    /// Those who may open the socket.
    Socket(Socket),
}

/// Who calls at the socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The user.
    pub uid: u32,
    /// The process.
    pub pid: Option<i32>,
}

/// A socket in the file system, which is gone when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    /// The user that the proxy runs as: its sockets belong to it.
    owner: u32,
}

/// A connection, of either sort.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A caller: at the socket, it is known who it is.
pub(super) struct Caller {
    pub(super) stream: Box<dyn Stream>,
    pub(super) peer: Option<Peer>,
    /// Where it comes from: at the socket, all come from this machine.
    pub(super) origin: Origin,
}

impl From<TcpListener> for Door {
    fn from(listener: TcpListener) -> Self {
        Self::Address(listener)
    }
}

impl Door {
    /// The next caller; `None`: one who may not come in.
    pub(super) async fn accept(&self) -> io::Result<Option<Caller>> {
        match self {
            Door::Address(listener) => {
                let (stream, address) = listener.accept().await?;
                Ok(Some(Caller {
                    stream: Box::new(stream),
                    peer: None,
                    origin: address.ip().into(),
                }))
            }
            Door::Socket(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                let credentials = stream.peer_cred()?;
                let peer = Peer { uid: credentials.uid(), pid: credentials.pid() };
                // Its mode says the same, but not from the very first moment on.
                if !may_come_in(peer.uid, socket.owner) {
                    tracing::warn!(uid = peer.uid, "a caller of another user at the admin socket");
                    return Ok(None);
                }
                let origin = IpAddr::from(Ipv4Addr::LOCALHOST).into();
                Ok(Some(Caller { stream: Box::new(stream), peer: Some(peer), origin }))
            }
        }
    }
}

impl Socket {
    /// Makes the socket, for its owner alone. One that a dead process has left is replaced.
    ///
    /// # Errors
    /// It cannot be made there, or something else is there: another process that serves, or a file
    /// that is no socket.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "there is a file of another kind",
                ));
            }
            Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another process serves there",
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
        // Nobody is there to hear that it could not be removed; the next start removes it.
        let _ = fs::remove_file(&self.path);
    }
}

fn may_come_in(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_the_owner_may_come_in_and_nobody_else() {
        assert!(may_come_in(0, 1000) && may_come_in(1000, 1000));
        assert!(!may_come_in(1001, 1000) && !may_come_in(65534, 0));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_replaced_and_nothing_else_is() {
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
