//! What the demo plays on: etcd with TLS and its own auth off, a certificate per component, and two
//! proxies in front.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use etcd_warden_core::policy::Mode;
use etcd_warden_gateway::app::{self, Running};
use etcd_warden_gateway::config::settings::Key;
use tempfile::TempDir;

use super::call::expand;
use super::script::{COMPONENTS, SEED, policy};
use super::witness::Witness;
use crate::etcd::{Etcd, Options, Programs, Tls};
use crate::gateway::{self, GatewayFiles};
use crate::pki::{Authority, Issued, Leaf, Usage, write_private};

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
        let files = GatewayFiles {
            server: authority.server(&["127.0.0.1", "localhost"])?.write(at, "server")?,
            client_ca: write_private(at, "ca.crt", &authority.pem())?,
            upstream: warden.write(at, "etcd-warden")?,
            upstream_ca: write_private(at, "etcd-ca.crt", &upstream_authority.pem())?,
            policy: write_private(at, "policy.yaml", &policy())?,
        };

        let server = upstream_authority.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both))?;
        let tls = Tls { server, trusted_ca: upstream_authority.pem() };
        let etcd = Etcd::start(programs, Options { tls: Some(tls), ..Options::default() }).await?;
        let enforcing = Proxy::start(&etcd, &files, Mode::Enforce, at).await?;
        let shadow = Proxy::start(&etcd, &files, Mode::Shadow, at).await?;
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
        files: &GatewayFiles,
        mode: Mode,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let audit = folder.join(format!("audit-{mode}.jsonl"));
        let settings = [
            (Key::Mode, mode.to_string()),
            (Key::AuditFile, audit.display().to_string()),
            (Key::AuditOnFull, "deny".to_owned()),
            (Key::LogFilter, "off".to_owned()),
            (Key::DrainTimeout, "1s".to_owned()),
        ];
        let running = app::start(gateway::config(etcd, files, &settings)?)
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
