//! The environment of the demo: etcd with TLS and without auth, a certificate per component, and
//! two gateways.

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

use super::audit_reader::AuditReader;
use super::call::expand;
use super::script::{COMPONENTS, SEED, policy};
use crate::etcd::{Etcd, Options, Programs, Tls};
use crate::gateway::{self, GatewayFiles};
use crate::pki::{Authority, Issued, Leaf, Usage, write_private};

/// All running parts. They are stopped when it is dropped.
pub(super) struct Stage {
    pub(super) etcd: Etcd,
    pub(super) enforcing: Gateway,
    pub(super) shadow: Gateway,
    /// Certificates, policy and audit files.
    pub(super) folder: TempDir,
    clients: BTreeMap<&'static str, Issued>,
    authority: Authority,
    upstream_authority: Authority,
    /// The gateways' client certificate, which etcd trusts.
    gateway: Issued,
}

/// A running gateway.
pub(super) struct Gateway {
    pub(super) address: SocketAddr,
    pub(super) audit_reader: AuditReader,
    running: Running,
}

impl Stage {
    /// Starts everything.
    pub(super) async fn start(programs: &Programs) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("etcd-warden-demo-")
            .tempdir()
            .context("cannot create a directory for certificates")?;
        // Two CAs: etcd must trust the gateway's certificate only, or components could bypass the
        // gateway.
        let authority = Authority::new("demo clients CA")?;
        let upstream_authority = Authority::new("demo etcd CA")?;
        let at = folder.path();

        let mut clients = BTreeMap::new();
        for component in COMPONENTS {
            let issued = authority.client(component.common_name)?;
            issued.write(at, component.common_name)?;
            clients.insert(component.common_name, issued);
        }
        let gateway = upstream_authority.client("etcd-warden")?;
        let files = GatewayFiles {
            server: authority.server(&["127.0.0.1", "localhost"])?.write(at, "server")?,
            client_ca: write_private(at, "ca.crt", &authority.pem())?,
            upstream: gateway.write(at, "etcd-warden")?,
            upstream_ca: write_private(at, "etcd-ca.crt", &upstream_authority.pem())?,
            policy: write_private(at, "policy.yaml", &policy())?,
        };

        let server = upstream_authority.issue(&Leaf::server(&["127.0.0.1"]).usage(Usage::Both))?;
        let tls = Tls { server, trusted_ca: upstream_authority.pem() };
        let etcd = Etcd::start(programs, Options { tls: Some(tls), ..Options::default() }).await?;
        let enforcing = Gateway::start(&etcd, &files, Mode::Enforce, at).await?;
        let shadow = Gateway::start(&etcd, &files, Mode::Shadow, at).await?;
        let stage = Self {
            etcd,
            enforcing,
            shadow,
            folder,
            clients,
            authority,
            upstream_authority,
            gateway,
        };
        stage.seed().await?;
        Ok(stage)
    }

    /// Writes the initial keys, directly to etcd.
    pub(super) async fn seed(&self) -> anyhow::Result<()> {
        let endpoint = self.etcd.endpoints().into_iter().next().context("etcd has no member")?;
        let mut client = connect(&endpoint, &self.upstream_authority, &self.gateway).await?;
        for key in SEED {
            client
                .put(expand(key), "seed", None)
                .await
                .context("cannot write the initial keys to etcd")?;
        }
        Ok(())
    }

    /// Connects to a gateway with the certificate of this name.
    pub(super) async fn client(
        &self,
        gateway: &Gateway,
        common_name: &str,
    ) -> anyhow::Result<Client> {
        let issued = self
            .clients
            .get(common_name)
            .with_context(|| format!("there is no certificate for `{common_name}`"))?;
        Ok(connect(&format!("https://{}", gateway.address), &self.authority, issued).await?)
    }

    /// Stops the gateways in an orderly way, then everything else.
    pub(super) async fn stop(self) {
        self.enforcing.running.shutdown(std::future::ready(())).await;
        self.shadow.running.shutdown(std::future::ready(())).await;
    }
}

impl Gateway {
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
            .context("cannot start the gateway")?;
        Ok(Self { address: running.listen_addr, audit_reader: AuditReader::of(audit), running })
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
