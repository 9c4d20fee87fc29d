//! An old etcd with its own auth on, the proxy in front of it, and one attacker with the same
//! rights in both.

use etcd_warden_gateway::config::Config;
use etcd_warden_testbed::etcd::Programs;

use crate::world::{World, authorities, connect, is_permission_denied};
use etcd_client::{Client, Permission, PermissionType};

/// The grants of the attacker; [`Fixture::on`] grants the same in etcd.
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

/// The environment of an attack.
pub struct Fixture {
    /// The proxy and the etcd behind it.
    pub world: World,
}

impl Fixture {
    /// The attacker may read and write `own/*`, write `drop/*` and read the single key `x`. It has
    /// no right to `secret`.
    pub async fn on(programs: fn() -> &'static Programs) -> Self {
        Self::configured(programs, &[], |_| ()).await
    }

    /// Like [`Fixture::on`], with more flags for etcd and a change of the proxy's configuration.
    pub async fn configured(
        programs: fn() -> &'static Programs,
        flags: &[&str],
        change: impl FnOnce(&mut Config) + Send + 'static,
    ) -> Self {
        let builder =
            flags.iter().fold(World::with(POLICY).etcd_programs(programs), |builder, flag| {
                builder.etcd_flag(flag)
            });
        let world = builder.config(change).start().await;
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

    /// The attacker at etcd itself, where the name in its certificate is its user.
    pub async fn direct(&self) -> Client {
        self.direct_as("attacker").await
    }

    /// Any client with a certificate that etcd trusts, at etcd itself.
    pub async fn direct_as(&self, common_name: &str) -> Client {
        let issued = authorities().upstream.client(common_name).unwrap();
        connect(&self.world.etcd().endpoints(), &authorities().upstream, &issued).await
    }

    /// The attacker at the proxy.
    pub async fn proxied(&self) -> Client {
        self.world.as_("attacker").await
    }

    /// A client that may do everything, at etcd itself.
    pub async fn root(&self) -> Client {
        self.world.direct().await
    }

    /// Asserts the starting point: through the proxy and directly the attacker gets its own keys,
    /// and a plain request for the secret is refused.
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

    /// The current value of the secret.
    pub async fn secret(&self) -> Vec<u8> {
        let answer = self.root().await.get(self.world.key("secret"), None).await.unwrap();
        answer.kvs()[0].value().to_vec()
    }
}
