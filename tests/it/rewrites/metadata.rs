//! Which metadata reaches etcd.

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::ClientTokens;
use etcd_warden_proto::etcdserverpb::RangeRequest;
use http::HeaderMap;
use prost::Message as _;

use super::POLICY;
use crate::world::World;
use crate::world::fake::Fake;
use crate::world::raw::{framed, grpc_headers};

const SENT: [(&str, &str); 14] = [
    ("hasleader", "true"),
    ("client-api-version", "3.7"),
    ("grpc-timeout", "9S"),
    ("user-agent", "a client"),
    ("grpc-encoding", "identity"),
    ("grpc-accept-encoding", "gzip"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("tracestate", "a=b"),
    ("token", "t0"),
    ("authorization", "t1"),
    ("grpcgateway-accept", "application/json"),
    ("grpcgateway-authorization", "t2"),
    ("x-forwarded-for", "10.0.0.1"),
    ("etcd-warden-reason", "none"),
];

/// The entries of [`SENT`] that reached etcd.
async fn arrived(policy: &str, tokens: ClientTokens) -> Vec<&'static str> {
    let etcd = Fake::agreeable().await;
    let world = World::with(policy)
        .config(etcd.replace_etcd())
        .config(move |config| config.client_tokens = tokens)
        .start()
        .await;
    let mut headers = grpc_headers();
    for (name, value) in SENT {
        headers.insert(name, value.parse().unwrap());
    }
    let answer =
        world.raw("admin").await.send(Method::MemberList.path(), &headers, &framed(b"")).await;
    assert_eq!(answer.grpc_status(), Some(0));
    let arrival: HeaderMap = etcd.arrivals("MemberList").remove(0).headers;
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        assert_eq!(arrival[name], value);
    }
    SENT.iter()
        .filter(|(name, value)| arrival.get(*name).is_some_and(|got| got == value))
        .map(|(name, _)| *name)
        .collect()
}

/// The first entries of [`SENT`], up to and including the tokens.
fn listed() -> (Vec<&'static str>, Vec<&'static str>) {
    let all: Vec<_> = SENT.iter().map(|(name, _)| *name).collect();
    let tokens = all.iter().position(|name| *name == "token").unwrap();
    (all[..tokens].to_vec(), all[..tokens + 2].to_vec())
}

#[tokio::test]
async fn a_list_of_metadata_goes_to_etcd() {
    let (mut without_tokens, mut all) = listed();
    // Messages are forwarded unpacked.
    for names in [&mut without_tokens, &mut all] {
        names.retain(|name| *name != "grpc-encoding");
    }
    assert_eq!(arrived(POLICY, ClientTokens::Forward).await, all);
    assert_eq!(arrived(POLICY, ClientTokens::Strip).await, without_tokens);
}

#[tokio::test]
async fn shadow_mode_drops_only_grpcgateway_and_stripped_metadata() {
    let policy = POLICY.replace("enforce", "shadow");
    let (without_tokens, all) = listed();
    let unknown = ["x-forwarded-for", "etcd-warden-reason"];
    assert_eq!(arrived(&policy, ClientTokens::Forward).await, [&all[..], &unknown].concat());
    assert_eq!(
        arrived(&policy, ClientTokens::Strip).await,
        [&without_tokens[..], &unknown].concat()
    );
}

/// etcd announces gRPC's own trailers in the headers of each response.
#[tokio::test]
async fn the_names_of_trailers_come_back_in_shadow_mode_alone() {
    let range = RangeRequest { key: b"a".to_vec(), ..RangeRequest::default() }.encode_to_vec();
    for (mode, come) in [("enforce", false), ("shadow", true)] {
        let world = World::with(&POLICY.replace("enforce", mode)).start().await;
        let answer = world.raw("admin").await.call(Method::Range.path(), &range).await;
        assert_eq!(answer.grpc_status(), Some(0));
        assert_eq!(answer.headers.contains_key("trailer"), come, "{mode}: {answer:?}");
    }
}
