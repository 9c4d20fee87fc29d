//! Identities: names that came from outside the certificate, from the wrong part of it, or were
//! missing.

use etcd_client::{Client, ConnectOptions, PutOptions};
use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::http_client as http;
use etcd_warden_proto::etcdserverpb as pb;
use etcd_warden_testbed::etcd::{Etcd, Options};
use etcd_warden_testbed::pki::Leaf;
use prost::Message as _;

use super::fixture::Fixture;
use super::https;
use crate::world::fake::Fake;
use crate::world::raw::{Answer, framed, grpc_headers};
use crate::world::{World, authorities, is_permission_denied, programs, soon, vulnerable};

/// Only `a` has a right.
const ONE_RIGHT: &str = "
version: 1
mode: enforce
roles: {r: {allow: [{keys: $P/*, verbs: [rw]}]}}
bindings: [{cn: a, roles: [r]}]
";

/// etcd's JSON gateway calls etcd with its own certificate, and its client became the user of
/// **that** name. A proxy is in the same position: no client may become the proxy's own user, and
/// metadata from a gateway is ignored.
#[tokio::test]
async fn cve_2018_16886_gateways_certificate_as_user() {
    let fixture = Fixture::on(programs).await;
    fixture.holds().await;
    // Requests to the JSON gateway: there is none, over HTTP/1.1 or HTTP/2.
    let issued = authorities().clients.client("attacker").unwrap();
    let range = r#"{"key": "Lw==", "range_end": "AA=="}"#;
    for path in ["/v3/kv/range", "/v3beta/kv/range", "/v2/keys"] {
        let over_http1 = https::request(
            fixture.world.address(),
            &authorities().clients,
            &issued,
            &format!("POST {path}"),
            range,
        )
        .await;
        assert!(over_http1.is_err(), "{over_http1:?}");
        let mut headers = grpc_headers();
        headers.insert("content-type", "application/json".parse().unwrap());
        let answer =
            fixture.world.raw("attacker").await.send(path, &headers, range.as_bytes()).await;
        assert_ne!((answer.status, answer.grpc_status()), (200, Some(0)), "{answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("kvs"), "{answer:?}");
    }
    // With the gateway's mark etcd ignores the certificate's name, and a name in metadata must not
    // make a client another user.
    let fake = Fake::agreeable().await;
    let world = fake.world(ONE_RIGHT).await;
    let put = framed(
        &pb::PutRequest { key: world.key("k").into(), ..Default::default() }.encode_to_vec(),
    );
    for (name, value) in [
        ("grpcgateway-accept", "application/json"),
        ("grpcgateway-authorization", "root"),
        ("grpcgateway-user-agent", "root"),
        ("x-forwarded-client-cert", "Subject=\"CN=root\""),
        ("x-remote-user", "root"),
    ] {
        let mut headers = grpc_headers();
        headers.insert(name, value.parse().unwrap());
        assert_eq!(
            world.raw("a").await.send(Method::Put.path(), &headers, &put).await.grpc_status(),
            Some(0)
        );
        assert_eq!(
            world.raw("unbound").await.send(Method::Put.path(), &headers, &put).await.grpc_status(),
            Some(7),
            "{name}"
        );
    }
    let arrived = fake.arrivals("Put");
    assert_eq!(arrived.len(), 5);
    assert!(arrived.iter().all(|arrival| {
        arrival.headers.keys().all(|name| {
            !name.as_str().starts_with("grpcgateway") && !name.as_str().starts_with("x-")
        })
    }));
}

/// The password of a login was visible in a debug page.
#[tokio::test]
async fn cve_2021_28235_password_in_debug_page() {
    const PASSWORD: &str = "pa55word-of-root";
    const PAGE: &str = "/debug/requests?fam=grpc.Recv.Auth&b=0&exp=1";
    // In plain text: behind TLS that release traces nothing.
    let programs = tokio::task::spawn_blocking(vulnerable::v3_4).await.unwrap();
    let etcd =
        Etcd::start(programs, Options { flags: vec!["--debug".to_owned()], ..Options::default() })
            .await
            .unwrap();
    let address = etcd.addresses()[0];
    let mut root = Client::connect(etcd.endpoints(), None).await.unwrap();
    root.user_add("root", PASSWORD, None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.auth_enable().await.unwrap();
    Client::connect(etcd.endpoints(), Some(ConnectOptions::new().with_user("root", PASSWORD)))
        .await
        .unwrap();
    // Every client that reaches the page can read it.
    soon("the login's trace", || async {
        let (_, told) = http::get(address, PAGE).await.unwrap();
        let (_, login) = told.split_once("/etcdserverpb.Auth/Authenticate")?;
        login.split("/etcdserverpb.Auth/").next()?.contains(PASSWORD).then_some(())
    })
    .await;

    // Through the proxy the page cannot be reached, and the proxy's own pages reveal nothing.
    let world = World::with(ONE_RIGHT)
        .config(move |config| {
            config.upstream.endpoints = vec![Endpoint {
                tls: false,
                host: address.ip().to_string().into(),
                port: address.port(),
            }];
            config.upstream.insecure_plaintext = true;
            config.upstream.identity = None;
        })
        .start()
        .await;
    let issued = authorities().clients.client("a").unwrap();
    let over_http1 = https::request(
        world.address(),
        &authorities().clients,
        &issued,
        &format!("GET {PAGE}"),
        "",
    )
    .await;
    assert!(over_http1.is_err(), "{over_http1:?}");
    let mut raw = world.raw("a").await;
    let request = ::http::Request::get(format!("https://127.0.0.1{PAGE}")).body(()).unwrap();
    let answer = Answer::read(raw.begin(request, true).await.unwrap().response).await;
    assert!(
        answer.status != 200 && !String::from_utf8_lossy(&answer.body).contains(PASSWORD),
        "{answer:?}"
    );
    for (password, status) in [(PASSWORD, 0), ("an0ther-guess", 3)] {
        let login =
            pb::AuthenticateRequest { name: "root".to_owned(), password: password.to_owned() }
                .encode_to_vec();
        assert_eq!(raw.call(Method::Authenticate.path(), &login).await.grpc_status(), Some(status));
    }
    world
        .audited(|line| line["method"] == Method::Authenticate.path() && line["grpc_status"] == 3)
        .await;
    let mut said = std::fs::read_to_string(world.audit_file()).unwrap();
    for page in ["/debug/streams", "/metrics", "/policy"] {
        said.push_str(&world.admin(page).await.1);
    }
    assert!(!said.contains(PASSWORD) && !said.contains("an0ther-guess"), "{said}");
}

/// Envoy's `principal_name` checks the SAN before the subject, so two names with one SAN are the
/// same principal.
#[tokio::test]
async fn envoy_principal_name_two_names_with_one_san() {
    let world = World::start(
        "
version: 1
mode: enforce
roles:
  of-one: {allow: [{keys: $P/one/*, verbs: [rw]}], capabilities: [lease]}
  of-two: {allow: [{keys: $P/two/*, verbs: [rw]}], capabilities: [lease]}
bindings:
  - {cn: one, roles: [of-one]}
  - {cn: two, roles: [of-two]}
",
    )
    .await;
    let shared = |name: &str| {
        Leaf::client(name).dns("calico.cluster.local").uri("spiffe://cluster.local/calico")
    };
    let mut one = world.with_certificate(&shared("one")).await;
    let mut two = world.with_certificate(&shared("two")).await;
    let lease = one.lease_grant(3600, None).await.unwrap().id();
    for (client, own, other) in [(&mut one, "one/k", "two/k"), (&mut two, "two/k", "one/k")] {
        client.put(world.key(own), "1", None).await.unwrap();
        assert!(is_permission_denied(&client.get(world.key(other), None).await), "{other}");
    }
    // The rights that follow from a name are those of this name.
    assert!(is_permission_denied(
        &two.put(world.key("two/k"), "1", Some(PutOptions::new().with_lease(lease))).await
    ));
    assert!(is_permission_denied(&two.lease_revoke(lease).await));
    // And a name in a SAN is not a name in the subject.
    let mut san = world.with_certificate(&Leaf::client("three").dns("one").uri("one")).await;
    assert!(is_permission_denied(&san.get(world.key("one/k"), None).await));
    one.lease_revoke(lease).await.unwrap();
}

/// ztunnel drops entries that it cannot parse and treats the resulting empty list as "any". Here an
/// unreadable entry or an empty list is an error, and a policy with an error is not used.
#[tokio::test]
async fn ztunnel_empty_list_is_no_any() {
    const GOOD: &str = "version: 1\nmode: enforce\nroles: {r: {allow: [{keys: [$P/own/*], verbs: [rw]}]}}\nbindings: [{cn: attacker, roles: [r]}]\n";
    let wrong = [
        ("an empty list", "[$P/own/*]", "[]"),
        ("an empty file", "[$P/own/*]", ""),
        ("an invalid key", "[$P/own/*]", "['{unknown}/*']"),
        ("a range that ends before it begins", "[$P/own/*]", "[{from: b, to: a}]"),
        ("one of two that cannot be read", "[$P/own/*]", "[$P/own/*, '\\xZZ']"),
        ("no verb", "[rw]", "[]"),
        ("an unknown verb", "[rw]", "[rw, anything]"),
        ("no role", "roles: [r]", "roles: []"),
        ("an unknown role", "roles: [r]", "roles: [r, s]"),
        ("an invalid name", "cn: attacker", "cn: ''"),
        ("an unknown condition", "cn: attacker", "cn: attacker, ip: [10.0.0.0/33]"),
        ("no condition", "cn: attacker, ", ""),
        ("no binding", "[{cn: attacker, roles: [r]}]", "[]"),
        ("an unknown CA", "cn: attacker", "cn: attacker, ca: ''"),
    ];
    let world = World::start(GOOD).await;
    let generation = world.generation().await;
    let mut attacker = world.as_("attacker").await;
    for (what, good, bad) in wrong {
        assert!(GOOD.contains(good), "{what}");
        let policy = GOOD.replacen(good, bad, 1);
        assert!(World::with(&policy).try_start().await.is_err(), "starts with {what}");
        world.write_policy(&policy);
        assert!(world.try_reload().is_err(), "reloads with {what}");
        assert_eq!(world.generation().await, generation, "{what}");
        attacker.put(world.key("own/k"), "1", None).await.unwrap();
        assert!(is_permission_denied(&attacker.get(world.key("other"), None).await), "{what}");
    }
    // The same for lists in the configuration.
    let file = world.folder().join("config.yaml");
    for (setting, value) in [
        ("client-crl-file", "[]"),
        ("proxy-protocol-from", "[]"),
        ("proxy-protocol-from", "[10.0.0.0/8, 10.0.0.0/33]"),
        ("trusted-ca-file", "[]"),
        ("endpoints", "[]"),
    ] {
        std::fs::write(&file, format!("{setting}: {value}\n")).unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_etcd-warden"));
        let said =
            command.args(["serve", "--config"]).arg(&file).env_clear().output().await.unwrap();
        assert_eq!(said.status.code(), Some(78), "{setting}: {value}");
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("config.yaml:1:"), "{setting}: {value}: {said}");
    }
}
