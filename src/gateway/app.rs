//! Starts a gateway from a checked configuration, and stops it.

mod descriptors;
mod groups;
mod kept_policy;
mod mode;
mod publish;
mod reload;
mod settling;
mod shadow_guard;
mod state_dir;
mod watched_files;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use etcd_warden_core::lease_id::LeaseKey;
use etcd_warden_core::policy::Policy;
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminListener, AdminState, Check, PolicyView, Socket, StreamView};
use crate::audit::Audit;
use crate::config::Config;
use crate::files;
use crate::metrics::Metrics;
use crate::metrics::reason::Reloaded;
use crate::proxy::Shared;
use crate::proxy::listener::Listener;
use crate::proxy::live_policy::LivePolicy;
use crate::proxy::open_streams::OpenStreams;
use crate::proxy::quota::Quotas;
use crate::proxy::worker::{self, WorkerHandle};
use crate::tls::{Expiring, LiveTls, Tls};
use crate::upstream::control::Control;
use crate::upstream::members::Members;
use kept_policy::KeptPolicy;
use mode::ModeOverride;
use reload::Reloads;
use shadow_guard::ShadowGuard;

/// The shared state of the workers, and of the tasks that change it.
struct State {
    /// The part that workers use.
    shared: Arc<Shared>,
    mode: ModeOverride,
    shadow_guard: ShadowGuard,
    reloads: Reloads,
    kept_policy: KeptPolicy,
}

/// A gateway that serves.
pub struct Running {
    /// The address for clients.
    pub listen_addr: SocketAddr,
    /// The address of the admin pages.
    pub admin_addr: Option<SocketAddr>,
    state: Arc<State>,
    background: CancellationToken,
    tasks: JoinSet<()>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

/// Starts a gateway: checks the health of etcd's members, binds the addresses, and serves. The
/// calling runtime must run as long as the gateway.
///
/// # Errors
/// The gateway cannot serve, or cannot serve safely. It has not accepted any connection.
pub async fn start(mut config: Config) -> anyhow::Result<Running> {
    descriptors::fit_limits(&mut config);
    let metrics = Metrics::new();
    let (reloads, files) = Reloads::start(&config).await;
    let policy = kept_policy::first_policy(&config, &files, &reloads, &metrics)?;
    let tls = Arc::new(LiveTls::new(Tls::from_files(&config, &files)?));
    drop(files);
    let lease_key = lease_key(&config)?;
    let members = Arc::new(Members::new(&config.upstream.endpoints, config.upstream.pin));
    let control = Control::new(members.clone(), tls.clone());
    control.check_all(&metrics).await;
    let (policy, shadow_guard) = shadow_guard::before_start(&config, policy, &control).await?;

    let listener = Listener::bind(config.listen_addr)
        .with_context(|| format!("cannot listen on {}", config.listen_addr))?;
    let listen_addr = listener.address()?;
    let admin = match config.admin_addr {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .with_context(|| format!("cannot listen on {address} (admin)"))?,
        ),
        None => None,
    };
    let admin_addr = admin.as_ref().map(TcpListener::local_addr).transpose()?;
    let socket = config.admin_socket.as_deref();
    let socket = socket
        .map(|path| {
            Socket::bind(path).with_context(|| {
                format!("cannot create the socket `{}` (admin-socket)", path.display())
            })
        })
        .transpose()?;
    let audit =
        Audit::start(&config.audit, metrics.clone()).context("cannot start the audit log")?;

    let shared = Arc::new(Shared {
        awaits_auth_status: AtomicBool::new(shadow_guard.is_pending()),
        policy: LivePolicy::new(policy),
        metrics,
        audit,
        lease_key,
        members,
        control,
        tls,
        open_streams: OpenStreams::default(),
        quotas: Quotas::new(&config.limits),
        drain: CancellationToken::new(),
        request_ids: AtomicU64::new(1),
        config,
    });
    let state = Arc::new(State {
        mode: ModeOverride::new(shared.config.mode),
        shadow_guard,
        reloads,
        kept_policy: KeptPolicy::default(),
        shared: shared.clone(),
    });
    log_start(&shared);
    count_expiries(&shared);
    reload::warn_of_stale(&shared);
    kept_policy::keep_first(&state);
    let workers = (0..shared.config.workers.max(1))
        .map(|number| worker::start(shared.clone(), number))
        .collect::<std::io::Result<Vec<_>>>()
        .context("cannot start a worker thread")?;
    let background = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(shared.control.clone().watch_health(
        shared.config.upstream.health_interval,
        shared.metrics.clone(),
        background.clone(),
    ));
    tasks.spawn(shared.control.clone().keep_renewed(background.clone()));
    tasks.spawn(
        background.clone().run_until_cancelled_owned(watched_files::watch(state.clone())).map(drop),
    );
    tasks.spawn(
        background.clone().run_until_cancelled_owned(shadow_guard::watch(state.clone())).map(drop),
    );
    let pages = Arc::new(admin_state(&state));
    let admin = admin.map(AdminListener::Address);
    for listener in admin.into_iter().chain(socket.map(AdminListener::Socket)) {
        tasks.spawn(admin::serve(listener, pages.clone(), background.clone()));
    }
    let threads = accept(&mut tasks, listener, &shared, workers);
    Ok(Running { listen_addr, admin_addr, state, background, tasks, workers: threads })
}

/// Runs the accept loop as a task. It ends when the drain begins.
fn accept(
    tasks: &mut JoinSet<()>,
    listener: Listener,
    shared: &Arc<Shared>,
    workers: Vec<(WorkerHandle, std::thread::JoinHandle<()>)>,
) -> Vec<std::thread::JoinHandle<()>> {
    let (workers, threads): (Vec<_>, Vec<_>) = workers.into_iter().unzip();
    let shared = shared.clone();
    tasks.spawn(async move { listener.run(&shared, &workers).await });
    threads
}

impl Running {
    /// The state that the workers share: the live policy, the members, the metrics.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.state.shared
    }

    /// Reloads the policy on the calling thread, for a caller that knows that the file is complete.
    ///
    /// # Errors
    /// The errors of the file. The previous policy is still in effect.
    pub fn reload_policy(&self) -> anyhow::Result<()> {
        reload::now(&self.state, Reloaded::Policy)
    }

    /// Reloads the policy and all certificates, as soon as their files are stable. After an error
    /// the previous version is still in effect.
    ///
    /// # Errors
    /// What was not reloaded, and why. These errors were logged.
    pub async fn reload(&self) -> anyhow::Result<()> {
        Ok(reload::everything(&self.state).await?)
    }

    /// Reopens the audit file, after it was renamed.
    pub fn reopen_audit(&self) {
        self.state.shared.audit.reopen();
    }

    /// Begins to drain like [`Running::shutdown`], but does not wait for the end.
    pub fn drain(&self) {
        self.state.shared.drain.cancel();
    }

    /// Drains and stops: accepts no connections, sends GOAWAY, lets unary calls finish, and ends
    /// streams so that clients resume them elsewhere. After the drain timeout, or when `at_once` is
    /// ready, closes the remaining connections.
    pub async fn shutdown(mut self, at_once: impl Future<Output = ()>) {
        self.drain();
        let timeout = self.state.shared.config.drain_timeout;
        let workers = std::mem::take(&mut self.workers);
        let drained = async {
            while workers.iter().any(|worker| !worker.is_finished()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            () = drained => {}
            () = tokio::time::sleep(timeout) => {
                tracing::warn!("drain timeout; closing the remaining connections");
            }
            () = at_once => tracing::warn!("closing the remaining connections"),
        }
        self.background.cancel();
        self.tasks.shutdown().await;
        self.state.shared.audit.close();
    }
}

/// Sets the metric of when the certificates of each kind expire.
fn count_expiries(shared: &Shared) {
    let mut soonest = BTreeMap::new();
    for expiry in shared.tls.current().expiries() {
        let end = soonest.entry(expiry.what.code()).or_insert(expiry.not_after);
        *end = expiry.not_after.min(*end);
    }
    for (certificate, end) in soonest {
        let since_1970 = end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        shared.metrics.certificate_expiry(certificate, since_1970.as_secs_f64());
    }
}

fn lease_key(config: &Config) -> anyhow::Result<LeaseKey> {
    match &config.lease_key_file {
        Some(path) => {
            // Larger than any key.
            let bytes = files::read(path, 1 << 16)
                .map_err(|why| anyhow!("{}: the lease key {why}", path.display()))?;
            LeaseKey::from_bytes(&bytes).map_err(|error| anyhow!("{}: {error}", path.display()))
        }
        None => {
            LeaseKey::random().map_err(|error| anyhow!("no randomness for the lease key: {error}"))
        }
    }
}

fn count_policy(metrics: &Metrics, policy: &Policy) {
    let count = |number: usize| u32::try_from(number).map_or(f64::MAX, f64::from);
    metrics.policy_generation.set(u32::try_from(policy.generation).map_or(f64::MAX, f64::from));
    metrics.policy_roles.set(count(policy.role_names().len()));
    metrics.policy_bindings.set(count(policy.bindings().count()));
}

/// Logs one line about the gateway that starts.
fn log_start(shared: &Shared) {
    let policy = shared.policy.current();
    count_policy(&shared.metrics, &policy);
    let members: Vec<&str> = shared.members.iter().map(|(_, member)| &*member.name).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        policy = %shared.config.policy.display(),
        hash = %policy.hash,
        mode = %policy.mode(),
        etcd = members.join(","),
        workers = shared.config.workers,
        "starting"
    );
}

fn admin_state(state: &Arc<State>) -> AdminState {
    let shared = &state.shared;
    let (ready, streams) = (shared.clone(), shared.clone());
    let (policy, mode) = (state.clone(), state.clone());
    AdminState {
        metrics: shared.metrics.clone(),
        readiness: Box::new(move || readiness(&ready)),
        policy: Box::new(move || policy_view(&policy)),
        streams: Box::new(move || stream_views(&streams)),
        debug: shared.config.admin_debug,
        change_mode: Box::new(move |requested, peer| mode::change(&mode, requested, peer)),
    }
}

fn readiness(shared: &Shared) -> Vec<Check> {
    let upstream = if shared.members.any_in_use() {
        Ok(())
    } else {
        Err("no etcd member is reachable".to_owned())
    };
    let now = SystemTime::now();
    let tls = shared.tls.current();
    let expired = tls
        .server
        .expiries()
        .find(|expiry| expiry.what == Expiring::Server && expiry.not_after <= now);
    let certificate =
        expired.map_or(Ok(()), |_| Err("the server certificate has expired".to_owned()));
    let draining = if shared.drain.is_cancelled() { Err("draining".to_owned()) } else { Ok(()) };
    vec![
        Check { name: "upstream", result: upstream },
        Check { name: "policy", result: Ok(()) },
        Check { name: "certificate", result: certificate },
        Check { name: "serving", result: draining },
    ]
}

fn policy_view(state: &State) -> PolicyView {
    let policy = state.shared.policy.current();
    PolicyView {
        generation: policy.generation,
        hash: policy.hash.to_string(),
        mode: policy.mode(),
        roles: policy.role_names().iter().map(ToString::to_string).collect(),
        bindings: policy.bindings().count(),
        source: state.reloads.status.source(),
        mode_override: state.mode.get(),
        last_error: state.reloads.status.policy_error(),
        certificate_errors: state.reloads.status.certificate_errors(),
    }
}

fn stream_views(shared: &Shared) -> Vec<StreamView> {
    let entries = shared.open_streams.list();
    entries
        .iter()
        .map(|entry| StreamView {
            identity: entry.identity.to_string(),
            method: entry.method.path(),
            age_seconds: entry.since.elapsed().as_secs(),
            watches: entry.watches.load(std::sync::atomic::Ordering::Relaxed),
        })
        .collect()
}
