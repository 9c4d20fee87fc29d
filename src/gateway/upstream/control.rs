//! The gateway's own requests to etcd: health checks, auth status, members, keys.
//!
//! They go through tonic, over connections of their own, with the gateway's certificate. None is
//! made on behalf of a client or carries a client's token. The requests of a health check are in
//! `health`.

mod channel;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use etcd_warden_core::policy::import::{EtcdRole, EtcdUser, Permission};
use etcd_warden_proto::{authpb, etcdserverpb};
use futures_util::FutureExt as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::channel::{MemberChannel, RenewableChannel};
use super::dial::ConnectError;
use super::members::{Member, MemberIndex, Members};
use super::renewal;
use crate::tls::{LiveTls, describe_error};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A tonic channel to each member. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    pub(super) members: Arc<Members>,
    tls: Arc<LiveTls>,
    /// By member.
    channels: Arc<[ArcSwap<MemberChannel>]>,
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The request could not be made.
    #[error("{0}")]
    Failed(&'static str),
    /// A status from etcd, or from tonic if etcd could not be reached.
    #[error("{}", describe_error(&**.0))]
    Status(Box<tonic::Status>),
    /// No response in time.
    #[error("no response within {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
}

impl From<tonic::Status> for ControlError {
    fn from(status: tonic::Status) -> Self {
        ControlError::Status(Box::new(status))
    }
}

impl ControlError {
    /// True if etcd's auth is on and denied the request: it does not know the gateway's user, or
    /// the user lacks the permission. The texts are `rpctypes.ErrUserEmpty` and `ErrUserNotFound`,
    /// which etcd sends with codes that other errors share.
    pub(super) fn is_auth(&self) -> bool {
        let ControlError::Status(status) = self else { return false };
        matches!(status.code(), tonic::Code::PermissionDenied | tonic::Code::Unauthenticated)
            || matches!(
                status.message(),
                "etcdserver: user name is empty" | "etcdserver: user name not found"
            )
    }

    /// True if etcd's error is exactly `text`, one of `api/v3rpc/rpctypes/error.go`. Several errors
    /// share a code, so that etcd's own client compares the text, too (`rpctypes.Error`).
    pub(super) fn is_etcd_error(&self, text: &str) -> bool {
        matches!(self, ControlError::Status(status) if status.message() == text)
    }

    /// True if the TLS handshake failed because the member's certificate is not trusted.
    fn is_untrusted(&self) -> bool {
        let ControlError::Status(status) = self else { return false };
        let mut source = status.source();
        while let Some(error) = source {
            if let Some(ConnectError::Untrusted(_)) = error.downcast_ref() {
                return true;
            }
            source = error.source();
        }
        false
    }
}

impl Control {
    /// Creates channels that connect on their first request. Call it on the runtime that outlives
    /// all workers.
    pub fn new(members: Arc<Members>, tls: Arc<LiveTls>) -> Self {
        let channels = members
            .iter()
            .map(|(_, member)| ArcSwap::from_pointee(MemberChannel::new(member, &tls)))
            .collect();
        Self { members, tls, channels }
    }

    /// Replaces channels whenever the certificates towards etcd change, as [`super::renewal`]
    /// describes, until `stop`. A change between this call and the first poll is not missed.
    pub(crate) fn keep_renewed(self, stop: CancellationToken) -> impl Future<Output = ()> {
        let changes = self.tls.upstream_changes();
        let renewal = async move {
            let channels: Vec<_> = self
                .members
                .iter()
                .map(|(index, _)| RenewableChannel { control: self.clone(), index })
                .collect();
            // A channel connects with the certificates of that moment, so it never opens late.
            renewal::keep_renewed(&channels, &self.tls, changes, &Notify::new()).await;
        };
        stop.run_until_cancelled_owned(renewal).map(drop)
    }

    fn store(&self, index: MemberIndex, channel: MemberChannel) {
        if let Some(slot) = self.channels.get(index.0) {
            slot.store(Arc::new(channel));
        }
    }

    /// Abandons a connection on which no response arrived. Another address of the member may work,
    /// and TCP alone takes about 15 minutes to detect a dead connection.
    pub(super) fn reconnect(&self, index: MemberIndex, member: &Member) {
        member.first_address.skip();
        self.store(index, MemberChannel::new(member, &self.tls));
    }

    /// Whether etcd's auth is on, according to the first member that responds.
    ///
    /// # Errors
    /// The last member's error, if none responds.
    pub async fn auth_enabled(&self) -> Result<bool, ControlError> {
        let mut last = ControlError::Failed("no member");
        for (index, _) in self.members.iter() {
            let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
            match in_time(auth.auth_status(etcdserverpb::AuthStatusRequest {})).await {
                Ok(status) => return Ok(status.into_inner().enabled),
                // Only an etcd with auth on asks for a user. The gateway's user need not be root.
                Err(error) if error.is_auth() => return Ok(true),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The cluster's members, according to one of them.
    ///
    /// # Errors
    /// etcd did not respond.
    pub async fn member_list(
        &self,
        index: MemberIndex,
    ) -> Result<Vec<etcdserverpb::Member>, ControlError> {
        let mut cluster = etcdserverpb::cluster_client::ClusterClient::new(self.channel(index)?);
        let list = cluster.member_list(etcdserverpb::MemberListRequest { linearizable: false });
        in_time(list).await.map(|list| list.into_inner().members)
    }

    /// At most `limit` keys that are not less than `from`, without values, and whether there are
    /// more.
    ///
    /// # Errors
    /// etcd did not respond.
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
        let page = in_time(kv.range(range)).await?.into_inner();
        Ok((page.kvs.into_iter().map(|kv| kv.key).collect(), page.more))
    }

    /// The roles and users of etcd's auth.
    ///
    /// # Errors
    /// etcd did not respond, or the gateway's user is not root.
    pub async fn users_and_roles(
        &self,
        index: MemberIndex,
    ) -> Result<(Vec<EtcdRole>, Vec<EtcdUser>), ControlError> {
        let mut auth = etcdserverpb::auth_client::AuthClient::new(self.channel(index)?);
        let (mut roles, mut users) = (Vec::new(), Vec::new());
        let list = in_time(auth.role_list(etcdserverpb::AuthRoleListRequest {})).await?;
        for name in list.into_inner().roles {
            let request = etcdserverpb::AuthRoleGetRequest { role: name.clone() };
            let role = in_time(auth.role_get(request)).await?.into_inner();
            let permissions = role.perm.into_iter().map(permission).collect();
            roles.push(EtcdRole { name, permissions });
        }
        let list = in_time(auth.user_list(etcdserverpb::AuthUserListRequest {})).await?;
        for name in list.into_inner().users {
            let request = etcdserverpb::AuthUserGetRequest { name: name.clone() };
            let user = in_time(auth.user_get(request)).await?.into_inner();
            users.push(EtcdUser { name, roles: user.roles });
        }
        Ok((roles, users))
    }

    pub(super) fn channel(&self, index: MemberIndex) -> Result<Channel, ControlError> {
        let channel = self.channels.get(index.0).map(|slot| slot.load().channel.clone());
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

/// Awaits a response within [`REQUEST_TIMEOUT`].
pub(super) async fn in_time<T>(
    response: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, ControlError> {
    Ok(tokio::time::timeout(REQUEST_TIMEOUT, response)
        .await
        .map_err(|_| ControlError::Timeout)??)
}
