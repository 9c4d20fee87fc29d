use std::net::SocketAddr;

use etcd_warden_core::policy::Mode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(checks: Vec<Check>, debug: bool) -> Server {
    let streams = || {
        vec![StreamView {
            identity: "default/cn:alice".into(),
            method: "/etcdserverpb.Watch/Watch",
            age_seconds: 7,
            watches: 2,
        }]
    };
    let state = AdminState {
        metrics: Metrics::new(),
        readiness: Box::new(move || checks.clone()),
        policy: Box::new(|| PolicyView {
            generation: 3,
            hash: "ab12".into(),
            source: "file",
            mode: Mode::Enforce,
            mode_override: None,
            roles: vec!["calico-node".into()],
            bindings: 1,
            last_error: Some("policy.yaml:3:1: unknown field `verb`".into()),
            certificate_errors: [("server", "server.key: is empty".to_owned())].into(),
        }),
        streams: Box::new(streams),
        debug,
        change_mode: Box::new(|_, _| panic!("this address must not change the mode")),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve(listener.into(), Arc::new(state), shutdown.clone()));
    Server { address, shutdown, task }
}

impl Server {
    /// The whole response to these bytes. The server closes the connection after it.
    async fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // After refusing a long header the server may reset the connection.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = self.raw(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[tokio::test]
async fn each_page_answers() {
    let server = start(vec![], true).await;
    let (status, metrics) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(metrics.contains("# TYPE etcd_warden_connections gauge\n"), "{metrics}");
    assert_eq!(server.get("/livez").await, (200, "ok\n".to_owned()));
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
    assert_eq!(
        json(server.get("/policy").await.1),
        serde_json::json!({
            "generation": 3,
            "hash": "ab12",
            "source": "file",
            "mode": "enforce",
            "mode_override": null,
            "roles": ["calico-node"],
            "bindings": 1,
            "last_error": "policy.yaml:3:1: unknown field `verb`",
            "certificate_errors": { "server": "server.key: is empty" },
        })
    );
    assert_eq!(
        json(server.get("/debug/streams").await.1),
        serde_json::json!([{
            "identity": "default/cn:alice",
            "method": "/etcdserverpb.Watch/Watch",
            "age_seconds": 7,
            "watches": 2,
        }])
    );
    assert_eq!(server.get("/").await.0, 404);
}

#[tokio::test]
async fn is_ready_if_all_checks_pass() {
    let well = Check { name: "policy", result: Ok(()) };
    let ill = Check { name: "upstream", result: Err("no member\nanswers".into()) };
    let server = start(vec![well.clone()], false).await;
    assert_eq!(
        server.get("/readyz").await,
        (200, "[+]policy ok\nreadyz check passed\n".to_owned())
    );
    let server = start(vec![well, ill], false).await;
    let text = "[+]policy ok\n[-]upstream failed: no member\\x0aanswers\nreadyz check failed\n";
    assert_eq!(server.get("/readyz").await, (503, text.to_owned()));
}

#[tokio::test]
async fn identities_are_shown_only_when_asked_for() {
    let server = start(vec![], false).await;
    let (status, body) = server.get("/debug/streams").await;
    assert_eq!(status, 404);
    assert!(!body.contains("alice"));
}

#[tokio::test]
async fn the_address_refuses_methods_that_change() {
    let server = start(vec![], true).await;
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
        let answer =
            server.raw(format!("{method} /policy HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD"),
            "{answer}"
        );
    }
    let answer =
        server.raw(b"POST /mode HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nshadow").await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    let head = server.raw(b"HEAD /livez HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn refuses_a_header_above_the_limit() {
    let server = start(vec![], false).await;
    let mut request = b"GET /livez HTTP/1.1\r\nx: ".to_vec();
    request.resize(64 * 1024, b'a');
    let answer = server.raw(&request).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(server.get("/livez").await.0, 200);
}

/// Expects that probes are answered while more clients than the limit are connected. Each has sent
/// `request`, and a new one connects when the server closes one.
async fn a_probe_is_answered_beside(request: &'static [u8]) {
    let server = start(vec![], false).await;
    let address = server.address;
    let connect = move || async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let _ = stream.write_all(request).await;
        stream
    };
    let mut held = std::collections::VecDeque::new();
    for _ in 0..4 * MAX_CONNECTIONS {
        held.push_back(connect().await);
    }
    let flood = tokio::spawn(async move {
        loop {
            held.pop_front();
            held.push_back(connect().await);
        }
    });
    for _ in 0..20 {
        let probe = tokio::time::timeout(2 * DEADLINE, server.get("/livez")).await;
        assert_eq!(probe.expect("a response in time").0, 200);
    }
    assert!(!flood.is_finished());
    flood.abort();
}

#[tokio::test]
async fn answers_probes_beside_silent_clients() {
    a_probe_is_answered_beside(b"").await;
}

#[tokio::test]
async fn answers_probes_beside_unfinished_requests() {
    a_probe_is_answered_beside(b"GET /livez HTTP/1.1\r\nhost:").await;
}

#[tokio::test]
async fn answers_probes_beside_clients_that_do_not_read() {
    a_probe_is_answered_beside(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
}

#[tokio::test]
async fn shutdown_ends_the_server() {
    let server = start(vec![], false).await;
    assert_eq!(server.get("/livez").await.0, 200);
    server.shutdown.cancel();
    server.task.await.unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
}
