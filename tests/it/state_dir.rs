//! The last accepted policy survives a restart with a broken policy file.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::world::World;
use crate::world::files::replace;

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: /kept/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

async fn page(world: &World) -> Value {
    serde_json::from_str(&world.admin("/policy").await.1).unwrap()
}

/// A proxy with this state folder and this policy file.
async fn over(state: &std::path::Path, policy: &str) -> anyhow::Result<World> {
    let state = state.to_owned();
    World::with(policy).config(move |config| config.state_dir = Some(state)).try_start().await
}

#[tokio::test]
async fn a_start_with_a_broken_file_serves_the_kept_policy() {
    let state = tempfile::tempdir().unwrap();
    let before = over(state.path(), POLICY).await.unwrap();
    assert_eq!(page(&before).await["source"], "file");
    let kept = state.path().join("last-good-policy.yaml");
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), POLICY);
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    // An accepted policy is kept, and a refused one is not.
    let wider = POLICY.replace("cn: alice", "cn: bob");
    before.replace_policy(&wider);
    replace(&before.config.policy, "version: 1\nmode: enforced\n");
    assert!(before.try_reload().is_err());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), wider);
    drop(before);

    let after = over(state.path(), "version: 1\nmode: enforced\n").await.unwrap();
    let shown = page(&after).await;
    assert_eq!((&shown["source"], &shown["generation"]), (&"state-dir".into(), &1.into()));
    assert!(shown["last_error"].as_str().unwrap().contains("policy.yaml:2:7"), "{shown}");
    assert_eq!(
        after.metric("etcd_warden_reloads_total", &["what=\"policy\"", "result=\"failed\""]).await,
        1.0
    );
    after.as_("bob").await.put("/kept/x", "1", None).await.unwrap();
    assert!(after.as_("alice").await.put("/kept/x", "1", None).await.is_err());
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), wider);

    // Once the file is valid, it is used again.
    after.replace_policy(POLICY);
    let shown = page(&after).await;
    assert_eq!((&shown["source"], &shown["last_error"]), (&"file".into(), &Value::Null));
    after.as_("alice").await.put("/kept/x", "1", None).await.unwrap();
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), POLICY);
    let left: Vec<_> =
        std::fs::read_dir(state.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["last-good-policy.yaml"], "nothing else remains in the folder");
}

#[tokio::test]
async fn a_broken_file_without_a_kept_policy_prevents_the_start() {
    let state = tempfile::tempdir().unwrap();
    let nothing = over(state.path(), "version: 1\nmode: enforced\n").await.err().unwrap();
    let nothing = format!("{nothing:#}");
    assert!(
        nothing.contains("policy.yaml:2:7") && nothing.contains("last-good-policy.yaml"),
        "{nothing}"
    );
    std::fs::write(state.path().join("last-good-policy.yaml"), "version: 1\nroles: []\n").unwrap();
    let broken =
        format!("{:#}", over(state.path(), "version: 1\nmode: enforced\n").await.err().unwrap());
    assert!(
        broken.contains("policy.yaml:2:7") && broken.contains("last-good-policy.yaml:2:"),
        "{broken}"
    );
}

#[tokio::test]
async fn an_unsafe_state_dir_is_refused_at_start() {
    let state = tempfile::tempdir().unwrap();
    let absent = over(&state.path().join("absent"), POLICY).await.err().unwrap();
    assert!(format!("{absent:#}").contains("create the directory first"), "{absent:#}");
    std::fs::set_permissions(state.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let open = over(state.path(), POLICY).await.err().unwrap();
    assert!(open.to_string().contains("is writable for all users"), "{open}");
}

#[tokio::test]
async fn a_policy_that_cannot_be_kept_still_takes_effect() {
    let state = tempfile::tempdir().unwrap();
    // A directory exists where the file would be.
    std::fs::create_dir(state.path().join("last-good-policy.yaml")).unwrap();
    let world = over(state.path(), POLICY).await.unwrap();
    world.as_("alice").await.put("/kept/x", "1", None).await.unwrap();
}
