//! What a member of etcd can serve: known by `upstream`, shown by `metrics`.

/// What a member can serve, as it said when it was last asked. The order is that of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Health {
    /// It cannot be reached, or did not answer in time.
    Down,
    /// It was removed from its cluster, and stops within a second (`etcdserver/server.go`,
    /// `stopWithDelay`).
    Removed,
    /// It is a learner: of all that clients ask for, it answers only serializable reads, Status and
    /// Snapshot (`v3rpc/util.go`, `isRPCSupportedForLearner`).
    Learner,
    /// It was not asked yet.
    Unknown,
    /// It answers, but knows no leader: writes and linearizable reads would wait, and then fail.
    Leaderless,
    /// It is a voting member and knows a leader.
    Well,
}

impl Health {
    /// All states, the least useful first.
    pub const ALL: [Health; 6] = [
        Health::Down,
        Health::Removed,
        Health::Learner,
        Health::Unknown,
        Health::Leaderless,
        Health::Well,
    ];

    /// The values of the label `state`, in the order of [`Health::ALL`].
    pub const CODES: [&'static str; Self::ALL.len()] =
        ["down", "removed", "learner", "unknown", "leaderless", "well"];
}
