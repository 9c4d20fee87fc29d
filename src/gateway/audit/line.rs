//! Formats one [`Record`] as one line of JSON. `docs/audit.md` documents the fields, and a test
//! compares them.
//!
//! Text from clients (certificates, keys, paths) is escaped by
//! [`etcd_warden_core::keyspace::Escaped`]: a line is ASCII without control characters, and the
//! bytes can be recovered ([`unescape`]). The size of a line is bounded: lists and texts above it
//! are cut, and the line shows how much is missing.

mod text;

use std::io;

use etcd_warden_core::access::{LeaseUse, Verb, Verbs};
use etcd_warden_core::authorize::Missing;
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::policy::Mode;
use serde::{Serialize, Serializer};

use super::Record;
pub(super) use text::timestamp;
pub use text::unescape;
use text::{EscapedText, LeaseId};

/// Largest size of a line in bytes, with its end of line.
pub const MAX_LINE: usize = 64 * 1024;

/// The limits of what a line shows of a record.
#[derive(Clone, Copy, Debug)]
pub struct LineLimits {
    /// Bytes of one text (a key, a name), before escaping.
    pub text: usize,
    /// Entries of one list (accesses, leases, roles, names of one kind).
    pub entries: usize,
}

impl LineLimits {
    /// The limits of a usual line. Without entries, ten texts of this size stay below [`MAX_LINE`]
    /// however they are escaped (5 bytes for one).
    pub const WIDE: LineLimits = LineLimits { text: 1024, entries: 1024 };
    /// The limits when the queue has no room for a usual line.
    pub const NARROW: LineLimits = LineLimits { text: 256, entries: 4 };
}

/// Appends `record` to `out` as one line with its end. Halves the number of entries until the line
/// fits into [`MAX_LINE`].
pub fn render(record: &Record, cut: LineLimits, out: &mut Vec<u8>) {
    let start = out.len();
    let mut cut = cut;
    loop {
        // 64 bytes are for the field `lost`, which the writer may add, and one for the end of line.
        let room = if cut.entries == 0 { usize::MAX } else { MAX_LINE - 65 };
        let written = serde_json::to_writer(Bounded { out, room }, &Line::new(record, cut));
        // Fails only if there is no room: all map keys are strings.
        if written.is_ok() || cut.entries == 0 {
            out.push(b'\n');
            return;
        }
        out.truncate(start);
        cut.entries /= 2;
    }
}

/// Appends to `out` until `room` bytes are used up. A line that does not fit is given up there: ten
/// megabytes of a large Txn would be written eleven times.
struct Bounded<'o> {
    out: &'o mut Vec<u8>,
    room: usize,
}

impl io::Write for Bounded<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.room = self.room.checked_sub(bytes.len()).ok_or(io::ErrorKind::StorageFull)?;
        self.out.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The fields of a line, in order. Empty ones are left out.
#[derive(Serialize)]
struct Line<'r> {
    time: String,
    decision: &'static str,
    mode: Mode,
    identity: IdentityFields<'r>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    roles: Vec<EscapedText<'r>>,
    peer: std::net::SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<EscapedText<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    accesses: Vec<AccessFields<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    capability: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    leases: Vec<LeaseFields>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<EscapedText<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<MissingRight<'r>>,
    policy: PolicyFields<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<EscapedText<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc_status: Option<u32>,
    request_id: u64,
    #[serde(skip_serializing_if = "Omitted::is_empty")]
    omitted: Omitted,
}

#[derive(Serialize)]
struct IdentityFields<'r> {
    name: EscapedText<'r>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cn: Option<EscapedText<'r>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cn_refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uri_sans: Vec<EscapedText<'r>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dns_sans: Vec<EscapedText<'r>>,
    serial: EscapedText<'r>,
    issuer: EscapedText<'r>,
    ca: EscapedText<'r>,
}

#[derive(Serialize)]
struct AccessFields<'r> {
    #[serde(serialize_with = "verb_names")]
    verbs: Verbs,
    #[serde(flatten)]
    range: RangeFields<'r>,
}

#[derive(Serialize)]
struct RangeFields<'r> {
    key: EscapedText<'r>,
    range_end: EscapedText<'r>,
}

#[derive(Serialize)]
struct LeaseFields {
    id: LeaseId,
    r#use: &'static str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum MissingRight<'r> {
    Keys {
        verb: &'static str,
        #[serde(flatten)]
        range: RangeFields<'r>,
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
pub(super) struct PolicyFields<'r> {
    pub(super) generation: u64,
    pub(super) hash: &'r str,
}

/// The number of entries of each list that are not shown.
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
    fn is_empty(&self) -> bool {
        self.roles + self.uri_sans + self.dns_sans + self.accesses + self.leases == 0
    }
}

impl<'r> Line<'r> {
    fn new(record: &'r Record, cut: LineLimits) -> Self {
        let (identity, principal, accesses) =
            (&*record.identity, &*record.principal, &record.accesses);
        let text = |text: &'r str| EscapedText { bytes: text.as_bytes(), limit: cut.text };
        let range = |range: KeyRange<'r>| RangeFields {
            key: EscapedText { bytes: range.start, limit: cut.text },
            range_end: EscapedText { bytes: range.range_end(), limit: cut.text },
        };
        let omitted = |length: usize| length.saturating_sub(cut.entries);
        Self {
            time: timestamp(record.time),
            decision: record.decision.code(),
            mode: principal.mode,
            identity: IdentityFields {
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
            path: record
                .method
                .as_ref()
                .err()
                .map(|path| EscapedText { bytes: path, limit: cut.text }),
            accesses: accesses
                .ranges
                .iter()
                .take(cut.entries)
                .map(|(verbs, owned)| AccessFields {
                    verbs: *verbs,
                    range: range(owned.as_range()),
                })
                .collect(),
            capability: accesses.capability.map(|capability| capability.name()),
            leases: accesses
                .leases
                .iter()
                .take(cut.entries)
                .map(|(id, lease_use)| LeaseFields {
                    id: LeaseId(*id),
                    r#use: use_name(*lease_use),
                })
                .collect(),
            grant: record.grant.as_deref().map(text),
            reason: record.denial.as_ref().map(|denial| denial.reason.code()),
            missing: record.denial.as_ref().and_then(|denial| match &denial.missing {
                Missing::Nothing => None,
                Missing::Keys { verb, range: owned } => {
                    Some(MissingRight::Keys { verb: verb.name(), range: range(owned.as_range()) })
                }
                Missing::Capability(capability) => {
                    Some(MissingRight::Capability { capability: capability.name() })
                }
                Missing::Lease(id) => Some(MissingRight::Lease { lease: LeaseId(*id) }),
                Missing::Form(malformed) => {
                    Some(MissingRight::Form { form: malformed.to_string() })
                }
                Missing::Size { length, limit } => Some(MissingRight::Form {
                    form: format!("message of {length} bytes exceeds the limit of {limit} bytes"),
                }),
                Missing::Unpacked { limit } => Some(MissingRight::Form {
                    form: format!("decompressed message exceeds the limit of {limit} bytes"),
                }),
                Missing::Text(text) => Some(MissingRight::Form { form: (*text).to_owned() }),
            }),
            policy: PolicyFields { generation: principal.generation, hash: &record.policy_hash },
            member: record.member.as_deref().map(text),
            grpc_status: record.status,
            request_id: record.request_id,
            omitted: Omitted {
                roles: omitted(principal.roles.len()),
                uri_sans: omitted(identity.uri_sans.len()),
                dns_sans: omitted(identity.dns_sans.len()),
                accesses: omitted(accesses.ranges.len()),
                leases: omitted(accesses.leases.len()),
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
        LeaseUse::KeepAlive => "keep_alive",
        LeaseUse::Inspect => "look",
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[cfg(test)]
pub(in crate::audit) mod tests;
