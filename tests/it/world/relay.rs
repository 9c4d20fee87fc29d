//! A TCP relay in front of a server. It counts connections and can hold back what the server sends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden_gateway::config::{Config, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// The relay. Dropping it closes all connections.
pub struct Relay {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    /// True while data from the server is forwarded.
    passing: watch::Sender<bool>,
    /// The number of times that all connections were cut.
    cuts: watch::Sender<u64>,
    task: AbortHandle,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, close) = (opened.clone(), closed.clone());
        let (passing, may_pass) = watch::channel(true);
        let (cuts, cut) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                open.fetch_add(1, Ordering::SeqCst);
                let (close, may_pass, mut cut) = (close.clone(), may_pass.clone(), cut.clone());
                cut.mark_unchanged();
                connections.spawn(async move {
                    if let Ok(far) = TcpStream::connect(server).await {
                        let ((from_near, to_near), (from_far, to_far)) =
                            (near.into_split(), far.into_split());
                        let up = copy(from_near, to_far, None);
                        let both =
                            async { tokio::join!(up, copy(from_far, to_near, Some(may_pass))) };
                        tokio::select! {
                            _ = both => {}
                            _ = cut.changed() => {}
                        }
                    }
                    close.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, opened, closed, passing, cuts, task: task.abort_handle() }
    }

    /// Holds back data from the server.
    pub fn hold(&self) {
        self.passing.send_replace(false);
    }

    /// Ends every connection and forwards no new one until [`Relay::release`].
    pub fn cut(&self) {
        self.hold();
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forwards everything that was held back, all at once.
    pub fn release(&self) {
        self.passing.send_replace(true);
    }

    /// The configuration change that puts the relay in front of etcd.
    pub fn before_etcd(&self) -> impl FnOnce(&mut Config) + Send + 'static {
        let endpoint = Endpoint {
            tls: true,
            host: self.address.ip().to_string().into(),
            port: self.address.port(),
        };
        move |config| config.upstream.endpoints = vec![endpoint]
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The number of connections so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// The number of connections that are open.
    pub fn open(&self) -> usize {
        self.opened() - self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Copies one direction to its end.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut may_pass: Option<watch::Receiver<bool>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer).await?;
        if let Some(may_pass) = &mut may_pass {
            // The relay may be gone when the other end is.
            let _ = may_pass.wait_for(|may| *may).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
