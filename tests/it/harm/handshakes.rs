//! Connections without a finished handshake or without requests: other clients still connect.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_gateway::config::Network;
use etcd_warden_proto::etcdserverpb as pb;
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::POLICY;
use crate::world::raw::{Raw, tls, tls_over};
use crate::world::{SOON, World, authorities, soon};

/// Asserts that a new client can connect and is served.
async fn a_newcomer_is_served(world: &World) {
    let issued = authorities().clients.client("newcomer").unwrap();
    let range =
        pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec();
    soon("a newcomer's answer", || async {
        let stream =
            tls(world.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.ok()?;
        let answer = Raw::over(stream).await.call(Method::Range.path(), &range).await;
        (answer.grpc_status() == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unfinished_handshakes_keep_no_client_out() {
    let configured = World::with(POLICY).config(|config| {
        config.limits.max_handshakes = 16;
        // No client waits for the end of such a handshake; after a quarter of it others replace it.
        config.limits.handshake_timeout = Duration::from_secs(2);
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    let mut held = Vec::new();
    for place in 0..64 {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        if place % 2 == 0 {
            stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0]).await.unwrap();
        }
        held.push(stream);
        if place % 16 == 15 {
            a_newcomer_is_served(&world).await;
        }
    }
    assert!(world.metric("etcd_warden_limits_hit_total", &[r#"limit="handshakes""#]).await >= 1.0);
    neighbour.is_unharmed().await;
    for mut stream in held {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(crate::world::SOON, stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok(), "a connection is still open");
    }
}

#[tokio::test]
async fn a_flood_of_connections_keeps_no_client_out() {
    let configured = World::with(POLICY).config(|config| {
        config.limits.max_connections = 64;
        config.limits.max_handshakes = 16;
        config.limits.handshake_timeout = Duration::from_secs(2);
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    let address = world.address();
    // Clients that close at once, stay silent, or do not speak TLS, as fast as possible, until the
    // test ends.
    let flood = tokio::spawn(async move {
        let mut held = VecDeque::new();
        let mut place = 0_usize;
        loop {
            place += 1;
            let Ok(mut stream) = TcpStream::connect(address).await else { continue };
            match place % 3 {
                0 => drop(stream),
                1 => drop(stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await),
                _ => held.push_back(stream),
            }
            if held.len() > 200 {
                held.pop_front();
            }
        }
    });
    for _ in 0..10 {
        a_newcomer_is_served(&world).await;
        neighbour.is_unharmed().await;
    }
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn idle_connections_count_only_for_their_identity() {
    let world =
        World::with(POLICY).config(|config| config.limits.max_connections = 32).start().await;
    let neighbour = world.neighbour().await;
    let issued = authorities().clients.client("stranger").unwrap();
    let mut held = Vec::new();
    // TLS is established, but no HTTP/2 follows.
    for _ in 0..64 {
        held.push(tls(world.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await);
    }
    let refused =
        || world.metric("etcd_warden_limits_hit_total", &[r#"limit="connections_per_identity""#]);
    soon("most of them refused", || async { (refused().await >= 32.0).then_some(()) }).await;
    a_newcomer_is_served(&world).await;
    neighbour.is_unharmed().await;
}

/// Asserts that a client from another address than the flood connects at its first attempt.
async fn a_client_from_elsewhere_is_served(world: &World) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 2], 0))).unwrap();
    let issued = authorities().clients.client("newcomer").unwrap();
    let range =
        pb::RangeRequest { key: world.key("a").into(), ..Default::default() }.encode_to_vec();
    let answer = async {
        let stream = socket.connect(world.address()).await.unwrap();
        let stream = tls_over(
            stream,
            &authorities().clients,
            world.address(),
            Some(&issued),
            &[b"h2"],
            rustls::ALL_VERSIONS,
        )
        .await
        .unwrap();
        Raw::over(stream).await.call(Method::Range.path(), &range).await
    };
    let answer = tokio::time::timeout(SOON, answer).await.expect("a new client connects");
    assert_eq!(answer.grpc_status(), Some(0));
}

/// Opens as many sockets as possible, each with these bytes only, until it is dropped.
async fn flood(address: SocketAddr, source: [u8; 4], bytes: &'static [u8]) {
    let mut held = VecDeque::new();
    loop {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from((source, 0))).unwrap();
        if let Ok(mut stream) = socket.connect(address).await {
            let _ = stream.write_all(bytes).await;
            held.push_back(stream);
        }
        if held.len() > 500 {
            held.pop_front();
        }
    }
}

#[tokio::test]
async fn a_flood_of_one_address_keeps_no_other_address_out() {
    let configured = World::with(POLICY).config(|config| {
        config.limits.max_handshakes = 16;
        // Longer than the test, so that an unfinished handshake never times out.
        config.limits.handshake_timeout = Duration::from_secs(300);
    });
    let world = configured.start().await;
    let neighbour = world.neighbour().await;
    for bytes in [b"".as_slice(), &[0x16, 3, 1, 2, 0, 1, 0]] {
        let flood = tokio::spawn(flood(world.address(), [127, 0, 0, 1], bytes));
        soon("more handshakes than the limit", || async {
            (given_way(&world).await >= 100.0).then_some(())
        })
        .await;
        for _ in 0..5 {
            a_client_from_elsewhere_is_served(&world).await;
        }
        neighbour.is_unharmed().await;
        assert!(!flood.is_finished());
        flood.abort();
        let _ = flood.await;
    }
}

async fn given_way(world: &World) -> f64 {
    world.metric("etcd_warden_limits_hit_total", &[r#"limit="handshakes""#]).await
}

#[tokio::test]
async fn clients_of_one_balancer_are_shared_by_their_own_addresses() {
    let configured = World::with(POLICY).config(|config| {
        config.limits.max_handshakes = 16;
        config.limits.handshake_timeout = Duration::from_secs(300);
        config.proxy_protocol_from = vec![Network { address: [127, 0, 0, 1].into(), prefix: 32 }];
    });
    let world = configured.start().await;
    // The address 10.0.0.1, and the beginning of TLS.
    const BEGUN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x01\x7f\0\0\x01\x10\0\0\x01\x16\x03\x01\x02\0\x01\0";
    const HEADER: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x0a\0\0\x02\x7f\0\0\x01\x10\0\0\x01";
    let flood = tokio::spawn(flood(world.address(), [127, 0, 0, 1], BEGUN));
    soon("more handshakes than the limit", || async {
        (given_way(&world).await >= 100.0).then_some(())
    })
    .await;
    let issued = authorities().clients.client("newcomer").unwrap();
    for _ in 0..5 {
        let mut stream = TcpStream::connect(world.address()).await.unwrap();
        stream.write_all(HEADER).await.unwrap();
        let authority = &authorities().clients;
        let stream = tls_over(
            stream,
            authority,
            world.address(),
            Some(&issued),
            &[b"h2"],
            rustls::ALL_VERSIONS,
        );
        tokio::time::timeout(SOON, stream).await.expect("a new client connects").unwrap();
    }
    assert!(!flood.is_finished());
    flood.abort();
}
