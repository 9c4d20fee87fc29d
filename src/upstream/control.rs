//! The proxy's own questions to etcd: how a member is, whether etcd's auth is on, which keys hang on a lease.
//!
//! They go through `etcd-client` and tonic, over connections of their own, with the proxy's own certificate: never on behalf
//! of a client, and never with a client's token.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};

use super::members::{Health, Member, MemberIndex, Members};
use super::release;
use crate::config::Endpoint;
use crate::metrics::Metrics;
use crate::pb::{authpb, etcdserverpb};
use crate::policy::import::{EtcdRole, EtcdUser, Permission};
use crate::tls::{LiveTls, Tls, distrusts, server_name};
use crate::wire::header::ResponseHeader;

/// A question that is not answered by then is a failure.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel to each member for the proxy's own questions. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    members: Arc<Members>,
    tls: Arc<LiveTls>,
    channels: Arc<[ArcSwap<Channel>]>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// etcd or the way to it said no.
    #[error("{0}")]
    Failed(String),
    /// No answer in time.
    #[error("no answer within {} s", QUESTION_TIMEOUT.as_secs())]
    Timeout,
}

impl ControlError {
    /// Whether it is etcd's own word: its auth is on, and does not know the proxy or what it may do.
    fn is_an_answer(&self) -> bool {
        matches!(self, ControlError::Failed(why) if why.contains("permission denied") || why.contains("user name"))
    }
}

impl Control {
    /// Channels that connect when they are first used. Call it on the runtime that outlives all workers.
    #[must_use]
    pub fn new(members: Arc<Members>, tls: Arc<LiveTls>) -> Self {
        let channels = members.iter().map(|(_, member)| ArcSwap::from_pointee(channel(&member.endpoint, tls.clone()))).collect();
        Self { members, tls, channels }
    }

    /// Renews the channels whenever the certificates of the way to etcd change, until `stop`. As with the workers' connections
    /// ([`super::pool`]), the new one comes first, unless the member itself is not trusted any more. Changes count from the call on,
    /// not from when the task first runs.
    pub fn keep_renewed(self, again: Duration, stop: CancellationToken) -> impl Future<Output = ()> {
        let mut changes = self.tls.upstream_changes();
        let following = async move {
            while changes.changed().await.is_ok() {
                let renewals = self.members.iter().map(|(index, member)| self.renew(index, member, again));
                let renewed = futures_util::future::join_all(renewals);
                tokio::select! {
                    _ = renewed => {}
                    // What is not renewed yet is renewed to the newest.
                    changed = changes.changed() => if changed.is_ok() { changes.mark_changed() },
                }
            }
        };
        stop.run_until_cancelled_owned(following).map(drop)
    }

    async fn renew(&self, index: MemberIndex, member: &Member, again: Duration) {
        loop {
            let new = channel(&member.endpoint, self.tls.clone());
            let tls = self.tls.current();
            let greeted = tokio::time::timeout(QUESTION_TIMEOUT, connect(&member.endpoint, &tls)).await;
            let distrusted = matches!(greeted, Ok(Err(error)) if distrusts(&error));
            if distrusted || !matches!(status_over(new.clone()).await, Err(error) if !error.is_an_answer()) {
                if let Some(channel) = self.channels.get(index.0) {
                    channel.store(Arc::new(new));
                }
                return;
            }
            tokio::time::sleep(again).await;
        }
    }

    /// Asks every member how it is, once each `interval`, until `stop`.
    pub async fn watch_health(self, interval: Duration, metrics: Arc<Metrics>, stop: CancellationToken) {
        let checks = self.members.iter().map(|(index, member)| {
            let (control, metrics) = (&self, &metrics);
            async move {
                loop {
                    control.check(index, member, metrics).await;
                    tokio::time::sleep(interval).await;
                }
            }
        });
        let _ = stop.run_until_cancelled(futures_util::future::join_all(checks)).await;
    }

    /// Asks every member once; for the start, before the first client comes.
    pub async fn check_all(&self, metrics: &Metrics) {
        futures_util::future::join_all(self.members.iter().map(|(index, member)| self.check(index, member, metrics))).await;
    }

    async fn check(&self, index: MemberIndex, member: &Member, metrics: &Metrics) {
        let (health, leads, why) = match self.status(index).await {
            Ok(status) => {
                let header = status.header.unwrap_or_default();
                member.saw_header(ResponseHeader {
                    cluster_id: header.cluster_id,
                    member_id: header.member_id,
                    revision: header.revision,
                    raft_term: header.raft_term,
                });
                if member.set_version(&status.version) {
                    describe(member, &status.version);
                }
                let health = if status.leader == 0 { Health::Leaderless } else { Health::Well };
                (health, status.leader == header.member_id, String::new())
            }
            // It answers, and will not tell this certificate how it is: etcd's own auth is on and does not know the proxy.
            Err(error) if error.is_an_answer() => (Health::Well, false, error.to_string()),
            Err(error) => (Health::Down, false, error.to_string()),
        };
        member.set_leads(leads);
        metrics.member_health(&member.name, health >= Health::Leaderless);
        if member.set_health(health) {
            match health {
                Health::Well => tracing::info!(member = %member.name, "etcd member is well"),
                _ => tracing::warn!(member = %member.name, ?health, %why, "etcd member is not well"),
            }
        }
    }

    /// How a member is.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn status(&self, index: MemberIndex) -> Result<etcdserverpb::StatusResponse, ControlError> {
        status_over(self.channel(index)?).await
    }

    /// Whether etcd's own auth is on, as any member says.
    ///
    /// # Errors
    /// The last member's failure, when none answers.
    pub async fn auth_enabled(&self) -> Result<bool, ControlError> {
        let mut last = ControlError::Failed("no member".to_owned());
        for (index, _) in self.members.iter() {
            let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
            match tokio::time::timeout(QUESTION_TIMEOUT, auth.auth_status(etcdserverpb::AuthStatusRequest {})).await {
                Ok(Ok(status)) => return Ok(status.into_inner().enabled),
                // Only an etcd whose auth is on asks who is asking; the proxy's user need not be root there.
                Ok(Err(status)) if refused_by_auth(&status) => return Ok(true),
                Ok(Err(status)) => last = ControlError::Failed(status.to_string()),
                Err(_) => last = ControlError::Timeout,
            }
        }
        Err(last)
    }

    /// The keys that are attached to a lease; none for a lease that does not exist.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn lease_keys(&self, member: MemberIndex, id: i64) -> Result<Vec<Vec<u8>>, ControlError> {
        let channel = etcd_client::Channel::Tonic(self.channel(member)?);
        let client = etcd_client::Client::from_channel(channel, None).await.map_err(|error| ControlError::Failed(error.to_string()))?;
        let options = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
        let answer = answered(client.lease_client().time_to_live(id, Some(options))).await?;
        Ok(answer.keys().iter().map(|key| key.to_vec()).collect())
    }

    /// All members, as one of them tells.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn member_list(&self, index: MemberIndex) -> Result<Vec<etcdserverpb::Member>, ControlError> {
        let mut cluster = etcdserverpb::cluster_client::ClusterClient::new(self.channel(index)?);
        let list = cluster.member_list(etcdserverpb::MemberListRequest { linearizable: false });
        answered(list).await.map(|list| list.into_inner().members)
    }

    /// At most `limit` keys from `from` on, without their values, and whether there are more.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn keys(&self, member: MemberIndex, from: &[u8], limit: i64) -> Result<(Vec<Vec<u8>>, bool), ControlError> {
        let mut kv = etcdserverpb::kv_client::KvClient::new(self.channel(member)?);
        let range = etcdserverpb::RangeRequest {
            key: from.to_vec(),
            range_end: vec![0],
            limit,
            keys_only: true,
            serializable: true,
            ..etcdserverpb::RangeRequest::default()
        };
        let page = answered(kv.range(range)).await?.into_inner();
        Ok((page.kvs.into_iter().map(|kv| kv.key).collect(), page.more))
    }

    /// The roles and users of etcd's own auth.
    ///
    /// # Errors
    /// etcd did not answer, or tells them to nobody but root.
    pub async fn users_and_roles(&self, index: MemberIndex) -> Result<(Vec<EtcdRole>, Vec<EtcdUser>), ControlError> {
        let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
        let (mut roles, mut users) = (Vec::new(), Vec::new());
        let names = answered(auth.role_list(etcdserverpb::AuthRoleListRequest {})).await?.into_inner().roles;
        for name in names {
            let role = answered(auth.role_get(etcdserverpb::AuthRoleGetRequest { role: name.clone() })).await?.into_inner();
            roles.push(EtcdRole { name, permissions: role.perm.into_iter().map(permission).collect() });
        }
        let names = answered(auth.user_list(etcdserverpb::AuthUserListRequest {})).await?.into_inner().users;
        for name in names {
            let user = answered(auth.user_get(etcdserverpb::AuthUserGetRequest { name: name.clone() })).await?.into_inner();
            users.push(EtcdUser { name, roles: user.roles });
        }
        Ok((roles, users))
    }

    fn channel(&self, index: MemberIndex) -> Result<Channel, ControlError> {
        self.channels
            .get(index.0)
            .map(|channel| (**channel.load()).clone())
            .ok_or_else(|| ControlError::Failed("no such member".to_owned()))
    }
}

fn permission(permission: authpb::Permission) -> Permission {
    let authpb::Permission { key, range_end, .. } = &permission;
    let (read, write) = match permission.perm_type() {
        authpb::permission::Type::Read => (true, false),
        authpb::permission::Type::Write => (false, true),
        authpb::permission::Type::Readwrite => (true, true),
    };
    Permission { read, write, key: key.clone(), range_end: range_end.clone() }
}

/// Says which etcd a member is, and what follows from one that came after this version.
fn describe(member: &Member, version: &str) {
    tracing::info!(member = %member.name, %version, "etcd member says its version");
    if release::is_newer_than_known(version) {
        let (major, minor) = release::NEWEST_KNOWN;
        tracing::warn!(
            member = %member.name,
            "etcd {version} is newer than {major}.{minor}, the newest that this version of etcd-warden knows: fields that it has added to \
             requests for keys, watches, leases, locks and elections are refused"
        );
    }
}

async fn status_over(channel: Channel) -> Result<etcdserverpb::StatusResponse, ControlError> {
    let mut maintenance = etcdserverpb::maintenance_client::MaintenanceClient::new(channel);
    answered(maintenance.status(etcdserverpb::StatusRequest {})).await.map(tonic::Response::into_inner)
}

/// A lazy tonic channel over the very TLS configuration that requests use: the one that counts whenever it connects.
fn channel(endpoint: &Endpoint, tls: Arc<LiveTls>) -> Channel {
    let endpoint = endpoint.clone();
    // tonic only needs a URI to send as `:authority`; where the bytes go is the connector's business.
    let uri = Uri::builder().scheme("http").authority(endpoint.authority()).path_and_query("/").build().unwrap_or_default();
    Channel::builder(uri).connect_timeout(QUESTION_TIMEOUT).connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (endpoint, tls) = (endpoint.clone(), tls.current());
        async move { Ok::<_, std::io::Error>(TokioIo::new(connect(&endpoint, &tls).await?)) }
    }))
}

async fn connect(endpoint: &Endpoint, tls: &Tls) -> std::io::Result<Box<dyn Stream>> {
    let tcp = TcpStream::connect((&*endpoint.host, endpoint.port)).await?;
    tcp.set_nodelay(true)?;
    match tls.upstream.as_ref().filter(|_| endpoint.tls) {
        None => Ok(Box::new(tcp)),
        Some(tls) => {
            let name = server_name(endpoint).map_err(std::io::Error::other)?;
            Ok(Box::new(TlsConnector::from(tls.rustls_config()).connect(name, tcp).await?))
        }
    }
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

/// Whether etcd's auth said no: permission denied, or a certificate that names no user (`rpctypes.ErrUserEmpty`).
fn refused_by_auth(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated)
        || matches!(status.message(), "etcdserver: user name is empty" | "etcdserver: user name not found")
}

async fn answered<T, E: std::fmt::Display>(question: impl Future<Output = Result<T, E>>) -> Result<T, ControlError> {
    match tokio::time::timeout(QUESTION_TIMEOUT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(ControlError::Failed(error.to_string())),
        Err(_) => Err(ControlError::Timeout),
    }
}
