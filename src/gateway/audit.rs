//! The audit: one JSON line per recorded decision. Field names are stable and documented in
//! `docs/audit.md`; values are never in it.

pub mod line;
mod mode_change;
pub mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::access::{Accesses, Capability, LeaseUse, Verbs};
use etcd_warden_core::authorize::{Decision, Denial};
use etcd_warden_core::identity::Identity;
use etcd_warden_core::keyspace::OwnedRange;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::Principal;

pub use mode_change::ModeChange;
pub use writer::{Audit, Full, Slot};

/// One decision, with all that a line shows.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it was decided.
    pub time: SystemTime,
    /// What was decided.
    pub decision: Decision,
    /// What the certificate says.
    pub identity: Arc<Identity>,
    /// What the policy makes of it.
    pub principal: Arc<Principal>,
    /// The client's address (the balancer's word for it, with PROXY protocol).
    pub peer: SocketAddr,
    /// The method, or the path that is none (cut to 256 bytes).
    pub method: Result<Method, Box<[u8]>>,
    /// What the message would touch.
    pub accesses: OwnedAccesses,
    /// The grant that allowed it, as text: `ROLE: KEYS [VERBS] (SOURCE)`.
    pub grant: Option<String>,
    /// Why not.
    pub denial: Option<Denial>,
    /// The hash of the policy that decided (hexadecimal SHA-256 of its text); its generation is
    /// the principal's.
    pub policy_hash: Arc<str>,
    /// The member that the request went to (`HOST:PORT`).
    pub member: Option<Arc<str>>,
    /// The gRPC status of the answer; `None` when there was none (the client went away).
    pub status: Option<u32>,
    /// Unique within this process.
    pub request_id: u64,
}

/// [`Accesses`] that own their bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedAccesses {
    /// Verbs and keys.
    pub ranges: Vec<(Verbs, OwnedRange)>,
    /// The capability.
    pub capability: Option<Capability>,
    /// Leases.
    pub leases: Vec<(i64, LeaseUse)>,
}

impl From<&Accesses<'_>> for OwnedAccesses {
    fn from(accesses: &Accesses<'_>) -> Self {
        Self {
            ranges: accesses.keys().map(|access| (access.verbs, access.range.into())).collect(),
            capability: accesses.capability,
            leases: accesses.leases.to_vec(),
        }
    }
}
