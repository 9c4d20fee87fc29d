//! The names: every metric with its kind, labels and help, in one place. Registration,
//! `docs/metrics.md`, the dashboard and the alert rules all go by this table, and tests hold them
//! to it.
//!
//! A name, a label or a value in here changes only with an entry in the changelog. Label values are
//! closed sets; a key, a Common Name, an address of a client or an id is never one.

use etcd_warden_core::method::Method;

use super::reason::{Http2Error, Limit, Reloaded, Termination, Unwritten, UpstreamFailure};
use crate::member_health::Health;
use crate::tls::HandshakeFailure;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the start of the process.
    Counter,
    /// The value now.
    Gauge,
    /// Counts of observations in buckets, with their sum.
    Histogram,
}

impl Kind {
    /// The word in Prometheus' `# TYPE` lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Which values a label takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// These. A value that is not listed counts as the last one.
    Listed(&'static [&'static str]),
    /// The RPC as `Service/Rpc` ([`method_label`]), or `unknown` for a path that names none.
    Method,
    /// A role of the policy, `none` when no grant was involved, `other` for those beyond
    /// [`super::MAX_ROLES`].
    Role,
    /// An endpoint of etcd as configured, `HOST:PORT`.
    Member,
    /// The version of this program.
    Version,
}

/// One label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: Values,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name, with the unit at the end as Prometheus asks for.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Its labels, in the order in which they are registered.
    pub labels: &'static [Label],
    /// What it says, in one sentence.
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
        $( #[doc = $help] pub const $constant: Metric = Metric { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help }; )+

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
    let mut place = 0;
    while place < codes.len() {
        #[expect(
            clippy::indexing_slicing,
            reason = "both arrays are of one length, and this runs when the program is compiled"
        )]
        {
            codes[place] = HandshakeFailure::ALL[place].code();
        }
        place += 1;
    }
    codes
};

contract! {
    REQUESTS = Counter "etcd_warden_requests_total" [METHOD, DECISION, MODE, ROLE]
        "Requests judged; on streams, messages judged.";
    REQUEST_DURATION = Histogram "etcd_warden_request_duration_seconds" [METHOD]
        "Seconds from the end of a request's header to the end of its answer.";
    DECISION_DURATION = Histogram "etcd_warden_decision_duration_seconds" []
        "Seconds that one message took to scan and to judge.";
    CONNECTIONS = Gauge "etcd_warden_connections" []
        "Client connections past their TLS handshake.";
    STREAMS = Gauge "etcd_warden_requests_in_flight" []
        "Requests in flight from clients, long streams included.";
    WATCHES = Gauge "etcd_warden_watches" []
        "Watches that clients have open, several of which may share a stream.";
    HANDSHAKE_FAILURES = Counter "etcd_warden_handshake_failures_total"
        [reason(&HANDSHAKE_FAILURE_CODES)]
        "Client connections that ended before TLS stood.";
    TERMINATED = Counter "etcd_warden_terminated_total" [reason(Termination::CODES)]
        "Live streams that the proxy ended: the policy or the mode changed, the identity or the connection's time ended, or the proxy drains.";
    HTTP2_RESETS = Counter "etcd_warden_http2_resets_total" []
        "Streams that clients reset.";
    HTTP2_REJECTIONS = Counter "etcd_warden_http2_rejections_total"
        [Label { name: "error", values: Values::Listed(Http2Error::CODES) }]
        "Streams that HTTP/2 reset and connections that it ended before a request could be judged.";
    LIMITS_HIT = Counter "etcd_warden_limits_hit_total"
        [Label { name: "limit", values: Values::Listed(Limit::CODES) }]
        "Requests refused, or connections closed, because of a limit.";
    UPSTREAM_CONNECTIONS = Gauge "etcd_warden_upstream_connections"
        [Label { name: "class", values: Values::Listed(&["unary", "long", "bulk", "own"]) }]
        "Connections to etcd, by what they carry.";
    UPSTREAM_HEALTHY = Gauge "etcd_warden_upstream_healthy" [MEMBER]
        "1 when the member serves every call, as of its last health check: a voting member that knows a leader. Else 0.";
    MEMBER_STATE = Gauge "etcd_warden_upstream_member_state" [MEMBER, STATE]
        "1 for the state that the member was in at its last health check, 0 for the others.";
    UPSTREAM_RETRIES = Counter "etcd_warden_upstream_retries_total" []
        "Requests sent once more: to the same member over another connection, or to another member.";
    UPSTREAM_FAILURES = Counter "etcd_warden_upstream_failures_total"
        [reason(UpstreamFailure::CODES)]
        "Failures on the way to etcd.";
    AUDIT_QUEUE_LENGTH = Gauge "etcd_warden_audit_queue_length" []
        "Audit lines that are not on the disk yet, places taken for requests in flight included.";
    AUDIT_WRITTEN = Counter "etcd_warden_audit_written_total" []
        "Audit lines written, once for each place that they go to.";
    AUDIT_LOST = Counter "etcd_warden_audit_lost_total" []
        "Audit lines lost, by a full queue or by a failed write.";
    AUDIT_ERRORS = Counter "etcd_warden_audit_errors_total" []
        "Failed writes of audit lines and failed reopenings of the file.";
    POLICY_GENERATION = Gauge "etcd_warden_policy_generation" []
        "The generation of the policy that decides; it rises by one with each reload that was taken.";
    RELOADS = Counter "etcd_warden_reloads_total"
        [Label { name: "what", values: Values::Listed(Reloaded::CODES) }, Label { name: "result", values: Values::Listed(&["ok", "failed"]) }]
        "Reloads of the policy and of certificates; after a failed one the last good one goes on.";
    MODE_CHANGES = Counter "etcd_warden_mode_changes_total" [Label { name: "to", values: Values::Listed(&["shadow", "enforce", "policy"]) }]
        "Changes of the mode at the admin socket, by what holds from then on: `policy` means the policy's own modes.";
    POLICY_ROLES = Gauge "etcd_warden_policy_roles" []
        "Roles in the policy that decides.";
    POLICY_BINDINGS = Gauge "etcd_warden_policy_bindings" []
        "Bindings in the policy that decides.";
    CERTIFICATE_EXPIRY = Gauge "etcd_warden_certificate_expiry_timestamp_seconds"
        [Label { name: "certificate", values: Values::Listed(&["server", "client_ca", "crl", "upstream_client", "upstream_ca"]) }]
        "When the first of the certificates of this kind (or the revocation list) is out of date, in seconds since 1970 (UTC).";
    LOG_LOST = Counter "etcd_warden_log_lines_lost_total" [reason(Unwritten::CODES)]
        "Lines of the log that were not written: standard error is not read, or there were too many of one kind.";
    BUILD_INFO = Gauge "etcd_warden_build_info" [VERSION]
        "Always 1; the label tells the version.";
    START_TIME = Gauge "process_start_time_seconds" []
        "When the process started, in seconds since 1970 (UTC).";
}

/// The value of the label `method`: the path without its leading slash and the package, `KV/Range`;
/// `unknown` for a path that is no method. The service stays because `Watch` is a method of two.
#[must_use]
pub fn method_label(method: Option<Method>) -> &'static str {
    let path = method.map_or("unknown", Method::path);
    let service_at = path
        .rfind('/')
        .and_then(|slash| path.get(..slash))
        .and_then(|service| service.rfind('.'))
        .map_or(0, |dot| dot + 1);
    path.get(service_at..).unwrap_or(path)
}

/// The values of a metric's only label; none when they are not listed.
#[must_use]
pub fn listed(metric: &Metric) -> &'static [&'static str] {
    match metric.labels {
        [Label { values: Values::Listed(values), .. }] => values,
        _ => &[],
    }
}
