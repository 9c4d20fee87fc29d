//! TLS towards clients and towards etcd: rustls with aws-lc-rs, TLS 1.2 and 1.3, ALPN `h2`, mutual
//! authentication.
//!
//! All files are checked when they are loaded, and all errors are reported together, so that a
//! handshake can only fail because of the peer. The cryptography provider is always passed
//! explicitly: there is no process-wide default that another crate could change.

mod authority;
mod client;
mod describe;
mod failure;
mod live;
mod material;
mod revocation;
mod server;
mod signatures;
mod trust;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::printable::Printable;

pub use client::{ClientTls, server_name};
pub(crate) use describe::{describe_error, describe_handshake_error};
pub(crate) use failure::is_untrusted;
pub use failure::{HandshakeFailure, handshake_failure};
pub use live::{LiveTls, Tls};
pub(crate) use material::MAX_BYTES;
pub use material::client_identity;
pub use server::{ServerIdentity, ServerTls};
pub use trust::{ClientTrust, VerifiedChain};

/// The only ALPN protocol that is offered and accepted (RFC 9113, 3.2).
pub const ALPN_H2: &[u8] = b"h2";

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError {
    /// The file, as configured.
    pub path: PathBuf,
    /// The error and how to fix it, without the path.
    pub message: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", Printable(&self.path.display().to_string()), Printable(&self.message))
    }
}

/// The errors of all files; at least one when it is returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsErrors(pub Vec<TlsError>);

impl fmt::Display for TlsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for TlsErrors {}

/// Kinds of certificates and lists that expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Expiring {
    /// The listener's server certificate.
    Server,
    /// A CA for client certificates.
    ClientCa,
    /// A revocation list (`nextUpdate`).
    Crl,
    /// The gateway's client certificate towards etcd.
    UpstreamClient,
    /// A CA for etcd's server certificates.
    UpstreamCa,
}

impl Expiring {
    /// All kinds.
    pub const ALL: [Expiring; 5] = [
        Expiring::Server,
        Expiring::ClientCa,
        Expiring::Crl,
        Expiring::UpstreamClient,
        Expiring::UpstreamCa,
    ];

    /// Name in metrics and logs; it does not change between versions.
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

/// When one certificate or list expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// Its kind. Each of several of one kind has an [`Expiry`].
    pub what: Expiring,
    /// Last moment at which it is valid.
    pub not_after: SystemTime,
}

/// The provider of cryptography for all TLS connections.
pub fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[cfg(test)]
mod tests;
