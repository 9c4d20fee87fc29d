//! The table of all settings of `serve`. File keys, flags, environment variables, defaults, bounds,
//! help, `--print-config` and `docs/configuration.md` come from it.
//!
//! A setting has one name, as in etcd: `listen-addr` is the key in the file, `--listen-addr` the
//! flag and `ETCD_WARDEN_LISTEN_ADDR` the variable. Names and meanings are those of `etcd
//! grpc-proxy start` (`server/etcdmain/grpc_proxy.go`) where it has the same setting.

use std::fmt;
use std::time::Duration;

/// The number of values that a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Exactly one.
    One,
    /// One or more: a list in the file, separated by commas in flags and variables.
    List,
    /// One, or several with names: a mapping in the file, `NAME=VALUE,NAME=VALUE` in flags and
    /// variables.
    Named,
}

/// The type of a value, with inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `IP:PORT`.
    Address,
    /// `IP:PORT`, or `none`.
    AddressOrNone,
    /// `ADDRESS/PREFIX-LENGTH`.
    Network,
    /// A path, relative to the working directory.
    Path,
    /// `https://HOST:PORT`, `http://HOST:PORT`, or `HOST:PORT`, which means `https`.
    Endpoint,
    /// `https://HOST:PORT`.
    ClientUrl,
    /// `true` or `false`. A flag alone means `true`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A number with a unit, such as `10s` or `1h 30m`.
    Duration(Duration, Duration),
    /// A whole number.
    Count(u64, u64),
    /// A whole number, or `auto`.
    CountOrAuto(u64, u64),
    /// A number of bytes, or of `KiB`, `MiB` or `GiB`.
    Bytes(u64, u64),
    /// A decimal from 0 to 1.
    Fraction,
    /// Directives of `tracing-subscriber`'s `EnvFilter`.
    LogFilter,
}

/// The value of a setting that no source sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// A value in the notation of the file.
    Value(&'static str),
    /// No value. The text describes the effect.
    Unset(&'static str),
    /// There is no safe default.
    Required,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key of the row.
    pub key: Key,
    /// The heading in the help and the reference.
    pub section: &'static str,
    /// The name in the file, and that of the flag without its dashes.
    pub name: &'static str,
    /// The number of values.
    pub shape: Shape,
    /// The type of each value.
    pub kind: Kind,
    /// The value that applies if no source sets one.
    pub default: DefaultValue,
    /// The help, in one to three sentences.
    pub help: &'static str,
}

impl Setting {
    /// The name of the environment variable.
    pub fn variable(&self) -> String {
        format!("{}{}", super::env::PREFIX, self.name.to_uppercase().replace('-', "_"))
    }
}

impl Key {
    /// The row of this key.
    pub fn setting(self) -> &'static Setting {
        #[expect(
            clippy::indexing_slicing,
            reason = "the macro below makes one row for each variant, in the same order"
        )]
        &SETTINGS[self as usize]
    }

    /// The setting with this name in the file.
    pub fn named(name: &str) -> Option<Key> {
        SETTINGS.iter().find(|setting| setting.name == name).map(|setting| setting.key)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.setting().name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |duration: &Duration| humantime::format_duration(*duration);
        match self {
            Kind::Address => f.write_str("`IP:PORT`"),
            Kind::AddressOrNone => f.write_str("`IP:PORT`, or `none`"),
            Kind::Network => f.write_str("`ADDRESS/PREFIX-LENGTH`, or an address alone"),
            Kind::Path => f.write_str("a path"),
            Kind::Endpoint => {
                f.write_str("`https://HOST:PORT`, or `HOST:PORT`, which means the same")
            }
            Kind::ClientUrl => f.write_str("`https://HOST:PORT`"),
            Kind::Switch => f.write_str("`true` or `false`"),
            Kind::Choice(words) => write!(f, "`{}`", words.join("` or `")),
            Kind::Duration(min, max) => write!(f, "a time from {} to {}", time(min), time(max)),
            Kind::Count(min, max) => write!(f, "a number from {min} to {max}"),
            Kind::CountOrAuto(min, max) => write!(f, "a number from {min} to {max}, or `auto`"),
            Kind::Bytes(min, max) => write!(f, "bytes, from {} to {}", Bytes(*min), Bytes(*max)),
            Kind::Fraction => f.write_str("a number from 0 to 1"),
            Kind::LogFilter => f.write_str("a level, or `TARGET=LEVEL` directives"),
        }
    }
}

/// Displays a number of bytes in the largest unit that divides it.
pub(super) struct Bytes(pub(super) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            n if n % GIB == 0 => write!(f, "{}GiB", n / GIB),
            n if n % MIB == 0 => write!(f, "{}MiB", n / MIB),
            n if n % KIB == 0 => write!(f, "{}KiB", n / KIB),
            n => write!(f, "{n}"),
        }
    }
}

pub(super) const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

macro_rules! settings {
    ($($section:literal {
        $($(#[doc = $help:literal])+
        $key:ident = $name:literal: $shape:ident $kind:expr, $default:expr;)+
    })+) => {
        /// The name of a setting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Key { $($($(#[doc = $help])+ $key,)+)+ }

        /// All settings, in the order of the reference.
        pub static SETTINGS: &[Setting] = &[$($(Setting {
            key: Key::$key, section: $section, name: $name, shape: Shape::$shape, kind: $kind,
            default: $default,
            help: concat!($($help),+),
        },)+)+];
    };
}

settings! {
    "Clients" {
        /// Address for client connections, always TLS with client certificates. `:PORT` listens on
        /// all addresses of the host.
        ListenAddr = "listen-addr": One Kind::Address, DefaultValue::Value("127.0.0.1:23790");
        /// Server certificate chain in PEM, leaf first.
        CertFile = "cert-file": One Kind::Path, DefaultValue::Required;
        /// Private key of `cert-file` in PEM, not encrypted.
        KeyFile = "key-file": One Kind::Path, DefaultValue::Required;
        /// CA certificates in PEM that issue client certificates. A single file is the CA named
        /// `default`. With names, a binding of the policy can require one of the CAs.
        TrustedCaFile = "trusted-ca-file": Named Kind::Path, DefaultValue::Required;
        /// Certificate revocation lists, PEM or DER. If any is set, each client CA needs a current
        /// one: a certificate whose revocation status is unknown is refused.
        ClientCrlFile = "client-crl-file": List Kind::Path,
            DefaultValue::Unset("revocation is not checked");
        /// Networks of load balancers that send a PROXY protocol v2 header. Connections from them
        /// must begin with the header; connections from other addresses must not.
        ProxyProtocolFrom = "proxy-protocol-from": List Kind::Network,
            DefaultValue::Unset("no connection may send the header");
        /// Client URL that member lists show in place of etcd's own, so that clients do not bypass
        /// the gateway. With names, the URL of each member.
        AdvertiseClientUrl = "advertise-client-url": Named Kind::ClientUrl,
            DefaultValue::Unset("member lists show the URLs that etcd advertises");
        /// `forward` sends the `authorization` and `token` metadata of clients to etcd, which then
        /// checks its own permissions too. `strip` removes them and refuses `Authenticate`.
        ClientTokens = "client-tokens": One Kind::Choice(&["forward", "strip"]),
            DefaultValue::Value("forward");
    }
    "etcd" {
        /// Client URLs of the etcd members.
        Endpoints = "endpoints": List Kind::Endpoint, DefaultValue::Value("127.0.0.1:2379");
        /// The gateway's client certificate for etcd, PEM.
        Cert = "cert": One Kind::Path, DefaultValue::Unset("no client certificate is sent to etcd");
        /// Private key of `cert` in PEM, not encrypted.
        Key = "key": One Kind::Path, DefaultValue::Unset("required together with `cert`");
        /// CA certificates in PEM that issue etcd's server certificates. The root certificates of
        /// the system are never used.
        Cacert = "cacert": One Kind::Path,
            DefaultValue::Unset("required, unless every endpoint is plain text");
        /// Allows `http://` endpoints. Any host that can reach such an etcd can bypass the gateway.
        InsecurePlaintextUpstream = "insecure-plaintext-upstream": One Kind::Switch,
            DefaultValue::Value("false");
        /// Sends every request to the one endpoint and never to another member of the cluster. For
        /// a gateway that runs beside its member (sidecar).
        Pin = "pin": One Kind::Switch, DefaultValue::Value("false");
        /// Time between two health checks of a member.
        HealthInterval = "health-interval": One
            Kind::Duration(Duration::from_millis(100), seconds(3600)), DefaultValue::Value("5s");
    }
    "Policy" {
        /// The policy file.
        Policy = "policy": One Kind::Path, DefaultValue::Required;
        /// Overrides the mode of the policy and of all its bindings. `shadow` is the emergency mode
        /// (break-glass): requests are decided and recorded, but none is refused.
        Mode = "mode": One Kind::Choice(&["shadow", "enforce"]),
            DefaultValue::Unset("the modes of the policy apply");
        /// Allows shadow mode although etcd's own auth is enabled. Every client in shadow mode then
        /// has the gateway's rights in etcd.
        AllowShadowWithEtcdAuth = "allow-shadow-with-etcd-auth": One Kind::Switch,
            DefaultValue::Value("false");
        /// File with the secret key that marks lease ids with their owner: at least 32 random bytes
        /// (`openssl rand 32`), the same for all replicas.
        LeaseKeyFile = "lease-key-file": One Kind::Path,
            DefaultValue::Unset("a random key, so ownership ends with the process");
        /// Directory that keeps the last valid policy. If the policy file is invalid at start, the
        /// gateway uses that policy and reports it.
        StateDir = "state-dir": One Kind::Path,
            DefaultValue::Unset("the gateway does not start with an invalid policy file");
        /// Adds the trailer `etcd-warden-reason` to refusals. It reveals parts of the policy to
        /// clients.
        ReasonTrailer = "reason-trailer": One Kind::Switch, DefaultValue::Value("false");
    }
    "Limits" {
        /// Time from accepting a connection to the end of its TLS handshake.
        HandshakeTimeout = "handshake-timeout": One
            Kind::Duration(Duration::from_millis(100), seconds(300)), DefaultValue::Value("10s");
        /// TLS handshakes in progress. Above the limit, a new connection replaces the oldest
        /// handshake of the address that has the most. A connection from that address itself waits
        /// until a handshake ends, or until its oldest has taken a twentieth of
        /// `handshake-timeout`. The same number of connections may wait.
        MaxHandshakes = "max-handshakes": One Kind::Count(1, 1_000_000),
            DefaultValue::Value("4096");
        /// Open client connections.
        MaxConnections = "max-connections": One Kind::Count(1, 1_000_000),
            DefaultValue::Value("20000");
        /// Open client connections of one identity, which is all clients that share a name. By
        /// default, no identity gets more connections than are left for all others.
        MaxConnectionsPerIdentity = "max-connections-per-identity": One Kind::Count(1, 1_000_000),
            DefaultValue::Unset("a fair share of `max-connections`");
        /// Open streams on one client connection.
        MaxConcurrentStreams = "max-concurrent-streams": One Kind::Count(1, 1_000_000),
            DefaultValue::Value("10000");
        /// Requests in progress of all enforced clients, each from its headers to the end of the
        /// response. A stream is one request.
        MaxRequestsInFlight = "max-requests-in-flight": One Kind::Count(1, 10_000_000),
            DefaultValue::Value("200000");
        /// Requests in progress of one identity.
        MaxRequestsInFlightPerIdentity = "max-requests-in-flight-per-identity": One
            Kind::Count(1, 10_000_000),
            DefaultValue::Unset("a fair share of `max-requests-in-flight`");
        /// Requests per second of one identity, and the size of a burst. The creation of a watch
        /// counts as a request. Other messages of a stream are delayed instead.
        RequestsPerSecondPerIdentity = "requests-per-second-per-identity": One
            Kind::Count(1, 10_000_000), DefaultValue::Unset("no limit");
        /// Watches of all enforced clients; several may share a stream. A watch on keys of more
        /// than 1 KiB counts as one more for each KiB.
        MaxWatches = "max-watches": One Kind::Count(1, 100_000_000),
            DefaultValue::Value("1000000");
        /// Watches of one identity.
        MaxWatchesPerIdentity = "max-watches-per-identity": One Kind::Count(1, 100_000_000),
            DefaultValue::Unset("a fair share of `max-watches`");
        /// Size of one request message. The default is etcd's limit of 1.5 MiB and the 512 KiB that
        /// etcd adds for overhead. If etcd's `--max-request-bytes` is higher, add 512 KiB to that.
        MaxRequestBytes = "max-request-bytes": One Kind::Bytes(KIB, GIB),
            DefaultValue::Value("2MiB");
        /// Size of the headers of a request, decoded (RFC 9113, section 6.5.2).
        MaxHeaderBytes = "max-header-bytes": One Kind::Bytes(KIB, MIB),
            DefaultValue::Value("16KiB");
        /// Memory of one worker for requests that are not complete. At least `max-request-bytes`.
        MaxHeldBytes = "max-held-bytes": One Kind::Bytes(MIB, 64 * GIB),
            DefaultValue::Value("64MiB");
        /// Memory of one worker for responses that clients do not read. If an identity exceeds its
        /// share, its unread responses are ended.
        MaxUnreadBytes = "max-unread-bytes": One Kind::Bytes(MIB, 64 * GIB),
            DefaultValue::Value("256MiB");
        /// Time after which a client connection without streams is closed.
        IdleTimeout = "idle-timeout": One Kind::Duration(seconds(1), seconds(7 * 86_400)),
            DefaultValue::Value("1h");
        /// Age, plus or minus a tenth, at which a client is told to open a new connection, so that
        /// load spreads again after a restart. Streams end so that clientv3 reopens them.
        MaxConnectionAge = "max-connection-age": One
            Kind::Duration(seconds(1), seconds(365 * 86_400)),
            DefaultValue::Unset("the lifetime of the client's certificate");
        /// Time between two pings to a client. A client that has not answered by the next ping is
        /// disconnected.
        GrpcKeepaliveInterval = "grpc-keepalive-interval": One
            Kind::Duration(seconds(1), seconds(86_400)), DefaultValue::Value("30s");
        /// `Authenticate` calls per second of all clients, because etcd hashes passwords slowly. No
        /// identity gets more of them than are left for all others.
        AuthenticatePerSecond = "authenticate-per-second": One Kind::Count(2, 100_000),
            DefaultValue::Value("20");
    }
    "Audit" {
        /// File to which audit records are appended as JSON lines. SIGHUP reopens it.
        AuditFile = "audit-file": One Kind::Path, DefaultValue::Unset("no file");
        /// Writes audit records to standard output as JSON lines.
        AuditStdout = "audit-stdout": One Kind::Switch, DefaultValue::Value("false");
        /// Allowed requests that are recorded. Denied requests, and requests that enforcement would
        /// deny, are always recorded.
        AuditAllowed = "audit-allowed": One Kind::Choice(&["none", "writes", "all"]),
            DefaultValue::Value("none");
        /// Fraction of the requests of `audit-allowed` that is recorded.
        AuditSample = "audit-sample": One Kind::Fraction, DefaultValue::Value("1");
        /// Audit records that may wait for the disk.
        AuditQueue = "audit-queue": One Kind::Count(1, 10_000_000), DefaultValue::Value("16384");
        /// Behavior when the queue is full: `drop` discards and counts records, `deny` refuses
        /// requests.
        AuditOnFull = "audit-on-full": One Kind::Choice(&["drop", "deny"]),
            DefaultValue::Value("drop");
    }
    "Running" {
        /// Address of the HTTP pages `/metrics`, `/livez`, `/readyz` and `/policy`, without TLS.
        AdminAddr = "admin-addr": One Kind::AddressOrNone, DefaultValue::Value("127.0.0.1:23791");
        /// Serves `/debug/*` at `admin-addr` too. These pages show identities, and every pod in the
        /// host's network can read loopback addresses.
        AdminDebug = "admin-debug": One Kind::Switch, DefaultValue::Value("false");
        /// Unix socket for root and the user of the gateway. It serves the pages of `admin-addr`,
        /// `/debug/*`, and `POST /mode` (`shadow`, `enforce` or `policy`), which changes the mode
        /// without a restart (break-glass).
        AdminSocket = "admin-socket": One Kind::Path, DefaultValue::Unset("no socket");
        /// Format of the log.
        LogFormat = "log-format": One Kind::Choice(&["text", "json"]), DefaultValue::Value("text");
        /// Level of the log, or directives by module. Release builds have no messages of level
        /// `trace`, because libraries would check that level at every step of a request.
        LogFilter = "log-filter": One Kind::LogFilter, DefaultValue::Value("info");
        /// Time between two checks of the policy, certificates, keys and revocation lists. Files
        /// whose content has changed are reloaded. With `0s`, only SIGHUP reloads them.
        ReloadInterval = "reload-interval": One Kind::Duration(Duration::ZERO, seconds(3600)),
            DefaultValue::Value("1s");
        /// Time that a changed file must stay the same before it is in effect, because it may be
        /// half written. Two equal checks suffice for a policy that ends with `...` and was renamed
        /// into place, for a CA bundle that only gained certificates, and for a symbolic link that
        /// now leads elsewhere.
        ReloadSettle = "reload-settle": One Kind::Duration(Duration::ZERO, seconds(3600)),
            DefaultValue::Value("5s");
        /// Time that calls have to finish after SIGTERM.
        DrainTimeout = "drain-timeout": One Kind::Duration(Duration::ZERO, seconds(3600)),
            DefaultValue::Value("30s");
        /// Threads that serve connections. Each has its own connections to etcd. `auto` is one per
        /// CPU core.
        Workers = "workers": One Kind::CountOrAuto(1, 1024), DefaultValue::Value("auto");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_row() {
        for (index, setting) in SETTINGS.iter().enumerate() {
            assert_eq!(setting.key as usize, index);
            assert_eq!(setting.key.setting().name, setting.name);
            assert_eq!(Key::named(setting.name), Some(setting.key));
        }
    }

    #[test]
    fn names_are_kebab_case_and_variables_follow() {
        for setting in SETTINGS {
            assert!(
                setting.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{}",
                setting.name
            );
        }
        assert_eq!(Key::TrustedCaFile.setting().variable(), "ETCD_WARDEN_TRUSTED_CA_FILE");
    }

    #[test]
    fn the_main_flags_of_grpc_proxy_are_settings() {
        let names = "listen-addr endpoints advertise-client-url cert key cacert cert-file \
                     key-file trusted-ca-file";
        for name in names.split(' ') {
            assert!(Key::named(name).is_some(), "{name}");
        }
    }
}
