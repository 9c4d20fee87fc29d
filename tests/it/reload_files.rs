//! Files that change while the proxy runs: it reads their content, accepts valid files and reports
//! invalid ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use etcd_warden_gateway::config::Config;
use etcd_warden_testbed::pki::{Authority, Leaf, write_private};
use serde_json::Value;

use crate::world::files::replace;
use crate::world::{World, authorities, soon};

const POLICY: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings: [{cn: alice, roles: [r]}]\n";

fn watching(config: &mut Config) {
    config.reload_interval = Duration::from_millis(20);
}

async fn reloads(world: &World, what: &str, result: &str) -> f64 {
    world
        .metric(
            "etcd_warden_reloads_total",
            &[&format!("what=\"{what}\""), &format!("result=\"{result}\"")],
        )
        .await
}

async fn page(world: &World) -> Value {
    serde_json::from_str(&world.admin("/policy").await.1).unwrap()
}

async fn shown(world: &World) -> Vec<u8> {
    world.tls(&Leaf::client("alice")).await.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

/// A folder as Kubernetes mounts a Secret or a ConfigMap: every file is a link into `..data`, which
/// links to the current folder.
struct Mount(PathBuf);

impl Mount {
    fn put(&self, day: &str, files: &[(&str, &str)]) {
        let folder = self.0.join(format!("..{day}"));
        std::fs::create_dir_all(&folder).unwrap();
        for (name, content) in files {
            write_private(&folder, name, content).unwrap();
            if !self.0.join(name).is_symlink() {
                std::os::unix::fs::symlink(Path::new("..data").join(name), self.0.join(name))
                    .unwrap();
            }
        }
        let before = std::fs::read_link(self.0.join("..data")).ok();
        std::os::unix::fs::symlink(format!("..{day}"), self.0.join("..data_tmp")).unwrap();
        std::fs::rename(self.0.join("..data_tmp"), self.0.join("..data")).unwrap();
        if let Some(before) = before {
            std::fs::remove_dir_all(self.0.join(before)).unwrap();
        }
    }
}

#[tokio::test]
async fn follows_a_mounted_folder_to_its_current_content() {
    let server = authorities().clients.server(&["127.0.0.1"]).unwrap();
    let policy = POLICY.replace("$P", "/mounted");
    let (certificate, key, first) =
        (server.certificate.clone(), server.key.clone(), policy.clone());
    let world = World::with(POLICY)
        .config(move |config| {
            watching(config);
            let mount = Mount(config.policy.with_file_name("mount"));
            mount.put(
                "monday",
                &[("policy.yaml", &first), ("tls.crt", &certificate), ("tls.key", &key)],
            );
            config.policy = mount.0.join("policy.yaml");
            (config.downstream.cert_file, config.downstream.key_file) =
                (mount.0.join("tls.crt"), mount.0.join("tls.key"));
        })
        .start()
        .await;
    let mount = Mount(world.folder().join("mount"));
    let first = shown(&world).await;
    assert!(world.as_("carol").await.put("/mounted/x", "1", None).await.is_err());

    // Another folder and other inodes with the same content are no change; the new policy is one.
    let wider = policy.replace("cn: alice", "cn: carol");
    mount.put(
        "tuesday",
        &[("policy.yaml", &wider), ("tls.crt", &server.certificate), ("tls.key", &server.key)],
    );
    soon("the new policy", || async {
        world.as_("carol").await.put("/mounted/x", "1", None).await.ok()
    })
    .await;
    assert_eq!(
        (reloads(&world, "policy", "ok").await, reloads(&world, "server", "ok").await),
        (1.0, 0.0)
    );
    assert_eq!(shown(&world).await, first);

    let renewed = authorities().clients.server(&["127.0.0.1"]).unwrap();
    mount.put(
        "wednesday",
        &[("policy.yaml", &wider), ("tls.crt", &renewed.certificate), ("tls.key", &renewed.key)],
    );
    soon("the new certificate", || async { (shown(&world).await != first).then_some(()) }).await;
    let failed = world.metric("etcd_warden_reloads_total", &["result=\"failed\""]).await;
    assert_eq!(
        (reloads(&world, "policy", "ok").await, failed),
        (1.0, 0.0),
        "the folder changes atomically"
    );
}

#[tokio::test]
async fn reports_half_a_key_pair_and_accepts_it_once_complete() {
    let world = World::with(POLICY).config(watching).start().await;
    let first = shown(&world).await;
    let renewed = world.new_server_certificate();
    replace(&world.config.downstream.cert_file, &renewed.certificate);
    soon("the error", || async {
        (reloads(&world, "server", "failed").await >= 1.0).then_some(())
    })
    .await;
    assert!(
        page(&world).await["certificate_errors"]["server"]
            .as_str()
            .unwrap()
            .contains("is not the key of")
    );
    assert_eq!(shown(&world).await, first);
    replace(&world.config.downstream.key_file, &renewed.key);
    soon("the new certificate", || async { (shown(&world).await != first).then_some(()) }).await;
    soon("the end of the error", || async {
        page(&world).await["certificate_errors"].as_object().unwrap().is_empty().then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_policy_written_in_two_pieces_takes_effect_when_complete() {
    let world = World::with(POLICY).config(watching).start().await;
    let mut alice = world.as_("alice").await;
    let whole = POLICY
        .replace("$P", &world.prefix)
        .replace("bindings:", "bindings:\n  - {cn: bob, roles: [r]}\n")
        .replace(" [{cn: alice", "  - {cn: alice")
        .replace("}]\n", "}\n");
    let half = &whole[..whole.find("- {cn: bob").unwrap() + 5];
    std::fs::write(&world.config.policy, half).unwrap();
    soon("the error", || async { page(&world).await["last_error"].as_str().map(drop) }).await;
    let error = page(&world).await["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("policy.yaml:5:"), "{error}");
    alice.put(world.key("x"), "1", None).await.unwrap();
    assert_eq!(world.generation().await, 1);
    std::fs::write(&world.config.policy, &whole).unwrap();
    soon("the whole policy", || async { (world.generation().await == 2).then_some(()) }).await;
    // The new files are in effect before the status reports success.
    soon("the end of the error", || async {
        page(&world).await["last_error"].is_null().then_some(())
    })
    .await;
    world.as_("bob").await.put(world.key("x"), "2", None).await.unwrap();
}

#[tokio::test]
async fn a_missing_file_changes_nothing_until_it_is_back() {
    let world = World::with(POLICY).config(watching).start().await;
    let file = &world.config.downstream.client_cas[0].file;
    std::fs::remove_file(file).unwrap();
    soon("the error", || async {
        page(&world).await["certificate_errors"]["clients"].as_str().map(drop)
    })
    .await;
    assert!(
        page(&world).await["certificate_errors"]["clients"]
            .as_str()
            .unwrap()
            .ends_with("clients-ca.crt: does not exist")
    );
    world.as_("alice").await.put(world.key("x"), "1", None).await.unwrap();
    world.write_client_cas(&[&authorities().clients, &Authority::new("a third CA").unwrap()]);
    soon("the new CAs", || async { (reloads(&world, "clients", "ok").await == 1.0).then_some(()) })
        .await;
    world.as_("alice").await.put(world.key("x"), "1", None).await.unwrap();
}

/// A settle time longer than any test: a file that is rewritten in place never takes effect within
/// it.
fn resting(config: &mut Config) {
    watching(config);
    config.reload_settle = Duration::from_secs(3600);
}

/// Waits for several polls of the policy file: a change that can take effect has done so after
/// them.
async fn many_looks() {
    tokio::time::sleep(Duration::from_millis(400)).await;
}

#[tokio::test]
async fn half_a_policy_is_never_in_effect_rewritten_or_recreated() {
    let policy = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}\nbindings:\n  - cn: alice\n    roles: [r]\n    \
                  deny: [{keys: $P/secret, verbs: [rw]}]\n";
    let state = tempfile::tempdir().unwrap();
    let kept = state.path().join("last-good-policy.yaml");
    std::fs::write(&kept, policy).unwrap();
    let folder = state.path().to_owned();
    let world = World::with(policy)
        .config(move |config| {
            resting(config);
            config.state_dir = Some(folder);
        })
        .start()
        .await;
    let mut alice = world.as_("alice").await;
    let whole = policy.replace("$P", &world.prefix);
    let half = &whole[..whole.find("    deny:").unwrap()];
    std::fs::write(&world.config.policy, half).unwrap();
    let asked = world.reload();
    tokio::select! {
        done = asked => panic!("SIGHUP must not apply half a policy: {done:?}"),
        () = many_looks() => {}
    }
    assert!(alice.get(world.key("secret"), None).await.is_err());
    assert_eq!(world.generation().await, 1);
    assert!(std::fs::read_to_string(&kept).unwrap().contains("deny:"));
    // Unlinked and half recreated, as tar does. The old file is held open so that its inode is not
    // reused.
    let _old = std::fs::File::open(&world.config.policy).unwrap();
    std::fs::remove_file(&world.config.policy).unwrap();
    std::fs::write(&world.config.policy, half).unwrap();
    many_looks().await;
    assert!(alice.get(world.key("secret"), None).await.is_err());
    assert_eq!(world.generation().await, 1);
    // A file that replaces it and has its end marker is complete.
    world.write_policy(&(policy.replace("$P/secret", "$P/other") + "...\n"));
    soon("the policy that was renamed", || async { (world.generation().await == 2).then_some(()) })
        .await;
    alice.get(world.key("secret"), None).await.unwrap();
}

#[tokio::test]
async fn a_policy_that_ends_with_a_marker_is_never_cut() {
    let marked = format!("{POLICY}...\n");
    let state = tempfile::tempdir().unwrap();
    let folder = state.path().to_owned();
    let mut world =
        World::with(&marked).config(move |config| config.state_dir = Some(folder)).start().await;
    let cut = |text: &str| text.replace("bindings: [", "bindings: [{cn: bob, roles: [r]}, ");
    world.write_policy(&cut(POLICY));
    let error = world.try_reload().unwrap_err().to_string();
    assert!(error.contains("ends with the line `...`"), "{error}");
    assert_eq!(world.generation().await, 1);
    // Also at a start, where the last accepted policy is kept.
    world.start_again().await;
    assert_eq!(page(&world).await["source"], "state-dir");
    assert!(world.as_("bob").await.put(world.key("x"), "1", None).await.is_err());
    world.replace_policy(&cut(&marked));
    world.as_("bob").await.put(world.key("x"), "1", None).await.unwrap();
}

#[tokio::test]
async fn a_truncated_ca_bundle_disconnects_no_client() {
    let world = World::with(POLICY).config(resting).start().await;
    let file = &world.config.downstream.client_cas[0].file;
    let second = Authority::new("second").unwrap();
    let both = authorities().clients.pem() + &second.pem();
    std::fs::write(file, &both).unwrap();
    soon("the second CA", || async {
        (reloads(&world, "clients", "ok").await == 1.0).then_some(())
    })
    .await;
    std::fs::write(file, authorities().clients.pem()).unwrap();
    many_looks().await;
    assert_eq!(reloads(&world, "clients", "ok").await, 1.0, "missing CAs may still be written");
    std::fs::write(file, &both).unwrap();
    many_looks().await;
    assert_eq!(world.metric("etcd_warden_reloads_total", &["what=\"clients\""]).await, 1.0);
}

#[tokio::test]
async fn a_pipe_in_place_of_a_file_delays_no_other_file() {
    let world = World::with(POLICY).config(watching).start().await;
    let pipe = &world.config.downstream.client_cas[0].file;
    std::fs::remove_file(pipe).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    soon("the error", || async {
        page(&world).await["certificate_errors"]["clients"].as_str().map(drop)
    })
    .await;
    assert!(
        page(&world).await["certificate_errors"]["clients"]
            .as_str()
            .unwrap()
            .contains("is a pipe, not a regular file")
    );
    let alice = world.as_("alice").await;
    let put = || async { alice.clone().put(world.key("x"), "1", None).await };
    world.write_policy(&POLICY.replace("alice", "bob"));
    soon("the policy", || async { put().await.is_err().then_some(()) }).await;
    assert!(world.reload().await.is_err(), "SIGHUP reports it and returns");
    world.write_policy(POLICY);
    soon("the policy", || async { put().await.ok() }).await;
    world.write_client_cas(&[&authorities().clients]);
    soon("the end of the error", || async {
        page(&world).await["certificate_errors"].as_object().unwrap().is_empty().then_some(())
    })
    .await;
}
