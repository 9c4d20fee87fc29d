//! The certificates that count now, and the news that they changed.
//!
//! Three things are replaced one by one, each as a whole: the listener's own certificate, the
//! client CAs with their revocation lists, and the way to etcd. So a renewal of one that is not
//! finished yet never holds up a revocation.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::material::MAX_BYTES;
use super::{ClientTls, ClientTrust, Expiry, ServerIdentity, ServerTls, TlsError, TlsErrors};
use crate::config::Config;
use crate::files::Files;

/// All certificates of one moment.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Towards clients.
    pub server: Arc<ServerTls>,
    /// Towards etcd; `None` in plain text.
    pub upstream: Option<Arc<ClientTls>>,
    /// Counts up with each change of `upstream`.
    pub upstream_generation: u64,
}

impl Tls {
    /// Reads all certificates and keys; the mistakes of both sides are told together.
    ///
    /// # Errors
    /// Everything that is wrong with the files, each with its path.
    pub fn load(config: &Config) -> Result<Self, TlsErrors> {
        let server =
            config.downstream.identity_files().into_iter().chain(config.downstream.trust_files());
        Self::of_read(config, &Files::read(server.chain(config.upstream.files()), MAX_BYTES))
    }

    /// As [`Self::load`], of what was read of the files.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn of_read(config: &Config, files: &Files) -> Result<Self, TlsErrors> {
        match (
            ServerTls::of_read(&config.downstream, files),
            ClientTls::of_read(&config.upstream, files),
        ) {
            (Ok(server), Ok(upstream)) => Ok(Self {
                server: Arc::new(server),
                upstream: upstream.map(Arc::new),
                upstream_generation: 1,
            }),
            (server, upstream) => {
                let mistakes =
                    server.err().into_iter().chain(upstream.err()).flat_map(|errors| errors.0);
                Err(TlsErrors(mistakes.collect()))
            }
        }
    }

    /// What is out of date, and vouches for nothing or says nothing any more.
    pub fn stale(&self) -> impl Iterator<Item = &TlsError> {
        self.server
            .trust()
            .stale()
            .iter()
            .chain(self.upstream.iter().flat_map(|upstream| upstream.stale()))
    }

    /// When each certificate and revocation list ends.
    pub fn expiries(&self) -> impl Iterator<Item = &Expiry> {
        self.server.expiries().chain(self.upstream.iter().flat_map(|upstream| upstream.expiries()))
    }
}

/// The one place where certificates are replaced.
pub struct LiveTls {
    current: ArcSwap<Tls>,
    /// One change at a time: each builds on what is there.
    changing: Mutex<()>,
    trust: watch::Sender<()>,
    upstream: watch::Sender<()>,
}

impl LiveTls {
    /// Begins with these.
    #[must_use]
    pub fn new(tls: Tls) -> Self {
        Self {
            current: ArcSwap::from_pointee(tls),
            changing: Mutex::new(()),
            trust: watch::Sender::new(()),
            upstream: watch::Sender::new(()),
        }
    }

    /// What a handshake that begins now uses.
    #[must_use]
    pub fn current(&self) -> Arc<Tls> {
        self.current.load_full()
    }

    /// Replaces the listener's own certificate. Connections that are open keep the one that they
    /// have seen.
    ///
    /// # Errors
    /// See [`ServerTls::of`].
    pub fn replace_identity(
        &self,
        identity: ServerIdentity,
        config: &Config,
    ) -> Result<(), TlsErrors> {
        let identity = Arc::new(identity);
        self.change(|now| {
            let server =
                ServerTls::of(identity, Arc::clone(now.server.trust()), &config.downstream)?;
            Ok(Tls { server: Arc::new(server), ..now.clone() })
        })
    }

    /// Replaces the client CAs and their revocation lists. Whoever waits on [`Self::trust_changes`]
    /// judges its clients again.
    ///
    /// # Errors
    /// See [`ServerTls::of`].
    pub fn replace_trust(&self, trust: ClientTrust, config: &Config) -> Result<(), TlsErrors> {
        let trust = Arc::new(trust);
        self.change(|now| {
            let server =
                ServerTls::of(Arc::clone(now.server.identity()), trust, &config.downstream)?;
            Ok(Tls { server: Arc::new(server), ..now.clone() })
        })?;
        self.trust.send_replace(());
        Ok(())
    }

    /// Replaces the way to etcd. Whoever waits on [`Self::upstream_changes`] renews its
    /// connections.
    pub fn replace_upstream(&self, upstream: ClientTls) {
        let turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.current.load_full();
        let upstream_generation = now.upstream_generation.saturating_add(1);
        self.current.store(Arc::new(Tls {
            upstream: Some(Arc::new(upstream)),
            upstream_generation,
            ..(*now).clone()
        }));
        drop(turn);
        self.upstream.send_replace(());
    }

    /// Wakes at each change of the client CAs and revocation lists. Subscribe before
    /// [`Self::current`], and no change is missed.
    #[must_use]
    pub fn trust_changes(&self) -> watch::Receiver<()> {
        self.trust.subscribe()
    }

    /// Wakes at each change of the way to etcd.
    #[must_use]
    pub fn upstream_changes(&self) -> watch::Receiver<()> {
        self.upstream.subscribe()
    }

    fn change(&self, next: impl FnOnce(&Tls) -> Result<Tls, TlsErrors>) -> Result<(), TlsErrors> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.current.store(Arc::new(next(&self.current.load())?));
        Ok(())
    }
}
