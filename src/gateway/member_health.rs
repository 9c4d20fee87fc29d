//! Health of a member of etcd: set by `upstream`, exported by `metrics`.

/// What a member could serve at the last check. Greater is preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Health {
    /// It is unreachable, or did not respond in time.
    Down,
    /// It was removed from its cluster, and stops within a second (`etcdserver/server.go`,
    /// `stopWithDelay`).
    Removed,
    /// It is a learner. It serves only serializable reads, Status and Snapshot (`v3rpc/util.go`,
    /// `isRPCSupportedForLearner`).
    Learner,
    /// It was not checked yet.
    Unknown,
    /// It knows no leader: writes and linearizable reads would wait and then fail.
    Leaderless,
    /// It is a voting member and knows a leader.
    Well,
}

impl Health {
    /// All states, in ascending order.
    pub const ALL: [Health; 6] = [
        Health::Down,
        Health::Removed,
        Health::Learner,
        Health::Unknown,
        Health::Leaderless,
        Health::Well,
    ];

    /// Values of the label `state`, in the order of [`Health::ALL`].
    pub const CODES: [&'static str; Self::ALL.len()] =
        ["down", "removed", "learner", "unknown", "leaderless", "well"];
}
