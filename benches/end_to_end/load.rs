//! A closed loop over HTTP/2: so many connections, so many streams on each, every answer looked at.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use etcd_warden::method::Method;
use etcd_warden::pb::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use etcd_warden::pb::etcdserverpb::{Compare, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op};
use etcd_warden::wire::frame;
use futures_util::future::join_all;
use http::{HeaderValue, Request};
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// One sort of request.
pub struct Load {
    pub name: &'static str,
    pub rpc: &'static str,
    path: &'static str,
    body: Bytes,
}

/// Where requests go.
pub struct Target {
    pub address: std::net::SocketAddr,
    pub tls: Arc<rustls::ClientConfig>,
}

/// What one slice of load saw.
pub struct Slice {
    /// Sorted.
    pub latencies: Vec<Duration>,
}

impl Slice {
    pub fn quantile(&self, quantile: f64) -> Duration {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
        let place = (self.latencies.len() as f64 * quantile) as usize;
        self.latencies[place.min(self.latencies.len() - 1)]
    }
}

impl Load {
    fn new(name: &'static str, method: Method, message: &impl Message) -> Self {
        Self { name, rpc: method.rpc(), path: method.path(), body: frame::encode(&message.encode_to_vec()) }
    }

    pub fn range(key: &[u8]) -> Self {
        let request = RangeRequest { key: key.to_vec(), serializable: true, ..RangeRequest::default() };
        Self::new("serializable Range of one 100-byte key", Method::Range, &request)
    }

    pub fn put(key: &[u8]) -> Self {
        Self::new("Put of 100 bytes", Method::Put, &PutRequest { key: key.to_vec(), value: vec![b'v'; 100], ..PutRequest::default() })
    }

    /// As libcalico-go updates: one compare, one Put, and a Range of the same key where the compare fails (as it always does here).
    pub fn guarded_txn(key: &[u8]) -> Self {
        let compare = Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.to_vec(),
            target_union: Some(TargetUnion::ModRevision(i64::MAX)),
            ..Compare::default()
        };
        let put = PutRequest { key: key.to_vec(), value: vec![b'v'; 100], ..PutRequest::default() };
        let range = RangeRequest { key: key.to_vec(), ..RangeRequest::default() };
        let op = |request| RequestOp { request: Some(request) };
        let txn = TxnRequest {
            compare: vec![compare],
            success: vec![op(request_op::Request::RequestPut(put))],
            failure: vec![op(request_op::Request::RequestRange(range))],
        };
        Self::new("guarded Txn", Method::Txn, &txn)
    }

    /// Sends `requests` over fresh connections; the handshakes come before the first one is timed.
    pub async fn run(&self, target: &Target, connections: usize, streams: usize, requests: usize) -> Slice {
        let left = AtomicIsize::new(requests.try_into().unwrap());
        let senders = join_all((0..connections).map(|_| target.connect())).await;
        let loops = senders.iter().flat_map(|sender| (0..streams).map(|_| self.take_turns(sender.clone(), target, &left)));
        let mut latencies: Vec<Duration> = join_all(loops).await.into_iter().flatten().collect();
        latencies.sort();
        Slice { latencies }
    }

    async fn take_turns(&self, mut sender: h2::client::SendRequest<Bytes>, target: &Target, left: &AtomicIsize) -> Vec<Duration> {
        let mut latencies = Vec::new();
        while left.fetch_sub(1, Ordering::Relaxed) > 0 {
            let begun = Instant::now();
            self.call(&mut sender, target).await;
            latencies.push(begun.elapsed());
        }
        latencies
    }

    async fn call(&self, sender: &mut h2::client::SendRequest<Bytes>, target: &Target) {
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let mut request = Request::post(format!("https://{}{}", target.address, self.path)).body(()).unwrap();
        let headers = request.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert("user-agent", HeaderValue::from_static("grpc-go/1.83.2"));
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data(self.body.clone(), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let mut length = 0;
        while let Some(chunk) = body.data().await {
            let chunk = chunk.unwrap();
            length += chunk.len();
            body.flow_control().release_capacity(chunk.len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "0", "{trailers:?}");
        assert!(length > frame::HEADER, "an answer without a message");
    }
}

impl Target {
    async fn connect(&self) -> h2::client::SendRequest<Bytes> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        let stream = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move {
            // Ends when the slice drops its senders.
            let _ = connection.await;
        });
        sender
    }
}
