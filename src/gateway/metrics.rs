//! The Prometheus metrics of one gateway. Their names are a contract ([`contract::CONTRACT`]).
//!
//! Handles are made once, so a request costs an array index and an atomic addition. There is no
//! global recorder: each [`Metrics`] is independent, and tests run several gateways in one process.

pub mod contract;
#[cfg(test)]
mod dashboards;
mod histogram;
pub mod reason;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use etcd_warden_core::authorize::Decision;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Mode;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::member_health::Health;
use crate::telemetry;
use crate::tls::HandshakeFailure;
use contract::{Kind, Metric};
use histogram::Buckets;
use reason::{Http2Error, Limit, Reloaded, Termination, Unwritten, UpstreamFailure};

/// Roles with a label value of their own. Later ones are counted as `other`: reloads must not grow
/// the set without bound.
pub const MAX_ROLES: usize = 200;

/// The role of a request that no grant allowed.
const NO_ROLE: &str = "none";
const OTHER_ROLES: &str = "other";

/// The methods, and one more for paths that name none.
const METHODS: usize = Method::ALL.len() + 1;
/// Decisions times modes.
const OUTCOMES: usize = Decision::ALL.len() * 2;

/// All metrics of one gateway.
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
    roles: Mutex<HashMap<Box<str>, Arc<RoleCounters>>>,
    request_duration: Box<[(Arc<Buckets>, Histogram)]>,
    decision_buckets: Arc<Buckets>,
    /// Seconds for one decision.
    pub decision_duration: Histogram,
    /// Client connections.
    pub connections: Gauge,
    /// Requests in flight.
    pub requests_in_flight: Gauge,
    /// Watches.
    pub watches: Gauge,
    handshake_failures: Labelled<Counter>,
    terminated: Labelled<Counter>,
    /// Streams that clients reset.
    pub http2_resets: Counter,
    http2_rejections: Labelled<Counter>,
    limits_hit: Labelled<Counter>,
    upstream_connections: Labelled<Gauge>,
    /// Requests that were retried.
    pub upstream_retries: Counter,
    upstream_failures: Labelled<Counter>,
    /// Slots of the audit queue that are taken.
    pub audit_queue_length: Gauge,
    /// Audit lines written.
    pub audit_lines_written: Counter,
    /// Audit lines lost.
    pub audit_lines_lost: Counter,
    /// Failed writes of audit lines.
    pub audit_errors: Counter,
    /// The generation of the policy.
    pub policy_generation: Gauge,
    reloads: Box<[[Counter; 2]]>,
    mode_changes: Labelled<Counter>,
    /// Roles in the policy.
    pub policy_roles: Gauge,
    /// Bindings in the policy.
    pub policy_bindings: Gauge,
    log_lost: Labelled<Counter>,
}

impl Metrics {
    /// Metrics of a new process: all counters are 0.
    pub fn new() -> Arc<Self> {
        let recorder = Arc::new(PrometheusBuilder::new().build_recorder());
        describe(&recorder);
        let request_duration =
            std::iter::repeat_with(|| Buckets::new(histogram::REQUEST_BUCKETS)).take(METHODS);
        let decision_buckets = Buckets::new(histogram::DECISION_BUCKETS);
        let metrics = Self {
            handle: recorder.handle(),
            roles: Mutex::default(),
            request_duration: request_duration
                .map(|buckets| (Arc::clone(&buckets), buckets.handle()))
                .collect(),
            decision_duration: decision_buckets.handle(),
            decision_buckets,
            connections: gauge(&recorder, &contract::CONNECTIONS, &[]),
            requests_in_flight: gauge(&recorder, &contract::REQUESTS_IN_FLIGHT, &[]),
            watches: gauge(&recorder, &contract::WATCHES, &[]),
            handshake_failures: Labelled::new(&recorder, &contract::HANDSHAKE_FAILURES, counter),
            terminated: Labelled::new(&recorder, &contract::STREAMS_TERMINATED, counter),
            http2_resets: counter(&recorder, &contract::HTTP2_RESETS, &[]),
            http2_rejections: Labelled::new(&recorder, &contract::HTTP2_REJECTIONS, counter),
            limits_hit: Labelled::new(&recorder, &contract::LIMITS_HIT, counter),
            upstream_connections: Labelled::new(&recorder, &contract::UPSTREAM_CONNECTIONS, gauge),
            upstream_retries: counter(&recorder, &contract::UPSTREAM_RETRIES, &[]),
            upstream_failures: Labelled::new(&recorder, &contract::UPSTREAM_FAILURES, counter),
            audit_queue_length: gauge(&recorder, &contract::AUDIT_QUEUE_LENGTH, &[]),
            audit_lines_written: counter(&recorder, &contract::AUDIT_LINES_WRITTEN, &[]),
            audit_lines_lost: counter(&recorder, &contract::AUDIT_LINES_LOST, &[]),
            audit_errors: counter(&recorder, &contract::AUDIT_ERRORS, &[]),
            policy_generation: gauge(&recorder, &contract::POLICY_GENERATION, &[]),
            reloads: Reloaded::CODES
                .iter()
                .map(|what| {
                    ["ok", "failed"]
                        .map(|result| counter(&recorder, &contract::RELOADS, &[what, result]))
                })
                .collect(),
            mode_changes: Labelled::new(&recorder, &contract::MODE_CHANGES, counter),
            policy_roles: gauge(&recorder, &contract::POLICY_ROLES, &[]),
            policy_bindings: gauge(&recorder, &contract::POLICY_BINDINGS, &[]),
            log_lost: Labelled::new(&recorder, &contract::LOG_LOST, counter),
            recorder,
        };
        gauge(&metrics.recorder, &contract::BUILD_INFO, &[env!("CARGO_PKG_VERSION")]).set(1.0);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge(&metrics.recorder, &contract::START_TIME, &[]).set(started.as_secs_f64());
        Arc::new(metrics)
    }

    /// The counters of one role. Takes a lock, so callers keep the result. An allowed request
    /// counts for the role of the first grant that allowed it.
    pub fn role(&self, name: &str) -> Arc<RoleCounters> {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        // `none` and `other` are always there.
        let name = if name != NO_ROLE && !roles.contains_key(name) && roles.len() >= MAX_ROLES {
            OTHER_ROLES
        } else {
            name
        };
        let new = || Arc::new(RoleCounters::new(name, Arc::clone(&self.recorder)));
        Arc::clone(roles.entry(name.into()).or_insert_with(new))
    }

    /// The counters of requests that no grant allowed, under the role `none`.
    pub fn no_role(&self) -> Arc<RoleCounters> {
        self.role(NO_ROLE)
    }

    /// The time of complete requests of one method (`None`: a path that names none). Record a
    /// `Duration`, or seconds as `f64`.
    pub fn request_duration(&self, method: Option<Method>) -> &Histogram {
        match self.request_duration.get(method_index(method)) {
            Some((_, histogram)) => histogram,
            // Unreachable: there is a histogram for each index.
            None => &self.decision_duration,
        }
    }

    /// Counts one client connection whose TLS handshake failed.
    pub fn handshake_failure(&self, reason: HandshakeFailure) {
        self.handshake_failures.of(reason.code()).increment(1);
    }

    /// Counts one open stream or watch that the gateway ended.
    pub fn terminated(&self, reason: Termination) {
        self.terminated.of(reason.code()).increment(1);
    }

    /// Counts one request that was refused, or one connection that was closed, because of a limit.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits_hit.of(limit.code()).increment(1);
    }

    /// Counts streams that the HTTP/2 layer has reset, or a connection that it has closed.
    pub fn http2_rejection(&self, error: Http2Error, times: u64) {
        self.http2_rejections.of(error.code()).increment(times);
    }

    /// The number of connections to etcd of one class: `unary`, `long`, `bulk` or `own`.
    pub fn upstream_connections(&self, class: &str) -> &Gauge {
        self.upstream_connections.of(class)
    }

    /// Counts one failure to reach etcd.
    pub fn upstream_failure(&self, reason: UpstreamFailure) {
        self.upstream_failures.of(reason.code()).increment(1);
    }

    /// Sets the state of a member (`HOST:PORT` as configured) as its last health check found it.
    pub fn member_health(&self, member: &str, health: Health) {
        gauge(&self.recorder, &contract::UPSTREAM_HEALTHY, &[member])
            .set(if health == Health::Well { 1.0 } else { 0.0 });
        for (state, code) in Health::ALL.into_iter().zip(Health::CODES) {
            gauge(&self.recorder, &contract::MEMBER_STATE, &[member, code])
                .set(if state == health { 1.0 } else { 0.0 });
        }
    }

    /// Counts one reload.
    pub fn reload(&self, what: Reloaded, ok: bool) {
        if let Some([succeeded, failed]) = self.reloads.get(what as usize) {
            if ok { succeeded } else { failed }.increment(1);
        }
    }

    /// Counts one change of the mode at the admin socket: to `shadow`, `enforce` or `policy`.
    pub fn mode_changed(&self, mode: &'static str) {
        self.mode_changes.of(mode).increment(1);
    }

    /// Sets the time at which the first certificate of a kind (the code of a
    /// [`crate::tls::Expiring`]) expires, in seconds since 1970. A kind that is not in use has no
    /// series: a value of 0 would mean that it has expired.
    pub fn certificate_expiry(&self, certificate: &str, seconds: f64) {
        debug_assert!(
            contract::listed(&contract::CERTIFICATE_EXPIRY).contains(&certificate),
            "`{certificate}` is no listed certificate"
        );
        gauge(&self.recorder, &contract::CERTIFICATE_EXPIRY, &[certificate]).set(seconds);
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let lost = telemetry::lost();
        for (reason, lines) in [(Unwritten::Full, lost.full), (Unwritten::Repeated, lost.repeated)]
        {
            self.log_lost.of(reason.code()).absolute(lines);
        }
        self.handle.run_upkeep();
        let mut out = self.handle.render();
        let header = |metric: &Metric, out: &mut String| {
            let _ = writeln!(
                out,
                "# HELP {} {}\n# TYPE {} {}",
                metric.name,
                metric.help,
                metric.name,
                metric.kind.name()
            );
        };
        header(&contract::REQUEST_DURATION, &mut out);
        let methods = Method::ALL.iter().copied().map(Some).chain([None]);
        for (method, (buckets, _)) in
            methods.zip(&self.request_duration).filter(|(_, (buckets, _))| !buckets.is_empty())
        {
            let labels = format!("method=\"{}\"", contract::method_label(method));
            buckets.render(contract::REQUEST_DURATION.name, &labels, &mut out);
        }
        header(&contract::DECISION_DURATION, &mut out);
        self.decision_buckets.render(contract::DECISION_DURATION.name, "", &mut out);
        out
    }
}

/// Counters of requests by method, decision and mode, for one role.
pub struct RoleCounters {
    role: Box<str>,
    recorder: Arc<PrometheusRecorder>,
    counters: Box<[OnceLock<Counter>]>,
}

impl RoleCounters {
    fn new(role: &str, recorder: Arc<PrometheusRecorder>) -> Self {
        let counters = std::iter::repeat_with(OnceLock::new).take(METHODS * OUTCOMES).collect();
        Self { role: role.into(), recorder, counters }
    }

    /// Counts one message that was judged (`None`: the path names no method).
    pub fn count(&self, method: Option<Method>, decision: Decision, mode: Mode) {
        let outcome = decision as usize * 2 + mode as usize;
        if let Some(counter) = self.counters.get(method_index(method) * OUTCOMES + outcome) {
            counter.get_or_init(|| self.counter(method, decision, mode)).increment(1);
        }
    }

    fn counter(&self, method: Option<Method>, decision: Decision, mode: Mode) -> Counter {
        let mode = match mode {
            Mode::Shadow => "shadow",
            Mode::Enforce => "enforce",
        };
        counter(
            &self.recorder,
            &contract::REQUESTS,
            &[contract::method_label(method), decision.code(), mode, &self.role],
        )
    }
}

/// One handle for each value of a metric's only label.
struct Labelled<H> {
    values: &'static [&'static str],
    handles: Box<[H]>,
    last: H,
}

impl<H> Labelled<H> {
    fn new(
        recorder: &PrometheusRecorder,
        metric: &Metric,
        register: fn(&PrometheusRecorder, &Metric, &[&str]) -> H,
    ) -> Self {
        let values = contract::listed(metric);
        let last = values.last().copied().unwrap_or_default();
        Self {
            values,
            handles: values.iter().map(|value| register(recorder, metric, &[value])).collect(),
            last: register(recorder, metric, &[last]),
        }
    }

    fn of(&self, value: &str) -> &H {
        let index = self.values.iter().position(|listed| *listed == value);
        debug_assert!(index.is_some(), "`{value}` is none of {:?}", self.values);
        index.and_then(|index| self.handles.get(index)).unwrap_or(&self.last)
    }
}

fn method_index(method: Option<Method>) -> usize {
    method.map_or(METHODS - 1, Method::index)
}

fn describe(recorder: &PrometheusRecorder) {
    for metric in contract::CONTRACT {
        match metric.kind {
            Kind::Counter => {
                recorder.describe_counter(metric.name.into(), None, metric.help.into());
            }
            Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.help.into()),
            // `render` writes them, not the recorder.
            Kind::Histogram => {}
        }
    }
}

const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

fn key(metric: &Metric, values: &[&str]) -> Key {
    let labels: Vec<Label> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(label, value)| Label::new(label.name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

fn counter(recorder: &PrometheusRecorder, metric: &Metric, values: &[&str]) -> Counter {
    recorder.register_counter(&key(metric, values), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, metric: &Metric, values: &[&str]) -> Gauge {
    recorder.register_gauge(&key(metric, values), &METADATA)
}

#[cfg(test)]
mod tests;
