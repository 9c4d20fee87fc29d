//! What each member can serve, asked once each `health-interval`, in a way that harms no etcd.
//!
//! **Why not Status.** etcd has no answer to a Status request while it is no member of its own
//! cluster: it panics (`membership/cluster.go`, `IsLocalMemberLearner`; 3.5 to 3.7,
//! docs/upstream-findings.md). A member is in that state for a second after it was removed. So a
//! check asks for the list of members, with the metadata `hasleader`. etcd answers that from
//! memory, and its interceptor (`v3rpc/interceptor.go`) says in place of a list that the member is
//! a learner, or that it knows no leader; and a member that was removed is not in its own list. A
//! Status request is sent only to a member that has just said that it is in its list, once for each
//! term of raft, because only it says who leads and which version of etcd this is.

use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::wire::header::ResponseHeader;
use etcd_warden_proto::etcdserverpb as pb;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::control::{Control, ControlError, answered};
use super::members::{Member, MemberIndex};
use super::release;
use crate::member_health::Health;
use crate::metrics::Metrics;

/// `ErrGRPCNotSupportedForLearner` (`api/v3rpc/rpctypes/error.go`): also a learner's answer to most
/// of what clients ask.
pub(super) const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";
/// `ErrGRPCNoLeader`.
const NO_LEADER: &str = "etcdserver: no leader";

/// What a member says of itself.
struct Word {
    health: Health,
    /// Its term of raft; 0 if it does not tell.
    term: u64,
    /// Why it is not well.
    why: String,
}

impl Control {
    /// Asks every member what it can serve, once each `interval`, until `stop`.
    pub async fn watch_health(
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

    /// Asks every member once; for the start, before the first client comes.
    pub async fn check_all(&self, metrics: &Metrics) {
        futures_util::future::join_all(
            self.members.iter().map(|(index, member)| self.check(index, member, metrics)),
        )
        .await;
    }

    async fn check(&self, index: MemberIndex, member: &Member, metrics: &Metrics) {
        let word = self.word(index).await;
        metrics.member_health(&member.name, word.health);
        if member.set_health(word.health) {
            match word.health {
                Health::Well => tracing::info!(member = %member.name, "etcd member is well"),
                health => {
                    tracing::warn!(member = %member.name, ?health, why = %word.why, "etcd member is not well")
                }
            }
        }
        if word.health != Health::Well {
            member.set_leads(false);
            // After this it may be another etcd, of another version.
            member.set_described_in(0);
            return;
        }
        if word.term != 0
            && !member.is_described_in(word.term)
            && let Ok(status) = self.status_of_member(index).await
        {
            describe(member, &status);
            member.set_described_in(word.term);
        }
        // Status tells the revision of the store, and the list of members does not.
        if let Ok(header) = self.header(index).await {
            member.saw_header(header);
        }
    }

    /// What a member says of itself, without a Status request.
    async fn word(&self, index: MemberIndex) -> Word {
        let not_well = |health, why: String| Word { health, term: 0, why };
        let list = match self.list_with_leader(index).await {
            Ok(list) => list,
            Err(error) if error.says(NOT_FOR_LEARNERS) => {
                return not_well(Health::Learner, error.to_string());
            }
            Err(error) if error.says(NO_LEADER) => {
                return not_well(Health::Leaderless, error.to_string());
            }
            // It answers, and will not tell this certificate more: etcd's own auth is on and does
            // not know the proxy.
            Err(error) if error.is_of_auth() => {
                return Word { health: Health::Well, term: 0, why: String::new() };
            }
            Err(error) => {
                if matches!(error, ControlError::Timeout)
                    && let Some(member) = self.members.at(index)
                {
                    self.connect_anew(index, member);
                }
                return not_well(Health::Down, error.to_string());
            }
        };
        let header = list.header.unwrap_or_default();
        match list.members.iter().find(|member| member.id == header.member_id) {
            None => not_well(Health::Removed, "it is not in its own list of members".to_owned()),
            Some(own) if own.is_learner => not_well(Health::Learner, "it is a learner".to_owned()),
            Some(_) => Word { health: Health::Well, term: header.raft_term, why: String::new() },
        }
    }

    /// How a member is, in its own words.
    ///
    /// # Errors
    /// etcd did not answer, or is asked in vain: see [`Health::Removed`].
    pub async fn status(&self, index: MemberIndex) -> Result<pb::StatusResponse, ControlError> {
        match self.word(index).await.health {
            Health::Removed => Err(ControlError::Failed("it was removed from its cluster")),
            _ => self.status_of_member(index).await,
        }
    }

    /// Ask only a member that has just said that it is in its own list.
    async fn status_of_member(
        &self,
        index: MemberIndex,
    ) -> Result<pb::StatusResponse, ControlError> {
        let mut maintenance = pb::maintenance_client::MaintenanceClient::new(self.channel(index)?);
        answered(maintenance.status(pb::StatusRequest {})).await.map(tonic::Response::into_inner)
    }

    async fn list_with_leader(
        &self,
        index: MemberIndex,
    ) -> Result<pb::MemberListResponse, ControlError> {
        let mut cluster = pb::cluster_client::ClusterClient::new(self.channel(index)?);
        let mut request = Request::new(pb::MemberListRequest { linearizable: false });
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        answered(cluster.member_list(request)).await.map(tonic::Response::into_inner)
    }

    /// The newest header that a member has: of a read of one key that no store holds, from the
    /// member's own state.
    async fn header(&self, index: MemberIndex) -> Result<ResponseHeader, ControlError> {
        let mut kv = pb::kv_client::KvClient::new(self.channel(index)?);
        let range = pb::RangeRequest {
            key: vec![0],
            count_only: true,
            serializable: true,
            ..pb::RangeRequest::default()
        };
        let header = answered(kv.range(range)).await?.into_inner().header.unwrap_or_default();
        let pb::ResponseHeader { cluster_id, member_id, revision, raft_term } = header;
        Ok(ResponseHeader { cluster_id, member_id, revision, raft_term })
    }
}

/// Notes which etcd a member is and whether it leads, and logs what follows from a version that is
/// news.
fn describe(member: &Member, status: &pb::StatusResponse) {
    let own = status.header.as_ref().map(|header| header.member_id);
    member.set_leads(status.leader != 0 && own == Some(status.leader));
    let version = &status.version;
    if !member.set_version(version) {
        return;
    }
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
