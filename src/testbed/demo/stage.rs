//! What the demo plays on: etcd with TLS and its own auth off, a certificate per component, and two
//! proxies in front.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use etcd_warden_core::policy::Mode;
use etcd_warden_gateway::app::{self, Running};
use etcd_warden_gateway::config::{
    Advertise, Audit, AuditAllowed, ClientCa, ClientTokens, Config, Downstream, Endpoint, Limits,
    Log, OnFull, Upstream,
};
use tempfile::TempDir;

use super::call::expand;
use super::script::{COMPONENTS, SEED, policy};
use super::witness::Witness;
use crate::etcd::{Etcd, Options, Programs, Tls};
use crate::pki::{Authority, Files, Issued, Leaf, Usage, write_private};

/// Everything that runs, until it is struck or dropped.
pub(super) struct Stage {
    pub(super) etcd: Etcd,
    pub(super) enforcing: Proxy,
    pub(super) shadow: Proxy,
    /// Certificates, policy and audit files.
    pub(super) folder: TempDir,
    clients: BTreeMap<&'static str, Issued>,
    authority: Authority,
    upstream_authority: Authority,
    /// The proxies' own certificate, which etcd trusts.
    warden: Issued,
}

/// One running proxy.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    pub(super) witness: Witness,
    running: Running,
}

/// The files that both proxies use.
struct Papers {
    server: Files,
    client_ca: PathBuf,
    upstream: Files,
    upstream_ca: PathBuf,
    policy: PathBuf,
}

impl Stage {
    /// Starts all of it.
    pub(super) async fn set(programs: &Programs) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("etcd-warden-demo-")
            .tempdir()
            .context("cannot make a folder for certificates")?;
        // Two authorities: etcd trusts the proxy's certificate and no component's, or a component
        // could walk around the proxy.
        let authority = Authority::new("demo clients CA")?;
        let upstream_authority = Authority::new("demo etcd CA")?;
        let at = folder.path();

        let mut clients = BTreeMap::new();
        for component in COMPONENTS {
            let issued = authority.client(component.common_name)?;
            issued.write(at, component.common_name)?;
            clients.insert(component.common_name, issued);
        }
        let warden = upstream_authority.client("etcd-warden")?;
        let papers = Papers {
            server: authority.server(&["127.0.0.1", "localhost"])?.write(at, "server")?,
            client_ca: write_private(at, "ca.crt", &authority.pem())?,
            upstream: warden.write(at, "etcd-warden")?,
            upstream_ca: write_private(at, "etcd-ca.crt", &upstream_authority.pem())?,
            policy: write_private(at, "policy.yaml", &policy())?,
        };

        let server = upstream_authority.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both))?;
        let tls = Tls { server, trusted_ca: upstream_authority.pem() };
        let etcd = Etcd::start(programs, Options { tls: Some(tls), ..Options::default() }).await?;
        let enforcing = Proxy::start(&etcd, &papers, Mode::Enforce, at).await?;
        let shadow = Proxy::start(&etcd, &papers, Mode::Shadow, at).await?;
        let stage = Self {
            etcd,
            enforcing,
            shadow,
            folder,
            clients,
            authority,
            upstream_authority,
            warden,
        };
        stage.seed().await?;
        Ok(stage)
    }

    /// Writes the first keys, around the proxies.
    pub(super) async fn seed(&self) -> anyhow::Result<()> {
        let endpoint = self.etcd.endpoints().into_iter().next().context("etcd has no member")?;
        let mut client = connect(&endpoint, &self.upstream_authority, &self.warden).await?;
        for key in SEED {
            client
                .put(expand(key), "seed", None)
                .await
                .context("cannot write the first keys to etcd")?;
        }
        Ok(())
    }

    /// A client of a proxy, with the certificate of this name.
    pub(super) async fn client(&self, proxy: &Proxy, common_name: &str) -> anyhow::Result<Client> {
        let issued = self
            .clients
            .get(common_name)
            .with_context(|| format!("there is no certificate for `{common_name}`"))?;
        Ok(connect(&format!("https://{}", proxy.address), &self.authority, issued).await?)
    }

    /// Ends all of it, the proxies in an orderly way.
    pub(super) async fn strike(self) {
        self.enforcing.running.shutdown(std::future::ready(())).await;
        self.shadow.running.shutdown(std::future::ready(())).await;
    }
}

impl Proxy {
    async fn start(
        etcd: &Etcd,
        papers: &Papers,
        mode: Mode,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let audit = folder.join(format!("audit-{mode}.jsonl"));
        let running = app::start(config(etcd, papers, mode, &audit))
            .await
            .context("the proxy does not start")?;
        Ok(Self { address: running.listen_addr, witness: Witness::of(audit), running })
    }
}

async fn connect(
    endpoint: &str,
    authority: &Authority,
    issued: &Issued,
) -> Result<Client, etcd_client::Error> {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(authority.pem()))
        .identity(Identity::from_pem(&issued.certificate, &issued.key));
    let options = ConnectOptions::new().with_tls(tls).with_timeout(Duration::from_secs(10));
    Client::connect([endpoint], Some(options)).await
}

fn config(etcd: &Etcd, papers: &Papers, mode: Mode, audit: &Path) -> Config {
    let endpoint = |address: SocketAddr| Endpoint {
        tls: true,
        host: address.ip().to_string().into(),
        port: address.port(),
    };
    Config {
        listen_addr: (Ipv4Addr::LOCALHOST, 0).into(),
        proxy_protocol_from: Vec::new(),
        downstream: Downstream {
            cert_file: papers.server.cert.clone(),
            key_file: papers.server.key.clone(),
            client_cas: vec![ClientCa {
                name: Arc::from("default"),
                file: papers.client_ca.clone(),
            }],
            crl_files: Vec::new(),
        },
        upstream: Upstream {
            endpoints: etcd.addresses().into_iter().map(endpoint).collect(),
            identity: Some((papers.upstream.cert.clone(), papers.upstream.key.clone())),
            cacert: Some(papers.upstream_ca.clone()),
            insecure_plaintext: false,
            pin: false,
            health_interval: Duration::from_secs(5),
        },
        advertise: Advertise::default(),
        client_tokens: ClientTokens::Forward,
        policy: papers.policy.clone(),
        mode: Some(mode),
        allow_shadow_with_etcd_auth: false,
        lease_key_file: None,
        state_dir: None,
        reason_trailer: false,
        limits: Limits::default(),
        audit: Audit {
            file: Some(audit.to_owned()),
            stdout: false,
            allowed: AuditAllowed::All,
            sample: 1.0,
            queue: 1024,
            on_full: OnFull::Deny,
        },
        admin_addr: None,
        admin_debug: false,
        admin_socket: None,
        log: Log { json: false, filter: "off".to_owned() },
        reload_interval: Duration::ZERO,
        reload_settle: Duration::ZERO,
        drain_timeout: Duration::from_secs(1),
        workers: 1,
    }
}
