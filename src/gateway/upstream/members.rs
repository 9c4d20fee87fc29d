//! The members of the etcd cluster that the proxy was told of, and how they are.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use etcd_warden_core::wire::header::ResponseHeader;
use tokio::sync::watch;

use super::dial::FirstAddress;
use super::pace::Pace;
use crate::config::Endpoint;
use crate::member_health::Health;

/// A member's place in [`Members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberIndex(pub usize);

/// One member.
#[derive(Debug)]
pub struct Member {
    /// Its client URL.
    pub endpoint: Endpoint,
    /// `HOST:PORT`, as logs, metrics and audit lines name it.
    pub name: Arc<str>,
    health: AtomicU8,
    leads: AtomicBool,
    version: Mutex<Box<str>>,
    header: Mutex<ResponseHeader>,
    described_in_term: AtomicU64,
    /// Counts changes of any member's health.
    changes: Arc<watch::Sender<u64>>,
    /// How often connections to it are pinged.
    pub pace: Arc<Pace>,
    /// Where the next connection to it begins.
    pub first_address: Arc<FirstAddress>,
}

impl Member {
    fn new(endpoint: Endpoint, changes: Arc<watch::Sender<u64>>) -> Self {
        let name = endpoint.authority().into();
        Self {
            endpoint,
            name,
            health: AtomicU8::new(Health::Unknown as u8),
            leads: AtomicBool::new(false),
            version: Mutex::default(),
            header: Mutex::new(ResponseHeader::default()),
            described_in_term: AtomicU64::new(0),
            changes,
            pace: Arc::default(),
            first_address: Arc::default(),
        }
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::ALL
            .get(usize::from(self.health.load(Ordering::Relaxed)))
            .copied()
            .unwrap_or(Health::Down)
    }

    /// Notes what a check or a failed connection said; true if that is news.
    pub fn set_health(&self, health: Health) -> bool {
        let news = self.health.swap(health as u8, Ordering::Relaxed) != health as u8;
        if news {
            self.changes.send_modify(|count| *count = count.wrapping_add(1));
        }
        news
    }

    /// Whether it led the cluster when it was last asked.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Notes whether it leads.
    pub fn set_leads(&self, leads: bool) {
        self.leads.store(leads, Ordering::Relaxed);
    }

    /// Whether it has described itself (version, leader) in this term of raft.
    #[must_use]
    pub fn is_described_in(&self, term: u64) -> bool {
        self.described_in_term.load(Ordering::Relaxed) == term
    }

    /// Notes that it has described itself in this term. 0: it has to do so again.
    pub fn set_described_in(&self, term: u64) {
        self.described_in_term.store(term, Ordering::Relaxed);
    }

    /// Notes the version of etcd that it says it is; true if that is news.
    pub fn set_version(&self, version: &str) -> bool {
        let mut last = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let news = **last != *version;
        if news {
            *last = version.into();
        }
        news
    }

    /// The newest response header that this member sent us: what an answer that the proxy gives in
    /// etcd's place carries.
    #[must_use]
    pub fn header(&self) -> ResponseHeader {
        *self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a header. A header with an older revision does not replace a newer one.
    pub fn saw_header(&self, header: ResponseHeader) {
        let mut last = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if header.revision >= last.revision || header.cluster_id != last.cluster_id {
            *last = header;
        }
    }
}

/// All members.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    changes: Arc<watch::Sender<u64>>,
    pin: bool,
    next: AtomicUsize,
}

impl Members {
    /// The members behind `endpoints`; with `pin`, only the first is ever chosen.
    #[must_use]
    pub fn new(endpoints: &[Endpoint], pin: bool) -> Self {
        let changes = Arc::new(watch::Sender::new(0));
        let members = endpoints
            .iter()
            .map(|endpoint| Member::new(endpoint.clone(), changes.clone()))
            .collect();
        Self { members, changes, pin, next: AtomicUsize::new(0) }
    }

    /// The member at `index`. Indices come from this object only, so there always is one.
    #[must_use]
    pub fn at(&self, index: MemberIndex) -> Option<&Member> {
        self.members.get(index.0)
    }

    /// Every member, in the configured order.
    pub fn iter(&self) -> impl Iterator<Item = (MemberIndex, &Member)> {
        self.members.iter().enumerate().map(|(index, member)| (MemberIndex(index), member))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none (a checked configuration has at least one).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether calls always go to one member.
    #[must_use]
    pub fn pinned(&self) -> bool {
        self.pin
    }

    /// A member for a new client connection, or in place of one that failed: the next of those in
    /// best health, `avoid` only if there is no other. Connections are what is spread; the
    /// calls of one connection stay together.
    #[must_use]
    pub fn choose(&self, avoid: Option<MemberIndex>) -> MemberIndex {
        if self.pin || self.members.len() < 2 {
            return MemberIndex(0);
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let rotated = (0..self.members.len())
            .map(|step| MemberIndex(start.wrapping_add(step) % self.members.len()));
        // `min_by_key` keeps the first of equals, so the rotation decides between members in equal
        // health.
        rotated
            .min_by_key(|&index| {
                (Some(index) == avoid, std::cmp::Reverse(self.at(index).map(Member::health)))
            })
            .unwrap_or(MemberIndex(0))
    }

    /// The member for a connection that is at home at `home`: `home` itself while it is well or no
    /// other one is in better health.
    #[must_use]
    pub fn home(&self, home: MemberIndex) -> MemberIndex {
        let health = |index| self.at(index).map(Member::health);
        if self.pin || health(home) == Some(Health::Well) {
            return home;
        }
        let other = self.choose(Some(home));
        if health(other) > health(home) { other } else { home }
    }

    /// Wakes at each change of a member's health.
    #[must_use]
    pub fn health_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The members that calls may go to now: those that can serve some, and with `pin` the first
    /// alone.
    pub fn in_use(&self) -> impl Iterator<Item = MemberIndex> {
        let candidates = if self.pin { 1 } else { self.members.len() };
        self.iter()
            .take(candidates)
            .filter(|(_, member)| member.health() >= Health::Leaderless)
            .map(|(index, _)| index)
    }

    /// The member that leads, if it is known and calls may go to it.
    #[must_use]
    pub fn leader(&self) -> Option<MemberIndex> {
        if self.pin {
            return None;
        }
        self.iter()
            .find(|(_, member)| member.leads() && member.health() == Health::Well)
            .map(|(index, _)| index)
    }

    /// Whether any member can be expected to answer. A learner cannot: it refuses nearly every
    /// call.
    #[must_use]
    pub fn any_well(&self) -> bool {
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
    fn each_state_is_kept_and_has_its_code() {
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
    fn a_home_moves_only_to_better_health() {
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
        // Of several it is the best one, whatever the rotation.
        let many = members(
            &[Health::Leaderless, Health::Down, Health::Learner, Health::Well, Health::Unknown],
            false,
        );
        assert!((0..10).all(|_| many.home(MemberIndex(0)) == MemberIndex(3)));
    }

    #[tokio::test]
    async fn a_change_of_health_wakes_and_only_a_change() {
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
    fn new_connections_go_where_they_are_served() {
        let many = members(
            &[Health::Learner, Health::Well, Health::Removed, Health::Leaderless, Health::Well],
            false,
        );
        let chosen: std::collections::BTreeSet<_> = (0..10).map(|_| many.choose(None).0).collect();
        assert_eq!(chosen.into_iter().collect::<Vec<_>>(), [1, 4]);
        assert!(!members(&[Health::Learner, Health::Removed, Health::Down], false).any_well());
        assert!(
            members(&[Health::Learner, Health::Leaderless], false).any_well(),
            "served as far as it can be"
        );
    }
}
