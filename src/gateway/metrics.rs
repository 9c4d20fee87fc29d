//! What is counted. The names are a contract ([`contract::CONTRACT`]); handles are made once, so
//! that a request costs an array index and an atomic addition.
//!
//! Each [`Metrics`] is a world of its own (no global recorder): several proxies may live in one
//! process, as they do in tests.

pub mod contract;
#[cfg(test)]
mod dashboards;
pub mod histogram;
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

/// Roles with a label value of their own; what comes after them counts as `other`, so that reloads
/// cannot grow the set without end.
pub const MAX_ROLES: usize = 200;

/// The role of a request that no grant allowed.
const NO_ROLE: &str = "none";
const OTHER_ROLES: &str = "other";

/// Places for methods: each of them, and one for paths that name none.
const METHODS: usize = Method::ALL.len() + 1;
/// Places for decisions times modes.
const OUTCOMES: usize = Decision::ALL.len() * 2;

/// All metrics of one proxy.
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
    pub streams: Gauge,
    /// Watches.
    pub watches: Gauge,
    handshake_failures: Labelled<Counter>,
    terminated: Labelled<Counter>,
    /// Streams that clients reset.
    pub http2_resets: Counter,
    http2_rejections: Labelled<Counter>,
    limits_hit: Labelled<Counter>,
    upstream_connections: Labelled<Gauge>,
    /// Requests sent once more.
    pub upstream_retries: Counter,
    upstream_failures: Labelled<Counter>,
    /// Audit lines waiting, and places taken for them.
    pub audit_queue_length: Gauge,
    /// Audit lines written.
    pub audit_written: Counter,
    /// Audit lines lost.
    pub audit_lost: Counter,
    /// Failed writes of the audit.
    pub audit_errors: Counter,
    /// The policy's generation.
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
    /// A new set, all at 0.
    #[must_use]
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
            streams: gauge(&recorder, &contract::STREAMS, &[]),
            watches: gauge(&recorder, &contract::WATCHES, &[]),
            handshake_failures: Labelled::new(&recorder, &contract::HANDSHAKE_FAILURES, counter),
            terminated: Labelled::new(&recorder, &contract::TERMINATED, counter),
            http2_resets: counter(&recorder, &contract::HTTP2_RESETS, &[]),
            http2_rejections: Labelled::new(&recorder, &contract::HTTP2_REJECTIONS, counter),
            limits_hit: Labelled::new(&recorder, &contract::LIMITS_HIT, counter),
            upstream_connections: Labelled::new(&recorder, &contract::UPSTREAM_CONNECTIONS, gauge),
            upstream_retries: counter(&recorder, &contract::UPSTREAM_RETRIES, &[]),
            upstream_failures: Labelled::new(&recorder, &contract::UPSTREAM_FAILURES, counter),
            audit_queue_length: gauge(&recorder, &contract::AUDIT_QUEUE_LENGTH, &[]),
            audit_written: counter(&recorder, &contract::AUDIT_WRITTEN, &[]),
            audit_lost: counter(&recorder, &contract::AUDIT_LOST, &[]),
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

    /// The counters of one role, to be kept by the caller: `none`'s for a request that no grant
    /// allowed. An `allow` counts for the role of the first grant that allowed it.
    #[must_use]
    pub fn role(&self, name: &str) -> Arc<RoleCounters> {
        let mut roles = self.roles.lock().unwrap_or_else(PoisonError::into_inner);
        // `none` and `other` have their place whatever the policy calls its roles.
        let name = if name != NO_ROLE && !roles.contains_key(name) && roles.len() >= MAX_ROLES {
            OTHER_ROLES
        } else {
            name
        };
        let new = || Arc::new(RoleCounters::new(name, Arc::clone(&self.recorder)));
        Arc::clone(roles.entry(name.into()).or_insert_with(new))
    }

    /// The counters of requests that no grant allowed.
    #[must_use]
    pub fn no_role(&self) -> Arc<RoleCounters> {
        self.role(NO_ROLE)
    }

    /// Seconds for whole requests of one method (`None`: a path that is no method). Record a
    /// `Duration`, or seconds as `f64`.
    pub fn request_duration(&self, method: Option<Method>) -> &Histogram {
        match self.request_duration.get(method_index(method)) {
            Some((_, histogram)) => histogram,
            // Never: there is a place for each method. Rust wants an answer all the same.
            None => &self.decision_duration,
        }
    }

    /// One client connection that ended before TLS stood.
    pub fn handshake_failure(&self, reason: HandshakeFailure) {
        self.handshake_failures.of(reason.code()).increment(1);
    }

    /// One live stream or watch ended by the proxy.
    pub fn terminated(&self, reason: Termination) {
        self.terminated.of(reason.code()).increment(1);
    }

    /// One request refused, or one connection closed, because of a limit.
    pub fn limit_hit(&self, limit: Limit) {
        self.limits_hit.of(limit.code()).increment(1);
    }

    /// Streams that HTTP/2 reset, or a connection that it ended, with this error.
    pub fn http2_rejection(&self, error: Http2Error, times: u64) {
        self.http2_rejections.of(error.code()).increment(times);
    }

    /// Connections to etcd of one class: `unary`, `long` or `bulk`.
    pub fn upstream_connections(&self, class: &str) -> &Gauge {
        self.upstream_connections.of(class)
    }

    /// One failure on the way to etcd.
    pub fn upstream_failure(&self, reason: UpstreamFailure) {
        self.upstream_failures.of(reason.code()).increment(1);
    }

    /// What a member (its `HOST:PORT` as configured) said that it can serve.
    pub fn member_health(&self, member: &str, health: Health) {
        gauge(&self.recorder, &contract::UPSTREAM_HEALTHY, &[member])
            .set(if health == Health::Well { 1.0 } else { 0.0 });
        for (state, code) in Health::ALL.into_iter().zip(Health::CODES) {
            gauge(&self.recorder, &contract::MEMBER_STATE, &[member, code])
                .set(if state == health { 1.0 } else { 0.0 });
        }
    }

    /// One reload.
    pub fn reload(&self, what: Reloaded, ok: bool) {
        if let Some([succeeded, failed]) = self.reloads.get(what as usize) {
            if ok { succeeded } else { failed }.increment(1);
        }
    }

    /// One change of the mode at the admin socket: `shadow`, `enforce` or `policy`.
    pub fn mode_changed(&self, mode: &'static str) {
        self.mode_changes.of(mode).increment(1);
    }

    /// When the first certificate of a kind (the code of a [`crate::tls::Expiring`]) is out of
    /// date, in seconds since 1970. A kind that is not in use is not shown: at 0 it would look
    /// as if it were out of date.
    pub fn certificate_expiry(&self, certificate: &str, seconds: f64) {
        debug_assert!(
            contract::listed(&contract::CERTIFICATE_EXPIRY).contains(&certificate),
            "`{certificate}` is no listed certificate"
        );
        gauge(&self.recorder, &contract::CERTIFICATE_EXPIRY, &[certificate]).set(seconds);
    }

    /// Everything, in Prometheus' text format (version 0.0.4).
    #[must_use]
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

/// The requests that one role's grants allowed, or that counted for no role.
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

    /// Counts one judged message (`None`: the path was no method).
    pub fn count(&self, method: Option<Method>, decision: Decision, mode: Mode) {
        let outcome = decision as usize * 2 + mode as usize;
        if let Some(place) = self.counters.get(method_index(method) * OUTCOMES + outcome) {
            place.get_or_init(|| self.counter(method, decision, mode)).increment(1);
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

/// One handle for each listed value of a metric's only label.
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
        let place = self.values.iter().position(|listed| *listed == value);
        debug_assert!(place.is_some(), "`{value}` is none of {:?}", self.values);
        place.and_then(|place| self.handles.get(place)).unwrap_or(&self.last)
    }
}

fn method_index(method: Option<Method>) -> usize {
    method.map_or(METHODS - 1, Method::index)
}

fn describe(recorder: &PrometheusRecorder) {
    for metric in contract::CONTRACT {
        match metric.kind {
            Kind::Counter => {
                recorder.describe_counter(metric.name.into(), None, metric.help.into())
            }
            Kind::Gauge => recorder.describe_gauge(metric.name.into(), None, metric.help.into()),
            // Rendered here, not by the recorder.
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
