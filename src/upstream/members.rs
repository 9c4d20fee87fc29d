//! The members of the etcd cluster that the proxy was told of, and how they are.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::Endpoint;
use crate::wire::header::ResponseHeader;

/// A member's place in [`Members`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemberIndex(pub usize);

/// How a member answered when it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Health {
    /// It cannot be reached, or did not answer in time.
    Down,
    /// It was not asked yet.
    Unknown,
    /// It answers, but knows no leader: writes and linearizable reads would wait.
    Leaderless,
    /// It answers and knows a leader.
    Well,
}

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
    seen: AtomicU64,
}

impl Member {
    fn new(endpoint: Endpoint) -> Self {
        let name = endpoint.authority().into();
        Self {
            endpoint,
            name,
            health: AtomicU8::new(Health::Unknown as u8),
            leads: AtomicBool::new(false),
            version: Mutex::default(),
            header: Mutex::new(ResponseHeader::default()),
            seen: AtomicU64::new(0),
        }
    }

    /// How it is.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.health.load(Ordering::Relaxed) {
            0 => Health::Down,
            1 => Health::Unknown,
            2 => Health::Leaderless,
            _ => Health::Well,
        }
    }

    /// Notes what a check or a failed connection said; true if that is news.
    pub fn set_health(&self, health: Health) -> bool {
        self.health.swap(health as u8, Ordering::Relaxed) != health as u8
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

    /// Notes the version of etcd that it says it is; true if that is news.
    pub fn set_version(&self, version: &str) -> bool {
        let mut last = self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let news = **last != *version;
        if news {
            *last = version.into();
        }
        news
    }

    /// The newest response header that this member sent us: what an answer that the proxy gives in etcd's place carries.
    #[must_use]
    pub fn header(&self) -> ResponseHeader {
        *self.header.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a header. A header with an older revision does not replace a newer one.
    pub fn saw_header(&self, header: ResponseHeader) {
        let mut last = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if header.revision >= last.revision || header.cluster_id != last.cluster_id {
            *last = header;
            self.seen.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// All members.
#[derive(Debug)]
pub struct Members {
    members: Vec<Member>,
    pin: bool,
    next: AtomicUsize,
}

impl Members {
    /// The members behind `endpoints`; with `pin`, only the first is ever chosen.
    #[must_use]
    pub fn new(endpoints: &[Endpoint], pin: bool) -> Self {
        Self { members: endpoints.iter().cloned().map(Member::new).collect(), pin, next: AtomicUsize::new(0) }
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

    /// A member for a new client connection, or in place of one that failed: the next of those in best health, `avoid` only
    /// if there is no other. Connections are what is spread; the calls of one connection stay together.
    #[must_use]
    pub fn choose(&self, avoid: Option<MemberIndex>) -> MemberIndex {
        if self.pin || self.members.len() < 2 {
            return MemberIndex(0);
        }
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let rotated = (0..self.members.len()).map(|step| MemberIndex(start.wrapping_add(step) % self.members.len()));
        // `min_by_key` keeps the first of equals, so the rotation decides between members in equal health.
        rotated.min_by_key(|&index| (Some(index) == avoid, std::cmp::Reverse(self.at(index).map(Member::health)))).unwrap_or(MemberIndex(0))
    }

    /// The member that leads, if it is known and calls may go to it.
    #[must_use]
    pub fn leader(&self) -> Option<MemberIndex> {
        if self.pin {
            return None;
        }
        self.iter().find(|(_, member)| member.leads() && member.health() == Health::Well).map(|(index, _)| index)
    }

    /// Whether any member can be expected to answer.
    #[must_use]
    pub fn any_well(&self) -> bool {
        let candidates = if self.pin { 1 } else { self.members.len() };
        self.members.iter().take(candidates).any(|member| member.health() >= Health::Leaderless)
    }
}
