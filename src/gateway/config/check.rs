//! From what is in effect to [`Config`]: every value read, every combination that has no safe
//! meaning refused, all mistakes found.

use std::num::NonZero;
use std::path::PathBuf;

use etcd_warden_core::policy::Mode;

use super::diagnostic::Diagnostic;
use super::effective::Effective;
use super::given::Item;
use super::reader::{Reader, word};
use super::settings::Key;
use super::value;
use super::{
    Advertise, Audit, AuditAllowed, ClientCa, ClientTokens, Config, Downstream, Endpoint, Limits,
    Log, OnFull, Upstream,
};

/// The configuration, or `None` when there were mistakes.
pub(super) fn config(effective: &Effective, mistakes: &mut Vec<Diagnostic>) -> Option<Config> {
    let mut reader = Reader { effective, mistakes };
    // Everything is read before anything is given up, so that all mistakes are found.
    let listen_addr = reader.required(Key::ListenAddr, value::address);
    let proxy_protocol_from = reader.list(Key::ProxyProtocolFrom, value::network);
    let downstream = downstream(&mut reader);
    let upstream = upstream(&mut reader);
    let advertise = advertise(&mut reader);
    let client_tokens =
        reader.word(Key::ClientTokens, &[ClientTokens::Forward, ClientTokens::Strip]);
    let policy = reader.required(Key::Policy, path);
    let mode = reader.optional(Key::Mode, word(Key::Mode, &[Mode::Shadow, Mode::Enforce]));
    let allow_shadow_with_etcd_auth = reader.required(Key::AllowShadowWithEtcdAuth, value::switch);
    let lease_key_file = reader.optional(Key::LeaseKeyFile, path);
    let state_dir = reader.optional(Key::StateDir, path);
    let reason_trailer = reader.required(Key::ReasonTrailer, value::switch);
    let limits = limits(&mut reader);
    let audit = audit(&mut reader);
    let admin_addr = reader.required(Key::AdminAddr, value::address_or_none);
    let admin_debug = reader.required(Key::AdminDebug, value::switch);
    let admin_socket = reader.optional(Key::AdminSocket, path);
    let log = log(&mut reader);
    let reload_interval = reader.duration(Key::ReloadInterval);
    let reload_settle = reader.duration(Key::ReloadSettle);
    let drain_timeout = reader.duration(Key::DrainTimeout);
    let workers = reader.required(Key::Workers, workers);

    if let (Some(listen), Some(Some(admin))) = (listen_addr, admin_addr)
        && listen == admin
        && listen.port() != 0
    {
        reader.mistake(Key::AdminAddr, format!("`{admin}` is the address of `listen-addr` too"));
    }
    Some(Config {
        listen_addr: listen_addr?,
        proxy_protocol_from: proxy_protocol_from?,
        downstream: downstream?,
        upstream: upstream?,
        advertise: advertise?,
        client_tokens: client_tokens?,
        policy: policy?,
        mode: mode?,
        allow_shadow_with_etcd_auth: allow_shadow_with_etcd_auth?,
        lease_key_file: lease_key_file?,
        state_dir: state_dir?,
        reason_trailer: reason_trailer?,
        limits: limits?,
        audit: audit?,
        admin_addr: admin_addr?,
        admin_debug: admin_debug?,
        admin_socket: admin_socket?,
        log: log?,
        reload_interval: reload_interval?,
        reload_settle: reload_settle?,
        drain_timeout: drain_timeout?,
        workers: workers?,
    })
}

fn downstream(reader: &mut Reader<'_>) -> Option<Downstream> {
    let cert_file = reader.required(Key::CertFile, path);
    let key_file = reader.required(Key::KeyFile, path);
    let client_cas = client_cas(reader);
    let crl_files = reader.list(Key::ClientCrlFile, path);
    Some(Downstream {
        cert_file: cert_file?,
        key_file: key_file?,
        client_cas: client_cas?,
        crl_files: crl_files?,
    })
}

fn client_cas(reader: &mut Reader<'_>) -> Option<Vec<ClientCa>> {
    let key = Key::TrustedCaFile;
    reader.required(key, |_| Ok(()))?;
    let files = reader
        .named(key, "without names, only one file can be given: write `NAME: FILE` for each")?;
    let mut cas = Vec::new();
    let mut sound = true;
    for Item { name, text, origin } in files {
        match value::ca_name(name.as_deref().unwrap_or("default")) {
            Ok(name) => cas.push(ClientCa { name, file: text.into() }),
            Err(message) => {
                reader.mistakes.push(Diagnostic { origin, message });
                sound = false;
            }
        }
    }
    sound.then_some(cas)
}

fn upstream(reader: &mut Reader<'_>) -> Option<Upstream> {
    let endpoints = reader.list(Key::Endpoints, value::endpoint);
    let cert = reader.optional(Key::Cert, path);
    let key = reader.optional(Key::Key, path);
    let cacert = reader.optional(Key::Cacert, path);
    let insecure_plaintext = reader.required(Key::InsecurePlaintextUpstream, value::switch);
    let pin = reader.required(Key::Pin, value::switch);
    let health_interval = reader.duration(Key::HealthInterval);

    let identity = match (cert?, key?) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => {
            return reader.refuse(Key::Cert, "`cert` without `key`: give both or none".into());
        }
        (None, Some(_)) => {
            return reader.refuse(Key::Key, "`key` without `cert`: give both or none".into());
        }
    };
    let upstream = Upstream {
        endpoints: endpoints?,
        identity,
        cacert: cacert?,
        insecure_plaintext: insecure_plaintext?,
        pin: pin?,
        health_interval: health_interval?,
    };
    sound_upstream(reader, &upstream).then_some(upstream)
}

/// Refuses combinations that would be less safe than they look.
fn sound_upstream(reader: &mut Reader<'_>, upstream: &Upstream) -> bool {
    let before = reader.mistakes.len();
    let plain: Vec<&Endpoint> =
        upstream.endpoints.iter().filter(|endpoint| !endpoint.tls).collect();
    let tls = upstream.endpoints.len() - plain.len();
    if let Some(endpoint) = plain.first() {
        if tls > 0 {
            reader.mistake(Key::Endpoints, format!("`{endpoint}` is plain text and others are not: write all of them with `https://`"));
        } else if !upstream.insecure_plaintext {
            let instead = "write `https://`, or set `insecure-plaintext-upstream` if anybody may read and change what passes";
            reader.mistake(Key::Endpoints, format!("`{endpoint}` is plain text: {instead}"));
        }
        for (key, set) in
            [(Key::Cacert, upstream.cacert.is_some()), (Key::Cert, upstream.identity.is_some())]
        {
            if set && tls == 0 && upstream.insecure_plaintext {
                reader.mistake(key, format!("`{key}` has no effect on plain text endpoints: write them with `https://`, or leave it out"));
            }
        }
    } else if upstream.insecure_plaintext {
        reader.mistake(
            Key::InsecurePlaintextUpstream,
            "is set, but no endpoint is `http://`: leave it out".into(),
        );
    }
    if tls > 0 && upstream.cacert.is_none() {
        reader
            .mistake(Key::Cacert, "`cacert` is not set: an `https://` endpoint needs the CA that issued etcd's server certificate".into());
    }
    for (index, endpoint) in upstream.endpoints.iter().enumerate() {
        if upstream.endpoints.iter().take(index).any(|other| other == endpoint) {
            reader.mistake(Key::Endpoints, format!("`{endpoint}` is there twice"));
        }
    }
    if upstream.pin && upstream.endpoints.len() > 1 {
        reader.mistake(
            Key::Pin,
            format!("`pin` takes one endpoint, and `endpoints` has {}", upstream.endpoints.len()),
        );
    }
    reader.mistakes.len() == before
}

fn advertise(reader: &mut Reader<'_>) -> Option<Advertise> {
    let mut advertise = Advertise::default();
    let mut sound = true;
    for Item { name, text, origin } in reader.named(
        Key::AdvertiseClientUrl,
        "without names, only one URL can be given: write `MEMBER: URL` for each",
    )? {
        match (value::client_url(&text), name) {
            (Ok(url), Some(member)) => drop(advertise.by_member.insert(member, url)),
            (Ok(url), None) => advertise.default = Some(url),
            (Err(message), _) => {
                reader.mistakes.push(Diagnostic { origin, message });
                sound = false;
            }
        }
    }
    sound.then_some(advertise)
}

fn limits(reader: &mut Reader<'_>) -> Option<Limits> {
    let handshake_timeout = reader.duration(Key::HandshakeTimeout);
    let max_handshakes = reader.number(Key::MaxHandshakes);
    let max_connections = reader.number(Key::MaxConnections);
    let max_connections_per_identity = reader.optional_number(Key::MaxConnectionsPerIdentity);
    let max_streams = reader.number(Key::MaxConcurrentStreams);
    let max_requests = reader.number(Key::MaxRequestsInFlight);
    let max_requests_per_identity = reader.optional_number(Key::MaxRequestsInFlightPerIdentity);
    let requests_per_second_per_identity =
        reader.optional_number(Key::RequestsPerSecondPerIdentity);
    let max_watches = reader.number(Key::MaxWatches);
    let max_watches_per_identity = reader.optional_number(Key::MaxWatchesPerIdentity);
    let max_request_bytes = reader.number(Key::MaxRequestBytes);
    let max_header_bytes = reader.number(Key::MaxHeaderBytes);
    let max_held_bytes = reader.number(Key::MaxHeldBytes);
    let max_unread_bytes = reader.number(Key::MaxUnreadBytes);
    let idle_timeout = reader.duration(Key::IdleTimeout);
    let max_connection_age = reader.optional(Key::MaxConnectionAge, |text| {
        value::duration(Key::MaxConnectionAge.setting().kind, text)
    });
    let keepalive = reader.duration(Key::GrpcKeepaliveInterval);
    let authenticate_per_second = reader.number(Key::AuthenticatePerSecond);
    if let (Some(held), Some(request)) = (max_held_bytes, max_request_bytes)
        && held < request
    {
        return reader.refuse(
            Key::MaxHeldBytes,
            "is below `max-request-bytes`: the largest request could never be held".into(),
        );
    }
    Some(Limits {
        handshake_timeout: handshake_timeout?,
        max_handshakes: max_handshakes?,
        max_connections: max_connections?,
        max_connections_per_identity: max_connections_per_identity?,
        max_streams: max_streams?,
        max_requests: max_requests?,
        max_requests_per_identity: max_requests_per_identity?,
        requests_per_second_per_identity: requests_per_second_per_identity?,
        max_watches: max_watches?,
        max_watches_per_identity: max_watches_per_identity?,
        max_request_bytes: max_request_bytes?,
        max_header_bytes: max_header_bytes?,
        max_held_bytes: max_held_bytes?,
        max_unread_bytes: max_unread_bytes?,
        idle_timeout: idle_timeout?,
        max_connection_age: max_connection_age?,
        keepalive: keepalive?,
        authenticate_per_second: authenticate_per_second?,
    })
}

fn audit(reader: &mut Reader<'_>) -> Option<Audit> {
    let file = reader.optional(Key::AuditFile, path);
    let stdout = reader.required(Key::AuditStdout, value::switch);
    let allowed = reader
        .word(Key::AuditAllowed, &[AuditAllowed::None, AuditAllowed::Writes, AuditAllowed::All]);
    let sample = reader.required(Key::AuditSample, value::fraction);
    let queue = reader.number(Key::AuditQueue);
    let on_full = reader.word(Key::AuditOnFull, &[OnFull::Drop, OnFull::Deny]);
    if let (Some(None), Some(false), Some(AuditAllowed::Writes | AuditAllowed::All)) =
        (&file, stdout, allowed)
    {
        return reader.refuse(
            Key::AuditAllowed,
            "asks for audit lines, but neither `audit-file` nor `audit-stdout` says where to"
                .into(),
        );
    }
    Some(Audit {
        file: file?,
        stdout: stdout?,
        allowed: allowed?,
        sample: sample?,
        queue: queue?,
        on_full: on_full?,
    })
}

fn log(reader: &mut Reader<'_>) -> Option<Log> {
    let json = reader.word(Key::LogFormat, &[false, true]);
    let filter = reader.required(Key::LogFilter, value::log_filter);
    Some(Log { json: json?, filter: filter? })
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
