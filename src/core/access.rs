//! The accesses that a request needs. The wire scan, the policy and the decision share these types.

use std::fmt;

use smallvec::SmallVec;

use crate::keyspace::{KeyRange, OwnedRange};

/// An operation on a key. etcd distinguishes only read and write. Here, write is split into three
/// verbs, so that a policy can allow a client to create keys but not to overwrite them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Verb {
    /// Read the key, its value, its history, or whether it exists.
    Read,
    /// Create a key that does not exist.
    Create,
    /// Overwrite a key that exists.
    Update,
    /// Delete a key, directly or through the end of a lease.
    Delete,
}

impl Verb {
    /// All verbs, in the order of their bits in [`Verbs`].
    pub const ALL: [Verb; 4] = [Verb::Read, Verb::Create, Verb::Update, Verb::Delete];

    /// The name of the verb in policies and audit lines.
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
    /// The empty set.
    pub const NONE: Verbs = Verbs(0);
    /// `read`
    pub const READ: Verbs = Verbs::of(Verb::Read);
    /// `create`
    pub const CREATE: Verbs = Verbs::of(Verb::Create);
    /// `update`
    pub const UPDATE: Verbs = Verbs::of(Verb::Update);
    /// `delete`
    pub const DELETE: Verbs = Verbs::of(Verb::Delete);
    /// `create` and `update`: an unguarded Put may do either.
    pub const PUT: Verbs = Verbs::CREATE.union(Verbs::UPDATE);
    /// `create`, `update` and `delete`: etcd's write permission.
    pub const WRITE: Verbs = Verbs::PUT.union(Verbs::DELETE);
    /// All four verbs.
    pub const ALL: Verbs = Verbs::READ.union(Verbs::WRITE);

    /// The set with this verb only.
    pub const fn of(verb: Verb) -> Verbs {
        Verbs(1 << verb as u8)
    }

    /// The union of both sets.
    pub const fn union(self, other: Verbs) -> Verbs {
        Verbs(self.0 | other.0)
    }

    /// This set without `other`.
    pub const fn without(self, other: Verbs) -> Verbs {
        Verbs(self.0 & !other.0)
    }

    /// True if `verb` is in the set.
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & Verbs::of(verb).0 != 0
    }

    /// True if no verb is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The verbs of the set, in the order of [`Verb::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

/// Displays the verbs separated by commas.
impl fmt::Display for Verbs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, verb) in self.iter().enumerate() {
            write!(f, "{}{verb}", if index == 0 { "" } else { ", " })?;
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
            /// Every capability, in the order of declaration.
            pub const ALL: &[Capability] = &[$(Capability::$variant,)+];

            /// The name of the capability in policies and audit lines.
            pub const fn name(self) -> &'static str {
                match self { $(Capability::$variant => $name,)+ }
            }

            /// One sentence that says what the capability allows.
            pub const fn description(self) -> &'static str {
                match self { $(Capability::$variant => $description,)+ }
            }
        }
    };
}

capabilities! {
    Lease = "lease", "Grant leases, and use, renew and revoke one's own leases.";
    LeaseAdmin = "lease-admin",
        "Everything that `lease` allows; also list all leases and use those of others.";
    Compact = "compact", "Compact the history of the key space.";
    Status = "status", "Read a member's status and alarms, and whether etcd's own auth is enabled.";
    MemberList = "member-list", "List the members of the cluster.";
    MemberAdmin = "member-admin", "Add, remove, update and promote members.";
    Snapshot = "snapshot", "Stream a copy of the whole database, which reads every key.";
    Hash = "hash", "Read hashes of the whole database.";
    Alarm = "alarm", "Raise and clear alarms.";
    Defragment = "defragment",
        "Defragment a member's database. The member does not serve requests meanwhile.";
    MoveLeader = "move-leader", "Transfer leadership to another member.";
    Downgrade = "downgrade", "Validate, start and cancel a downgrade of the cluster.";
    AuthAdmin = "auth-admin",
        "Read and change etcd's own users and roles, and enable and disable its auth.";
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Verbs on a key range. The access is allowed if every verb is granted on the whole range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access<'m> {
    /// The required verbs.
    pub verbs: Verbs,
    /// The keys. An empty range needs the verbs on its start (`Rights::covers`).
    pub range: KeyRange<'m>,
}

/// How a request uses a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseUse {
    /// Grants the lease with an id that the client chose (`LeaseGrant`). An id that carries the
    /// mark of another identity belongs to that identity, even after its lease has ended. Otherwise
    /// that identity could use the new lease as its own.
    Grant,
    /// Attaches a key to the lease (`Put` with a lease, `Lock`, `Campaign`, `Proclaim`).
    Attach,
    /// Revokes the lease, which deletes the attached keys (`LeaseRevoke`).
    Revoke,
    /// Renews the lease (`LeaseKeepAlive`).
    KeepAlive,
    /// Reads the remaining time and optionally the attached keys (`LeaseTimeToLive`).
    Inspect,
}

impl LeaseUse {
    /// True if the use makes the lease or a key live longer. This needs the capability `lease`,
    /// even for the client's own lease. So an identity that loses the capability cannot keep a key
    /// alive beyond the remaining time of its leases.
    pub const fn extends_lifetime(self) -> bool {
        matches!(self, LeaseUse::Grant | LeaseUse::Attach | LeaseUse::KeepAlive)
    }

    /// The verbs that the client needs on every attached key if the lease is not its own. This is
    /// etcd's rule: `LeaseTimeToLive` needs read access to the attached keys, every other use needs
    /// write access (`server/etcdserver/apply/auth.go`, `checkLeasePuts`).
    pub const fn verbs_on_attached(self) -> Verbs {
        match self {
            LeaseUse::Inspect => Verbs::READ,
            LeaseUse::Grant | LeaseUse::Attach | LeaseUse::Revoke | LeaseUse::KeepAlive => {
                Verbs::WRITE
            }
        }
    }
}

/// All accesses of one request message. The message is allowed if each access is allowed. Any
/// identity with a binding may send a message without accesses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accesses<'m> {
    /// Key ranges from the message. A Txn of libcalico-go has three (compare, then, else), so the
    /// usual request needs no allocation.
    pub ranges: SmallVec<[Access<'m>; 4]>,
    /// A key range that is not in the message but derived from it: the keys of a lock or an
    /// election with the name `name` are below `name/`.
    pub derived: Option<Box<(Verbs, OwnedRange)>>,
    /// The capability that the method needs.
    pub capability: Option<Capability>,
    /// Leases by id. Id 0 ("no lease") is never listed.
    pub leases: SmallVec<[(i64, LeaseUse); 1]>,
}

impl<'m> Accesses<'m> {
    /// Accesses of a request that needs this capability and nothing else.
    pub fn capability(capability: Capability) -> Self {
        Self { capability: Some(capability), ..Self::default() }
    }

    /// Adds verbs on a key range.
    pub fn add_keys(&mut self, verbs: Verbs, range: KeyRange<'m>) {
        self.ranges.push(Access { verbs, range });
    }

    /// All key ranges: [`Accesses::ranges`], then [`Accesses::derived`].
    pub fn keys(&self) -> impl Iterator<Item = Access<'_>> {
        let derived = self
            .derived
            .as_deref()
            .map(|(verbs, range)| Access { verbs: *verbs, range: range.as_range() });
        self.ranges.iter().copied().chain(derived)
    }

    /// Adds a use of a lease. Id 0 ("no lease") is ignored.
    pub fn add_lease(&mut self, id: i64, lease_use: LeaseUse) {
        if id != 0 {
            self.leases.push((id, lease_use));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both the decision and the reference model iterate over a set with `iter`. A verb that `iter`
    /// omits would be checked by neither.
    #[test]
    fn iter_yields_every_verb_of_a_set_in_order() {
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
            assert!(
                Verb::ALL.iter().all(|verb| set.contains(*verb) == verbs.contains(verb)),
                "{text}"
            );
        }
    }

    #[test]
    fn added_accesses_are_listed() {
        let mut accesses = Accesses::capability(Capability::Compact);
        assert_eq!(accesses.capability, Some(Capability::Compact));
        accesses.add_keys(Verbs::READ, KeyRange::key(b"a"));
        accesses.derived = Some(Box::new((Verbs::WRITE, KeyRange::key(b"b").into())));
        let keys: Vec<_> = accesses.keys().map(|access| (access.verbs, access.range)).collect();
        assert_eq!(keys, [(Verbs::READ, KeyRange::key(b"a")), (Verbs::WRITE, KeyRange::key(b"b"))]);
        accesses.add_lease(0, LeaseUse::Attach);
        accesses.add_lease(7, LeaseUse::Inspect);
        assert_eq!(accesses.leases.as_slice(), [(7, LeaseUse::Inspect)]);
    }

    #[test]
    fn a_foreign_lease_needs_etcds_rights_on_its_keys() {
        assert_eq!(LeaseUse::Inspect.verbs_on_attached(), Verbs::READ);
        for lease_use in [LeaseUse::Grant, LeaseUse::Attach, LeaseUse::Revoke, LeaseUse::KeepAlive]
        {
            assert_eq!(lease_use.verbs_on_attached(), Verbs::WRITE, "{lease_use:?}");
            assert_eq!(
                lease_use.extends_lifetime(),
                lease_use != LeaseUse::Revoke,
                "{lease_use:?}"
            );
        }
        assert!(!LeaseUse::Inspect.extends_lifetime());
    }
}
