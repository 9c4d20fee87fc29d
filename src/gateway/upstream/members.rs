//! The members of the etcd cluster (`endpoints`) and their state. All threads share it.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_warden_core::wire::header::ResponseHeader;
use tokio::sync::watch;

use super::dial::FirstAddress;
use super::ping_interval::PingInterval;
use crate::config::Endpoint;
use crate::member_health::Health;

/// Index of a member in [`Members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberIndex(pub usize);

/// A member and its state.
#[derive(Debug)]
pub struct Member {
    /// Its client URL.
    pub endpoint: Endpoint,
    /// `HOST:PORT`, in logs, metrics and the audit log.
    pub name: Arc<str>,
    health: AtomicU8,
    leader: AtomicBool,
    version: Mutex<Box<str>>,
    header: Mutex<ResponseHeader>,
    /// Raft term in which the member last returned its status; 0 if the next check must request it
    /// again.
    status_term: AtomicU64,
    /// Number of changes of any member's health.
    changes: Arc<watch::Sender<u64>>,
    /// The interval between pings on its connections.
    pub ping_interval: Arc<PingInterval>,
    pub(super) first_address: Arc<FirstAddress>,
}

impl Member {
    fn new(endpoint: Endpoint, changes: Arc<watch::Sender<u64>>) -> Self {
        let name = endpoint.authority().into();
        Self {
            endpoint,
            name,
            health: AtomicU8::new(Health::Unknown as u8),
            leader: AtomicBool::new(false),
            version: Mutex::default(),
            header: Mutex::new(ResponseHeader::default()),
            status_term: AtomicU64::new(0),
            changes,
            ping_interval: Arc::default(),
            first_address: Arc::default(),
        }
    }

    /// State at the last health check or failed connection.
    pub fn health(&self) -> Health {
        Health::ALL
            .get(usize::from(self.health.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(Health::Down)
    }

    /// Records the result of a check or a failed connection. Returns true if it has changed.
    pub fn set_health(&self, health: Health) -> bool {
        let changed = self.health.swap(health as u8, Ordering::Relaxed) != health as u8;
        if changed {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        changed
    }

    /// True if the member was the leader at the last check.
    pub(super) fn is_leader(&self) -> bool {
        self.leader.load(Ordering::Relaxed)
    }

    pub(super) fn set_leader(&self, leader: bool) {
        self.leader.store(leader, Ordering::Relaxed);
    }

    /// True if the member has returned its status (version, leader) in this Raft term.
    pub(super) fn has_status_of(&self, term: u64) -> bool {
        self.status_term.load(Ordering::Relaxed) == term
    }

    /// Records the Raft term of a status; 0 makes the next check request it again.
    pub(super) fn set_status_term(&self, term: u64) {
        self.status_term.store(term, Ordering::Relaxed);
    }

    /// Records the version of etcd. Returns true if it has changed.
    pub(super) fn set_version(&self, version: &str) -> bool {
        let mut last = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = **last != *version;
        if changed {
            *last = version.into();
        }
        changed
    }

    /// Newest response header from a health check or a Watch response. The gateway uses it in its
    /// own responses.
    pub fn header(&self) -> ResponseHeader {
        *self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a response header, unless it has an older revision of the same cluster.
    pub(crate) fn set_header(&self, header: ResponseHeader) {
        let mut last = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if header.revision >= last.revision || header.cluster_id != last.cluster_id {
            *last = header;
        }
    }
}

/// All configured members.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    changes: Arc<watch::Sender<u64>>,
    pin: bool,
    /// Number of calls of [`Members::choose`], for its round robin.
    choices: AtomicUsize,
}

impl Members {
    /// Members at `endpoints`. With `pin` only the first is used.
    pub fn new(endpoints: &[Endpoint], pin: bool) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        let members = endpoints
            .iter()
            .map(|endpoint| Member::new(endpoint.clone(), changes.clone()))
            .collect();
        Self { members, changes, pin, choices: AtomicUsize::new(0) }
    }

    /// The member at `index`; `None` only if `index` is of another [`Members`].
    pub fn at(&self, index: MemberIndex) -> Option<&Member> {
        self.members.get(index.0)
    }

    /// All members, in the configured order.
    pub fn iter(&self) -> impl Iterator<Item = (MemberIndex, &Member)> {
        self.members.iter().enumerate().map(|(index, member)| (MemberIndex(index), member))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True if there are no members. A valid configuration has at least one.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Chooses a member for a new client connection, or instead of a member that failed: round
    /// robin among the members in the best state. `avoid` is chosen only if there is no other
    /// member.
    pub fn choose(&self, avoid: Option<MemberIndex>) -> MemberIndex {
        if self.pin || self.members.len() < 2 {
            return MemberIndex(0);
        }
        let start = self.choices.fetch_add(1, Ordering::Relaxed);
        let rotated = (0..self.members.len())
            .map(|step| MemberIndex(start.wrapping_add(step) % self.members.len()));
        // `min_by_key` returns the first minimum, so the rotation decides between equal members.
        rotated
            .min_by_key(|&index| {
                (Some(index) == avoid, std::cmp::Reverse(self.at(index).map(Member::health)))
            })
            .unwrap_or(MemberIndex(0))
    }

    /// The member for a client connection that has used `home` so far: `home`, unless another
    /// member is in a better state.
    pub fn home(&self, home: MemberIndex) -> MemberIndex {
        let health = |index| self.at(index).map(Member::health);
        if self.pin || health(home) == Some(Health::Well) {
            return home;
        }
        let other = self.choose(Some(home));
        if health(other) > health(home) { other } else { home }
    }

    /// A receiver that reports each change of any member's health.
    pub(super) fn health_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Members that can serve some calls now. With `pin` at most the first.
    pub(super) fn in_use(&self) -> impl Iterator<Item = MemberIndex> {
        let candidates = if self.pin { 1 } else { self.members.len() };
        self.iter()
            .take(candidates)
            .filter(|(_, member)| member.health() >= Health::Leaderless)
            .map(|(index, _)| index)
    }

    /// The leader, if it is known and healthy. `None` with `pin`.
    pub(crate) fn leader(&self) -> Option<MemberIndex> {
        if self.pin {
            return None;
        }
        self.iter()
            .find(|(_, member)| member.is_leader() && member.health() == Health::Well)
            .map(|(index, _)| index)
    }

    /// True if any member can serve calls. A learner cannot: it refuses nearly all of them.
    pub(crate) fn any_in_use(&self) -> bool {
        self.in_use().next().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(health: &[Health], pin: bool) -> Members {
        let endpoint = |port| Endpoint { tls: true, host: "etcd".into(), port };
        let members =
            Members::new(&(0..).map(endpoint).take(health.len()).collect::<Vec<_>>(), pin);
        for ((_, member), health) in members.iter().zip(health) {
            member.set_health(*health);
        }
        members
    }

    #[test]
    fn each_state_is_stored_and_returned() {
        for (number, health) in Health::ALL.into_iter().enumerate() {
            assert_eq!(health as usize, number);
            assert_eq!(
                members(&[health], false).at(MemberIndex(0)).map(Member::health),
                Some(health)
            );
        }
        assert!(Health::ALL.is_sorted());
    }

    #[test]
    fn a_connection_moves_only_to_a_member_in_a_better_state() {
        for home in Health::ALL {
            for other in Health::ALL {
                let moved = members(&[home, other], false).home(MemberIndex(0)) == MemberIndex(1);
                assert_eq!(
                    moved,
                    home != Health::Well && other > home,
                    "{home:?} beside {other:?}"
                );
                assert_eq!(
                    members(&[home, other], true).home(MemberIndex(0)),
                    MemberIndex(0),
                    "pinned"
                );
            }
        }
        // It moves to the best one at any point of the round robin.
        let many = members(
            &[Health::Leaderless, Health::Down, Health::Learner, Health::Well, Health::Unknown],
            false,
        );
        assert!((0..10).all(|_| many.home(MemberIndex(0)) == MemberIndex(3)));
    }

    #[tokio::test]
    async fn only_a_change_of_health_wakes() {
        let two = members(&[Health::Well, Health::Down], false);
        assert_eq!(two.in_use().collect::<Vec<_>>(), [MemberIndex(0)]);
        let mut changes = two.health_changes();
        two.members[1].set_health(Health::Down);
        assert!(!changes.has_changed().unwrap());
        two.members[1].set_health(Health::Well);
        assert!(changes.has_changed().unwrap());
        changes.changed().await.unwrap();
        assert_eq!(two.in_use().count(), 2);
        assert_eq!(members(&[Health::Well, Health::Well], true).in_use().count(), 1, "pinned");
    }

    #[test]
    fn new_connections_go_to_members_in_the_best_state() {
        let many = members(
            &[Health::Learner, Health::Well, Health::Removed, Health::Leaderless, Health::Well],
            false,
        );
        let chosen: std::collections::BTreeSet<_> = (0..10).map(|_| many.choose(None).0).collect();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [1, 4]);
        assert!(!members(&[Health::Learner, Health::Removed, Health::Down], false).any_in_use());
        assert!(
            members(&[Health::Learner, Health::Leaderless], false).any_in_use(),
            "a member without a leader serves some calls"
        );
    }
}
