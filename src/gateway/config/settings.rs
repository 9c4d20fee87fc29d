//! Every setting of `serve`, declared once. The file's keys, the flags, the environment's names,
//! the defaults, the bounds, the help, `--print-config` and `docs/configuration.md` all come from
//! this table.
//!
//! A setting has one name, as in etcd: `listen-addr` is the key in the file, `--listen-addr` the
//! flag and `ETCD_WARDEN_LISTEN_ADDR` the variable. Names and meanings are those of `etcd
//! grpc-proxy start` (`server/etcdmain/grpc_proxy.go`) wherever it has the same thing.

use std::fmt;
use std::time::Duration;

/// How many values a setting takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One.
    One,
    /// One or more: a list in the file, separated by commas elsewhere.
    List,
    /// One, or several with a name each: a mapping in the file, `NAME=VALUE,NAME=VALUE` elsewhere.
    Named,
}

/// What a value is, with its bounds (both inclusive).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// `IP:PORT`.
    Address,
    /// `IP:PORT`, or `none`.
    AddressOrNone,
    /// `ADDRESS/PREFIX-LENGTH`.
    Network,
    /// A path; relative ones count from the working directory.
    Path,
    /// `https://HOST:PORT` or `http://HOST:PORT`; without a scheme, `https` is meant.
    Endpoint,
    /// `https://HOST:PORT`, as clients reach it.
    ClientUrl,
    /// `true` or `false`. A flag alone means `true`.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// With its unit, such as `10s` or `1h 30m`.
    Duration(Duration, Duration),
    /// A whole number.
    Count(u64, u64),
    /// A whole number, or `auto`.
    CountOrAuto(u64, u64),
    /// Bytes, with `KiB`, `MiB` or `GiB` if wanted.
    Bytes(u64, u64),
    /// A decimal from 0 to 1.
    Fraction,
    /// Directives of `tracing-subscriber`'s `EnvFilter`.
    LogFilter,
}

/// What holds when nobody sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This, written as an operator would.
    Value(&'static str),
    /// Nothing, which means this.
    Unset(&'static str),
    /// There is no safe default.
    Required,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Which one.
    pub key: Key,
    /// Its heading in the reference.
    pub section: &'static str,
    /// Its name in the file; the flag is this with two dashes.
    pub name: &'static str,
    /// How many values.
    pub shape: Shape,
    /// What they are.
    pub kind: Kind,
    /// Without any.
    pub default: Default,
    /// What it does, in a sentence or three.
    pub meaning: &'static str,
}

impl Setting {
    /// The name of its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{}{}", super::env::PREFIX, self.name.to_uppercase().replace('-', "_"))
    }
}

impl Key {
    /// Its row.
    #[must_use]
    pub fn setting(self) -> &'static Setting {
        #[expect(
            clippy::indexing_slicing,
            reason = "the macro below makes one row for each variant, in the same order"
        )]
        &SETTINGS[self as usize]
    }

    /// The setting of this name.
    #[must_use]
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

/// A number of bytes, shown in the largest unit that fits it exactly.
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
    ($($section:literal { $($(#[doc = $meaning:literal])+ $key:ident = $name:literal: $shape:ident $kind:expr, $default:expr;)+ })+) => {
        /// Names a setting.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Key { $($($(#[doc = $meaning])+ $key,)+)+ }

        /// All settings, in the order of the reference.
        pub static SETTINGS: &[Setting] = &[$($(Setting {
            key: Key::$key, section: $section, name: $name, shape: Shape::$shape, kind: $kind, default: $default,
            meaning: concat!($($meaning),+),
        },)+)+];
    };
}

settings! {
    "Clients" {
        /// Where clients connect. Always TLS with client certificates. `:PORT` means all addresses of the host.
        ListenAddr = "listen-addr": One Kind::Address, Default::Value("127.0.0.1:23790");
        /// The server's certificate chain, PEM, leaf first.
        CertFile = "cert-file": One Kind::Path, Default::Required;
        /// The key of that certificate, PEM, not encrypted.
        KeyFile = "key-file": One Kind::Path, Default::Required;
        /// Who issues client certificates, PEM. One file is the CA named `default`; with names, a binding of the policy can ask for one of them.
        TrustedCaFile = "trusted-ca-file": Named Kind::Path, Default::Required;
        /// Revocation lists, PEM or DER. With any, every client CA needs one that is in date: a certificate whose status is unknown is refused.
        ClientCrlFile = "client-crl-file": List Kind::Path, Default::Unset("revocation is not checked");
        /// Balancers that speak PROXY protocol v2 to the listener. They must speak it, and nobody else may.
        ProxyProtocolFrom = "proxy-protocol-from": List Kind::Network, Default::Unset("nobody speaks it");
        /// What member lists show clients in place of etcd's own URLs; with names, by member.
        AdvertiseClientUrl = "advertise-client-url": Named Kind::ClientUrl, Default::Unset("member lists show what etcd advertises");
        /// Whether `authorization` and `token` metadata of clients goes to etcd, which then judges too. `strip` removes it and refuses `Authenticate`.
        ClientTokens = "client-tokens": One Kind::Choice(&["forward", "strip"]), Default::Value("forward");
    }
    "etcd" {
        /// etcd's client URLs.
        Endpoints = "endpoints": List Kind::Endpoint, Default::Value("127.0.0.1:2379");
        /// The proxy's own client certificate, PEM.
        Cert = "cert": One Kind::Path, Default::Unset("etcd sees no client certificate");
        /// The key of that certificate, PEM, not encrypted.
        Key = "key": One Kind::Path, Default::Unset("as for `cert`: both or none");
        /// Who issues etcd's server certificates, PEM. The system's own roots are never used.
        Cacert = "cacert": One Kind::Path, Default::Unset("required, unless every endpoint is plain text");
        /// Allows `http://` endpoints. Whoever can reach such an etcd needs no proxy.
        InsecurePlaintextUpstream = "insecure-plaintext-upstream": One Kind::Switch, Default::Value("false");
        /// This proxy belongs to its one endpoint (the sidecar form): nothing ever goes to another member.
        Pin = "pin": One Kind::Switch, Default::Value("false");
        /// Time between two health checks of one member.
        HealthInterval = "health-interval": One Kind::Duration(Duration::from_millis(100), seconds(3600)), Default::Value("5s");
    }
    "Policy" {
        /// The policy file.
        Policy = "policy": One Kind::Path, Default::Required;
        /// Overrides every mode in the policy. `shadow` is the break-glass: judge, record, refuse nothing.
        Mode = "mode": One Kind::Choice(&["shadow", "enforce"]), Default::Unset("the policy's own modes hold");
        /// Starts in shadow mode though etcd's own auth is on. Every caller then has the proxy's rights in etcd.
        AllowShadowWithEtcdAuth = "allow-shadow-with-etcd-auth": One Kind::Switch, Default::Value("false");
        /// The secret behind lease ownership, at least 32 random bytes, the same for all replicas.
        LeaseKeyFile = "lease-key-file": One Kind::Path, Default::Unset("a random one, known to this process alone");
        /// Keeps the last good policy in this folder. A start with a broken policy file comes up with it, and says so.
        StateDir = "state-dir": One Kind::Path, Default::Unset("a broken policy file means no start");
        /// Adds the trailer `etcd-warden-reason` to refusals. It tells callers about the policy.
        ReasonTrailer = "reason-trailer": One Kind::Switch, Default::Value("false");
    }
    "Limits" {
        /// From accept to the end of the TLS handshake.
        HandshakeTimeout = "handshake-timeout": One Kind::Duration(Duration::from_millis(100), seconds(300)), Default::Value("10s");
        /// Handshakes at once. Above it, the address with the most of them gives up its oldest for others; who has as many waits until one ends, or the oldest has had a twentieth of `handshake-timeout`. As many may wait.
        MaxHandshakes = "max-handshakes": One Kind::Count(1, 1_000_000), Default::Value("4096");
        /// Client connections at once.
        MaxConnections = "max-connections": One Kind::Count(1, 1_000_000), Default::Value("20000");
        /// Client connections at once of one identity, that is of all who share a name. By default nobody has more than are left for all others.
        MaxConnectionsPerIdentity = "max-connections-per-identity": One Kind::Count(1, 1_000_000), Default::Unset("a fair share of `max-connections`");
        /// Streams at once on one client connection.
        MaxConcurrentStreams = "max-concurrent-streams": One Kind::Count(1, 1_000_000), Default::Value("10000");
        /// Requests at once of all clients under enforcement, each from its head to the end of its answer's body; a stream is one.
        MaxRequestsInFlight = "max-requests-in-flight": One Kind::Count(1, 10_000_000), Default::Value("200000");
        /// The same of one identity.
        MaxRequestsInFlightPerIdentity = "max-requests-in-flight-per-identity": One Kind::Count(1, 10_000_000), Default::Unset("a fair share of `max-requests-in-flight`");
        /// Requests per second of one identity, and as many at once. A watch counts when it is created; other messages of a stream wait their turn.
        RequestsPerSecondPerIdentity = "requests-per-second-per-identity": One Kind::Count(1, 10_000_000), Default::Unset("no limit");
        /// Watches at once of all clients under enforcement; several may share a stream. One on keys of more than 1 KiB counts once more for each KiB.
        MaxWatches = "max-watches": One Kind::Count(1, 100_000_000), Default::Value("1000000");
        /// The same of one identity.
        MaxWatchesPerIdentity = "max-watches-per-identity": One Kind::Count(1, 100_000_000), Default::Unset("a fair share of `max-watches`");
        /// Size of one request message. The default is etcd's 1.5 MiB and the 512 KiB that it adds for overhead: where etcd's `--max-request-bytes` is larger, add 512 KiB to that.
        MaxRequestBytes = "max-request-bytes": One Kind::Bytes(KIB, GIB), Default::Value("2MiB");
        /// Size of a request's headers, decoded (RFC 9113, 6.5.2).
        MaxHeaderBytes = "max-header-bytes": One Kind::Bytes(KIB, MIB), Default::Value("16KiB");
        /// Requests that one worker may hold while their end is awaited, in bytes. Not below `max-request-bytes`.
        MaxHeldBytes = "max-held-bytes": One Kind::Bytes(MIB, 64 * GIB), Default::Value("64MiB");
        /// Answers that one worker may hold for clients that do not read them, in bytes. Above its share of it, an identity's unread answers end.
        MaxUnreadBytes = "max-unread-bytes": One Kind::Bytes(MIB, 64 * GIB), Default::Value("256MiB");
        /// A connection without any stream is closed after this.
        IdleTimeout = "idle-timeout": One Kind::Duration(seconds(1), seconds(7 * 86_400)), Default::Value("1h");
        /// A client is told to open another connection when one is about this old (a tenth more or less), so that load spreads again after a restart. Its streams end so that clientv3 opens them again.
        MaxConnectionAge = "max-connection-age": One Kind::Duration(seconds(1), seconds(365 * 86_400)), Default::Unset("as long as the client's certificate");
        /// Time between two pings to a client. One that has not answered by the next is disconnected.
        GrpcKeepaliveInterval = "grpc-keepalive-interval": One Kind::Duration(seconds(1), seconds(86_400)), Default::Value("30s");
        /// `Authenticate` calls per second: etcd hashes passwords slowly. No identity has more of them than are left for all others.
        AuthenticatePerSecond = "authenticate-per-second": One Kind::Count(2, 100_000), Default::Value("20");
    }
    "Audit" {
        /// JSON lines are appended to this file. SIGHUP opens it again.
        AuditFile = "audit-file": One Kind::Path, Default::Unset("no file");
        /// JSON lines go to standard output.
        AuditStdout = "audit-stdout": One Kind::Switch, Default::Value("false");
        /// Which allowed requests are written. Refusals, and what enforcement would refuse, always are.
        AuditAllowed = "audit-allowed": One Kind::Choice(&["none", "writes", "all"]), Default::Value("none");
        /// The part of those allowed requests that is written.
        AuditSample = "audit-sample": One Kind::Fraction, Default::Value("1");
        /// Lines that may wait for the disk.
        AuditQueue = "audit-queue": One Kind::Count(1, 10_000_000), Default::Value("16384");
        /// What happens when more wait: `drop` loses lines and counts them, `deny` refuses requests.
        AuditOnFull = "audit-on-full": One Kind::Choice(&["drop", "deny"]), Default::Value("drop");
    }
    "Running" {
        /// Where `/metrics`, `/livez`, `/readyz` and `/policy` are served, in plain text.
        AdminAddr = "admin-addr": One Kind::AddressOrNone, Default::Value("127.0.0.1:23791");
        /// Serves `/debug/*` there too. It names identities, and loopback is open to every pod in the host's network.
        AdminDebug = "admin-debug": One Kind::Switch, Default::Value("false");
        /// A socket for root and the user that the proxy runs as: the same pages, `/debug/*` too, and `POST /mode` (`shadow`, `enforce` or `policy`), the break-glass without a restart.
        AdminSocket = "admin-socket": One Kind::Path, Default::Unset("no socket");
        /// How the log is written.
        LogFormat = "log-format": One Kind::Choice(&["text", "json"]), Default::Value("text");
        /// What is logged. Of level `trace` there is nothing in a release: libraries ask for it at every step of a request.
        LogFilter = "log-filter": One Kind::LogFilter, Default::Value("info");
        /// Time between two looks at the files of the policy, certificates, keys and revocation lists: those whose content has changed are read again. With `0s`, only SIGHUP does that.
        ReloadInterval = "reload-interval": One Kind::Duration(Duration::ZERO, seconds(3600)), Default::Value("1s");
        /// How long a file that has changed has to stay the same before it is in effect: it may be half written. Another file that is a policy and ends with `...`, a bundle that has only gained, and what a link newly leads to are in effect when two looks have found the same.
        ReloadSettle = "reload-settle": One Kind::Duration(Duration::ZERO, seconds(3600)), Default::Value("5s");
        /// How long calls may take to finish after SIGTERM.
        DrainTimeout = "drain-timeout": One Kind::Duration(Duration::ZERO, seconds(3600)), Default::Value("30s");
        /// Threads that serve connections, each with connections to etcd of its own. `auto` is one per core.
        Workers = "workers": One Kind::CountOrAuto(1, 1024), Default::Value("auto");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_row_of_a_key_is_its_own() {
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
    fn every_flag_of_grpc_proxy_that_the_issue_lists_is_there() {
        for name in "listen-addr endpoints advertise-client-url cert key cacert cert-file key-file trusted-ca-file".split(' ') {
            assert!(Key::named(name).is_some(), "{name}");
        }
    }
}
