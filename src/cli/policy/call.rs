//! A call as etcdctl is given it, turned into the very messages that etcdctl would send
//! (`etcdctl/ctlv3/command`, 3.5 to 3.7).

use etcd_warden_core::keyspace::prefix_end;
use etcd_warden_core::method::Method;
use etcd_warden_core::policy::name::escape;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message;

use super::words::{Flag, Words, or, switch, valued};
use super::{concurrency, txn};

/// One message of one method.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The method.
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
    /// How many arguments it takes, at least and at most.
    arguments: (usize, usize),
    /// What it sends.
    sends: Sends,
}

enum Sends {
    /// Messages that these words make.
    Made(fn(&Words) -> Result<Vec<Request>, String>),
    /// Methods that are judged without their message.
    Bare(&'static [Method]),
}

const fn made(
    name: &'static str,
    flags: &'static [Flag],
    arguments: (usize, usize),
    make: fn(&Words) -> Result<Vec<Request>, String>,
) -> Command {
    Command { name, flags, arguments, sends: Sends::Made(make) }
}

const fn method(
    name: &'static str,
    flags: &'static [Flag],
    arguments: (usize, usize),
    methods: &'static [Method],
) -> Command {
    Command { name, flags, arguments, sends: Sends::Bare(methods) }
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

/// All that can be explained. `txn` is read by itself.
const COMMANDS: &[Command] = &[
    made("get", GET, (1, 2), get),
    made("put", PUT, (1, 2), |words| words.put().map(|put| one(Method::Put, &put))),
    made("del", DEL, (1, 2), |words| {
        words.delete().map(|delete| one(Method::DeleteRange, &delete))
    }),
    made("watch", WATCH, (0, 2), watch),
    made("compaction", &[switch("physical")], (1, 1), compaction),
    made("compact", &[switch("physical")], (1, 1), compaction),
    made("lease grant", &[], (1, 1), |words| {
        Ok(one(Method::LeaseGrant, &pb::LeaseGrantRequest { ttl: words.number(0)?, id: 0 }))
    }),
    made("lease revoke", &[], (1, 1), |words| {
        Ok(one(Method::LeaseRevoke, &pb::LeaseRevokeRequest { id: words.lease_id(0)? }))
    }),
    made("lease timetolive", &[switch("keys")], (1, 1), |words| {
        Ok(one(
            Method::LeaseTimeToLive,
            &pb::LeaseTimeToLiveRequest { id: words.lease_id(0)?, keys: words.has("keys") },
        ))
    }),
    made("lease keep-alive", &[switch("once")], (1, 1), |words| {
        Ok(one(Method::LeaseKeepAlive, &pb::LeaseKeepAliveRequest { id: words.lease_id(0)? }))
    }),
    method("lease list", &[], (0, 0), &[Method::LeaseLeases]),
    made("lock", &[valued("ttl")], (1, usize::MAX), lock),
    made("elect", &[or('l', switch("listen"))], (1, 2), elect),
    method("snapshot save", &[], (1, 1), &[Method::Snapshot]),
    // etcdctl reads the key `health`, and then asks for alarms.
    made("endpoint health", CLUSTER, (0, 0), |words| {
        let read = pb::RangeRequest { key: b"health".to_vec(), ..Default::default() };
        Ok([members(words), one(Method::Range, &read), bare(Method::Alarm)].concat())
    }),
    made("endpoint status", CLUSTER, (0, 0), |words| {
        Ok([members(words), bare(Method::Status)].concat())
    }),
    made("endpoint hashkv", &[switch("cluster"), valued("rev")], (0, 0), |words| {
        Ok([members(words), bare(Method::HashKV)].concat())
    }),
    made(
        "defrag",
        CLUSTER,
        (0, 0),
        |words| Ok([members(words), bare(Method::Defragment)].concat()),
    ),
    method("alarm list", &[], (0, 0), &[Method::Alarm]),
    made("alarm disarm", &[], (0, 0), |_| {
        let disarm = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            ..Default::default()
        };
        Ok(one(Method::Alarm, &disarm))
    }),
    method("member list", CONSISTENCY, (0, 0), &[Method::MemberList]),
    method("member add", &[valued("peer-urls"), switch("learner")], (1, 1), &[Method::MemberAdd]),
    method("member remove", &[], (1, 1), &[Method::MemberRemove]),
    // A URL that etcd can read has to be in it; the verdict is the same for each.
    made("member update", &[valued("peer-urls")], (1, 1), |_| {
        let peer_ur_ls = vec!["http://127.0.0.1:2380".to_owned()];
        Ok(one(Method::MemberUpdate, &pb::MemberUpdateRequest { id: 1, peer_ur_ls }))
    }),
    method("member promote", &[], (1, 1), &[Method::MemberPromote]),
    // It looks for the leader first.
    method("move-leader", &[], (1, 1), &[Method::Status, Method::MoveLeader]),
    method("downgrade validate", &[], (1, 1), &[Method::Downgrade]),
    method("downgrade enable", &[], (1, 1), &[Method::Downgrade]),
    method("downgrade cancel", &[], (0, 0), &[Method::Downgrade]),
    method("auth enable", &[], (0, 0), &[Method::AuthEnable]),
    method("auth disable", &[], (0, 0), &[Method::AuthDisable]),
    method("auth status", &[], (0, 0), &[Method::AuthStatus]),
    method("user add", NEW_USER, (1, 1), &[Method::UserAdd]),
    made("user get", &[switch("detail")], (1, 1), |words| {
        let roles = if words.has("detail") { bare(Method::RoleGet) } else { Vec::new() };
        Ok([bare(Method::UserGet), roles].concat())
    }),
    method("user list", &[], (0, 0), &[Method::UserList]),
    method("user delete", &[], (1, 1), &[Method::UserDelete]),
    method("user passwd", PASSWORD, (1, 1), &[Method::UserChangePassword]),
    method("user grant-role", &[], (2, 2), &[Method::UserGrantRole]),
    method("user revoke-role", &[], (2, 2), &[Method::UserRevokeRole]),
    method("role add", &[], (1, 1), &[Method::RoleAdd]),
    method("role get", &[], (1, 1), &[Method::RoleGet]),
    method("role list", &[], (0, 0), &[Method::RoleList]),
    method("role delete", &[], (1, 1), &[Method::RoleDelete]),
    method("role grant-permission", PERMISSION, (3, 4), &[Method::RoleGrantPermission]),
    method("role revoke-permission", PERMISSION, (2, 3), &[Method::RoleRevokePermission]),
];

/// Reads a call. `stdin` is asked for the three blocks of a `txn` without arguments.
///
/// # Errors
/// What etcdctl would not understand either.
pub(super) fn parse(
    call: &[String],
    stdin: impl FnOnce() -> std::io::Result<String>,
) -> Result<Vec<Request>, String> {
    let (first, rest) = call.split_first().ok_or("a call is missing")?;
    if first.starts_with('-') {
        return Err(format!(
            "a call begins with its command, such as `get`, and this with `{first}`"
        ));
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
    let in_command = |mistake: String| format!("`{}`: {mistake}", command.name);
    let words = Words::of(rest, command.flags).map_err(in_command)?;
    // etcdctl runs what is behind `--` of a watch or a lock.
    let runs = matches!(command.name, "watch" | "lock");
    words.arguments(command.arguments.0, command.arguments.1, runs).map_err(in_command)?;
    match command.sends {
        Sends::Made(make) => make(&words).map_err(in_command),
        Sends::Bare(methods) => Ok(methods.iter().flat_map(|method| bare(*method)).collect()),
    }
}

/// The command of these words, and the words behind its name.
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
        let said = rest.first().map_or_else(
            || "which one is meant".to_owned(),
            |word| format!("`{word}` is none of them"),
        );
        return format!("`{first}` has the commands {}: {said}", of_group.join(", "));
    }
    let mut names: Vec<&str> =
        COMMANDS.iter().map(|command| command.name.split(' ').next().unwrap_or_default()).collect();
    names.push("txn");
    names.dedup();
    format!("`{first}` is no call of etcdctl that can be explained; there are {}", names.join(", "))
}

/// With `--cluster`, etcdctl asks for the members first (`ep_command.go`, endpointsFromCluster).
fn members(words: &Words) -> Vec<Request> {
    if words.has("cluster") { bare(Method::MemberList) } else { Vec::new() }
}

fn get(words: &Words) -> Result<Vec<Request>, String> {
    // `--stream` is new in 3.7.
    let method = if words.has("stream") { Method::RangeStream } else { Method::Range };
    words.range().map(|range| one(method, &range))
}

fn watch(words: &Words) -> Result<Vec<Request>, String> {
    if words.has("interactive") {
        return Err("what is watched interactively is not part of the call: explain each watch, such as `watch KEY --prefix`".to_owned());
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
        .map_or(Ok(10), |ttl| ttl.parse().map_err(|_| format!("`--ttl {ttl}` is no number")))?;
    Ok(concurrency::lock(&words.key(0)?, ttl))
}

fn elect(words: &Words) -> Result<Vec<Request>, String> {
    let name = words.key(0)?;
    match (words.has("listen"), words.argument(1)) {
        (true, None) => Ok(concurrency::listen(&name)),
        (false, Some(_)) => Ok(concurrency::campaign(&name)),
        (true, Some(_)) => Err("a proposal, and `-l`: one of them".to_owned()),
        (false, None) => Err("a proposal is missing, or `-l` to listen".to_owned()),
    }
}

impl Words {
    fn number(&self, at: usize) -> Result<i64, String> {
        let written = self.argument(at).ok_or("a number is missing")?;
        written.parse().map_err(|_| format!("`{written}` is no number"))
    }

    fn lease_id(&self, at: usize) -> Result<i64, String> {
        lease_id(self.argument(at).ok_or("a lease id is missing")?)
    }

    /// Key and end as clientv3 makes them of `KEY [END] --prefix --from-key`. `runs`: the words
    /// behind `--` are another program.
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

    /// `get`.
    pub(super) fn range(&self) -> Result<pb::RangeRequest, String> {
        let (key, range_end) = self.keys(false)?;
        if self.has("keys-only") && self.has("count-only") {
            return Err("`--keys-only` and `--count-only` exclude each other".to_owned());
        }
        Ok(pb::RangeRequest { key, range_end, ..Default::default() })
    }

    /// `put`.
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

    /// `del`.
    pub(super) fn delete(&self) -> Result<pb::DeleteRangeRequest, String> {
        let (key, range_end) = self.keys(false)?;
        Ok(pb::DeleteRangeRequest { key, range_end, prev_kv: self.has("prev-kv") })
    }
}

/// A lease's id, hexadecimal as etcdctl writes it.
fn lease_id(written: &str) -> Result<i64, String> {
    i64::from_str_radix(written, 16)
        .map_err(|_| format!("`{written}` is no lease id: it is hexadecimal"))
}

/// A key as policies write it: `\xNN` is a byte, `\\` a backslash, all else stands for itself.
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

fn bare(method: Method) -> Vec<Request> {
    vec![Request { method, message: Vec::new() }]
}
