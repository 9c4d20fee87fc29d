//! The commands of the session.

use super::compare::MayDiffer;
use crate::world::etcdctl::Turn::{self, Lines, Type, Until};

/// One command.
#[derive(Clone, Debug)]
pub struct Step {
    /// Words with one space between them; `LEASE` is the lease that was granted last.
    pub arguments: String,
    pub what: What,
    pub may_differ: MayDiffer,
    /// It must fail, with the same error on both sides.
    pub fails: bool,
}

/// How a command is run.
#[derive(Clone, Debug)]
pub enum What {
    /// It ends by itself; this is its standard input.
    Ends(String),
    /// It runs until it is ended.
    Stays(Vec<Turn<'static>>),
}

fn run(arguments: &str) -> Step {
    run_with(arguments, "")
}

fn run_with(arguments: &str, input: &str) -> Step {
    Step {
        arguments: arguments.to_owned(),
        what: What::Ends(input.to_owned()),
        may_differ: MayDiffer::Nothing,
        fails: false,
    }
}

fn stays(arguments: &str, turns: &[Turn<'static>]) -> Step {
    Step { what: What::Stays(turns.to_vec()), ..run(arguments) }
}

fn fails(arguments: &str) -> Step {
    Step { fails: true, ..run(arguments) }
}

impl Step {
    fn durations(self) -> Self {
        Self { may_differ: MayDiffer::Durations, ..self }
    }

    fn numbers(self) -> Self {
        Self { may_differ: MayDiffer::Numbers, ..self }
    }
}

const FORMATS: [&str; 4] = ["json", "fields", "simple", "protobuf"];

fn gets() -> Vec<Step> {
    let all = [
        "get /s/a",
        "get /s/none",
        "get /s/ --prefix",
        "get /s/b --from-key",
        "get /s/a /s/c",
        "get /s/ --prefix --limit=1",
        "get /s/ --prefix --keys-only",
        "get /s/ --prefix --count-only -w fields",
        "get /s/ --prefix --print-value-only",
        "get /s/ --prefix --order=DESCEND --sort-by=VALUE",
        "get /s/ --prefix --order=ASCEND --sort-by=MODIFY",
        "get /s/ --prefix --order=DESCEND --sort-by=CREATE",
        "get /s/ --prefix --sort-by=VERSION",
        "get /s/a --rev=2",
        "get /s/a --consistency=s",
        "get /s/ --prefix --consistency=l",
        "get /s/ --prefix --hex",
    ];
    let formats = FORMATS.iter().map(|format| format!("get /s/ --prefix -w {format}"));
    all.iter().map(|line| run(line)).chain(formats.map(|line| run(&line))).collect()
}

pub fn keys() -> Vec<Step> {
    let mut steps = vec![
        run("put /s/a one"),
        run("put /s/a two --prev-kv"),
        run("put /s/b three -w json"),
        run_with("put /s/c", "from standard input"),
        run("put /s/d four"),
        run("put /s/d x --ignore-lease"),
        fails("put /s/none --ignore-value"),
        fails("put"),
        fails("get /s/a --rev=100000"),
        fails("get /s/a --consistency=x"),
        fails("get -w table /s/a"),
    ];
    steps.extend(gets());
    steps.extend([
        run_with("txn", "value(\"/s/a\") = \"two\"\nmod(\"/s/a\") > \"0\"\n\nput /s/t yes\nget /s/t\n\nput /s/t no\n\n"),
        run_with("txn", "create(\"/s/t\") = \"0\"\n\nput /s/t no\n\nget /s/ --prefix\ndel /s/t\n\n"),
        run_with("txn -w json", "version(\"/s/a\") = \"2\"\n\nget /s/a\n\n\n"),
        run_with("txn -w fields", "version(\"/s/a\") != \"2\"\n\nget /s/a\n\nget /s/b\n\n"),
        run_with("txn", "version(\"/s/a\") < \"2\"\ncreate(\"/s/a\") = \"2\"\n\nget /s/a\n\nget /s/c\n\n"),
        run_with("txn --interactive", "val(\"/s/a\") = \"two\"\n\nget /s/a\n\n\n"),
        Step { fails: true, ..run_with("txn", "nonsense\n\n\n\n") },
        run("del /s/none"),
        run("del /s/d --prev-kv"),
        run("del /s/b /s/c --prev-kv -w json"),
        run("put /s/p/1 x"),
        run("put /s/p/2 x"),
        run("del /s/p/ --prefix --prev-kv"),
        run("put /s/q x"),
        run("del /s/q --from-key --range"),
    ]);
    steps.push(run("del /s/q --from-key"));
    steps
}

pub fn watches() -> Vec<Step> {
    // Three of them are more than etcd puts into one message.
    let large = "x".repeat(900_000);
    vec![
        run("put /s/zz last-event"),
        stays("watch /s/a --rev=1", &[Lines(6)]),
        stays("watch /s/ --prefix --rev=1 --prev-kv", &[Until("last-event")]),
        stays("watch /s/ --prefix --rev=1 --prev-kv -w json", &[Lines(1)]),
        stays("watch /s/a /s/c --rev=1 -w fields", &[Lines(32)]),
        stays("watch /s/a --rev=1 -- /bin/echo event", &[Lines(8)]),
        stays(
            "watch -i",
            &[
                Type("watch /s/a --rev=1\n"),
                Lines(6),
                Type("watch --prefix /s/ --rev=1 --prev-kv\n"),
                Until("last-event"),
            ],
        ),
        stays("watch -i", &[Type("watch /s/a --rev=1\n"), Lines(6), Type("progress\n"), Lines(7)]),
        run("put /s/large first"),
        run_with("put /s/large", &large),
        run_with("put /s/large2", &large),
        run_with("put /s/large3", &large),
        stays("watch /s/large --prefix --rev=2", &[Lines(12)]),
        run("del /s/zz"),
        run("del /s/large --prefix"),
    ]
}

pub fn leases() -> Vec<Step> {
    vec![
        run("lease list"),
        run("lease grant 1000"),
        run("put /s/leased x --lease=LEASE"),
        run("put /s/leased y --ignore-lease"),
        run("get /s/leased -w json"),
        run("lease timetolive LEASE").durations(),
        run("lease timetolive LEASE --keys").durations(),
        run("lease timetolive LEASE --keys -w json").durations(),
        run("lease keep-alive LEASE --once"),
        stays("lease keep-alive LEASE", &[Lines(1)]),
        run("lease list"),
        run("lease list -w json"),
        run("lease revoke LEASE"),
        run("get /s/leased"),
        fails("lease revoke LEASE"),
        fails("lease keep-alive LEASE --once"),
        run("lease timetolive LEASE"),
        fails("put /s/leased x --lease=LEASE"),
        run("lease grant 500 -w json"),
    ]
}

pub fn locks_and_elections() -> Vec<Step> {
    vec![
        run("lock /s/lock /bin/echo held"),
        run("lock /s/lock --ttl=30 /bin/echo held again"),
        stays("lock /s/lock", &[Lines(1)]),
        run("get /s/lock --prefix"),
        stays("elect /s/vote me", &[Lines(2)]),
        run("get /s/vote --prefix"),
        run("put /s/vote/1 elected"),
        stays("elect --listen /s/vote", &[Lines(2)]),
        run("del /s/vote --prefix"),
    ]
}

pub fn maintenance() -> Vec<Step> {
    vec![
        run("member list"),
        run("member list -w table"),
        run("member list -w json"),
        run("member list -w fields"),
        run("member list --consistency=s"),
        run("endpoint health").durations(),
        run("endpoint health -w table").durations(),
        run("endpoint status").numbers(),
        run("endpoint status -w fields").numbers(),
        // The hash covers the ids of leases.
        run("endpoint hashkv").numbers(),
        run("endpoint hashkv -w json").numbers(),
        run("alarm list"),
        run("alarm disarm"),
        run("compaction 5"),
        run("compact 6 --physical"),
        fails("compact 5"),
        fails("get /s/a --rev=4"),
        run("defrag").durations(),
        run("endpoint hashkv --rev=10").numbers(),
        fails("member remove 1234"),
        fails("member update 1234 --peer-urls=http://127.0.0.1:5"),
        fails("member promote 1234"),
        fails("member add other --peer-urls=http://127.0.0.1:1"),
        fails("downgrade validate 3.9.0"),
        run("downgrade cancel"),
        fails("move-leader 1234"),
    ]
}

pub fn users_and_roles() -> Vec<Step> {
    vec![
        run("auth status"),
        run("role add r"),
        fails("role add r"),
        run("role grant-permission r readwrite /s/ --prefix=true"),
        run("role grant-permission r read /t"),
        run("role grant-permission r write /u /v"),
        run("role get r"),
        run("role get r -w json"),
        run("role revoke-permission r /t"),
        run("role list"),
        run("user add u --new-user-password=pw"),
        run("user add v --no-password"),
        run_with("user add w --interactive=false", "pw\n"),
        fails("user add u --new-user-password=pw"),
        run("user grant-role u r"),
        run("user get u"),
        run("user get u --detail"),
        run("user list"),
        run_with("user passwd u --interactive=false", "other\n"),
        run("user revoke-role u r"),
        fails("user get none"),
        fails("auth enable"),
        run("get /s/a --user u:wrong"),
        run("user delete w"),
        run("role delete r"),
        fails("role delete r"),
    ]
}

/// etcd's own auth, from enabling to disabling.
pub fn auth_on() -> Vec<Step> {
    let root = |line: &str| run(&format!("{line} --user root:pw"));
    let user = |line: &str| run(&format!("{line} --user u:secret"));
    let denied = |line: &str| Step { fails: true, ..run(&format!("{line} --user u:secret")) };
    vec![
        run("put /s/a one"),
        run("put /t/a two"),
        run("user add root --new-user-password=pw"),
        run("user grant-role root root"),
        run("user add u --new-user-password=secret"),
        run("role add r"),
        run("role grant-permission r readwrite /s/ --prefix"),
        run("user grant-role u r"),
        run("auth enable"),
        root("auth status"),
        root("get /t/a"),
        root("user list"),
        root("role get r"),
        root("endpoint status -w fields").numbers(),
        root("endpoint health").durations(),
        root("member list"),
        root("lease list"),
        user("get /s/a"),
        user("put /s/a three"),
        user("get /s/ --prefix -w json"),
        Step { what: What::Stays(vec![Lines(3)]), ..user("watch /s/a --rev=2") },
        user("role get r"),
        user("user get u"),
        denied("get /t/a"),
        denied("put /t/a x"),
        denied("get /s/ --from-key"),
        denied("user list"),
        denied("role list"),
        denied("auth disable"),
        denied("member remove 1234"),
        fails("get /s/a --user u:wrong"),
        fails("get /s/a --user none:pw"),
        root("lease grant 100"),
        root("auth disable"),
        run("get /t/a"),
    ]
}

/// Commands that change nothing and can be run twice against one etcd.
pub fn reads() -> Vec<Step> {
    let mut steps = gets();
    steps.extend([
        run("member list -w table"),
        run("member list -w json"),
        run("endpoint status"),
        run("endpoint status -w table"),
        run("endpoint status -w json"),
        run("endpoint hashkv -w json"),
        run("alarm list"),
        run("lease list"),
        run("lease list -w json"),
        run("role list -w json"),
        run("role get r"),
        run("user list -w json"),
        run("user get u"),
        stays("watch /s/ --prefix --rev=1 --prev-kv", &[Lines(6)]),
        run("version"),
    ]);
    steps
}
