//! Parses a call in the syntax of etcdctl into the messages that etcdctl sends
//! (`etcdctl/ctlv3/command`, 3.5 to 3.7).

use etcd_warden_core::keyspace::prefix_end;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::name::escape;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message;

use super::words::{Flag, Words, or, switch, valued};
use super::{concurrency, txn};

/// One request message and its method.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The RPC.
    pub method: Method,
    /// The message, without its gRPC frame.
    pub message: Vec<u8>,
}

/// A command of etcdctl.
struct Command {
    /// `get`, or `lease grant`.
    name: &'static str,
    /// Its own flags.
    flags: &'static [Flag],
    /// The least and the largest number of arguments.
    arguments: (usize, usize),
    /// The requests that it sends.
    sends: Sends,
}

enum Sends {
    /// Requests built from the arguments and flags.
    Built(fn(&Words) -> Result<Vec<Request>, String>),
    /// Methods whose decision does not depend on the message.
    Empty(&'static [Method]),
}

const fn built(
    name: &'static str,
    flags: &'static [Flag],
    arguments: (usize, usize),
    build: fn(&Words) -> Result<Vec<Request>, String>,
) -> Command {
    Command { name, flags, arguments, sends: Sends::Built(build) }
}

const fn empty(
    name: &'static str,
    flags: &'static [Flag],
    arguments: (usize, usize),
    methods: &'static [Method],
) -> Command {
    Command { name, flags, arguments, sends: Sends::Empty(methods) }
}

pub(super) const GET: &[Flag] = &[
    valued("consistency"),
    valued("order"),
    valued("sort-by"),
    valued("limit"),
    switch("prefix"),
    switch("from-key"),
    valued("rev"),
    switch("keys-only"),
    switch("count-only"),
    switch("print-value-only"),
    valued("min-create-rev"),
    valued("max-create-rev"),
    valued("min-mod-rev"),
    valued("max-mod-rev"),
    switch("stream"),
];
pub(super) const PUT: &[Flag] =
    &[valued("lease"), switch("prev-kv"), switch("ignore-value"), switch("ignore-lease")];
pub(super) const DEL: &[Flag] =
    &[switch("prefix"), switch("prev-kv"), switch("from-key"), switch("range")];
const WATCH: &[Flag] = &[
    or('i', switch("interactive")),
    switch("prefix"),
    valued("rev"),
    switch("prev-kv"),
    switch("progress-notify"),
];
const CLUSTER: &[Flag] = &[switch("cluster")];
const PERMISSION: &[Flag] = &[switch("prefix"), switch("from-key")];
const CONSISTENCY: &[Flag] = &[valued("consistency")];
const PASSWORD: &[Flag] = &[switch("interactive")];
const NEW_USER: &[Flag] =
    &[switch("interactive"), valued("new-user-password"), switch("no-password")];

/// The commands that can be explained. `txn` has a parser of its own (`txn.rs`).
const COMMANDS: &[Command] = &[
    built("get", GET, (1, 2), get),
    built("put", PUT, (1, 2), |words| words.put().map(|put| one(Method::Put, &put))),
    built("del", DEL, (1, 2), |words| {
        words.delete().map(|delete| one(Method::DeleteRange, &delete))
    }),
    built("watch", WATCH, (0, 2), watch),
    built("compaction", &[switch("physical")], (1, 1), compaction),
    built("compact", &[switch("physical")], (1, 1), compaction),
    built("lease grant", &[], (1, 1), |words| {
        Ok(one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: words.number(0)?, id: 0 }))
    }),
    built("lease revoke", &[], (1, 1), |words| {
        Ok(one(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: words.lease_id(0)? }))
    }),
    built("lease timetolive", &[switch("keys")], (1, 1), |words| {
        Ok(one(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: words.lease_id(0)?, keys: words.has("keys") },
        ))
    }),
    built("lease keep-alive", &[switch("once")], (1, 1), |words| {
        Ok(one(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: words.lease_id(0)? }))
    }),
    empty("lease list", &[], (0, 0), &[Method::LeaseLeases]),
    built("lock", &[valued("ttl")], (1, usize::MAX), lock),
    built("elect", &[or('l', switch("listen"))], (1, 2), elect),
    empty("snapshot save", &[], (1, 1), &[Method::Snapshot]),
    // etcdctl reads the key `health`, then lists alarms.
    built("endpoint health", CLUSTER, (0, 0), |words| {
        let read = pb::RangeRequest { key: b"health".to_vec(), ..Default::default() };
        Ok([members(words), one(Method::Range, &read), without_fields(Method::Alarm)].concat())
    }),
    built("endpoint status", CLUSTER, (0, 0), |words| {
        Ok([members(words), without_fields(Method::Status)].concat())
    }),
    built("endpoint hashkv", &[switch("cluster"), valued("rev")], (0, 0), |words| {
        Ok([members(words), without_fields(Method::HashKV)].concat())
    }),
    built("defrag", CLUSTER, (0, 0), |words| {
        Ok([members(words), without_fields(Method::Defragment)].concat())
    }),
    empty("alarm list", &[], (0, 0), &[Method::Alarm]),
    built("alarm disarm", &[], (0, 0), |_| {
        let disarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            ..Default::default()
        };
        Ok(one(Method::Alarm, &disarm))
    }),
    empty("member list", CONSISTENCY, (0, 0), &[Method::MemberList]),
    empty("member add", &[valued("peer-urls"), switch("learner")], (1, 1), &[Method::MemberAdd]),
    empty("member remove", &[], (1, 1), &[Method::MemberRemove]),
    // The message must hold a valid URL; which one makes no difference to the decision.
    built("member update", &[valued("peer-urls")], (1, 1), |_| {
        let peer_ur_ls = vec!["http://127.0.0.1:2380".to_owned()];
        Ok(one(Method::MemberUpdate, &pb::MemberUpdateRequest { id: 1, peer_ur_ls }))
    }),
    empty("member promote", &[], (1, 1), &[Method::MemberPromote]),
    // etcdctl looks for the leader first.
    empty("move-leader", &[], (1, 1), &[Method::Status, Method::MoveLeader]),
    empty("downgrade validate", &[], (1, 1), &[Method::Downgrade]),
    empty("downgrade enable", &[], (1, 1), &[Method::Downgrade]),
    empty("downgrade cancel", &[], (0, 0), &[Method::Downgrade]),
    empty("auth enable", &[], (0, 0), &[Method::AuthEnable]),
    empty("auth disable", &[], (0, 0), &[Method::AuthDisable]),
    empty("auth status", &[], (0, 0), &[Method::AuthStatus]),
    empty("user add", NEW_USER, (1, 1), &[Method::UserAdd]),
    built("user get", &[switch("detail")], (1, 1), |words| {
        let roles = if words.has("detail") { without_fields(Method::RoleGet) } else { Vec::new() };
        Ok([without_fields(Method::UserGet), roles].concat())
    }),
    empty("user list", &[], (0, 0), &[Method::UserList]),
    empty("user delete", &[], (1, 1), &[Method::UserDelete]),
    empty("user passwd", PASSWORD, (1, 1), &[Method::UserChangePassword]),
    empty("user grant-role", &[], (2, 2), &[Method::UserGrantRole]),
    empty("user revoke-role", &[], (2, 2), &[Method::UserRevokeRole]),
    empty("role add", &[], (1, 1), &[Method::RoleAdd]),
    empty("role get", &[], (1, 1), &[Method::RoleGet]),
    empty("role list", &[], (0, 0), &[Method::RoleList]),
    empty("role delete", &[], (1, 1), &[Method::RoleDelete]),
    empty("role grant-permission", PERMISSION, (3, 4), &[Method::RoleGrantPermission]),
    empty("role revoke-permission", PERMISSION, (2, 3), &[Method::RoleRevokePermission]),
];

/// Parses a call. `stdin` provides the three blocks of a `txn` that has no arguments.
///
/// # Errors
/// The call is one that etcdctl would refuse, too, or one that cannot be explained.
pub(super) fn parse(
    call: &[String],
    stdin: impl FnOnce() -> std::io::Result<String>,
) -> Result<Vec<Request>, String> {
    let (first, rest) = call.split_first().ok_or("a call is missing")?;
    if first.starts_with('-') {
        return Err(format!("`{first}` is a flag: a call begins with a command, such as `get`"));
    }
    if first == "txn" {
        let words = Words::of(rest, &[or('i', switch("interactive"))])?;
        let blocks = match words.arguments(0, usize::MAX, false)? {
            [] => txn::blocks_of_text(
                &stdin().map_err(|error| format!("standard input cannot be read: {error}"))?,
            )?,
            lines => txn::blocks_of_arguments(lines),
        };
        return Ok(one(Method::Txn, &txn::parse(&blocks)?));
    }
    let (command, rest) = find(first, rest).ok_or_else(|| unknown(first, rest))?;
    let in_command = |error: String| format!("`{}`: {error}", command.name);
    let words = Words::of(rest, command.flags).map_err(in_command)?;
    // For `watch` and `lock`, etcdctl runs what follows `--` as a program.
    let runs = matches!(command.name, "watch" | "lock");
    words.arguments(command.arguments.0, command.arguments.1, runs).map_err(in_command)?;
    match command.sends {
        Sends::Built(build) => build(&words).map_err(in_command),
        Sends::Empty(methods) => {
            Ok(methods.iter().flat_map(|method| without_fields(*method)).collect())
        }
    }
}

/// The command that these words begin with, and the words after its name.
fn find<'w>(first: &str, rest: &'w [String]) -> Option<(&'static Command, &'w [String])> {
    COMMANDS.iter().find_map(|command| match command.name.split_once(' ') {
        None => (command.name == first).then_some((command, rest)),
        Some((group, sub)) => {
            let (second, rest) = rest.split_first()?;
            (group == first && sub == second).then_some((command, rest))
        }
    })
}

fn unknown(first: &str, rest: &[String]) -> String {
    let of_group: Vec<&str> = COMMANDS
        .iter()
        .filter_map(|command| command.name.split_once(' '))
        .filter(|(group, _)| *group == first)
        .map(|(_, sub)| sub)
        .collect();
    if !of_group.is_empty() {
        let given = rest.first().map_or_else(
            || "name one of them".to_owned(),
            |word| format!("`{word}` is none of them"),
        );
        return format!("`{first}` has the commands {}: {given}", of_group.join(", "));
    }
    let mut names: Vec<&str> =
        COMMANDS.iter().map(|command| command.name.split(' ').next().unwrap_or_default()).collect();
    names.push("txn");
    names.dedup();
    format!(
        "`{first}` cannot be explained; the commands of etcdctl that can are {}",
        names.join(", ")
    )
}

/// With `--cluster`, etcdctl lists the members first (`ep_command.go`, endpointsFromCluster).
fn members(words: &Words) -> Vec<Request> {
    if words.has("cluster") { without_fields(Method::MemberList) } else { Vec::new() }
}

fn get(words: &Words) -> Result<Vec<Request>, String> {
    // `--stream` is new in 3.7.
    let method = if words.has("stream") { Method::RangeStream } else { Method::Range };
    words.range().map(|range| one(method, &range))
}

fn watch(words: &Words) -> Result<Vec<Request>, String> {
    if words.has("interactive") {
        return Err("`watch -i` reads its watches later: explain each of them, such as \
                    `watch KEY --prefix`"
            .to_owned());
    }
    let (key, range_end) = words.keys(true)?;
    let create = pb::WatchCreateRequest {
        key,
        range_end,
        prev_kv: words.has("prev-kv"),
        ..Default::default()
    };
    Ok(one(
        Method::Watch,
        &pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
        },
    ))
}

fn compaction(words: &Words) -> Result<Vec<Request>, String> {
    Ok(one(
        Method::Compact,
        &pb::CompactionRequest { revision: words.number(0)?, ..Default::default() },
    ))
}

fn lock(words: &Words) -> Result<Vec<Request>, String> {
    let ttl = words
        .value("ttl")
        .map_or(Ok(10), |ttl| ttl.parse().map_err(|_| format!("`--ttl {ttl}` is not a number")))?;
    Ok(concurrency::lock(&words.key(0)?, ttl))
}

fn elect(words: &Words) -> Result<Vec<Request>, String> {
    let name = words.key(0)?;
    match (words.has("listen"), words.argument(1)) {
        (true, None) => Ok(concurrency::listen(&name)),
        (false, Some(_)) => Ok(concurrency::campaign(&name)),
        (true, Some(_)) => Err("give a proposal or `-l`, not both".to_owned()),
        (false, None) => Err("a proposal is missing; to listen, give `-l`".to_owned()),
    }
}

impl Words {
    fn number(&self, at: usize) -> Result<i64, String> {
        let written = self.argument(at).ok_or("a number is missing")?;
        written.parse().map_err(|_| format!("`{written}` is not a number"))
    }

    fn lease_id(&self, at: usize) -> Result<i64, String> {
        lease_id(self.argument(at).ok_or("a lease id is missing")?)
    }

    /// Key and range end, as clientv3 derives them from `KEY [END] --prefix --from-key`. With
    /// `runs`, the words after `--` are a program to run.
    fn keys(&self, runs: bool) -> Result<(Vec<u8>, Vec<u8>), String> {
        let arguments = self.arguments(0, 2, runs)?;
        let key = bytes(arguments.first().ok_or("a key is missing")?)?;
        let end = arguments.get(1).map(|end| bytes(end)).transpose()?;
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

    /// The request of `get`.
    pub(super) fn range(&self) -> Result<pb::RangeRequest, String> {
        let (key, range_end) = self.keys(false)?;
        if self.has("keys-only") && self.has("count-only") {
            return Err("`--keys-only` and `--count-only` exclude each other".to_owned());
        }
        Ok(pb::RangeRequest { key, range_end, ..Default::default() })
    }

    /// The request of `put`.
    pub(super) fn put(&self) -> Result<pb::PutRequest, String> {
        if self.has("ignore-value") && self.argument(1).is_some() {
            return Err("`--ignore-value` and a value exclude each other".to_owned());
        }
        Ok(pb::PutRequest {
            key: self.key(0)?,
            lease: self.value("lease").map_or(Ok(0), lease_id)?,
            prev_kv: self.has("prev-kv"),
            ignore_value: self.has("ignore-value"),
            ignore_lease: self.has("ignore-lease"),
            ..Default::default()
        })
    }

    /// The request of `del`.
    pub(super) fn delete(&self) -> Result<pb::DeleteRangeRequest, String> {
        let (key, range_end) = self.keys(false)?;
        Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: self.has("prev-kv") })
    }
}

/// A lease id, hexadecimal as in etcdctl.
fn lease_id(written: &str) -> Result<i64, String> {
    i64::from_str_radix(written, 16)
        .map_err(|_| format!("`{written}` is not a lease id: it is hexadecimal"))
}

/// A key in the syntax of policies: `\xNN` is a byte, `\\` a backslash, any other character itself.
pub(super) fn bytes(written: &str) -> Result<Vec<u8>, String> {
    let mut key = Vec::new();
    let mut rest = written;
    while let Some((plain, behind)) = rest.split_once('\\') {
        key.extend_from_slice(plain.as_bytes());
        let (byte, length) =
            escape(behind).map_err(|(message, help)| format!("{message}: {help}"))?;
        key.push(byte);
        rest = behind.get(length..).unwrap_or_default();
    }
    key.extend_from_slice(rest.as_bytes());
    Ok(key)
}

pub(super) fn one(method: Method, message: &impl Message) -> Vec<Request> {
    vec![Request { method, message: message.encode_to_vec() }]
}

fn without_fields(method: Method) -> Vec<Request> {
    vec![Request { method, message: Vec::new() }]
}
