//! The certificates in effect, and notifications of their changes.
//!
//! Three parts are replaced independently, each as a whole: the listener's certificate, the client
//! CAs with their revocation lists, and the certificates towards etcd. So an incomplete renewal of
//! one part never delays a revocation.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::material::MAX_BYTES;
use super::{ClientTls, ClientTrust, Expiry, ServerIdentity, ServerTls, TlsError, TlsErrors};
use crate::config::Config;
use crate::files::Files;

/// All certificates that are in effect at one moment.
#[derive(Clone, Debug)]
pub struct Tls {
    /// TLS towards clients.
    pub server: Arc<ServerTls>,
    /// TLS towards etcd; `None` if etcd is plain text.
    pub upstream: Option<Arc<ClientTls>>,
    /// Incremented with each change of `upstream`.
    pub upstream_generation: u64,
}

impl Tls {
    /// Reads all certificates and keys.
    ///
    /// # Errors
    /// All errors in the files, towards clients and towards etcd.
    pub fn load(config: &Config) -> Result<Self, TlsErrors> {
        let server =
            config.downstream.identity_files().into_iter().chain(config.downstream.trust_files());
        Self::from_files(config, &Files::read(server.chain(config.upstream.files()), MAX_BYTES))
    }

    /// As [`Self::load`], from files that were read before.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn from_files(config: &Config, files: &Files) -> Result<Self, TlsErrors> {
        match (
            ServerTls::from_files(&config.downstream, files),
            ClientTls::from_files(&config.upstream, files),
        ) {
            (Ok(server), Ok(upstream)) => Ok(Self {
                server: Arc::new(server),
                upstream: upstream.map(Arc::new),
                upstream_generation: 1,
            }),
            (server, upstream) => {
                let errors =
                    server.err().into_iter().chain(upstream.err()).flat_map(|errors| errors.0);
                Err(TlsErrors(errors.collect()))
            }
        }
    }

    /// CAs and revocation lists that have expired and are therefore ignored.
    pub fn expired(&self) -> impl Iterator<Item = &TlsError> {
        self.server
            .trust()
            .expired()
            .iter()
            .chain(self.upstream.iter().flat_map(|upstream| upstream.expired()))
    }

    /// When each certificate and revocation list expires.
    pub fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        self.server.expiries().chain(self.upstream.iter().flat_map(|upstream| upstream.expiries()))
    }
}

/// The certificates in effect. All threads share it.
pub struct LiveTls {
    current: ArcSwap<Tls>,
    /// Held during a change: each change is based on the current value.
    changing: Mutex<()>,
    trust: watch::Sender<()>,
    upstream: watch::Sender<()>,
}

impl LiveTls {
    /// Starts with these certificates.
    pub fn new(tls: Tls) -> Self {
        Self {
            current: ArcSwap::from_pointee(tls),
            changing: Mutex::new(()),
            trust: watch::Sender::new(()),
            upstream: watch::Sender::new(()),
        }
    }

    /// The certificates for a handshake that begins now.
    pub fn current(&self) -> Arc<Tls> {
        self.current.load_full()
    }

    /// Replaces the listener's certificate. Open connections are not affected.
    ///
    /// # Errors
    /// See [`ServerTls::new`].
    pub(crate) fn replace_identity(
        &self,
        identity: ServerIdentity,
        config: &Config,
    ) -> Result<(), TlsErrors> {
        let identity = Arc::new(identity);
        self.change(|current| {
            let server =
                ServerTls::new(identity, Arc::clone(current.server.trust()), &config.downstream)?;
            Ok(Tls { server: Arc::new(server), ..current.clone() })
        })
    }

    /// Replaces the client CAs and their revocation lists, and notifies
    /// [`Self::trust_changes`]: subscribers verify the certificates of their clients again.
    ///
    /// # Errors
    /// See [`ServerTls::new`].
    pub(crate) fn replace_trust(
        &self,
        trust: ClientTrust,
        config: &Config,
    ) -> Result<(), TlsErrors> {
        let trust = Arc::new(trust);
        self.change(|current| {
            let server =
                ServerTls::new(Arc::clone(current.server.identity()), trust, &config.downstream)?;
            Ok(Tls { server: Arc::new(server), ..current.clone() })
        })?;
        self.trust.send_replace(());
        Ok(())
    }

    /// Replaces the certificates towards etcd, and notifies [`Self::upstream_changes`]: subscribers
    /// renew their connections.
    pub(crate) fn replace_upstream(&self, upstream: ClientTls) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current.load_full();
        let upstream_generation = current.upstream_generation.saturating_add(1);
        self.current.store(Arc::new(Tls {
            upstream: Some(Arc::new(upstream)),
            upstream_generation,
            ..(*current).clone()
        }));
        drop(changing);
        self.upstream.send_replace(());
    }

    /// Notified when the client CAs or revocation lists change. Subscribe before you call
    /// [`Self::current`], so that no change is missed.
    pub(crate) fn trust_changes(&self) -> watch::Receiver<()> {
        self.trust.subscribe()
    }

    /// Notified when the certificates towards etcd change.
    pub(crate) fn upstream_changes(&self) -> watch::Receiver<()> {
        self.upstream.subscribe()
    }

    fn change(&self, next: impl FnOnce(&Tls) -> Result<Tls, TlsErrors>) -> Result<(), TlsErrors> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(next(&self.current.load())?));
        Ok(())
    }
}
