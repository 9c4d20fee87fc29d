//! Health checks of the members, one per `health-interval`.
//!
//! **Why a check does not start with Status.** A member that was removed from its cluster runs for
//! another second, and panics on a Status request in that time (`membership/cluster.go`,
//! `IsLocalMemberLearner`; 3.5 to 3.7, docs/upstream-findings.md). So a check requests the list of
//! members with the metadata `hasleader`. etcd responds from memory. Its interceptor
//! (`v3rpc/interceptor.go`) returns an error if the member is a learner or knows no leader, and a
//! removed member is missing from its own list. Status is sent only to a member that has just
//! returned a list with itself in it, once per Raft term, because only Status names the leader and
//! the version of etcd.

use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::wire::header::ResponseHeader;
use etcd_warden_proto::etcdserverpb as pb;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::control::{Control, ControlError, in_time};
use super::members::{Member, MemberIndex};
use super::release;
use crate::member_health::Health;
use crate::metrics::Metrics;

/// `ErrGRPCNotSupportedForLearner` (`api/v3rpc/rpctypes/error.go`). A learner returns it for most
/// requests.
pub(super) const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";
/// `ErrGRPCNoLeader`.
const NO_LEADER: &str = "etcdserver: no leader";

/// The result of the first request of a check.
struct Checked {
    health: Health,
    /// Raft term; 0 if unknown.
    term: u64,
    /// Why it is not healthy.
    why: String,
}

impl Checked {
    fn well(term: u64) -> Self {
        Self { health: Health::Well, term, why: String::new() }
    }

    fn not_well(health: Health, why: impl ToString) -> Self {
        Self { health, term: 0, why: why.to_string() }
    }
}

impl Control {
    /// Checks every member once per `interval`, until `stop`.
    pub(crate) async fn watch_health(
        self,
        interval: Duration,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) {
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

    /// Checks every member once, before the first client is accepted.
    pub(crate) async fn check_all(&self, metrics: &Metrics) {
        futures_util::future::join_all(
            self.members.iter().map(|(index, member)| self.check(index, member, metrics)),
        )
        .await;
    }

    async fn check(&self, index: MemberIndex, member: &Member, metrics: &Metrics) {
        let Checked { health, term, why } = self.check_without_status(index).await;
        metrics.member_health(&member.name, health);
        if member.set_health(health) {
            if health == Health::Well {
                tracing::info!(member = %member.name, "etcd member is healthy");
            } else {
                tracing::warn!(member = %member.name, ?health, %why, "etcd member is not healthy");
            }
        }
        if health != Health::Well {
            member.set_leader(false);
            // When it is back it may run another version of etcd.
            member.set_status_term(0);
            return;
        }
        if term != 0
            && !member.has_status_of(term)
            && let Ok(status) = self.status_unchecked(index).await
        {
            apply_status(member, &status);
            member.set_status_term(term);
        }
        // The list of members has no revision of the store, and Status is not requested each time.
        if let Ok(header) = self.header(index).await {
            member.set_header(header);
        }
    }

    async fn check_without_status(&self, index: MemberIndex) -> Checked {
        let list = match self.member_list_with_leader(index).await {
            Ok(list) => list,
            Err(error) if error.is_etcd_error(NOT_FOR_LEARNERS) => {
                return Checked::not_well(Health::Learner, error);
            }
            Err(error) if error.is_etcd_error(NO_LEADER) => {
                return Checked::not_well(Health::Leaderless, error);
            }
            // The member serves, but its auth does not let this certificate see more.
            Err(error) if error.is_auth() => return Checked::well(0),
            Err(error) => {
                if matches!(error, ControlError::Timeout)
                    && let Some(member) = self.members.at(index)
                {
                    self.reconnect(index, member);
                }
                return Checked::not_well(Health::Down, error);
            }
        };
        let header = list.header.unwrap_or_default();
        match list.members.iter().find(|member| member.id == header.member_id) {
            None => Checked::not_well(Health::Removed, "it is missing from its own member list"),
            Some(own) if own.is_learner => Checked::not_well(Health::Learner, "it is a learner"),
            Some(_) => Checked::well(header.raft_term),
        }
    }

    /// A member's status.
    ///
    /// # Errors
    /// etcd did not respond, or the member was removed: see [`Health::Removed`].
    pub async fn status(&self, index: MemberIndex) -> Result<pb::StatusResponse, ControlError> {
        match self.check_without_status(index).await.health {
            Health::Removed => Err(ControlError::Failed("it was removed from its cluster")),
            _ => self.status_unchecked(index).await,
        }
    }

    /// Call it only for a member that has just listed itself: a removed one would panic.
    async fn status_unchecked(
        &self,
        index: MemberIndex,
    ) -> Result<pb::StatusResponse, ControlError> {
        let mut maintenance = pb::maintenance_client::MaintenanceClient::new(self.channel(index)?);
        in_time(maintenance.status(pb::StatusRequest {})).await.map(tonic::Response::into_inner)
    }

    async fn member_list_with_leader(
        &self,
        index: MemberIndex,
    ) -> Result<pb::MemberListResponse, ControlError> {
        let mut cluster = pb::cluster_client::ClusterClient::new(self.channel(index)?);
        let mut request = Request::new(pb::MemberListRequest { linearizable: false });
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        in_time(cluster.member_list(request)).await.map(tonic::Response::into_inner)
    }

    /// A member's newest response header, from a serializable read of a key that no store has.
    async fn header(&self, index: MemberIndex) -> Result<ResponseHeader, ControlError> {
        let mut kv = pb::kv_client::KvClient::new(self.channel(index)?);
        let range = pb::RangeRequest {
            key: vec![0],
            count_only: true,
            serializable: true,
            ..pb::RangeRequest::default()
        };
        let header = in_time(kv.range(range)).await?.into_inner().header.unwrap_or_default();
        let pb::ResponseHeader { cluster_id, member_id, revision, raft_term } = header;
        Ok(ResponseHeader { cluster_id, member_id, revision, raft_term })
    }
}

/// Records a member's leadership and version, and logs a version that has changed.
fn apply_status(member: &Member, status: &pb::StatusResponse) {
    let own = status.header.as_ref().map(|header| header.member_id);
    member.set_leader(status.leader != 0 && own == Some(status.leader));
    let version = &status.version;
    if !member.set_version(version) {
        return;
    }
    tracing::info!(member = %member.name, %version, "version of etcd member");
    if release::is_newer_than_known(version) {
        let (major, minor) = release::NEWEST_KNOWN;
        tracing::warn!(
            member = %member.name,
            "etcd {version} is newer than {major}.{minor}, the newest release that this version \
             of etcd-warden knows: requests with fields that it added for keys, watches, leases, \
             locks or elections are refused"
        );
    }
}
