//! What the program runs on: the checked form. Built only from the file, the environment and the
//! flags, in one place ([`load()`]), so that every part of the program can rely on it.

pub mod diagnostic;
pub mod flags;
pub mod reference;
pub mod settings;
// --- what each source says ---
mod env;
mod file;
mod given;
// --- what is in effect, and what it means ---
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

use etcd_warden_core::policy::Mode;

pub use diagnostic::{Diagnostic, Diagnostics, Origin};
pub use effective::Effective;
pub use flags::ServeArgs;
pub use load::load;

/// Everything that `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect. TLS with client certificates, always.
    pub listen_addr: SocketAddr,
    /// Balancers that may speak PROXY protocol v2 to the listener, and then must; empty: nobody
    /// does.
    pub proxy_protocol_from: Vec<Network>,
    /// The listener's TLS.
    pub downstream: Downstream,
    /// etcd.
    pub upstream: Upstream,
    /// What member lists show in place of etcd's client URLs.
    pub advertise: Advertise,
    /// Whether a client's `authorization` and `token` metadata goes to etcd.
    pub client_tokens: ClientTokens,
    /// The policy file.
    pub policy: PathBuf,
    /// Overrides the policy's own mode (break-glass), bindings' modes included.
    pub mode: Option<Mode>,
    /// Shadow in front of an etcd whose own auth is on lends every caller the proxy's rights:
    /// refused unless this is set.
    pub allow_shadow_with_etcd_auth: bool,
    /// The key behind lease ownership, shared by all replicas (at least 32 bytes); without one it
    /// lasts as long as the process.
    pub lease_key_file: Option<PathBuf>,
    /// Keeps the last good policy, for a start with a broken policy file.
    pub state_dir: Option<PathBuf>,
    /// Adds a trailer `etcd-warden-reason` to refusals (it tells about the policy).
    pub reason_trailer: bool,
    /// Limits.
    pub limits: Limits,
    /// The audit.
    pub audit: Audit,
    /// Where `/metrics`, `/livez`, `/readyz` and `/policy` are served; `None`: nowhere.
    pub admin_addr: Option<SocketAddr>,
    /// Whether `/debug/streams`, which names identities, is served there too.
    pub admin_debug: bool,
    /// A socket for the admin pages and for changing the mode.
    pub admin_socket: Option<PathBuf>,
    /// The log.
    pub log: Log,
    /// Between two looks at the files that are reloaded when they change; zero: only a signal
    /// reloads them.
    pub reload_interval: Duration,
    /// How long a file that is written in place has to stay the same before it is in effect.
    pub reload_settle: Duration,
    /// How long a drain may take before connections are closed.
    pub drain_timeout: Duration,
    /// Threads that serve connections, each with connections to etcd of its own.
    pub workers: usize,
}

/// An address block, `ADDRESS/PREFIX-LENGTH`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Any address of the block.
    pub address: std::net::IpAddr,
    /// Bits that count.
    pub prefix: u8,
}

/// TLS towards clients.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// `--cert-file`: the server's certificate chain, PEM.
    pub cert_file: PathBuf,
    /// `--key-file`: its key, PEM.
    pub key_file: PathBuf,
    /// `--trusted-ca-file`, or several with a name each.
    pub client_cas: Vec<ClientCa>,
    /// Revocation lists, PEM or DER. Empty: revocation is not checked.
    pub crl_files: Vec<PathBuf>,
}

impl Downstream {
    /// The files of the server's own certificate.
    #[must_use]
    pub fn identity_files(&self) -> [&Path; 2] {
        [&self.cert_file, &self.key_file]
    }

    /// The files that say whom the listener lets in.
    pub fn trust_files(&self) -> impl Iterator<Item = &Path> {
        self.client_cas.iter().map(|ca| &ca.file).chain(&self.crl_files).map(PathBuf::as_path)
    }
}

/// One client CA.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// The name that a binding's `ca` refers to; `default` for `--trusted-ca-file`.
    pub name: Arc<str>,
    /// PEM file with at least one certificate.
    pub file: PathBuf,
}

/// etcd, seen from here.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// `--cert` and `--key`: the proxy's own client certificate.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// `--cacert`: who signed etcd's server certificates.
    pub cacert: Option<PathBuf>,
    /// Plain text to `http://` endpoints was asked for by its flag.
    pub insecure_plaintext: bool,
    /// Only the first endpoint is ever used (the sidecar form).
    pub pin: bool,
    /// Between two health checks of one member.
    pub health_interval: Duration,
}

impl Upstream {
    /// The files of the way to etcd.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        self.cacert.iter().chain(identity).map(PathBuf::as_path)
    }
}

/// One member's client URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// `https`, or `http` with the plain-text flag.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// What member lists show.
#[derive(Clone, Debug, Default)]
pub struct Advertise {
    /// `--advertise-client-url`: for every member that has no entry of its own.
    pub default: Option<String>,
    /// By member name.
    pub by_member: BTreeMap<String, String>,
}

/// What happens to tokens that clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTokens {
    /// They go to etcd, which then judges too: they can only narrow.
    Forward,
    /// They are removed, and `Authenticate` is refused.
    Strip,
}

/// Limits of one process.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From accept to the end of the TLS handshake.
    pub handshake_timeout: Duration,
    /// Handshakes at once.
    pub max_handshakes: usize,
    /// Client connections at once.
    pub max_connections: usize,
    /// Client connections at once of one identity; `None`: its fair share of them.
    pub max_connections_per_identity: Option<usize>,
    /// Streams at once on one client connection.
    pub max_streams: u32,
    /// Requests at once of all clients under enforcement, each until its answer's body has ended.
    pub max_requests: usize,
    /// The same of one identity; `None`: its fair share of them.
    pub max_requests_per_identity: Option<usize>,
    /// Requests per second of one identity; `None`: any number.
    pub requests_per_second_per_identity: Option<u32>,
    /// Watches at once of all clients under enforcement.
    pub max_watches: usize,
    /// The same of one identity; `None`: its fair share of them.
    pub max_watches_per_identity: Option<usize>,
    /// Bytes of one request message. etcd's `--max-request-bytes` (1.5 MiB) and the 512 KiB that
    /// it adds for overhead.
    pub max_request_bytes: usize,
    /// Bytes of a request's header list, decoded (RFC 9113, 6.5.2).
    pub max_header_bytes: u32,
    /// Bytes of requests held by one worker thread while their end is awaited.
    pub max_held_bytes: usize,
    /// Bytes of answers held by one worker thread for clients that do not read them.
    pub max_unread_bytes: usize,
    /// A connection without any stream is closed after this.
    pub idle_timeout: Duration,
    /// A client is told to open another connection when one is about this old.
    pub max_connection_age: Option<Duration>,
    /// Between two pings to a client; one that has not answered by the next is disconnected.
    pub keepalive: Duration,
    /// `Authenticate` calls per second, of which each identity has a fair share (etcd hashes
    /// passwords slowly).
    pub authenticate_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            max_handshakes: 4096,
            max_connections: 20_000,
            max_connections_per_identity: None,
            max_streams: 10_000,
            max_requests: 200_000,
            max_requests_per_identity: None,
            requests_per_second_per_identity: None,
            max_watches: 1_000_000,
            max_watches_per_identity: None,
            max_request_bytes: 2 * 1024 * 1024,
            max_header_bytes: 16 * 1024,
            max_held_bytes: 64 * 1024 * 1024,
            max_unread_bytes: 256 * 1024 * 1024,
            idle_timeout: Duration::from_secs(3600),
            max_connection_age: None,
            keepalive: Duration::from_secs(30),
            authenticate_per_second: 20,
        }
    }
}

/// The audit.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// JSON lines go to this file.
    pub file: Option<PathBuf>,
    /// JSON lines go to standard output.
    pub stdout: bool,
    /// Which allowed requests are written too. Denials and would-be denials always are.
    pub allowed: AuditAllowed,
    /// Of those allowed requests, the part that is written, 0 to 1.
    pub sample: f64,
    /// Lines that may wait for the writer.
    pub queue: usize,
    /// What happens when they are more.
    pub on_full: OnFull,
}

/// Which allowed requests the audit shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditAllowed {
    /// None.
    None,
    /// Those that may change something.
    Writes,
    /// All.
    All,
}

/// What happens when the audit queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The line is lost, counted, and the loss is in the next line that goes out.
    Drop,
    /// The request is refused.
    Deny,
}

/// The log.
#[derive(Clone, Debug)]
pub struct Log {
    /// JSON instead of text.
    pub json: bool,
    /// As `tracing-subscriber`'s `EnvFilter` reads it.
    pub filter: String,
}
