//! Typed values and rules that involve several settings: from [`Effective`] to [`Config`].

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;

use etcd_warden_core::diagnostics::Diagnostics;
use etcd_warden_core::policy::Mode;

use super::effective::Effective;
use super::given::Item;
use super::reader::{Reader, word};
use super::settings::Key;
use super::value;
use super::{
    Advertise, Audit, AuditAllowed, ClientCa, ClientTokens, Config, Downstream, Endpoint, Limits,
    Log, OnFull, Upstream,
};

/// Reads all fields, so that every error is reported, and then builds the struct; `None` if a field
/// could not be read. A field can use the fields above it, as `Option`s.
macro_rules! read_all {
    ($Struct:ident { $($field:ident: $read:expr),+ $(,)? }) => {{
        $(let $field = $read;)+
        match ($($field,)+) {
            ($(Some($field),)+) => Some($Struct { $($field),+ }),
            _ => None,
        }
    }};
}

/// Reports every error; `None` if there is one that leaves a field without a value.
pub(super) fn config(effective: &Effective, errors: &mut Diagnostics) -> Option<Config> {
    let mut reader = Reader { effective, errors };
    let reader = &mut reader;
    read_all!(Config {
        listen_addr: reader.required(Key::ListenAddr, value::address),
        proxy_protocol_from: reader.list(Key::ProxyProtocolFrom, value::network),
        downstream: downstream(reader),
        upstream: upstream(reader),
        advertise: advertise(reader),
        client_tokens: reader
            .word(Key::ClientTokens, &[ClientTokens::Forward, ClientTokens::Strip]),
        policy: reader.required(Key::Policy, path),
        mode: reader.optional(Key::Mode, word(Key::Mode, &[Mode::Shadow, Mode::Enforce])),
        allow_shadow_with_etcd_auth: reader.switch(Key::AllowShadowWithEtcdAuth),
        lease_key_file: reader.optional(Key::LeaseKeyFile, path),
        state_dir: reader.optional(Key::StateDir, path),
        reason_trailer: reader.switch(Key::ReasonTrailer),
        limits: limits(reader),
        audit: audit(reader),
        admin_addr: admin_addr(reader, listen_addr),
        admin_debug: reader.switch(Key::AdminDebug),
        admin_socket: reader.optional(Key::AdminSocket, path),
        log: log(reader),
        reload_interval: reader.duration(Key::ReloadInterval),
        reload_settle: reader.duration(Key::ReloadSettle),
        drain_timeout: reader.duration(Key::DrainTimeout),
        workers: reader.required(Key::Workers, workers),
    })
}

#[expect(clippy::option_option, reason = "an error, or an optional value")]
fn admin_addr(reader: &mut Reader<'_>, listen: Option<SocketAddr>) -> Option<Option<SocketAddr>> {
    let admin = reader.required(Key::AdminAddr, value::address_or_none)?;
    match admin {
        // Port 0 is a different port for each listener.
        Some(address) if Some(address) == listen && address.port() != 0 => reader
            .refuse(Key::AdminAddr, format!("`{address}` is also the address of `listen-addr`")),
        admin => Some(admin),
    }
}

fn downstream(reader: &mut Reader<'_>) -> Option<Downstream> {
    read_all!(Downstream {
        cert_file: reader.required(Key::CertFile, path),
        key_file: reader.required(Key::KeyFile, path),
        client_cas: client_cas(reader),
        crl_files: reader.list(Key::ClientCrlFile, path),
    })
}

fn client_cas(reader: &mut Reader<'_>) -> Option<Vec<ClientCa>> {
    let key = Key::TrustedCaFile;
    reader.required(key, |_| Ok(()))?;
    let files = reader.named(key, "several files need names: write `NAME: FILE` for each")?;
    let cas: Vec<Option<ClientCa>> = files
        .into_iter()
        .map(|Item { name, text, origin }| {
            let name = value::ca_name(name.as_deref().unwrap_or("default"));
            let name = name.map_err(|message| reader.errors.push(origin.error(message))).ok()?;
            Some(ClientCa { name, file: text.into() })
        })
        .collect();
    cas.into_iter().collect()
}

fn upstream(reader: &mut Reader<'_>) -> Option<Upstream> {
    let upstream = read_all!(Upstream {
        endpoints: reader.list(Key::Endpoints, value::endpoint),
        identity: identity(reader),
        cacert: reader.optional(Key::Cacert, path),
        insecure_plaintext: reader.switch(Key::InsecurePlaintextUpstream),
        pin: reader.switch(Key::Pin),
        health_interval: reader.duration(Key::HealthInterval),
    })?;
    is_safe(reader, &upstream).then_some(upstream)
}

#[expect(clippy::option_option, reason = "an error, or an optional value")]
fn identity(reader: &mut Reader<'_>) -> Option<Option<(PathBuf, PathBuf)>> {
    let (cert, key) = (reader.optional(Key::Cert, path), reader.optional(Key::Key, path));
    match (cert?, key?) {
        (Some(cert), Some(key)) => Some(Some((cert, key))),
        (None, None) => Some(None),
        (Some(_), None) => reader.refuse(Key::Cert, "`cert` needs `key`: set both or neither"),
        (None, Some(_)) => reader.refuse(Key::Key, "`key` needs `cert`: set both or neither"),
    }
}

/// Reports combinations that are less safe than they look.
fn is_safe(reader: &mut Reader<'_>, upstream: &Upstream) -> bool {
    let before = reader.errors.len();
    let plain: Vec<&Endpoint> =
        upstream.endpoints.iter().filter(|endpoint| !endpoint.tls).collect();
    let tls = upstream.endpoints.len() - plain.len();
    if let Some(endpoint) = plain.first() {
        if tls > 0 {
            let message = "is plain text and others are not: write `https://` for all of them";
            reader.error(Key::Endpoints, format!("`{endpoint}` {message}"));
        } else if !upstream.insecure_plaintext {
            let message = "is plain text: write `https://`, or set `insecure-plaintext-upstream` \
                           if all hosts on the network may read and change the traffic";
            reader.error(Key::Endpoints, format!("`{endpoint}` {message}"));
        }
        for (key, set) in
            [(Key::Cacert, upstream.cacert.is_some()), (Key::Cert, upstream.identity.is_some())]
        {
            if set && tls == 0 && upstream.insecure_plaintext {
                let message = "has no effect on plain text endpoints: write `https://` for them, \
                               or remove it";
                reader.error(key, format!("`{key}` {message}"));
            }
        }
    } else if upstream.insecure_plaintext {
        let key = Key::InsecurePlaintextUpstream;
        reader.error(key, format!("`{key}` is set, but no endpoint is `http://`: remove it"));
    }
    if tls > 0 && upstream.cacert.is_none() {
        let message = "`cacert` is not set: an `https://` endpoint needs the CA that issued etcd's \
                       server certificate";
        reader.error(Key::Cacert, message);
    }
    for (index, endpoint) in upstream.endpoints.iter().enumerate() {
        if upstream.endpoints.iter().take(index).any(|other| other == endpoint) {
            reader.error(Key::Endpoints, format!("`{endpoint}` appears twice"));
        }
    }
    if upstream.pin && upstream.endpoints.len() > 1 {
        let count = upstream.endpoints.len();
        reader.error(Key::Pin, format!("`pin` needs one endpoint, and `endpoints` has {count}"));
    }
    reader.errors.len() == before
}

fn advertise(reader: &mut Reader<'_>) -> Option<Advertise> {
    let mut advertise = Advertise::default();
    let mut valid = true;
    for Item { name, text, origin } in reader
        .named(Key::AdvertiseClientUrl, "several URLs need names: write `MEMBER: URL` for each")?
    {
        match (value::client_url(&text), name) {
            (Ok(url), Some(member)) => drop(advertise.by_member.insert(member, url)),
            (Ok(url), None) => advertise.default = Some(url),
            (Err(message), _) => {
                reader.errors.push(origin.error(message));
                valid = false;
            }
        }
    }
    valid.then_some(advertise)
}

pub(super) fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    read_all!(Limits {
        handshake_timeout: reader.duration(Key::HandshakeTimeout),
        max_handshakes: reader.number(Key::MaxHandshakes),
        max_connections: reader.number(Key::MaxConnections),
        max_connections_per_identity: reader.optional_number(Key::MaxConnectionsPerIdentity),
        max_streams: reader.number(Key::MaxConcurrentStreams),
        max_requests: reader.number(Key::MaxRequestsInFlight),
        max_requests_per_identity: reader.optional_number(Key::MaxRequestsInFlightPerIdentity),
        requests_per_second_per_identity: reader.optional_number(Key::RequestsPerSecondPerIdentity),
        max_watches: reader.number(Key::MaxWatches),
        max_watches_per_identity: reader.optional_number(Key::MaxWatchesPerIdentity),
        max_request_bytes: reader.number(Key::MaxRequestBytes),
        max_header_bytes: reader.number(Key::MaxHeaderBytes),
        max_held_bytes: max_held_bytes(reader, max_request_bytes),
        max_unread_bytes: reader.number(Key::MaxUnreadBytes),
        idle_timeout: reader.duration(Key::IdleTimeout),
        max_connection_age: reader.optional(Key::MaxConnectionAge, |text| {
            value::duration(Key::MaxConnectionAge.setting().kind, text)
        }),
        keepalive: reader.duration(Key::GrpcKeepaliveInterval),
        authenticate_per_second: reader.number(Key::AuthenticatePerSecond),
    })
}

fn max_held_bytes(reader: &mut Reader<'_>, max_request_bytes: Option<usize>) -> Option<usize> {
    let held = reader.number(Key::MaxHeldBytes)?;
    if max_request_bytes.is_some_and(|request| held < request) {
        let message = "`max-held-bytes` is below `max-request-bytes`: the largest request could \
                       not be held";
        return reader.refuse(Key::MaxHeldBytes, message);
    }
    Some(held)
}

fn audit(reader: &mut Reader<'_>) -> Option<Audit> {
    read_all!(Audit {
        file: reader.optional(Key::AuditFile, path),
        stdout: reader.switch(Key::AuditStdout),
        allowed: audit_allowed(reader, file == Some(None) && stdout == Some(false)),
        sample: reader.required(Key::AuditSample, value::fraction),
        queue: reader.number(Key::AuditQueue),
        on_full: reader.word(Key::AuditOnFull, &[OnFull::Drop, OnFull::Deny]),
    })
}

fn audit_allowed(reader: &mut Reader<'_>, has_no_output: bool) -> Option<AuditAllowed> {
    let words = [AuditAllowed::None, AuditAllowed::Writes, AuditAllowed::All];
    let allowed = reader.word(Key::AuditAllowed, &words)?;
    if has_no_output && allowed != AuditAllowed::None {
        let message = "`audit-allowed` needs an output: set `audit-file` or `audit-stdout`";
        return reader.refuse(Key::AuditAllowed, message);
    }
    Some(allowed)
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    read_all!(Log {
        json: reader.word(Key::LogFormat, &[false, true]),
        filter: reader.required(Key::LogFilter, value::log_filter),
    })
}

fn workers(text: &str) -> Result<usize, String> {
    match text {
        "auto" => Ok(std::thread::available_parallelism().map_or(1, NonZero::get)),
        _ => value::number(Key::Workers.setting().kind, text),
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "one of the functions that read a value, and those can fail"
)]
fn path(text: &str) -> Result<PathBuf, String> {
    Ok(text.into())
}
