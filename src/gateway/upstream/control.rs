//! The proxy's own questions to etcd: how a member is, and whether etcd's auth is on.
//!
//! They go through tonic, over connections of their own, with the proxy's own certificate: never on
//! behalf of a client, and never with a client's token. What a member can serve is asked in
//! [`super::health`].

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use etcd_warden_core::policy::import::{EtcdRole, EtcdUser, Permission};
use etcd_warden_proto::{authpb, etcdserverpb};
use futures_util::FutureExt as _;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Uri};

use super::AGENT;
use super::dial::{ConnectError, FirstAddress, Socket, dial};
use super::members::{Member, MemberIndex, Members};
use crate::config::Endpoint;
use crate::tls::{LiveTls, Tls, in_words};

/// A question that is not answered by then is a failure.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

/// A channel to each member for the proxy's own questions. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(super) members: Arc<Members>,
    tls: Arc<LiveTls>,
    channels: Arc<[ArcSwap<Channel>]>,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The proxy is not set up for it.
    #[error("{0}")]
    Failed(&'static str),
    /// etcd said no, or tonic on the way to it.
    #[error("{}", in_words(&**.0))]
    Refused(Box<tonic::Status>),
    /// No answer in time.
    #[error("no answer within {} s", QUESTION_TIMEOUT.as_secs())]
    Timeout,
}

impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        ControlError::Refused(Box::new(status))
    }
}

impl ControlError {
    /// Whether etcd's own auth has refused the question: it is on, and does not know the proxy or
    /// what it may do. The last two are `rpctypes.ErrUserEmpty` and `ErrUserNotFound`.
    pub(super) fn is_of_auth(&self) -> bool {
        let ControlError::Refused(status) = self else { return false };
        matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated)
            || matches!(
                status.message(),
                "etcdserver: user name is empty" | "etcdserver: user name not found"
            )
    }

    /// Whether etcd has said exactly this (a text of `api/v3rpc/rpctypes/error.go`).
    pub(super) fn says(&self, text: &str) -> bool {
        matches!(self, ControlError::Refused(status) if status.message() == text)
    }
}

impl Control {
    /// Channels that connect when they are first used. Call it on the runtime that outlives all
    /// workers.
    #[must_use]
    pub fn new(members: Arc<Members>, tls: Arc<LiveTls>) -> Self {
        let channels = members
            .iter()
            .map(|(_, member)| ArcSwap::from_pointee(channel(member, tls.clone())))
            .collect();
        Self { members, tls, channels }
    }

    /// Renews the channels whenever the certificates of the way to etcd change, until `stop`. As
    /// with the workers' connections ([`super::pool`]), the new one comes first, unless the
    /// member itself is not trusted any more. Changes count from the call on, not from when the
    /// task first runs.
    pub fn keep_renewed(
        self,
        again: Duration,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> {
        let mut changes = self.tls.upstream_changes();
        let following = async move {
            while changes.changed().await.is_ok() {
                let renewals =
                    self.members.iter().map(|(index, member)| self.renew(index, member, again));
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
            let new = channel(member, self.tls.clone());
            let tls = self.tls.current();
            let greeted = tokio::time::timeout(
                QUESTION_TIMEOUT,
                dial(&member.endpoint, &member.first_address, &tls),
            )
            .await;
            let distrusted = matches!(greeted, Ok(Err(ConnectError::Untrusted(_))));
            if distrusted || answers(new.clone()).await {
                if let Some(channel) = self.channels.get(index.0) {
                    channel.store(Arc::new(new));
                }
                return;
            }
            tokio::time::sleep(again).await;
        }
    }

    /// Leaves a connection on which nothing was answered: another address of the member may answer,
    /// and TCP alone would take a quarter of an hour to notice that the connection is dead.
    pub(super) fn connect_anew(&self, index: MemberIndex, member: &Member) {
        member.first_address.pass_over();
        if let Some(slot) = self.channels.get(index.0) {
            slot.store(Arc::new(channel(member, self.tls.clone())));
        }
    }

    /// Whether etcd's own auth is on, as any member says.
    ///
    /// # Errors
    /// The last member's failure, when none answers.
    pub async fn auth_enabled(&self) -> Result<bool, ControlError> {
        let mut last = ControlError::Failed("no member");
        for (index, _) in self.members.iter() {
            let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
            match answered(auth.auth_status(etcdserverpb::AuthStatusRequest {})).await {
                Ok(status) => return Ok(status.into_inner().enabled),
                // Only an etcd whose auth is on asks who is asking; the proxy's user need not be
                // root there.
                Err(error) if error.is_of_auth() => return Ok(true),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// All members, as one of them tells.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn member_list(
        &self,
        index: MemberIndex,
    ) -> Result<Vec<etcdserverpb::Member>, ControlError> {
        let mut cluster = etcdserverpb::cluster_client::ClusterClient::new(self.channel(index)?);
        let list = cluster.member_list(etcdserverpb::MemberListRequest { linearizable: false });
        answered(list).await.map(|list| list.into_inner().members)
    }

    /// At most `limit` keys from `from` on, without their values, and whether there are more.
    ///
    /// # Errors
    /// etcd did not answer.
    pub async fn keys(
        &self,
        member: MemberIndex,
        from: &[u8],
        limit: i64,
    ) -> Result<(Vec<Vec<u8>>, bool), ControlError> {
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
    pub async fn users_and_roles(
        &self,
        index: MemberIndex,
    ) -> Result<(Vec<EtcdRole>, Vec<EtcdUser>), ControlError> {
        let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
        let (mut roles, mut users) = (Vec::new(), Vec::new());
        let names = answered(auth.role_list(etcdserverpb::AuthRoleListRequest {}))
            .await?
            .into_inner()
            .roles;
        for name in names {
            let role =
                answered(auth.role_get(etcdserverpb::AuthRoleGetRequest { role: name.clone() }))
                    .await?
                    .into_inner();
            roles.push(EtcdRole {
                name,
                permissions: role.perm.into_iter().map(permission).collect(),
            });
        }
        let names = answered(auth.user_list(etcdserverpb::AuthUserListRequest {}))
            .await?
            .into_inner()
            .users;
        for name in names {
            let user =
                answered(auth.user_get(etcdserverpb::AuthUserGetRequest { name: name.clone() }))
                    .await?
                    .into_inner();
            users.push(EtcdUser { name, roles: user.roles });
        }
        Ok((roles, users))
    }

    pub(super) fn channel(&self, index: MemberIndex) -> Result<Channel, ControlError> {
        let channel = self.channels.get(index.0).map(|channel| (**channel.load()).clone());
        channel.ok_or(ControlError::Failed("no such member"))
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

/// Whether an etcd is at the other end that takes the proxy's certificate. It need not be able to
/// serve anything.
async fn answers(channel: Channel) -> bool {
    let mut cluster = etcdserverpb::cluster_client::ClusterClient::new(channel);
    let list = cluster.member_list(etcdserverpb::MemberListRequest { linearizable: false });
    match answered(list).await {
        Ok(_) => true,
        Err(error) => error.is_of_auth() || error.says(super::health::NOT_FOR_LEARNERS),
    }
}

/// A lazy tonic channel over the very TLS configuration that requests use: the one that counts
/// whenever it connects.
fn channel(member: &Member, tls: Arc<LiveTls>) -> Channel {
    let (endpoint, from) = (member.endpoint.clone(), member.first_address.clone());
    // tonic only needs a URI to send as `:authority`; where the bytes go is the connector's
    // business.
    let uri = Uri::builder()
        .scheme("http")
        .authority(endpoint.authority())
        .path_and_query("/")
        .build()
        .unwrap_or_default();
    let builder = Channel::builder(uri).connect_timeout(QUESTION_TIMEOUT);
    let builder = builder.clone().user_agent(AGENT).unwrap_or(builder);
    builder.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let (endpoint, from, tls) = (endpoint.clone(), from.clone(), tls.current());
        async move { connect(&endpoint, &from, &tls).await.map(TokioIo::new) }
    }))
}

async fn connect(
    endpoint: &Endpoint,
    from: &FirstAddress,
    tls: &Tls,
) -> Result<Box<dyn Stream>, ConnectError> {
    Ok(match dial(endpoint, from, tls).await? {
        Socket::Plain(tcp) => Box::new(tcp),
        Socket::Tls(stream) => stream,
    })
}

trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Stream for S {}

pub(super) async fn answered<T>(
    question: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, ControlError> {
    Ok(tokio::time::timeout(QUESTION_TIMEOUT, question)
        .await
        .map_err(|_| ControlError::Timeout)??)
}
