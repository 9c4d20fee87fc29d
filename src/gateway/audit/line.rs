//! One [`Record`] as one line of JSON. `docs/audit.md` tells what each field means; a test holds
//! the two together.
//!
//! Every text that comes from outside (certificates, keys, paths) is in the spelling of
//! [`etcd_warden_core::keyspace::Escaped`], so that a line is ASCII, holds no control character and
//! gives back the bytes ([`unescape`]). A line has a bound: lists and texts beyond it are cut, and
//! say so.

mod text;

use etcd_warden_core::access::{LeaseUse, Verb, Verbs};
use etcd_warden_core::authorize::Missing;
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::policy::Mode;
use serde::{Serialize, Serializer};

use super::Record;
pub(super) use text::timestamp;
pub use text::unescape;
use text::{LeaseId, Text};

/// Bytes of one line at most, its end of line included.
pub const MAX_LINE: usize = 64 * 1024;

/// How much of a record a line shows.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Bytes of one text (a key, a name), before escaping.
    pub text: usize,
    /// Entries of one list (accesses, leases, roles, names of one kind).
    pub entries: usize,
}

impl Cut {
    /// What a line shows when there is room. With no entries at all, ten texts of this size stay
    /// below [`MAX_LINE`] however they are escaped (5 bytes for one).
    pub const WIDE: Cut = Cut { text: 1024, entries: 1024 };
    /// What it shows when the queue is short of room.
    pub const NARROW: Cut = Cut { text: 256, entries: 4 };
}

/// Adds `record` to `out` as one line with its end. Fewer entries are shown until it fits into
/// [`MAX_LINE`].
pub fn render(record: &Record, cut: Cut, out: &mut Vec<u8>) {
    let start = out.len();
    let mut cut = cut;
    loop {
        // Writing to a Vec cannot fail, and no map key here is anything but a string.
        let _ = serde_json::to_writer(&mut *out, &Line::new(record, cut));
        out.push(b'\n');
        // Room for `lost`, which the writer may add.
        if out.len() - start <= MAX_LINE - 64 || cut.entries == 0 {
            return;
        }
        out.truncate(start);
        cut.entries /= 2;
    }
}

/// The fields in their order. A field that has nothing to say is absent.
#[derive(Serialize)]
struct Line<'r> {
    time: String,
    decision: &'static str,
    mode: Mode,
    identity: Identity<'r>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<Text<'r>>,
    peer: std::net::SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Text<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accesses: Vec<Access<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<Lease>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<Text<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<Lack<'r>>,
    policy: Policy<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<Text<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u32>,
    request_id: u64,
    #[serde(skip_serializing_if = "Omitted::is_nothing")]
    omitted: Omitted,
}

#[derive(Serialize)]
struct Identity<'r> {
    name: Text<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cn: Option<Text<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cn_refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uri_sans: Vec<Text<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_sans: Vec<Text<'r>>,
    serial: Text<'r>,
    issuer: Text<'r>,
    ca: Text<'r>,
}

#[derive(Serialize)]
struct Access<'r> {
    #[serde(serialize_with = "verb_names")]
    verbs: Verbs,
    #[serde(flatten)]
    range: Range<'r>,
}

#[derive(Serialize)]
struct Range<'r> {
    key: Text<'r>,
    range_end: Text<'r>,
}

#[derive(Serialize)]
struct Lease {
    id: LeaseId,
    r#use: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Lack<'r> {
    Keys {
        verb: &'static str,
        #[serde(flatten)]
        range: Range<'r>,
    },
    Capability {
        capability: &'static str,
    },
    Lease {
        lease: LeaseId,
    },
    Form {
        form: String,
    },
}

#[derive(Serialize)]
struct Policy<'r> {
    generation: u64,
    hash: &'r str,
}

/// How many entries of each list are not shown.
#[derive(Default, Serialize)]
struct Omitted {
    #[serde(skip_serializing_if = "is_zero")]
    roles: usize,
    #[serde(skip_serializing_if = "is_zero")]
    uri_sans: usize,
    #[serde(skip_serializing_if = "is_zero")]
    dns_sans: usize,
    #[serde(skip_serializing_if = "is_zero")]
    accesses: usize,
    #[serde(skip_serializing_if = "is_zero")]
    leases: usize,
}

impl Omitted {
    fn is_nothing(&self) -> bool {
        self.roles + self.uri_sans + self.dns_sans + self.accesses + self.leases == 0
    }
}

impl<'r> Line<'r> {
    fn new(record: &'r Record, cut: Cut) -> Self {
        let (identity, principal, accesses) =
            (&*record.identity, &*record.principal, &record.accesses);
        let text = |text: &'r str| Text { bytes: text.as_bytes(), limit: cut.text };
        let range = |range: KeyRange<'r>| Range {
            key: Text { bytes: range.start, limit: cut.text },
            range_end: Text { bytes: range.range_end(), limit: cut.text },
        };
        let left_out = |length: usize| length.saturating_sub(cut.entries);
        Self {
            time: timestamp(record.time),
            decision: record.decision.code(),
            mode: principal.mode,
            identity: Identity {
                name: text(&principal.name),
                cn: identity.common_name.as_deref().ok().map(text),
                cn_refusal: identity.common_name.as_ref().err().map(|refusal| refusal.code()),
                uri_sans: identity.uri_sans.iter().take(cut.entries).map(|san| text(san)).collect(),
                dns_sans: identity.dns_sans.iter().take(cut.entries).map(|san| text(san)).collect(),
                serial: text(&identity.serial),
                issuer: text(&identity.issuer),
                ca: text(&identity.ca),
            },
            roles: principal.roles.iter().take(cut.entries).map(|role| text(role)).collect(),
            peer: record.peer,
            method: record.method.as_ref().ok().map(|method| method.path()),
            path: record.method.as_ref().err().map(|path| Text { bytes: path, limit: cut.text }),
            accesses: accesses
                .ranges
                .iter()
                .take(cut.entries)
                .map(|(verbs, owned)| Access { verbs: *verbs, range: range(owned.as_range()) })
                .collect(),
            capability: accesses.capability.map(|capability| capability.name()),
            leases: accesses
                .leases
                .iter()
                .take(cut.entries)
                .map(|(id, lease_use)| Lease { id: LeaseId(*id), r#use: use_name(*lease_use) })
                .collect(),
            grant: record.grant.as_deref().map(text),
            reason: record.denial.as_ref().map(|denial| denial.reason.code()),
            missing: record.denial.as_ref().and_then(|denial| match &denial.missing {
                Missing::Nothing => None,
                Missing::Keys { verb, range: owned } => {
                    Some(Lack::Keys { verb: verb.name(), range: range(owned.as_range()) })
                }
                Missing::Capability(capability) => {
                    Some(Lack::Capability { capability: capability.name() })
                }
                Missing::Lease(id) => Some(Lack::Lease { lease: LeaseId(*id) }),
                Missing::Form(malformed) => Some(Lack::Form { form: malformed.to_string() }),
                Missing::Size { length, limit } => Some(Lack::Form {
                    form: format!("message of {length} bytes exceeds the limit of {limit} bytes"),
                }),
                Missing::Unpacked { limit } => Some(Lack::Form {
                    form: format!("decompressed message exceeds the limit of {limit} bytes"),
                }),
                Missing::Text(text) => Some(Lack::Form { form: (*text).to_owned() }),
            }),
            policy: Policy { generation: principal.generation, hash: &record.policy_hash },
            member: record.member.as_deref().map(text),
            grpc_status: record.status,
            request_id: record.request_id,
            omitted: Omitted {
                roles: left_out(principal.roles.len()),
                uri_sans: left_out(identity.uri_sans.len()),
                dns_sans: left_out(identity.dns_sans.len()),
                accesses: left_out(accesses.ranges.len()),
                leases: left_out(accesses.leases.len()),
            },
        }
    }
}

fn verb_names<S: Serializer>(verbs: &Verbs, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(verbs.iter().map(Verb::name))
}

fn use_name(lease_use: LeaseUse) -> &'static str {
    match lease_use {
        LeaseUse::Grant => "grant",
        LeaseUse::Attach => "attach",
        LeaseUse::Revoke => "revoke",
        LeaseUse::KeepAlive => "keep-alive",
        LeaseUse::Inspect => "look",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
pub(in crate::audit) mod tests;
