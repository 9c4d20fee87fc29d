//! What the proxy changes: the URLs of members, and metadata that etcd would act on.

mod metadata;
mod tokens;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Advertise;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use serde_json::Value;

use crate::world::World;
use crate::world::fake::{Fake, Visit};

const POLICY: &str = r#"
version: 1
mode: enforce
roles:
  admin: {allow: [{keys: '*', verbs: [rw]}], capabilities: [member-list, member-admin, status]}
bindings:
  - {cn: admin, roles: [admin]}
"#;

const PROXY: &str = "https://proxy.example.org:2379";

fn advertise(default: Option<&str>, by_member: &[(&str, &str)]) -> Advertise {
    let by_member =
        by_member.iter().map(|(name, url)| ((*name).to_owned(), (*url).to_owned())).collect();
    Advertise { default: default.map(str::to_owned), by_member }
}

#[tokio::test]
async fn a_member_list_shows_the_proxys_url_to_every_client() {
    let world = World::with(POLICY)
        .config(|config| config.advertise = advertise(Some(PROXY), &[]))
        .start()
        .await;
    let list = world.as_("admin").await.member_list().await.unwrap();
    assert!(
        !list.members().is_empty()
            && list.members().iter().all(|member| member.client_urls() == [PROXY])
    );

    let said = world.etcdctl("admin", &["member", "list", "--write-out", "json"]).await.ok();
    let theirs: Value = serde_json::from_str(
        &world.etcdctl_direct(&["member", "list", "--write-out", "json"], "").await.ok(),
    )
    .unwrap();
    let ours: Value = serde_json::from_str(&said).unwrap();
    let (ours, theirs) = (&ours["members"][0], &theirs["members"][0]);
    assert_eq!(ours["clientURLs"], serde_json::json!([PROXY]));
    for field in ["ID", "name", "peerURLs"] {
        assert!(!theirs[field].is_null() && ours[field] == theirs[field], "{field}");
    }
}

#[tokio::test]
async fn each_member_may_have_a_url_of_its_own() {
    let urls =
        advertise(None, &[("m0", "https://a.example.org:1"), ("m2", "https://c.example.org:1")]);
    let world =
        World::with(POLICY).members(3).config(move |config| config.advertise = urls).start().await;
    let (ours, theirs) = (
        world.as_("admin").await.member_list().await.unwrap(),
        world.direct().await.member_list().await.unwrap(),
    );
    for (ours, theirs) in ours.members().iter().zip(theirs.members()) {
        assert_eq!((ours.id(), ours.name()), (theirs.id(), theirs.name()));
        match ours.name() {
            "m0" => assert_eq!(ours.client_urls(), ["https://a.example.org:1"]),
            "m2" => assert_eq!(ours.client_urls(), ["https://c.example.org:1"]),
            // Neither an entry nor a default: etcd's own URLs.
            _ => assert_eq!(ours.client_urls(), theirs.client_urls()),
        }
    }
}

#[tokio::test]
async fn member_changes_show_the_url_too() {
    let world = World::with(POLICY)
        .own_etcd()
        .config(|config| config.advertise = advertise(Some(PROXY), &[]))
        .start()
        .await;
    let mut admin = world.as_("admin").await;
    let learner = etcd_client::MemberAddOptions::new().with_is_learner();
    let added = admin.member_add(["http://127.0.0.1:1"], Some(learner)).await.unwrap();
    let id = added.member().unwrap().id();
    // The new member has not started: it has no URL yet and gets none.
    let urls = |members: &[etcd_client::Member]| {
        let mut urls: Vec<Vec<String>> =
            members.iter().map(|member| member.client_urls().to_vec()).collect();
        urls.sort();
        urls
    };
    let expected = [vec![], vec![PROXY.to_owned()]];
    assert_eq!(urls(added.member_list()), expected);
    assert_eq!(
        urls(admin.member_update(id, ["http://127.0.0.1:2".to_owned()]).await.unwrap().members()),
        expected
    );
    assert_eq!(urls(admin.member_remove(id).await.unwrap().members()), expected[1..]);
}

/// A fake etcd that responds to every call with a member list that has an unknown field.
async fn lists_members() -> (Fake, Vec<u8>) {
    let member = pb::Member {
        id: 7,
        name: "m0".to_owned(),
        client_ur_ls: vec!["https://10.0.0.1:2379".to_owned()],
        ..Default::default()
    };
    let mut list = pb::MemberListResponse { header: None, members: vec![member] }.encode_to_vec();
    list.extend_from_slice(b"\xfa\x3e\x03new");
    let answer = list.clone();
    let etcd = Fake::serving(move |mut visit: Visit| {
        let answer = answer.clone();
        async move {
            visit.body().await;
            visit.answer(&answer);
        }
    })
    .await;
    (etcd, list)
}

#[tokio::test]
async fn a_promotion_shows_the_url_and_keeps_unknown_fields() {
    let (etcd, _) = lists_members().await;
    let world = World::with(POLICY)
        .config(etcd.replace_etcd())
        .config(|config| config.advertise = advertise(Some(PROXY), &[]))
        .start()
        .await;
    let request = pb::MemberPromoteRequest { id: 7 }.encode_to_vec();
    let answer = world.raw("admin").await.call(Method::MemberPromote.path(), &request).await;
    let bytes = answer.messages()[0];
    assert_eq!(pb::MemberPromoteResponse::decode(bytes).unwrap().members[0].client_ur_ls, [PROXY]);
    assert!(bytes.ends_with(b"\xfa\x3e\x03new"));
}

#[tokio::test]
async fn without_the_setting_answers_pass_byte_for_byte() {
    let (etcd, list) = lists_members().await;
    let world = etcd.world(POLICY).await;
    let mut raw = world.raw("admin").await;
    for method in [
        Method::MemberList,
        Method::MemberAdd,
        Method::MemberRemove,
        Method::MemberUpdate,
        Method::MemberPromote,
    ] {
        // An update without a URL is refused: it would crash the other members.
        let request =
            pb::MemberUpdateRequest { id: 7, peer_ur_ls: vec!["http://127.0.0.1:1".to_owned()] }
                .encode_to_vec();
        let message = if method == Method::MemberUpdate { &request[..] } else { b"" };
        assert_eq!(raw.call(method.path(), message).await.messages(), [&list[..]], "{method:?}");
    }
}

#[tokio::test]
async fn a_client_that_syncs_its_endpoints_stays_with_the_proxy() {
    // The URL must be known before the proxy has its port.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("https://127.0.0.1:{port}");
    let listed = advertise(Some(&url), &[]);
    let world = World::with(POLICY)
        .config(move |config| {
            config.listen_addr.set_port(port);
            config.advertise = listed;
        })
        .start()
        .await;
    assert_eq!(world.endpoint(), url);
    // The command lists the members and then calls each of them. etcd itself would not trust this
    // client's CA.
    let said = world
        .etcdctl("admin", &["endpoint", "status", "--cluster", "--write-out", "json"])
        .await
        .ok();
    let statuses: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(statuses.as_array().unwrap().len(), 1);
    assert_eq!(statuses[0]["Endpoint"], *url);
    world
        .audited(|line| {
            line["method"] == Method::Status.path() && line["identity"]["cn"] == "admin"
        })
        .await;
}
