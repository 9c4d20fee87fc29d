//! The contract: the name, kind, labels and help of every metric. Tests compare the registered
//! metrics, `docs/metrics.md`, the dashboard and the alert rules with it.
//!
//! A change of a name, a label or a label value needs an entry in the changelog. Label values are
//! snake_case and closed sets: never a key, a Common Name, an address of a client or an id.

use etcd_warden_core::method::Method;

use super::reason::{Http2Error, Limit, Reloaded, Termination, Unwritten, UpstreamFailure};
use crate::member_health::Health;
use crate::tls::HandshakeFailure;

/// The type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only increases, from 0 at the start of the process.
    Counter,
    /// The current value.
    Gauge,
    /// Numbers of observations in buckets, and the sum of all.
    Histogram,
}

impl Kind {
    /// The name in Prometheus' `# TYPE` lines.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// The values of a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// These values. Any other is counted as the last one.
    Listed(&'static [&'static str]),
    /// The RPC as `Service/Rpc` ([`method_label`]), or `unknown` for a path that names none.
    Method,
    /// A role of the policy; `none` if no grant allowed the request; `other` for roles after the
    /// first [`super::MAX_ROLES`].
    Role,
    /// An etcd endpoint as configured, `HOST:PORT`.
    Member,
    /// The version of this program.
    Version,
}

/// A label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The label name, in snake_case.
    pub name: &'static str,
    /// The values it takes.
    pub values: Values,
}

/// A metric of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The name, with the unit at the end as Prometheus recommends.
    pub name: &'static str,
    /// The type.
    pub kind: Kind,
    /// The labels, in the order in which they are registered.
    pub labels: &'static [Label],
    /// The help text, one sentence.
    pub help: &'static str,
}

const METHOD: Label = Label { name: "method", values: Values::Method };
const DECISION: Label =
    Label { name: "decision", values: Values::Listed(&["allow", "deny", "would_deny"]) };
const MODE: Label = Label { name: "mode", values: Values::Listed(&["shadow", "enforce"]) };
const ROLE: Label = Label { name: "role", values: Values::Role };
const MEMBER: Label = Label { name: "member", values: Values::Member };
const STATE: Label = Label { name: "state", values: Values::Listed(&Health::CODES) };
const VERSION: Label = Label { name: "version", values: Values::Version };

macro_rules! contract {
    ($( $constant:ident = $kind:ident $name:literal [$($label:expr),*] $help:literal; )+) => {
        $(
            #[doc = $help]
            pub const $constant: Metric = Metric {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// Every metric, in the order of `docs/metrics.md`.
        pub const CONTRACT: &[Metric] = &[$($constant,)+];
    };
}

const fn reason(values: &'static [&'static str]) -> Label {
    Label { name: "reason", values: Values::Listed(values) }
}

/// The codes of [`HandshakeFailure::ALL`].
const HANDSHAKE_FAILURE_CODES: [&str; HandshakeFailure::ALL.len()] = {
    let mut codes = [""; HandshakeFailure::ALL.len()];
    let mut index = 0;
    while index < codes.len() {
        #[expect(
            clippy::indexing_slicing,
            reason = "both arrays have the same length, and this runs at compile time"
        )]
        {
            codes[index] = HandshakeFailure::ALL[index].code();
        }
        index += 1;
    }
    codes
};

contract! {
    REQUESTS = Counter "etcd_warden_requests_total" [METHOD, DECISION, MODE, ROLE]
        "Requests that were judged; on streams, messages.";
    REQUEST_DURATION = Histogram "etcd_warden_request_duration_seconds" [METHOD]
        "Seconds from the end of a request's header to the end of its response.";
    DECISION_DURATION = Histogram "etcd_warden_decision_duration_seconds" []
        "Seconds to scan and judge one message.";
    CONNECTIONS = Gauge "etcd_warden_connections" []
        "Client connections that have completed their TLS handshake.";
    REQUESTS_IN_FLIGHT = Gauge "etcd_warden_requests_in_flight" []
        "Requests from clients that have not ended, including streams.";
    WATCHES = Gauge "etcd_warden_watches" []
        "Open watches of clients. Several may share a stream.";
    HANDSHAKE_FAILURES = Counter "etcd_warden_handshake_failures_total"
        [reason(&HANDSHAKE_FAILURE_CODES)]
        "Client connections that failed before or during the TLS handshake.";
    STREAMS_TERMINATED = Counter "etcd_warden_streams_terminated_total" [reason(Termination::CODES)]
        "Open streams that etcd-warden ended because of a new policy or mode, the client's \
         certificate, the age of the connection, or a drain.";
    HTTP2_RESETS = Counter "etcd_warden_http2_resets_total" []
        "Streams that clients reset.";
    HTTP2_REJECTIONS = Counter "etcd_warden_http2_rejections_total"
        [Label { name: "error", values: Values::Listed(Http2Error::CODES) }]
        "Streams reset and connections closed by the HTTP/2 layer before a request was judged.";
    LIMITS_HIT = Counter "etcd_warden_limits_hit_total"
        [Label { name: "limit", values: Values::Listed(Limit::CODES) }]
        "Requests refused and connections closed because of a limit.";
    UPSTREAM_CONNECTIONS = Gauge "etcd_warden_upstream_connections"
        [Label { name: "class", values: Values::Listed(&["unary", "long", "bulk", "own"]) }]
        "Connections to etcd by the class of calls that they carry.";
    UPSTREAM_HEALTHY = Gauge "etcd_warden_upstream_healthy" [MEMBER]
        "1 if the member was a voting member that knows a leader at its last health check, and so \
         serves every call. Otherwise 0.";
    MEMBER_STATE = Gauge "etcd_warden_upstream_member_state" [MEMBER, STATE]
        "1 for the state of the member at its last health check, 0 for the other states.";
    UPSTREAM_RETRIES = Counter "etcd_warden_upstream_retries_total" []
        "Requests that were retried, on another connection to the same member or with another \
         member.";
    UPSTREAM_FAILURES = Counter "etcd_warden_upstream_failures_total"
        [reason(UpstreamFailure::CODES)]
        "Failures to reach etcd.";
    AUDIT_QUEUE_LENGTH = Gauge "etcd_warden_audit_queue_length" []
        "Slots of the audit queue that are taken: lines not yet on the disk, and requests in \
         flight that will write one.";
    AUDIT_LINES_WRITTEN = Counter "etcd_warden_audit_lines_written_total" []
        "Audit lines written, counted once for each output.";
    AUDIT_LINES_LOST = Counter "etcd_warden_audit_lines_lost_total" []
        "Audit lines lost because of a full queue or a failed write.";
    AUDIT_ERRORS = Counter "etcd_warden_audit_errors_total" []
        "Failed writes of audit lines, and failed attempts to reopen the file.";
    POLICY_GENERATION = Gauge "etcd_warden_policy_generation" []
        "Generation of the policy in effect. It increases by one with each successful reload and \
         each change of the mode.";
    RELOADS = Counter "etcd_warden_reloads_total"
        [
            Label { name: "what", values: Values::Listed(Reloaded::CODES) },
            Label { name: "result", values: Values::Listed(&["ok", "failed"]) }
        ]
        "Reloads of the policy and of certificates. After a failed reload the previous version \
         stays in effect.";
    MODE_CHANGES = Counter "etcd_warden_mode_changes_total"
        [Label { name: "to", values: Values::Listed(&["shadow", "enforce", "policy"]) }]
        "Changes of the mode at the admin socket, by the new mode. `policy` means the modes that \
         the policy sets.";
    POLICY_ROLES = Gauge "etcd_warden_policy_roles" []
        "Roles in the policy in effect.";
    POLICY_BINDINGS = Gauge "etcd_warden_policy_bindings" []
        "Bindings in the policy in effect.";
    CERTIFICATE_EXPIRY = Gauge "etcd_warden_certificate_expiry_timestamp_seconds"
        [Label {
            name: "certificate",
            values: Values::Listed(
                &["server", "client_ca", "crl", "upstream_client", "upstream_ca"]
            )
        }]
        "Unix time in seconds at which the first certificate or revocation list of this kind \
         expires.";
    LOG_LOST = Counter "etcd_warden_log_lines_lost_total" [reason(Unwritten::CODES)]
        "Lines of the log that were not written because standard error was not read or because \
         there were too many similar lines.";
    BUILD_INFO = Gauge "etcd_warden_build_info" [VERSION]
        "Always 1. The label is the version.";
    START_TIME = Gauge "process_start_time_seconds" []
        "Unix time in seconds at which the process started.";
}

/// The value of the label `method`: the path without the package, as `KV/Range`; `unknown` for a
/// path that names no method. It includes the service because two services have a method `Watch`.
pub fn method_label(method: Option<Method>) -> &'static str {
    let path = method.map_or("unknown", Method::path);
    let service_at = path
        .rfind('/')
        .and_then(|slash| path.get(..slash))
        .and_then(|service| service.rfind('.'))
        .map_or(0, |dot| dot + 1);
    path.get(service_at..).unwrap_or(path)
}

/// The values of a metric's only label. Empty if they are not a fixed list.
pub fn listed(metric: &Metric) -> &'static [&'static str] {
    match metric.labels {
        [Label { values: Values::Listed(values), .. }] => values,
        _ => &[],
    }
}
