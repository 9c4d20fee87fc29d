//! The audit log: one line of JSON for each recorded decision. `docs/audit.md` documents its
//! fields, which are stable. It never contains values.

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

/// One decision, with everything that a line shows.
#[derive(Clone, Debug)]
pub struct Record {
    /// When the decision was made.
    pub time: SystemTime,
    /// The decision.
    pub decision: Decision,
    /// The identity in the certificate.
    pub identity: Arc<Identity>,
    /// The principal of the identity under the policy.
    pub principal: Arc<Principal>,
    /// The client's address. With the PROXY protocol, as the load balancer reports it.
    pub peer: SocketAddr,
    /// The method, or a path that is not a method (cut to 256 bytes).
    pub method: Result<Method, Box<[u8]>>,
    /// The accesses of the message.
    pub accesses: OwnedAccesses,
    /// The grant that allowed the message, as text: `ROLE: KEYS [VERBS] (SOURCE)`.
    pub grant: Option<String>,
    /// The reason why the policy does not allow the message.
    pub denial: Option<Denial>,
    /// Hexadecimal SHA-256 of the policy's text. Its generation is the principal's.
    pub policy_hash: Arc<str>,
    /// The member that the request was sent to (`HOST:PORT`).
    pub member: Option<Arc<str>>,
    /// The gRPC status of the response. `None` if there was none, because the client was gone.
    pub status: Option<u32>,
    /// Unique within this process.
    pub request_id: u64,
}

/// [`Accesses`] with owned keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedAccesses {
    /// Verbs on ranges of keys.
    pub ranges: Vec<(Verbs, OwnedRange)>,
    /// The capability, if the method needs one.
    pub capability: Option<Capability>,
    /// Lease ids, and their use.
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
