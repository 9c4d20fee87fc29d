//! TLS towards clients and towards etcd: rustls with aws-lc-rs, TLS 1.2 and 1.3, ALPN `h2`, a
//! certificate on both sides.
//!
//! Everything is read and proved sound when it is loaded, all mistakes at once, so that a handshake
//! can fail for the peer's reasons only. The cryptography provider is always passed by hand: there
//! is no process-wide default that another crate could change.

pub mod client;
pub mod failure;
pub mod live;
pub mod server;
pub mod trust;

mod authority;
mod etcd_refused;
mod material;
mod revocation;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::printable::Printable;

pub use client::{ClientTls, server_name};
pub use etcd_refused::in_words;
pub use failure::{HandshakeFailure, distrusts, handshake_failure};
pub use live::{LiveTls, Tls};
pub use material::{MAX_BYTES, client_identity};
pub use server::{ServerIdentity, ServerTls};
pub use trust::{ClientTrust, Proved};

/// The one protocol that etcd's clients speak over TLS (RFC 9113, 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// A file that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file, as configured.
    pub path: PathBuf,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Printable(&self.path.display().to_string()), Printable(&self.message))
    }
}

/// All files that cannot be used: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsErrors(pub Vec<TlsError>);

impl fmt::Display for TlsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for TlsErrors {}

/// What ends one day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expiring {
    /// The certificate that clients see.
    Server,
    /// A CA of client certificates.
    ClientCa,
    /// A revocation list (its `nextUpdate`).
    Crl,
    /// The proxy's own certificate towards etcd.
    UpstreamClient,
    /// A CA of etcd's server certificates.
    UpstreamCa,
}

impl Expiring {
    /// All of them.
    pub const ALL: [Expiring; 5] = [
        Expiring::Server,
        Expiring::ClientCa,
        Expiring::Crl,
        Expiring::UpstreamClient,
        Expiring::UpstreamCa,
    ];

    /// The stable name in metrics and logs.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Expiring::Server => "server",
            Expiring::ClientCa => "client_ca",
            Expiring::Crl => "crl",
            Expiring::UpstreamClient => "upstream_client",
            Expiring::UpstreamCa => "upstream_ca",
        }
    }
}

/// When something ends. Of several of one sort, each has its own entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// What.
    pub what: Expiring,
    /// The last moment at which it counts.
    pub not_after: SystemTime,
}

/// The one provider of cryptography.
#[must_use]
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
