//! A relay of TCP before a server, which counts the connections that pass.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use etcd_warden::config::{Config, Endpoint};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// The relay; what passes is cut off when it is dropped.
pub struct Relay {
    address: SocketAddr,
    opened: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Relay {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (opened, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, close) = (opened.clone(), closed.clone());
        let task = tokio::spawn(async move {
            let mut passing = tokio::task::JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                open.fetch_add(1, Ordering::SeqCst);
                let close = close.clone();
                passing.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(server).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                    close.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, opened, closed, task: task.abort_handle() }
    }

    /// The change of a configuration that puts it before etcd.
    pub fn before_etcd(&self) -> impl FnOnce(&mut Config) + Send + 'static {
        let endpoint = Endpoint { tls: true, host: self.address.ip().to_string().into(), port: self.address.port() };
        move |config| config.upstream.endpoints = vec![endpoint]
    }

    /// How many connections there were so far.
    pub fn opened(&self) -> usize {
        self.opened.load(Ordering::SeqCst)
    }

    /// How many there are now.
    pub fn open(&self) -> usize {
        self.opened() - self.closed.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
