//! What a request would touch: the vocabulary between the wire scan, the policy and the decision.

use std::fmt;

use smallvec::SmallVec;

use crate::keyspace::{KeyRange, OwnedRange};

/// What may be done to a key. etcd knows only read and write; write is split so that "create, never
/// overwrite" can be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// See the key, its value, its history or the fact that it is there.
    Read,
    /// Make a key that does not exist.
    Create,
    /// Change a key that exists.
    Update,
    /// Remove a key, at once or by the end of a lease.
    Delete,
}

impl Verb {
    /// All verbs, in the order of their bits in [`Verbs`].
    pub const ALL: [Verb; 4] = [Verb::Read, Verb::Create, Verb::Update, Verb::Delete];

    /// The verb as policies and audit lines write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verb::Read => "read",
            Verb::Create => "create",
            Verb::Update => "update",
            Verb::Delete => "delete",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Verbs(u8);

impl Verbs {
    /// No verb.
    pub const NONE: Verbs = Verbs(0);
    /// `read`
    pub const READ: Verbs = Verbs::of(Verb::Read);
    /// `create`
    pub const CREATE: Verbs = Verbs::of(Verb::Create);
    /// `update`
    pub const UPDATE: Verbs = Verbs::of(Verb::Update);
    /// `delete`
    pub const DELETE: Verbs = Verbs::of(Verb::Delete);
    /// `create` and `update`: what a plain Put may turn out to be.
    pub const PUT: Verbs = Verbs::CREATE.and(Verbs::UPDATE);
    /// `create`, `update` and `delete`: what etcd calls write.
    pub const WRITE: Verbs = Verbs::PUT.and(Verbs::DELETE);
    /// Everything.
    pub const ALL: Verbs = Verbs::READ.and(Verbs::WRITE);

    /// The set of one verb.
    #[must_use]
    pub const fn of(verb: Verb) -> Verbs {
        Verbs(1 << verb as u8)
    }

    /// Both sets together.
    #[must_use]
    pub const fn and(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// Whether `verb` is in the set.
    #[must_use]
    pub const fn has(self, verb: Verb) -> bool {
        self.0 & Verbs::of(verb).0 != 0
    }

    /// Whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The verbs of the set, in the order of [`Verb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.has(*verb))
    }
}

/// The verbs with a comma between them.
impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, verb) in self.iter().enumerate() {
            write!(f, "{}{verb}", if place == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

macro_rules! capabilities {
    ($( $variant:ident = $name:literal, $description:literal; )+) => {
        /// A right to an operation that has no key.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Capability { $( #[doc = $description] $variant, )+ }

        impl Capability {
            /// All capabilities.
            pub const ALL: &[Capability] = &[$(Capability::$variant,)+];

            /// The capability as policies and audit lines write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Capability::$variant => $name,)+ }
            }

            /// What it allows, in one sentence.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Capability::$variant => $description,)+ }
            }
        }
    };
}

capabilities! {
    Lease = "lease", "Grant leases, and use, renew and revoke one's own.";
    LeaseAdmin = "lease-admin", "All that `lease` allows, and list all leases, and use, renew and revoke those of others.";
    Compact = "compact", "Compact the history of the key space.";
    Status = "status", "Ask a member for its status, its alarms and whether etcd's own auth is on.";
    MemberList = "member-list", "List the members of the cluster.";
    MemberAdmin = "member-admin", "Add, remove, update and promote members.";
    Snapshot = "snapshot", "Stream a copy of the whole database: reads every key.";
    Hash = "hash", "Ask for hashes over the whole database.";
    Alarm = "alarm", "Raise and clear alarms.";
    Defragment = "defragment", "Defragment a member's database, which stops it meanwhile.";
    MoveLeader = "move-leader", "Hand leadership to another member.";
    Downgrade = "downgrade", "Validate, start and cancel a downgrade of the cluster.";
    AuthAdmin = "auth-admin", "Change etcd's own users and roles, and switch its auth on and off.";
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that a request does to keys: allowed when every verb is granted on the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'m> {
    /// What is done.
    pub verbs: Verbs,
    /// To which keys. An empty range holds no key, and needs the verbs on its start all the same
    /// (`Rights::covers`).
    pub range: KeyRange<'m>,
}

/// What a request does with a lease that exists, or is to exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseUse {
    /// Make it, under an id that the client chose (`LeaseGrant`). An id that carries the mark of
    /// another identity is that identity's, also when its lease has ended: the owner would take
    /// the new lease for its own.
    Grant,
    /// Attach a key to it (`Put` with a lease, `Lock`, `Campaign`, `Proclaim`).
    Attach,
    /// End it, and with it the keys that are attached (`LeaseRevoke`).
    Revoke,
    /// Prolong it (`LeaseKeepAlive`).
    KeepAlive,
    /// Look at its time, and perhaps its keys (`LeaseTimeToLive`).
    Look,
}

impl LeaseUse {
    /// Whether something is to live longer by the lease: that takes the capability, also with a
    /// lease of one's own, so that who loses the capability keeps nothing alive beyond the time
    /// that its leases have left.
    #[must_use]
    pub const fn prolongs(self) -> bool {
        matches!(self, LeaseUse::Grant | LeaseUse::Attach | LeaseUse::KeepAlive)
    }

    /// What is needed on every attached key when the lease is not the caller's own: etcd's rule
    /// (`LeaseTimeToLive` reads the attached keys, everything else writes them;
    /// `server/etcdserver/apply/auth.go`, `checkLeasePuts`).
    #[must_use]
    pub const fn verbs_on_attached(self) -> Verbs {
        match self {
            LeaseUse::Look => Verbs::READ,
            LeaseUse::Grant | LeaseUse::Attach | LeaseUse::Revoke | LeaseUse::KeepAlive => {
                Verbs::WRITE
            }
        }
    }
}

/// Everything that one request message would touch. All of it must be allowed; a message that
/// touches nothing is allowed to every identity that a binding names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accesses<'m> {
    /// Keys. A Txn of libcalico-go has three (compare, then, else), so that the usual request
    /// needs no allocation.
    pub ranges: SmallVec<[Access<'m>; 4]>,
    /// Keys whose range does not stand in the message and had to be made: what a lock or an
    /// election called `name` keeps under `name/`.
    pub made: Option<Box<(Verbs, OwnedRange)>>,
    /// The operation without a key, if the method is one.
    pub capability: Option<Capability>,
    /// Leases by id; id 0 ("no lease") is never listed.
    pub leases: SmallVec<[(i64, LeaseUse); 1]>,
}

impl<'m> Accesses<'m> {
    /// A request that needs one capability and nothing else.
    #[must_use]
    pub fn capability(capability: Capability) -> Self {
        Self { capability: Some(capability), ..Self::default() }
    }

    /// Adds keys.
    pub fn touch(&mut self, verbs: Verbs, range: KeyRange<'m>) {
        self.ranges.push(Access { verbs, range });
    }

    /// All keys: [`Accesses::ranges`], then [`Accesses::made`].
    pub fn keys(&self) -> impl Iterator<Item = Access<'_>> {
        let made = self
            .made
            .as_deref()
            .map(|(verbs, range)| Access { verbs: *verbs, range: range.as_range() });
        self.ranges.iter().copied().chain(made)
    }

    /// Adds a lease, unless the id is 0, which means none.
    pub fn lease(&mut self, id: i64, lease_use: LeaseUse) {
        if id != 0 {
            self.leases.push((id, lease_use));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both the decision and the reference model walk through a set by `iter`: what it forgets,
    /// neither asks for.
    #[test]
    fn a_set_is_walked_through_whole_in_its_order_and_says_so() {
        let sets = [
            (Verbs::NONE, &[][..], ""),
            (Verbs::READ, &[Verb::Read], "read"),
            (Verbs::CREATE, &[Verb::Create], "create"),
            (Verbs::UPDATE, &[Verb::Update], "update"),
            (Verbs::DELETE, &[Verb::Delete], "delete"),
            (Verbs::PUT, &[Verb::Create, Verb::Update], "create, update"),
            (Verbs::WRITE, &[Verb::Create, Verb::Update, Verb::Delete], "create, update, delete"),
            (Verbs::ALL, &Verb::ALL, "read, create, update, delete"),
            (
                Verbs::ALL.without(Verbs::UPDATE),
                &[Verb::Read, Verb::Create, Verb::Delete],
                "read, create, delete",
            ),
        ];
        for (set, verbs, text) in sets {
            assert_eq!(set.iter().collect::<Vec<_>>(), verbs);
            assert_eq!(set.to_string(), text);
            assert_eq!(set.is_empty(), verbs.is_empty());
            assert!(Verb::ALL.iter().all(|verb| set.has(*verb) == verbs.contains(verb)), "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_is_listed() {
        let mut accesses = Accesses::capability(Capability::Compact);
        assert_eq!(accesses.capability, Some(Capability::Compact));
        accesses.touch(Verbs::READ, KeyRange::key(b"a"));
        accesses.made = Some(Box::new((Verbs::WRITE, KeyRange::key(b"b").into())));
        let keys: Vec<_> = accesses.keys().map(|access| (access.verbs, access.range)).collect();
        assert_eq!(keys, [(Verbs::READ, KeyRange::key(b"a")), (Verbs::WRITE, KeyRange::key(b"b"))]);
        accesses.lease(0, LeaseUse::Attach);
        accesses.lease(7, LeaseUse::Look);
        assert_eq!(accesses.leases.as_slice(), [(7, LeaseUse::Look)]);
    }

    #[test]
    fn a_lease_of_others_takes_etcds_rights_on_its_keys() {
        assert_eq!(LeaseUse::Look.verbs_on_attached(), Verbs::READ);
        for lease_use in [LeaseUse::Grant, LeaseUse::Attach, LeaseUse::Revoke, LeaseUse::KeepAlive]
        {
            assert_eq!(lease_use.verbs_on_attached(), Verbs::WRITE, "{lease_use:?}");
            assert_eq!(lease_use.prolongs(), lease_use != LeaseUse::Revoke, "{lease_use:?}");
        }
        assert!(!LeaseUse::Look.prolongs());
    }
}
