//! A call as etcdctl is given it, turned into the very messages that etcdctl would send.

use prost::Message;

use super::txn;
use crate::keyspace::prefix_end;
use crate::method::Method;
use crate::pb::{etcdserverpb as pb, v3electionpb, v3lockpb};
use crate::policy::name::escape;

/// One message of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The message, without its gRPC frame.
    pub message: Vec<u8>,
}

/// Words of a call, sorted into arguments and flags.
#[derive(Debug)]
pub(super) struct Words {
    arguments: Vec<String>,
    flags: Vec<(String, String)>,
}

/// Flags that stand alone; `--prefix` and `--prefix=true` are the same.
const SWITCHES: &[&str] = &[
    "prefix",
    "from-key",
    "prev-kv",
    "ignore-value",
    "ignore-lease",
    "keys-only",
    "count-only",
    "print-value-only",
    "physical",
    "range",
    "progress-notify",
    "keys",
    "once",
    "learner",
    "cluster",
    "listen",
    "stream",
    "interactive",
];
/// Flags with a value.
const VALUED: &[&str] =
    &["lease", "limit", "rev", "order", "sort-by", "consistency", "peer-urls", "ttl", "write-out", "min-mod-rev", "max-mod-rev"];

/// Reads a call. `stdin` is asked for the three blocks of a `txn` without arguments.
///
/// # Errors
/// What etcdctl would not understand either.
pub(super) fn parse(call: &[String], stdin: impl FnOnce() -> std::io::Result<String>) -> Result<Vec<Request>, String> {
    let (command, rest) = call.split_first().ok_or("a call is missing")?;
    if command == "txn" {
        let blocks = match rest.iter().any(|word| word != "-i" && word != "--interactive") {
            true => txn::blocks_of_arguments(rest),
            false => txn::blocks_of_text(&stdin().map_err(|error| format!("standard input cannot be read: {error}"))?),
        };
        return Ok(one(Method::Txn, &txn::parse(&blocks)?));
    }
    let words = Words::of(rest)?;
    let sub = words.arguments.first().map_or("", String::as_str);
    match (command.as_str(), sub) {
        ("get", _) => Ok(one(Method::Range, &words.range()?)),
        ("put", _) => Ok(one(Method::Put, &words.put()?)),
        ("del", _) => Ok(one(Method::DeleteRange, &words.delete()?)),
        ("watch", _) => Ok(one(Method::Watch, &words.watch()?)),
        ("compact" | "compaction", _) => {
            Ok(one(Method::Compact, &pb::CompactionRequest { revision: words.number(0)?, ..Default::default() }))
        }
        ("snapshot", _) => Ok(bare(Method::Snapshot)),
        ("lock", _) => {
            let lock = v3lockpb::LockRequest { name: words.bytes(0, "a name")?, lease: EXAMPLE_LEASE };
            Ok([one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 60, id: 0 }), one(Method::Lock, &lock)].concat())
        }
        ("elect", _) if words.has("listen") => Ok(one(Method::Observe, &v3electionpb::LeaderRequest { name: words.bytes(0, "a name")? })),
        ("elect", _) => {
            let campaign = v3electionpb::CampaignRequest { name: words.bytes(0, "a name")?, lease: EXAMPLE_LEASE, value: Vec::new() };
            Ok([one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: 60, id: 0 }), one(Method::Campaign, &campaign)].concat())
        }
        ("lease", _) => words.lease(sub),
        ("move-leader", _) => Ok(bare(Method::MoveLeader)),
        ("defrag", _) => Ok(bare(Method::Defragment)),
        ("alarm", "list") => Ok(bare(Method::Alarm)),
        ("alarm", "disarm") => {
            let disarm = pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Deactivate.into(), ..Default::default() };
            Ok(one(Method::Alarm, &disarm))
        }
        ("endpoint", "health") => {
            // etcdctl reads the key `health`, and then asks for alarms.
            let read = pb::RangeRequest { key: b"health".to_vec(), ..Default::default() };
            Ok([one(Method::Range, &read), bare(Method::Alarm)].concat())
        }
        _ => by_name(command, sub).map(bare).ok_or_else(|| unknown(command, sub)),
    }
}

/// The lease that a call gets from its own LeaseGrant: any id will do, for it is the caller's.
pub(super) const EXAMPLE_LEASE: i64 = 1;

/// Calls that are judged by their method alone.
fn by_name(command: &str, sub: &str) -> Option<Method> {
    Some(match (command, sub) {
        ("endpoint", "status") => Method::Status,
        ("endpoint", "hashkv") => Method::HashKV,
        ("member", "list") => Method::MemberList,
        ("member", "add") => Method::MemberAdd,
        ("member", "remove") => Method::MemberRemove,
        ("member", "update") => Method::MemberUpdate,
        ("member", "promote") => Method::MemberPromote,
        ("downgrade", "validate" | "enable" | "cancel") => Method::Downgrade,
        ("auth", "enable") => Method::AuthEnable,
        ("auth", "disable") => Method::AuthDisable,
        ("auth", "status") => Method::AuthStatus,
        ("user", "add") => Method::UserAdd,
        ("user", "get") => Method::UserGet,
        ("user", "list") => Method::UserList,
        ("user", "delete") => Method::UserDelete,
        ("user", "passwd") => Method::UserChangePassword,
        ("user", "grant-role") => Method::UserGrantRole,
        ("user", "revoke-role") => Method::UserRevokeRole,
        ("role", "add") => Method::RoleAdd,
        ("role", "get") => Method::RoleGet,
        ("role", "list") => Method::RoleList,
        ("role", "delete") => Method::RoleDelete,
        ("role", "grant-permission") => Method::RoleGrantPermission,
        ("role", "revoke-permission") => Method::RoleRevokePermission,
        _ => return None,
    })
}

fn unknown(command: &str, sub: &str) -> String {
    const KNOWN: &str = "get, put, del, watch, txn, compact, lease, lock, elect, snapshot, endpoint, member, alarm, defrag, move-leader, \
                         downgrade, auth, user, role";
    let call = format!("{command} {sub}");
    format!("`{}` is no call that etcdctl knows; there are {KNOWN}", call.trim_end())
}

impl Words {
    /// Sorts words.
    ///
    /// # Errors
    /// A flag that no call has, or one without its value.
    pub(super) fn of(words: &[String]) -> Result<Self, String> {
        let mut sorted = Self { arguments: Vec::new(), flags: Vec::new() };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                if word == "-w" {
                    words.next();
                } else {
                    sorted.arguments.push(word.clone());
                }
                continue;
            };
            if flag.is_empty() {
                sorted.arguments.extend(words.by_ref().cloned());
                break;
            }
            let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_owned())));
            let value = match value {
                Some(value) => value,
                None if SWITCHES.contains(&name) => "true".to_owned(),
                None => words.next().cloned().ok_or_else(|| format!("`--{name}` needs a value"))?,
            };
            if !SWITCHES.contains(&name) && !VALUED.contains(&name) {
                return Err(format!("`--{name}` is no flag of these calls"));
            }
            if value != "false" {
                sorted.flags.push((name.to_owned(), value));
            }
        }
        Ok(sorted)
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| name == flag)
    }

    fn bytes(&self, at: usize, what: &str) -> Result<Vec<u8>, String> {
        bytes(self.arguments.get(at).ok_or_else(|| format!("{what} is missing"))?)
    }

    fn number(&self, at: usize) -> Result<i64, String> {
        let written = self.arguments.get(at).ok_or("a number is missing")?;
        written.parse().map_err(|_| format!("`{written}` is no number"))
    }

    /// A lease's id, hexadecimal as etcdctl writes it.
    fn lease_id(written: &str) -> Result<i64, String> {
        i64::from_str_radix(written, 16).map_err(|_| format!("`{written}` is no lease id: it is hexadecimal"))
    }

    /// Key and end as clientv3 makes them of `KEY [END] --prefix --from-key`.
    fn keys(&self) -> Result<(Vec<u8>, Vec<u8>), String> {
        let key = self.bytes(0, "a key")?;
        let end = self.arguments.get(1).map(|end| bytes(end)).transpose()?;
        match (end, self.has("prefix"), self.has("from-key")) {
            (None, true, false) if !key.is_empty() => {
                let end = prefix_end(&key).map_or_else(|| vec![0], <[u8]>::into_vec);
                Ok((key, end))
            }
            (None, false, true) if !key.is_empty() => Ok((key, vec![0])),
            (None, true, false) | (None, false, true) => Ok((vec![0], vec![0])),
            (end, false, false) => Ok((key, end.unwrap_or_default())),
            _ => Err("an end, `--prefix` and `--from-key` exclude each other".to_owned()),
        }
    }

    /// `get`.
    pub(super) fn range(&self) -> Result<pb::RangeRequest, String> {
        let (key, range_end) = self.keys()?;
        Ok(pb::RangeRequest { key, range_end, ..Default::default() })
    }

    /// `put`.
    pub(super) fn put(&self) -> Result<pb::PutRequest, String> {
        let lease = self.flags.iter().find(|(name, _)| name == "lease").map(|(_, id)| Self::lease_id(id)).transpose()?.unwrap_or(0);
        Ok(pb::PutRequest {
            key: self.bytes(0, "a key")?,
            lease,
            prev_kv: self.has("prev-kv"),
            ignore_value: self.has("ignore-value"),
            ignore_lease: self.has("ignore-lease"),
            ..Default::default()
        })
    }

    /// `del`.
    pub(super) fn delete(&self) -> Result<pb::DeleteRangeRequest, String> {
        let (key, range_end) = self.keys()?;
        Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: self.has("prev-kv") })
    }

    fn watch(&self) -> Result<pb::WatchRequest, String> {
        let (key, range_end) = self.keys()?;
        let create = pb::WatchCreateRequest { key, range_end, prev_kv: self.has("prev-kv"), ..Default::default() };
        Ok(pb::WatchRequest { request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)) })
    }

    fn lease(&self, sub: &str) -> Result<Vec<Request>, String> {
        let id = || Self::lease_id(self.arguments.get(1).ok_or("a lease id is missing")?);
        match sub {
            "grant" => Ok(one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: self.number(1)?, id: 0 })),
            "revoke" => Ok(one(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: id()? })),
            "timetolive" => Ok(one(Method::LeaseTimeToLive, &pb::LeaseTimeToLiveRequest { id: id()?, keys: self.has("keys") })),
            "keep-alive" => Ok(one(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: id()? })),
            "list" => Ok(bare(Method::LeaseLeases)),
            other => Err(unknown("lease", other)),
        }
    }
}

/// A key as policies write it: `\xNN` is a byte, `\\` a backslash, all else stands for itself.
pub(super) fn bytes(written: &str) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    let mut rest = written;
    while let Some((plain, behind)) = rest.split_once('\\') {
        key.extend_from_slice(plain.as_bytes());
        let (byte, length) = escape(behind).map_err(|(message, help)| format!("{message}: {help}"))?;
        key.push(byte);
        rest = behind.get(length..).unwrap_or_default();
    }
    key.extend_from_slice(rest.as_bytes());
    Ok(key)
}

fn one(method: Method, message: &impl Message) -> Vec<Request> {
    vec![Request { method, message: message.encode_to_vec() }]
}

fn bare(method: Method) -> Vec<Request> {
    vec![Request { method, message: Vec::new() }]
}
