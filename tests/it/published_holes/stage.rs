//! An old etcd with its own auth on, the proxy in front of it, and one attacker who may do the same
//! in the eyes of both.

use etcd_warden_gateway::config::Config;
use etcd_warden_testbed::etcd::Programs;

use crate::world::{World, authorities, connect, is_permission_denied};
use etcd_client::{Client, Permission, PermissionType};

/// What the policy grants to the attacker; [`Stage::on`] grants the same in etcd.
const POLICY: &str = "
version: 1
mode: enforce
roles:
  own: {allow: [{keys: $P/own/*, verbs: [rw]}, {keys: $P/drop/*, verbs: [write]}, {keys: $P/x, verbs: [read]}]}
  all: {allow: [{keys: $P/*, verbs: [rw]}]}
bindings:
  - {cn: attacker, roles: [own]}
  - {cn: owner, roles: [all]}
";

/// The stage of an attack.
pub struct Stage {
    /// The proxy, and the etcd behind it.
    pub world: World,
}

impl Stage {
    /// The attacker may read and write `own/*`, write `drop/*` and read the one key `x`; `secret`
    /// is somebody else's.
    pub async fn on(programs: fn() -> &'static Programs) -> Self {
        Self::configured(programs, &[], |_| ()).await
    }

    /// As [`Stage::on`], with more flags for etcd, and a change of the proxy's configuration.
    pub async fn configured(
        programs: fn() -> &'static Programs,
        flags: &[&str],
        change: impl FnOnce(&mut Config) + Send + 'static,
    ) -> Self {
        let wish = flags
            .iter()
            .fold(World::with(POLICY).etcd_programs(programs), |wish, flag| wish.etcd_flag(flag));
        let world = wish.config(change).start().await;
        let mut root = world.direct().await;
        root.user_add("root", "root's", None).await.unwrap();
        root.user_grant_role("root", "root").await.unwrap();
        root.role_add("own").await.unwrap();
        for permission in [
            Permission::new(PermissionType::Readwrite, world.key("own/")).with_prefix(),
            Permission::new(PermissionType::Write, world.key("drop/")).with_prefix(),
            Permission::new(PermissionType::Read, world.key("x")),
        ] {
            root.role_grant_permission("own", permission).await.unwrap();
        }
        root.user_add("attacker", "attacker's", None).await.unwrap();
        root.user_grant_role("attacker", "own").await.unwrap();
        root.put(world.key("secret"), "s3cret", None).await.unwrap();
        root.put(world.key("drop/box"), "dropped", None).await.unwrap();
        root.auth_enable().await.unwrap();
        Self { world }
    }

    /// The attacker at etcd itself, known there by the name in its certificate.
    pub async fn direct(&self) -> Client {
        self.direct_as("attacker").await
    }

    /// Anybody with a certificate that etcd trusts, at etcd itself.
    pub async fn direct_as(&self, common_name: &str) -> Client {
        let issued = authorities().upstream.client(common_name).unwrap();
        connect(&self.world.etcd().endpoints(), &authorities().upstream, &issued).await
    }

    /// The attacker at the proxy.
    pub async fn proxied(&self) -> Client {
        self.world.as_("attacker").await
    }

    /// Who may do everything, at etcd itself.
    pub async fn root(&self) -> Client {
        self.world.direct().await
    }

    /// The ground is what it should be: on both ways the attacker gets what is its own, and not the
    /// secret when it asks plainly.
    pub async fn holds(&self) {
        for mut attacker in [self.direct().await, self.proxied().await] {
            attacker.put(self.world.key("own/k"), "mine", None).await.unwrap();
            assert_eq!(
                attacker.get(self.world.key("own/k"), None).await.unwrap().kvs()[0].value(),
                b"mine"
            );
            assert!(is_permission_denied(&attacker.get(self.world.key("secret"), None).await));
            assert!(is_permission_denied(&attacker.get(self.world.key("drop/box"), None).await));
            assert!(is_permission_denied(
                &attacker.put(self.world.key("secret"), "overwritten", None).await
            ));
        }
    }

    /// What the secret's value is now.
    pub async fn secret(&self) -> Vec<u8> {
        let answer = self.root().await.get(self.world.key("secret"), None).await.unwrap();
        answer.kvs()[0].value().to_vec()
    }
}
