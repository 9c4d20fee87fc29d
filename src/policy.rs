//! Who may do what: three types for three truths, and no function that takes two of them.
//!
//! `file::File` is what the operator wrote, `check::Checked` is what it means, [`Policy`] is what serves: rights compiled
//! once per identity into sorted disjoint ranges, so that a request costs a binary search and no allocation.

pub mod rights;

use std::fmt;
use std::sync::Arc;

use crate::identity::NameRefusal;
pub use rights::{Grant, GrantId, Rights};

/// Whether a verdict is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Judge and record; everything goes through.
    Shadow,
    /// Judge, record and refuse.
    Enforce,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Shadow => "shadow",
            Mode::Enforce => "enforce",
        })
    }
}

/// Whether any binding knows an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// At least one binding matches.
    Bound,
    /// No binding matches: nothing is allowed.
    Unbound,
    /// The certificate gives no usable name.
    Nameless(NameRefusal),
    /// A binding matches but for a captured value that is no DNS-1123 subdomain.
    BadCapture,
}

/// An identity under one generation of the policy: everything that a decision needs to know about the caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The identity's name: what leases belong to and audit lines show. `ca/cn:NAME`, or `ca/uri:..`, `ca/dns:..` without a CN.
    pub name: Arc<str>,
    /// Whether a binding knows it.
    pub standing: Standing,
    /// Enforced if any matching binding is enforced.
    pub mode: Mode,
    /// The roles of all matching bindings, in the policy's order.
    pub roles: Arc<[Arc<str>]>,
    /// What those roles add up to, after all denials.
    pub rights: Arc<Rights>,
    /// The generation of the policy that this was compiled from.
    pub generation: u64,
}
