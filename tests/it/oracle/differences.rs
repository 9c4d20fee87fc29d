//! The verdicts that may differ, by the ids of `docs/compared-with-etcd-auth.md`. Nothing else may.

use etcd_warden::method::Method;

use super::probe;
use super::requests::Request;
use super::sides::{Said, Sides};

/// gRPC's code for a request that can never be right.
const INVALID_ARGUMENT: u32 = 3;

/// A difference that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// A message that two decoders could read differently, or that etcd itself reads in a way nobody means.
    Form,
    /// We look at the rights first, etcd at the form: nothing is done either way.
    Order,
    /// A range that holds no key needs the right on its first one. etcd wants one grant that holds both of its ends.
    EmptyRange,
    /// An operation without a key needs a capability.
    Capability,
}

impl Difference {
    /// Every difference.
    pub const ALL: [Self; 4] = [Self::EmptyRange, Self::Form, Self::Order, Self::Capability];

    /// Its id in the document.
    pub fn id(self) -> &'static str {
        match self {
            Difference::Form => "S-form",
            Difference::Order => "S-order",
            Difference::EmptyRange => "F-empty-range",
            Difference::Capability => "S-capability",
        }
    }

    /// Why we may refuse, with this reason, what etcd allows.
    pub fn stricter(request: &Request, reason: &str, theirs: &Said) -> Option<Self> {
        if matches!(theirs, Said::Answered { status: INVALID_ARGUMENT, .. }) {
            return Some(Difference::Order);
        }
        match reason.split(':').next()? {
            "malformed-message" => Some(Difference::Form),
            "capability-not-granted" if request.method == Method::MemberList => Some(Difference::Capability),
            _ => None,
        }
    }

    /// Why we may allow what etcd refuses. Asks the judge what it is that it refuses.
    pub async fn finer(sides: &mut Sides, user: &str, request: &Request) -> Option<Self> {
        let operation = probe::operation(request)?;
        let allowed = match probe::without_empty_ranges(operation.clone()) {
            None => true,
            Some(rest) if rest != operation => sides.judge_allows(user, &probe::question(rest)).await,
            Some(_) => false,
        };
        allowed.then_some(Difference::EmptyRange)
    }
}
