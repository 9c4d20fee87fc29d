//! The checked configuration of `serve`. [`load()`] builds it from the file, environment variables
//! and flags.

// --- the table of settings ---
#[cfg(test)]
mod reference;
pub mod settings;
// --- the sources ---
mod env;
mod file;
mod flags;
mod given;
mod origin;
// --- precedence, types and rules ---
mod address;
mod check;
mod effective;
mod load;
mod reader;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

#[cfg(test)]
use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::policy::Mode;

pub use effective::Effective;
pub use flags::ServeArgs;
pub use load::load;

/// All settings of `serve`. The table in [`settings`] documents each.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address for client connections, always TLS with client certificates.
    pub listen_addr: SocketAddr,
    /// Load balancers that must send a PROXY protocol v2 header. From other addresses, no header is
    /// accepted.
    pub proxy_protocol_from: Vec<Network>,
    /// TLS of the listener.
    pub downstream: Downstream,
    /// The connections to etcd.
    pub upstream: Upstream,
    /// Client URLs that member lists show in place of etcd's own.
    pub advertise: Advertise,
    /// Handling of the `authorization` and `token` metadata of clients.
    pub client_tokens: ClientTokens,
    /// The policy file.
    pub policy: PathBuf,
    /// Overrides the modes of the policy and of its bindings (break-glass).
    pub mode: Option<Mode>,
    /// Allows shadow mode with etcd's own auth enabled, which gives every client the gateway's
    /// rights in etcd.
    pub allow_shadow_with_etcd_auth: bool,
    /// Secret key of lease ownership, at least 32 bytes, shared by all replicas; `None`: a random
    /// key for this process.
    pub lease_key_file: Option<PathBuf>,
    /// Directory that keeps the last valid policy, for a start with an invalid policy file.
    pub state_dir: Option<PathBuf>,
    /// Adds the trailer `etcd-warden-reason` to refusals. It reveals parts of the policy.
    pub reason_trailer: bool,
    /// Bounds on connections, requests, memory and time.
    pub limits: Limits,
    /// The audit log.
    pub audit: Audit,
    /// Address of `/metrics`, `/livez`, `/readyz` and `/policy`; `None`: they are not served.
    pub admin_addr: Option<SocketAddr>,
    /// Also serves `/debug/*`, which shows identities, at `admin_addr`.
    pub admin_debug: bool,
    /// Unix socket for the admin pages and for changes of the mode.
    pub admin_socket: Option<PathBuf>,
    /// Messages for the operator.
    pub log: Log,
    /// Time between two checks for changed files; zero: only SIGHUP reloads them.
    pub reload_interval: Duration,
    /// Time that a file written in place must stay the same before it is in effect.
    pub reload_settle: Duration,
    /// Time that calls have to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// Threads that serve connections. Each has its own connections to etcd.
    pub workers: usize,
}

/// An address block, `ADDRESS/PREFIX-LENGTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the block.
    pub address: std::net::IpAddr,
    /// Number of leading bits that all addresses of the block share.
    pub prefix: u8,
}

/// TLS towards clients.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// Server certificate chain, PEM.
    pub cert_file: PathBuf,
    /// Private key of the server certificate, PEM.
    pub key_file: PathBuf,
    /// CAs that issue client certificates.
    pub client_cas: Vec<ClientCa>,
    /// Certificate revocation lists, PEM or DER. Empty: revocation is not checked.
    pub crl_files: Vec<PathBuf>,
}

impl Downstream {
    /// The files of the server certificate.
    pub fn identity_files(&self) -> [&Path; 2] {
        [&self.cert_file, &self.key_file]
    }

    /// The files that decide which client certificates are accepted.
    pub fn trust_files(&self) -> impl Iterator<Item = &Path> {
        self.client_cas.iter().map(|ca| &ca.file).chain(&self.crl_files).map(PathBuf::as_path)
    }
}

/// One client CA.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// The name that the field `ca` of a binding refers to; `default` for a file without a name.
    pub name: Arc<str>,
    /// PEM file with at least one certificate.
    pub file: PathBuf,
}

/// Connections to etcd.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Client URLs of the members, at least one.
    pub endpoints: Vec<Endpoint>,
    /// The gateway's client certificate and its private key, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// CAs that issue etcd's server certificates, PEM.
    pub cacert: Option<PathBuf>,
    /// Allows `http://` endpoints.
    pub insecure_plaintext: bool,
    /// Uses the one endpoint only (sidecar).
    pub pin: bool,
    /// Time between two health checks of a member.
    pub health_interval: Duration,
}

impl Upstream {
    /// The files for TLS to etcd.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        self.cacert.iter().chain(identity).map(PathBuf::as_path)
    }
}

/// One member's client URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// True for `https`, false for `http`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: Arc<str>,
    /// TCP port, not 0.
    pub port: u16,
}

/// Client URLs in member lists.
#[derive(Clone, Debug, Default)]
pub struct Advertise {
    /// The URL of every member without an entry in `by_member`.
    pub default: Option<String>,
    /// URLs by member name.
    pub by_member: BTreeMap<String, String>,
}

/// Handling of etcd auth tokens in requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTokens {
    /// Sends them to etcd, which checks its own permissions too: tokens can only remove rights.
    Forward,
    /// Removes them and refuses `Authenticate`.
    Strip,
}

/// Limits of one process. Unless noted, they are for all clients together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from accepting a connection to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// TLS handshakes in progress.
    pub max_handshakes: usize,
    /// Open client connections.
    pub max_connections: usize,
    /// Open client connections of one identity; `None`: a fair share.
    pub max_connections_per_identity: Option<usize>,
    /// Open streams on one client connection.
    pub max_streams: u32,
    /// Requests in progress of all enforced clients, each until the end of its response.
    pub max_requests: usize,
    /// Requests in progress of one identity; `None`: a fair share.
    pub max_requests_per_identity: Option<usize>,
    /// Requests per second of one identity; `None`: unlimited.
    pub requests_per_second_per_identity: Option<u32>,
    /// Watches of all enforced clients.
    pub max_watches: usize,
    /// Watches of one identity; `None`: a fair share.
    pub max_watches_per_identity: Option<usize>,
    /// Bytes of one request message. The default is etcd's `--max-request-bytes` (1.5 MiB) and the
    /// 512 KiB that etcd adds for overhead.
    pub max_request_bytes: usize,
    /// Bytes of the header list of a request, decoded (RFC 9113, 6.5.2).
    pub max_header_bytes: u32,
    /// Bytes that one worker holds of requests that are not complete.
    pub max_held_bytes: usize,
    /// Bytes that one worker holds of responses that clients do not read.
    pub max_unread_bytes: usize,
    /// Time after which a connection without streams is closed.
    pub idle_timeout: Duration,
    /// Age, plus or minus a tenth, at which a client is told to open a new connection.
    pub max_connection_age: Option<Duration>,
    /// Time between two pings to a client. A client that has not answered by the next is
    /// disconnected.
    pub keepalive: Duration,
    /// `Authenticate` calls per second, of which each identity has a fair share: hashing passwords
    /// is slow in etcd.
    pub authenticate_per_second: u32,
}

/// The defaults of the table of settings.
#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        let (effective, mut errors) = (Effective::merge([&[], &[], &[]]), Diagnostics::default());
        let reader = &mut reader::Reader { effective: &effective, errors: &mut errors };
        check::limits(reader).expect("every limit has a default")
    }
}

/// The audit log.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// File to which records are appended as JSON lines.
    pub file: Option<PathBuf>,
    /// Writes records to standard output too.
    pub stdout: bool,
    /// Allowed requests that are recorded. Denials and would-be denials always are.
    pub allowed: AuditAllowed,
    /// Fraction of those allowed requests that is recorded, 0 to 1.
    pub sample: f64,
    /// Records that may wait for the writer.
    pub queue: usize,
    /// Behavior when the queue is full.
    pub on_full: OnFull,
}

/// Allowed requests that the audit log records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAllowed {
    /// No allowed request.
    None,
    /// Requests that may change something.
    Writes,
    /// Every allowed request.
    All,
}

/// Behavior when the audit queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Discards and counts the record. The next record that is written reports the loss.
    Drop,
    /// Refuses the request.
    Deny,
}

/// Messages for the operator.
#[derive(Clone, Debug)]
pub struct Log {
    /// JSON lines instead of text.
    pub json: bool,
    /// Directives of `tracing-subscriber`'s `EnvFilter`.
    pub filter: String,
}
