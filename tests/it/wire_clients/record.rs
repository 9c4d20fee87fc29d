//! Records `tests/wire/clients`: each client works on an etcd with a recorder in front. Not part of
//! a test run; programs that are not built here are named by variables.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, GetOptions,
    LeaseTimeToLiveOptions, LockOptions, Permission, ProclaimOptions, PutOptions, ResignOptions,
    RoleRevokePermissionOptions, SortOrder, SortTarget, Txn, TxnOp, UserAddOptions, WatchOptions,
};
use etcd_warden_testbed::etcd::Options;

use super::fixture;
use crate::calico;
use crate::calico::cluster::{Cluster, Programs, Way};
use crate::etcdctl_session::steps::{self, Step, What};
use crate::world::etcdctl::Etcdctl;
use crate::world::recorder::{Recorder, Taken};
use crate::world::{authorities, connect, programs_of, root, start_etcd_of};

/// An etcdctl of 3.4 (Debian's `etcd-client`).
const ETCDCTL_3_4: &str = "ETCD_WARDEN_TEST_ETCDCTL_3_4";

/// A Python with the package `etcd3`.
const PYTHON: &str = "ETCD_WARDEN_TEST_PYTHON";

fn named(variable: &str) -> PathBuf {
    std::env::var_os(variable).unwrap_or_else(|| panic!("`{variable}` names the program")).into()
}

async fn etcdctl(minor: &'static str, program: PathBuf, client: &str) {
    let etcd = start_etcd_of(move || programs_of(minor), Options::default()).await;
    let recorder = Recorder::before(&etcd).await;
    let etcdctl =
        Etcdctl::named(program, &recorder.endpoint(), &authorities().upstream.pem(), root());
    let session = [
        steps::keys(),
        steps::watches(),
        steps::leases(),
        steps::locks_and_elections(),
        steps::maintenance(),
        steps::users_and_roles(),
        steps::auth_on(),
    ];
    let mut lease = String::new();
    for Step { arguments, what, .. } in session.into_iter().flatten() {
        // The first would succeed here and lose the quorum, the other needs compacted revisions.
        if arguments.starts_with("member add")
            || arguments.starts_with("watch") && arguments.contains("--user")
        {
            continue;
        }
        let arguments = arguments.replace("LEASE", &lease);
        let arguments: Vec<&str> = arguments.split(' ').collect();
        match what {
            What::Ends(input) => {
                let said = etcdctl.run(&arguments, &input).await;
                if let Some(granted) =
                    said.stdout.strip_prefix("lease ").and_then(|rest| rest.split_once(" granted"))
                {
                    lease = granted.0.to_owned();
                }
            }
            What::Stays(turns) => drop(etcdctl.talk(&arguments, &turns).await),
        }
    }
    etcdctl.run(&["snapshot", "save", "saved.db"], "").await;
    etcdctl
        .run(&["member", "add", "other", "--learner", "--peer-urls=http://127.0.0.1:1"], "")
        .await;
    fixture::write(client, &recorder.taken());
}

#[tokio::test]
#[ignore = "writes tests/wire/clients"]
async fn etcdctls() {
    for minor in ["3.5", "3.6", "3.7"] {
        etcdctl(minor, programs_of(minor).etcdctl.clone().unwrap(), &format!("etcdctl-{minor}"))
            .await;
    }
}

#[tokio::test]
#[ignore = "writes tests/wire/clients; needs an etcdctl of 3.4"]
async fn etcdctl_of_debian() {
    etcdctl("3.5", named(ETCDCTL_3_4), "etcdctl-3.4").await;
}

#[tokio::test]
#[ignore = "writes tests/wire/clients; needs Python with etcd3"]
async fn python() {
    let etcd = start_etcd_of(move || programs_of("3.7"), Options::default()).await;
    let recorder = Recorder::before(&etcd).await;
    let folder = tempfile::tempdir().unwrap();
    root().write(folder.path(), "client").unwrap();
    std::fs::write(folder.path().join("ca.crt"), authorities().upstream.pem()).unwrap();
    let (_, port) = recorder
        .endpoint()
        .rsplit_once(':')
        .map(|(host, port)| (host.to_owned(), port.to_owned()))
        .unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/clients/etcd3_session.py");
    let status = tokio::process::Command::new(named(PYTHON))
        .args([script, &port])
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await;
    assert!(status.unwrap().success());
    fixture::write("etcd3-python", &recorder.taken());
}

#[tokio::test]
#[ignore = "writes tests/wire/clients"]
async fn rust() {
    let etcd = start_etcd_of(move || programs_of("3.7"), Options::default()).await;
    let recorder = Recorder::before(&etcd).await;
    let mut client = connect(&[recorder.endpoint()], &authorities().upstream, root()).await;
    keys(&mut client).await;
    leases_and_locks(&mut client).await;
    operations(&mut client).await;
    fixture::write("etcd-client-rust", &recorder.taken());
}

#[test]
#[ignore = "writes tests/wire/clients; needs root and builds Calico and kube-apiserver, minutes the first time"]
fn calico_and_kubernetes() {
    if !calico::inside("wire_clients::record::calico_and_kubernetes") {
        return;
    }
    calico::runtime().block_on(async {
        let programs = tokio::task::spawn_blocking(Programs::build).await.unwrap();
        let etcd = start_etcd_of(move || programs_of("3.7"), Options::default()).await;
        let recorder = Recorder::before(&etcd).await;
        calico::scenario::run(&Cluster::new(&programs, Way::direct(recorder.endpoint()))).await;
        // Each program has its own connections and keys.
        let all = recorder.taken();
        let holds = |taken: &Taken, prefix: &str| {
            taken.message.windows(prefix.len()).any(|part| part == prefix.as_bytes())
        };
        let kubernetes: BTreeSet<usize> = all
            .iter()
            .filter(|taken| holds(taken, "/registry/") || holds(taken, "compact_rev_key"))
            .map(|taken| taken.connection)
            .collect();
        let calico: BTreeSet<usize> = all
            .iter()
            .filter(|taken| holds(taken, "/calico/"))
            .map(|taken| taken.connection)
            .collect();
        assert!(kubernetes.is_disjoint(&calico));
        for (client, connections) in [("kube-apiserver", kubernetes), ("libcalico-go", calico)] {
            let own: Vec<Taken> = all
                .iter()
                .filter(|taken| connections.contains(&taken.connection))
                .cloned()
                .collect();
            fixture::write(client, &own);
        }
    });
}

async fn keys(client: &mut Client) {
    client.put("a", "1", None).await.unwrap();
    client.put("a", "", Some(PutOptions::new().with_prev_key().with_ignore_value())).await.unwrap();
    client.put("a", "2", Some(PutOptions::new().with_ignore_lease())).await.unwrap();
    for options in [
        GetOptions::new(),
        GetOptions::new().with_prefix(),
        GetOptions::new().with_all_keys().with_limit(2).with_keys_only(),
        GetOptions::new().with_from_key().with_count_only().with_serializable(),
        GetOptions::new().with_range("b").with_revision(2),
        GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend),
        GetOptions::new()
            .with_prefix()
            .with_min_mod_revision(1)
            .with_max_mod_revision(9)
            .with_min_create_revision(1)
            .with_max_create_revision(9),
    ] {
        client.get("a", Some(options)).await.unwrap();
    }
    for compare in [
        Compare::version("a", CompareOp::Equal, 0),
        Compare::create_revision("a", CompareOp::Greater, 1),
        Compare::mod_revision("a", CompareOp::Less, 1),
        Compare::value("a", CompareOp::NotEqual, "x"),
        Compare::lease("a", CompareOp::Equal, 0),
        Compare::version("a", CompareOp::Equal, 1).with_prefix(),
    ] {
        let inner = Txn::new().when([compare.clone()]).and_then([TxnOp::get("a", None)]);
        let txn = Txn::new()
            .when([compare])
            .and_then([TxnOp::put("b", "1", None), TxnOp::txn(inner)])
            .or_else([TxnOp::delete("c", None)]);
        client.txn(txn).await.unwrap();
    }
    let options = WatchOptions::new()
        .with_prefix()
        .with_prev_key()
        .with_start_revision(1)
        .with_progress_notify()
        .with_fragment();
    let mut stream = client.watch("a", Some(options)).await.unwrap();
    stream.message().await.unwrap().unwrap();
    stream
        .watch(
            "b",
            Some(
                WatchOptions::new()
                    .with_watch_id(7)
                    .with_filters([etcd_client::WatchFilterType::NoPut]),
            ),
        )
        .await
        .unwrap();
    stream.request_progress().await.unwrap();
    stream.cancel(7).await.unwrap();
    while !stream.message().await.unwrap().unwrap().canceled() {}
    client.delete("a", None).await.unwrap();
    client.delete("a", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.unwrap();
    client.compact(2, None).await.unwrap();
}

async fn leases_and_locks(client: &mut Client) {
    let id = client.lease_grant(600, None).await.unwrap().id();
    client.put("leased", "1", Some(PutOptions::new().with_lease(id))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(id).await.unwrap();
    keeper.keep_alive().await.unwrap();
    answers.message().await.unwrap().unwrap();
    client.lease_time_to_live(id, None).await.unwrap();
    client.lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys())).await.unwrap();
    client.leases().await.unwrap();
    let locked = client.lock("lock", Some(LockOptions::new().with_lease(id))).await.unwrap();
    client.unlock(locked.key()).await.unwrap();
    let leader = client.campaign("el", "one", id).await.unwrap().leader().unwrap().clone();
    client.observe("el").await.unwrap().message().await.unwrap();
    client.proclaim("two", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
    client.leader("el").await.unwrap();
    client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
    client.lease_revoke(id).await.unwrap();
}

async fn operations(client: &mut Client) {
    client.status().await.unwrap();
    let members = client.member_list().await.unwrap();
    let own = &members.members()[0];
    client.member_update(own.id(), own.peer_urls()).await.unwrap();
    // etcd refuses it: there is no such member, and none must be added.
    drop(client.member_promote(1).await);
    drop(client.member_remove(1).await);
    drop(client.member_add(["http://"], None).await);
    drop(client.move_leader(1).await);
    client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap();
    client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
    client.hash().await.unwrap();
    client.hash_kv(0).await.unwrap();
    client.defragment().await.unwrap();
    client.snapshot().await.unwrap().message().await.unwrap();
    client.role_add("r").await.unwrap();
    client.role_grant_permission("r", Permission::read("a").with_prefix()).await.unwrap();
    client.role_grant_permission("r", Permission::write("b")).await.unwrap();
    client.role_get("r").await.unwrap();
    client.role_list().await.unwrap();
    client.role_revoke_permission("r", "b", None).await.unwrap();
    client
        .role_revoke_permission("r", "a", Some(RoleRevokePermissionOptions::new().with_prefix()))
        .await
        .unwrap();
    client.user_add("u", "pw", None).await.unwrap();
    client.user_add("v", "", Some(UserAddOptions::new().with_no_pwd())).await.unwrap();
    client.user_grant_role("u", "r").await.unwrap();
    client.user_get("u").await.unwrap();
    client.user_list().await.unwrap();
    client.user_change_password("u", "other").await.unwrap();
    client.user_revoke_role("u", "r").await.unwrap();
    client.user_delete("v").await.unwrap();
    client.role_delete("r").await.unwrap();
    drop(client.auth_enable().await);
    client.auth_disable().await.unwrap();
}
