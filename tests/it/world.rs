//! A running etcd, a proxy in front of it, and clients of both, in one line.
//!
//! ```ignore
//! let world = World::start("version: 1 ...").await;
//! world.as_("alice").await.put(world.key("a"), "1", None).await.unwrap();
//! ```
//!
//! Tests of one process share one etcd, each with its own prefix; [`World::with`] starts a private
//! etcd for a test that needs it. The proxy is always the test's own. Everything listens on
//! 127.0.0.1 and on ports that the system chose.

pub mod etcdctl;
pub mod fake;
pub mod files;
pub mod go_tool;
pub mod neighbour;
pub mod raw;
pub mod recorder;
pub mod relay;
pub mod vulnerable;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use etcd_warden_gateway::app::{self, Running};
use etcd_warden_gateway::config::Config;
use etcd_warden_gateway::config::settings::Key;
use etcd_warden_gateway::http_client as http;
use etcd_warden_testbed::etcd::{Etcd, Options, Programs, Release, Source, Tls, find};
use etcd_warden_testbed::gateway::{self, GatewayFiles};
use etcd_warden_testbed::pki::{Authority, Issued, Leaf, Usage, write_private};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::OnceCell;

/// Selects the etcd that the tests run on: `3.7` (the default), `3.6` or `3.5`, or a path.
pub const TEST_ETCD: &str = "ETCD_WARDEN_TEST_ETCD";

/// Upper bound of a wait on a busy machine. It is not an expectation: a test fails only after it.
pub const SOON: Duration = Duration::from_secs(60);

/// `alice`, whose behaviour a test is about, and the `neighbour` that must not be affected.
pub const TWO_CLIENTS: &str = "
version: 1
mode: enforce
roles:
  all:
    allow: [{keys: /*, verbs: [rw]}]
    capabilities: [lease, status, member-list, move-leader, snapshot]
bindings:
  - {cn: alice, roles: [all]}
  - {cn: neighbour, roles: [all]}
";

/// The programs of the etcd under test.
pub fn programs() -> &'static Programs {
    static PROGRAMS: OnceLock<Programs> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let source = match std::env::var(TEST_ETCD) {
            Err(_) => Source::Pinned(Release::newest()),
            Ok(text) => {
                Release::of_minor(&text).map_or_else(|| Source::Named(text.into()), Source::Pinned)
            }
        };
        let found = find(&source);
        found.unwrap_or_else(|error| {
            panic!(
                "the tests need a real etcd: {error} (or set {TEST_ETCD} to a version or a path)"
            )
        })
    })
}

/// The programs of a pinned release.
pub fn programs_of(minor: &str) -> &'static Programs {
    static PROGRAMS: Mutex<Vec<(String, &'static Programs)>> = Mutex::new(Vec::new());
    let mut known = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, programs)) = known.iter().find(|(of, _)| of == minor) {
        return programs;
    }
    let release =
        Release::of_minor(minor).unwrap_or_else(|| panic!("no release `{minor}` is pinned"));
    let found = find(&Source::Pinned(release))
        .unwrap_or_else(|error| panic!("this test needs etcd {minor}: {error}"));
    let programs: &'static Programs = Box::leak(Box::new(found));
    known.push((minor.to_owned(), programs));
    programs
}

/// Polls `look` until it returns a value.
pub async fn soon<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, found)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"))
}

/// The CAs of all tests. They are created once to keep each test short.
pub struct Authorities {
    /// Signs the proxy's clients and its server certificate.
    pub clients: Authority,
    /// Signs etcd's certificate and those of its direct clients.
    pub upstream: Authority,
}

pub fn authorities() -> &'static Authorities {
    static AUTHORITIES: OnceLock<Authorities> = OnceLock::new();
    AUTHORITIES.get_or_init(|| Authorities {
        clients: Authority::new("clients CA").unwrap(),
        upstream: Authority::new("etcd CA").unwrap(),
    })
}

/// etcd, the proxy, and everything that a test needs to talk to them.
pub struct World {
    etcd: Upstreams,
    running: Option<Running>,
    /// The configuration that the proxy was started with.
    pub config: Config,
    /// Replaces `$P` in policies and precedes every [`World::key`]. No other test uses it.
    pub prefix: String,
    folder: TempDir,
}

enum Upstreams {
    Shared(&'static Etcd),
    Own(Box<Etcd>),
}

impl Drop for World {
    /// The runtime catches a task's panic, which a test may not notice. This fails the test.
    fn drop(&mut self) {
        let panics = PANICS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(panics.is_empty() || std::thread::panicking(), "the proxy panicked: {panics:?}");
    }
}

/// Every panic in `src/`, in any test of this process.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.location().is_some_and(|location| location.file().starts_with("src/")) {
                PANICS.lock().unwrap_or_else(PoisonError::into_inner).push(panic.to_string());
            }
            before(panic);
        }));
    });
}

/// Options beyond [`World::start`].
pub struct WorldBuilder {
    policy: String,
    own_etcd: Option<Options>,
    programs: Box<dyn FnOnce() -> &'static Programs + Send>,
    configure: Box<dyn FnOnce(&mut Config) + Send>,
}

impl WorldBuilder {
    /// Gives the test a private etcd, to kill it, to have several members, or to check its whole
    /// state.
    pub fn own_etcd(mut self) -> Self {
        self.own_etcd.get_or_insert_default();
        self
    }

    /// Like [`WorldBuilder::own_etcd`], of another release, for instance one of [`vulnerable`].
    pub fn etcd_programs(
        mut self,
        programs: impl FnOnce() -> &'static Programs + Send + 'static,
    ) -> Self {
        self.programs = Box::new(programs);
        self.own_etcd()
    }

    /// Like [`WorldBuilder::own_etcd`], of this minor version whatever the other tests run on.
    pub fn release(self, minor: &'static str) -> Self {
        self.etcd_programs(move || programs_of(minor))
    }

    /// Like [`WorldBuilder::own_etcd`], with this number of members.
    pub fn members(mut self, members: usize) -> Self {
        self.own_etcd.get_or_insert_default().members = members;
        self
    }

    /// Like [`WorldBuilder::own_etcd`], with this flag for etcd.
    pub fn etcd_flag(mut self, flag: &str) -> Self {
        self.own_etcd.get_or_insert_default().flags.push(flag.to_owned());
        self
    }

    /// Changes the proxy's configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        let before = self.configure;
        self.configure = Box::new(|config| {
            before(config);
            change(config);
        });
        self
    }

    pub async fn start(self) -> World {
        self.try_start().await.unwrap_or_else(|error| panic!("the proxy did not start: {error:#}"))
    }

    /// Like [`WorldBuilder::start`], for a proxy that may refuse to start.
    pub async fn try_start(self) -> anyhow::Result<World> {
        note_panics();
        let etcd = match self.own_etcd {
            Some(options) => Upstreams::Own(Box::new(start_etcd_of(self.programs, options).await)),
            None => Upstreams::Shared(shared_etcd().await),
        };
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let prefix = format!("/t{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(etcd.get(), &folder);
        write_private(folder.path(), "policy.yaml", &self.policy.replace("$P", &prefix)).unwrap();
        (self.configure)(&mut config);
        let running = app::start(config.clone()).await?;
        Ok(World { etcd, running: Some(running), config, prefix, folder })
    }
}

impl World {
    /// A proxy with this policy in front of the shared etcd. `$P` in the policy stands for the
    /// prefix of this test.
    pub async fn start(policy: &str) -> Self {
        Self::with(policy).start().await
    }

    /// Like [`World::start`], with options.
    pub fn with(policy: &str) -> WorldBuilder {
        WorldBuilder {
            policy: policy.to_owned(),
            own_etcd: None,
            programs: Box::new(programs),
            configure: Box::new(|_| ()),
        }
    }

    pub fn etcd(&self) -> &Etcd {
        self.etcd.get()
    }

    /// etcd itself, to be killed or paused.
    pub fn etcd_mut(&mut self) -> &mut Etcd {
        match &mut self.etcd {
            Upstreams::Own(etcd) => etcd,
            Upstreams::Shared(_) => panic!("this etcd is shared: use `own_etcd()`"),
        }
    }

    pub fn running(&self) -> &Running {
        self.running.as_ref().expect("the proxy runs")
    }

    /// The address that the proxy listens on.
    pub fn address(&self) -> SocketAddr {
        self.running().listen_addr
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address())
    }

    /// A key below this test's prefix.
    pub fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// A client of the proxy, with a valid certificate for this name.
    pub async fn as_(&self, common_name: &str) -> Client {
        self.with_certificate(&Leaf::client(common_name)).await
    }

    /// A client of the proxy, with any certificate of the clients' CA.
    pub async fn with_certificate(&self, leaf: &Leaf) -> Client {
        let issued = authorities().clients.issue(leaf).unwrap();
        connect(&[self.endpoint()], &authorities().clients, &issued).await
    }

    /// A client that is connected directly to etcd.
    pub async fn direct(&self) -> Client {
        connect(&self.etcd().endpoints(), &authorities().upstream, root()).await
    }

    /// Replaces the policy. It is in effect on return.
    ///
    /// # Panics
    ///
    /// If the proxy refuses the policy.
    pub fn replace_policy(&self, policy: &str) {
        self.write_policy(policy);
        self.running().reload_policy().unwrap();
    }

    /// Reloads the policy file.
    pub fn try_reload(&self) -> anyhow::Result<()> {
        self.running().reload_policy()
    }

    /// Replaces the policy file atomically. The proxy is not notified.
    pub fn write_policy(&self, policy: &str) {
        let new =
            write_private(self.folder.path(), "policy.new", &policy.replace("$P", &self.prefix))
                .unwrap();
        std::fs::rename(new, &self.config.policy).unwrap();
    }

    /// The generation of the policy in effect.
    pub async fn generation(&self) -> u64 {
        let (status, body) = self.admin("/policy").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["generation"].as_u64().unwrap()
    }

    /// Status and body of a page of the admin address.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        let address = self.running().admin_addr.expect("this proxy has an admin address");
        http::get(address, path).await.unwrap()
    }

    /// The sum of all samples of a metric of the proxy whose labels include these, each written
    /// `name="value"`; 0 if there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let (_, text) = self.admin("/metrics").await;
        let samples = text.lines().filter(|line| {
            let rest = line.strip_prefix(name).unwrap_or_default();
            rest.starts_with(['{', ' ']) && labels.iter().all(|label| rest.contains(label))
        });
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// All audit lines so far.
    pub fn audit(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.audit_file()).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    /// Waits for an audit line that `fits` accepts.
    pub async fn audited(&self, fits: impl Fn(&Value) -> bool) -> Value {
        let found = tokio::time::timeout(SOON, async {
            loop {
                if let Some(line) = self.audit().into_iter().find(|line| fits(line)) {
                    return line;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        match found.await {
            Ok(line) => line,
            Err(_) => panic!("no audit line matches:\n{:#?}", self.audit()),
        }
    }

    /// The path of the proxy's audit log.
    pub fn audit_file(&self) -> PathBuf {
        self.config.audit.file.clone().expect("this proxy writes an audit file")
    }

    /// This test's folder with the proxy's files.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The number of calls of a method that etcd has answered so far, with any status. On the
    /// shared etcd it includes the calls of other tests.
    pub async fn reached_etcd(&self, rpc: &str) -> f64 {
        let text = self.etcd().metrics(0).await.unwrap();
        let label = format!("grpc_method=\"{rpc}\"");
        let samples = text
            .lines()
            .filter(|line| line.starts_with("grpc_server_handled_total{") && line.contains(&label));
        samples.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    /// Starts the proxy again, after [`World::shut_down`] or in place of the running one.
    pub async fn start_again(&mut self) {
        self.start_again_with(|_| ()).await;
    }

    /// Like [`World::start_again`], with a change of its configuration.
    pub async fn start_again_with(&mut self, change: impl FnOnce(&mut Config)) {
        if self.running.is_some() {
            self.shut_down().await;
        }
        change(&mut self.config);
        self.running = Some(app::start(self.config.clone()).await.unwrap());
    }

    /// Takes the proxy, to shut it down while the test continues.
    pub fn take_running(&mut self) -> Running {
        self.running.take().expect("the proxy runs")
    }

    /// Drains the proxy, as SIGTERM does, and waits for its end.
    pub async fn shut_down(&mut self) {
        self.running.take().expect("the proxy runs").shutdown(std::future::pending()).await;
    }
}

impl Upstreams {
    fn get(&self) -> &Etcd {
        match self {
            Upstreams::Shared(etcd) => etcd,
            Upstreams::Own(etcd) => etcd,
        }
    }
}

pub async fn shared_etcd() -> &'static Etcd {
    static SHARED: OnceCell<Etcd> = OnceCell::const_new();
    SHARED.get_or_init(|| start_etcd(Options::default())).await
}

/// Starts etcd with TLS. [`root`] is the certificate that it accepts.
pub async fn start_etcd(options: Options) -> Etcd {
    start_etcd_of(programs, options).await
}

/// Like [`start_etcd`], of any release.
pub async fn start_etcd_of(
    programs: impl FnOnce() -> &'static Programs + Send + 'static,
    options: Options,
) -> Etcd {
    let programs = tokio::task::spawn_blocking(programs).await.unwrap();
    let server =
        authorities().upstream.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both)).unwrap();
    let tls = Tls { server, trusted_ca: authorities().upstream.pem() };
    Etcd::start(programs, Options { tls: Some(tls), ..options })
        .await
        .unwrap_or_else(|error| panic!("{error}"))
}

/// The certificate that etcd itself accepts, CN `root`: the proxy's, and that of [`World::direct`].
pub fn root() -> &'static Issued {
    static ROOT: OnceLock<Issued> = OnceLock::new();
    ROOT.get_or_init(|| authorities().upstream.client("root").unwrap())
}

/// A client of any endpoint.
pub async fn connect(endpoints: &[String], authority: &Authority, issued: &Issued) -> Client {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .identity(Identity::from_pem(&issued.certificate, &issued.key));
    Client::connect(endpoints, Some(ConnectOptions::new().with_tls(tls))).await.unwrap()
}

/// True if a result of etcd-client is etcd's own refusal, word for word.
pub fn is_permission_denied<T>(answer: &Result<T, etcd_client::Error>) -> bool {
    matches!(answer, Err(etcd_client::Error::GRpcStatus(status))
        if status.code() == tonic::Code::PermissionDenied && status.message() == "etcdserver: permission denied")
}

fn config(etcd: &Etcd, folder: &TempDir) -> Config {
    let at = folder.path();
    let authorities = authorities();
    let server = authorities.clients.server(&["127.0.0.1", "localhost"]).unwrap();
    let files = GatewayFiles {
        server: server.write(at, "server").unwrap(),
        client_ca: write_private(at, "clients-ca.crt", &authorities.clients.pem()).unwrap(),
        upstream: root().write(at, "upstream").unwrap(),
        upstream_ca: write_private(at, "etcd-ca.crt", &authorities.upstream.pem()).unwrap(),
        policy: at.join("policy.yaml"),
    };
    let settings = [
        (Key::AdminAddr, "127.0.0.1:0".to_owned()),
        (Key::AdminDebug, "true".to_owned()),
        (Key::AuditFile, at.join("audit.jsonl").display().to_string()),
        (Key::AuditQueue, "65536".to_owned()),
        (Key::DrainTimeout, "5s".to_owned()),
        (Key::HealthInterval, "1s".to_owned()),
        (Key::LogFilter, "warn".to_owned()),
    ];
    gateway::config(etcd, &files, &settings).unwrap()
}
