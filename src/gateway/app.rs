//! Wiring: from a checked configuration to a running proxy, and back down.

pub mod descriptors;
mod groups;
pub mod mode;
pub mod reload;
mod settling;
pub mod shadow_guard;
pub mod state_dir;
pub mod watched_files;

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

use crate::admin::{self, AdminState, Check, Door, PolicyView, Socket, StreamView};
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
use mode::ModeOverride;
use reload::Reloads;
use shadow_guard::ShadowGuard;

/// What serves, and what changes how it does.
pub(crate) struct State {
    /// What the workers share.
    shared: Arc<Shared>,
    /// What overrides the policy's modes.
    mode: ModeOverride,
    /// Whether shadow mode is suspended, because etcd's own auth is on.
    shadow_guard: ShadowGuard,
    /// How the last reloads went.
    reloads: Reloads,
}

/// A proxy that serves.
pub struct Running {
    /// Where clients connect.
    pub listen_addr: SocketAddr,
    /// Where the admin pages are.
    pub admin_addr: Option<SocketAddr>,
    state: Arc<State>,
    background: CancellationToken,
    tasks: JoinSet<()>,
    workers: Vec<std::thread::JoinHandle<()>>,
}

/// Starts a proxy: binds its addresses, asks etcd how it is, and serves. Call it on a runtime that
/// lives as long as the proxy.
///
/// # Errors
/// Whatever makes serving unsafe or impossible; nothing was served before.
pub async fn start(mut config: Config) -> anyhow::Result<Running> {
    descriptors::provide(&mut config);
    let metrics = Metrics::new();
    let (reloads, files) = Reloads::start(&config).await;
    let policy = reload::first_policy(&config, &files, &reloads, &metrics)?;
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
                format!("cannot make the socket `{}` (admin-socket)", path.display())
            })
        })
        .transpose()?;
    let audit = Audit::start(&config.audit, metrics.clone()).context("cannot start the audit")?;

    let shared = Arc::new(Shared {
        awaits_auth_status: AtomicBool::new(shadow_guard.has_yet_to_begin()),
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
        shared: shared.clone(),
    });
    describe(&shared);
    count_expiries(&shared);
    reload::warn_of_stale(&shared);
    reload::keep_first(&state);
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
    for door in admin.map(Door::Address).into_iter().chain(socket.map(Door::Socket)) {
        tasks.spawn(admin::serve(door, pages.clone(), background.clone()));
    }
    let threads = accept(&mut tasks, listener, &shared, workers);
    Ok(Running { listen_addr, admin_addr, state, background, tasks, workers: threads })
}

/// Runs the accept loop as a task; when the drain begins it ends, and with it the workers' supply
/// of sockets.
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
    /// What the workers share: the live policy, the members, the metrics.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.state.shared
    }

    /// Reads the policy file again, on the calling thread, for a caller that knows that it is
    /// whole. A mistake changes nothing: the last good policy goes on.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn reload_policy(&self) -> anyhow::Result<()> {
        reload::one(&self.state, Reloaded::Policy)
    }

    /// Reads the policy and all certificates again, as soon as their files have come to rest. What
    /// has a mistake is told, and changes nothing.
    ///
    /// # Errors
    /// What was not reloaded, and why; it was logged.
    pub async fn reload(&self) -> anyhow::Result<()> {
        Ok(reload::everything(&self.state).await?)
    }

    /// Opens the audit file again, after something has moved it away.
    pub fn reopen_audit(&self) {
        self.state.shared.audit.reopen();
    }

    /// Begins to drain, as [`Running::shutdown`] does, and does not wait for its end.
    pub fn drain(&self) {
        self.state.shared.drain.cancel();
    }

    /// Drains and stops: no new connections, GOAWAY, unary calls finish, streams end so that
    /// clients resume elsewhere. After the drain timeout, or when `at_once` is ready, whatever
    /// is left is cut off.
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
            () = tokio::time::sleep(timeout) => tracing::warn!("drain timeout: cutting off what is left"),
            () = at_once => tracing::warn!("cutting off what is left"),
        }
        self.background.cancel();
        self.tasks.shutdown().await;
        self.state.shared.audit.close();
    }
}

/// Shows when the certificates of each kind end.
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
            // More than any key has: whatever it is, it is none then.
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

/// One line on what starts.
fn describe(shared: &Shared) {
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
        change_mode: Box::new(move |asked, peer| mode::change(&mode, asked, peer)),
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
        source: state.reloads.source(),
        mode_override: state.mode.get(),
        last_error: state.reloads.policy_error(),
        certificate_errors: state.reloads.certificate_errors(),
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
