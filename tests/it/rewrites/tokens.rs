//! Passwords and tokens of clients, in front of an etcd whose own auth is on.

use etcd_client::{
    Certificate, Client, ConnectOptions, Error, Identity, Permission, PermissionType, PutOptions,
    TlsOptions,
};
use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::ClientTokens;
use etcd_warden_proto::etcdserverpb as pb;
use futures_util::future::join_all;
use prost::Message as _;
use serde_json::json;

use crate::world::fake::{Fake, Visit};
use crate::world::raw::{framed, grpc_headers};
use crate::world::{World, authorities, is_permission_denied};

/// etcd lets the user write `x` and `z`; the policy lets the certificate write `x` and `y`.
const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  xy: {allow: [{keys: ['$P/x/*', '$P/y/*'], verbs: [rw]}]}
bindings:
  - {cn: app, roles: [xy]}
"#;

async fn with_auth(tokens: ClientTokens) -> World {
    let world = World::with(POLICY)
        .own_etcd()
        .config(move |config| config.client_tokens = tokens)
        .start()
        .await;
    let mut direct = world.direct().await;
    direct.user_add("root", "secret", None).await.unwrap();
    direct.user_grant_role("root", "root").await.unwrap();
    direct.role_add("xz").await.unwrap();
    for part in ["x/", "z/"] {
        let permission = Permission::new(PermissionType::Readwrite, world.key(part)).with_prefix();
        direct.role_grant_permission("xz", permission).await.unwrap();
    }
    direct.user_add("user", "secret", None).await.unwrap();
    direct.user_grant_role("user", "xz").await.unwrap();
    direct.auth_enable().await.unwrap();
    world
}

/// A client with the certificate of `app` that logs in as `user`.
async fn logged_in(world: &World, password: &str) -> Result<Client, Error> {
    let issued = authorities().clients.client("app").unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(authorities().clients.pem()))
        .identity(Identity::from_pem(&issued.certificate, &issued.key));
    Client::connect(
        [world.endpoint()],
        Some(ConnectOptions::new().with_tls(tls).with_user("user", password)),
    )
    .await
}

#[tokio::test]
async fn with_a_token_the_proxy_and_etcd_must_both_allow() {
    let world = with_auth(ClientTokens::Forward).await;
    let mut user = logged_in(&world, "secret").await.unwrap();
    user.put(world.key("x/k"), "1", None).await.unwrap();
    assert!(is_permission_denied(&user.put(world.key("y/k"), "1", None).await));
    assert!(is_permission_denied(&user.put(world.key("z/k"), "1", Some(PutOptions::new())).await));

    // etcd refused the first request, the proxy the second.
    let by_etcd = world.audited(|line| line["accesses"][0]["key"] == world.key("y/k")).await;
    assert_eq!(
        (&by_etcd["decision"], &by_etcd["grpc_status"], by_etcd.get("reason")),
        (&json!("allow"), &json!(7), None)
    );
    let ours = world.audited(|line| line["accesses"][0]["key"] == world.key("z/k")).await;
    assert_eq!(
        (&ours["decision"], &ours["reason"], ours.get("member")),
        (&json!("deny"), &json!("key_not_granted"), None)
    );
    // Without a token etcd judges the proxy's own certificate, so only the policy decides.
    world.as_("app").await.put(world.key("y/k"), "1", None).await.unwrap();
    assert!(!std::fs::read_to_string(world.audit_file()).unwrap().contains("secret"));
}

#[tokio::test]
async fn etcdctl_logs_in_with_user_and_password() {
    let world = with_auth(ClientTokens::Forward).await;
    let put = |key: &str| {
        vec![
            "--user".to_owned(),
            "user:secret".to_owned(),
            "put".to_owned(),
            world.key(key),
            "1".to_owned(),
        ]
    };
    let run = async |key: &str| {
        world.etcdctl("app", &put(key).iter().map(String::as_str).collect::<Vec<_>>()).await
    };
    assert_eq!(run("x/k").await.ok(), "OK\n");
    for key in ["y/k", "z/k"] {
        assert!(run(key).await.failed().contains("etcdserver: permission denied"));
    }
}

#[tokio::test]
async fn a_wrong_password_is_answered_by_etcd() {
    let world = with_auth(ClientTokens::Forward).await;
    let refused = logged_in(&world, "wrong").await.err().unwrap().to_string();
    assert!(
        refused.contains("etcdserver: authentication failed, invalid user ID or password"),
        "{refused}"
    );
}

/// Sends a Put of `y/k` with this metadata and returns the gRPC status.
async fn put_with(world: &World, name: &'static str, value: &str) -> (u32, String) {
    let put = pb::PutRequest { key: world.key("y/k").into(), ..Default::default() }.encode_to_vec();
    let mut headers = grpc_headers();
    headers.insert(name, value.parse().unwrap());
    let answer = world.raw("app").await.send(Method::Put.path(), &headers, &framed(&put)).await;
    (answer.grpc_status().unwrap(), answer.grpc_message().to_owned())
}

#[tokio::test]
async fn stripped_tokens_are_useless_and_no_password_is_forwarded() {
    let world = with_auth(ClientTokens::Strip).await;
    let refused = logged_in(&world, "secret").await.err().unwrap();
    assert!(is_permission_denied::<()>(&Err(refused)));
    let line = world.audited(|line| line["method"] == Method::Authenticate.path()).await;
    assert_eq!(
        (&line["decision"], &line["reason"], line.get("member")),
        (&json!("deny"), &json!("tokens_stripped"), None)
    );
    assert_eq!(world.reached_etcd("Authenticate").await, 0.0);
    // etcd would refuse this token if it received it.
    for name in ["token", "authorization"] {
        assert_eq!(put_with(&world, name, "forged.7").await, (0, String::new()), "{name}");
    }
}

#[tokio::test]
async fn etcd_refuses_a_forged_token_and_grpcgateway_is_ignored() {
    let world = with_auth(ClientTokens::Forward).await;
    for name in ["token", "authorization"] {
        assert_eq!(
            put_with(&world, name, "forged.7").await,
            (16, "etcdserver: invalid auth token".to_owned()),
            "{name}"
        );
    }
    // With this metadata etcd would ignore the certificate's name and find no user.
    assert_eq!(
        put_with(&world, "grpcgateway-accept", "application/json").await,
        (0, String::new())
    );
}

#[tokio::test]
async fn logins_per_second_are_limited_but_not_in_shadow_mode() {
    const LOGINS: usize = 60;
    for (policy, limited) in
        [(POLICY.to_owned(), true), (POLICY.replace("enforce", "shadow"), false)]
    {
        let etcd = Fake::serving(|mut visit: Visit| async move {
            visit.body().await;
            visit.answer(b"");
        })
        .await;
        let world = World::with(&policy)
            .config(etcd.replace_etcd())
            .config(|config| config.limits.authenticate_per_second = 1)
            .start()
            .await;
        let message =
            pb::AuthenticateRequest { name: "user".to_owned(), password: "guess".to_owned() }
                .encode_to_vec();
        let mut raws = Vec::new();
        for _ in 0..3 {
            raws.push(world.raw("app").await);
        }
        let guesses = raws.iter_mut().map(|raw| async {
            let mut statuses = Vec::new();
            for _ in 0..LOGINS / 3 {
                let answer = raw.call(Method::Authenticate.path(), &message).await;
                statuses.push((answer.grpc_status().unwrap(), answer.grpc_message().to_owned()));
            }
            statuses
        });
        let statuses = join_all(guesses).await.concat();
        let passed = statuses.iter().filter(|status| **status == (0, String::new())).count();
        let refused = statuses
            .iter()
            .filter(|status| **status == (8, "etcdserver: too many requests".to_owned()))
            .count();
        assert_eq!(passed + refused, LOGINS, "{statuses:?}");
        assert_eq!(etcd.arrivals("Authenticate").len(), passed);
        let counted =
            world.metric("etcd_warden_limits_hit_total", &["limit=\"authenticate\""]).await;
        assert_eq!(counted, f64::from(u32::try_from(refused).unwrap()));
        assert_eq!(refused > 0, limited);
        assert!(passed > 0);
    }
}
