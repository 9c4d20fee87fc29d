//! Migration from etcd's own auth to a policy: `policy import` in front of a real etcd whose auth
//! is on (docs/migrating.md).

use std::process::Stdio;

use etcd_client::{Client, GetOptions, PermissionType};
use tokio::process::Command;

use crate::process::{ServerFiles, output, text};
use crate::world::{World, authorities, connect, is_permission_denied, root};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /x, verbs: [read]}]}}\nbindings: [{cn: unused, roles: [r]}]\n";

/// Two users with a role each, and auth on.
async fn with_auth_on(world: &World) {
    let mut direct = world.direct().await;
    for (role, permission) in [
        ("felix", etcd_client::Permission::read_write("/calico/felix/").with_prefix()),
        ("felix", etcd_client::Permission::read("/calico/").with_prefix()),
        ("late keys", etcd_client::Permission::new(PermissionType::Write, "/n").with_from_key()),
    ] {
        let _ = direct.role_add(role).await;
        direct.role_grant_permission(role, permission).await.unwrap();
    }
    for (user, role) in [("node", "felix"), ("late", "late keys"), ("root", "root")] {
        direct.user_add(user, "password", None).await.unwrap();
        direct.user_grant_role(user, role).await.unwrap();
    }
    direct.auth_enable().await.unwrap();
}

/// Whether each of these calls is allowed.
async fn allowed(mut client: Client) -> Vec<bool> {
    let mut all = Vec::new();
    for key in ["/calico/felix/a", "/calico/nodes/a", "/calico", "/n", "/z", "a"] {
        all.push(client.get(key, None).await.is_ok());
        all.push(client.put(key, "1", None).await.is_ok());
        all.push(client.delete(key, None).await.is_ok());
    }
    for (from, to) in [("/calico/", "/calico0"), ("/calico/felix/", "/calico/felix0"), ("/", "0")] {
        all.push(client.get(from, Some(GetOptions::new().with_range(to))).await.is_ok());
    }
    all.push(client.lease_grant(60, None).await.is_ok());
    all.push(client.member_list().await.is_ok());
    all.push(!is_permission_denied(&client.compact(1, None).await));
    all.push(client.user_list().await.is_ok());
    all
}

#[tokio::test]
async fn an_imported_policy_gives_each_user_what_etcd_gives_it() {
    let world = World::with(POLICY).own_etcd().start().await;
    with_auth_on(&world).await;
    let files = ServerFiles::new(&world, POLICY, "");
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args(["policy", "import", "--config"]).arg(files.path("config.yaml")).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let told = output(command.spawn().unwrap()).await;
    assert_eq!(told.status.code(), Some(0), "{}", text(&told.stderr));
    assert_eq!(text(&told.stderr), "note: role late keys is renamed to late_keys\n");
    world.replace_policy(text(&told.stdout));
    let mut seen = Vec::new();
    for user in ["node", "late", "root"] {
        let direct = match user {
            "root" => root().clone(),
            _ => authorities().upstream.client(user).unwrap(),
        };
        let direct =
            allowed(connect(&world.etcd().endpoints(), &authorities().upstream, &direct).await)
                .await;
        assert_eq!(allowed(world.as_(user).await).await, direct, "{user}");
        seen.extend(direct);
    }
    assert!(seen.contains(&true) && seen.contains(&false), "{seen:?}");
}

#[tokio::test]
async fn import_reports_a_user_that_is_not_root() {
    let world = World::with(POLICY).own_etcd().start().await;
    with_auth_on(&world).await;
    let files = ServerFiles::new(&world, POLICY, "");
    authorities().upstream.client("node").unwrap().write(files.folder.path(), "upstream").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
    command.args(["policy", "import", "--config"]).arg(files.path("config.yaml")).env_clear();
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let told = output(command.spawn().unwrap()).await;
    assert_eq!(told.status.code(), Some(1));
    assert!(
        told.stdout.is_empty() && text(&told.stderr).contains("permission denied"),
        "{}",
        text(&told.stderr)
    );
}
