//! A fake etcd that behaves as a test says and records its requests.

use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use etcd_warden_gateway::config::{Config, Endpoint};
use etcd_warden_proto::etcdserverpb::{
    Member, MemberListResponse, RangeResponse, ResponseHeader, StatusResponse,
};
use etcd_warden_testbed::pki::Issued;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::raw::framed;
use super::{World, authorities};

/// The server. Dropping it ends it.
pub struct Fake {
    pub address: SocketAddr,
    arrivals: Arrivals,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

pub type Arrivals = Arc<Notes>;

/// Records of a fake, and the health that it reports.
#[derive(Default)]
pub struct Notes {
    arrivals: Mutex<Vec<Arrival>>,
    /// The paths of the proxy's own health checks.
    questions: Mutex<Vec<String>>,
    health: Mutex<FakeHealth>,
}

/// The health that a fake reports to the proxy, in etcd's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FakeHealth {
    /// A voting member that knows a leader.
    #[default]
    Well,
    /// `etcdserver: no leader`, for calls that ask for a leader.
    Leaderless,
    /// `etcdserver: rpc not supported for learner`.
    Learner,
    /// It is not in its own list of members.
    Removed,
}

/// A request, recorded with its headers before anything is done with it.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub path: String,
    pub headers: HeaderMap,
    /// The part of its body that [`Visit::body`] has read.
    pub body: Vec<u8>,
    /// How its client ended the stream, if [`Visit::reset`] noticed.
    pub reset: Option<Reason>,
}

/// A request that is being handled.
pub struct Visit {
    pub path: String,
    body: RecvStream,
    pub respond: SendResponse<Bytes>,
    pub connection: Control,
    /// The number of earlier requests, health checks excluded.
    pub index: usize,
    arrivals: Arrivals,
}

/// Actions on the connection that a request arrived on.
#[derive(Clone)]
pub struct Control(mpsc::UnboundedSender<Command>);

enum Command {
    Drop,
    GoAway(Reason),
    GoAwayGracefully,
}

impl Fake {
    /// Speaks HTTP/2, responds to health checks, and leaves all other requests to `behave`.
    pub async fn serving<F, A>(behave: F) -> Self
    where
        F: Fn(Visit) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let behave = Arc::new(behave);
        Self::talking(&certificate(), move |stream, arrivals| {
            http2(stream, arrivals, behave.clone())
        })
        .await
    }

    /// Like [`Fake::agreeable`], but the first `connections` connections get no response after
    /// their TLS handshake.
    pub async fn silent_at_first(connections: usize) -> Self {
        let behave = Arc::new(|mut visit: Visit| async move {
            visit.body().await;
            visit.answer(b"");
        });
        let seen = Arc::new(AtomicUsize::new(0));
        Self::talking(&certificate(), move |stream, arrivals| {
            let (behave, seen) = (behave.clone(), seen.clone());
            async move {
                if seen.fetch_add(1, Ordering::SeqCst) < connections {
                    return std::future::pending().await;
                }
                http2(stream, arrivals, behave).await;
            }
        })
        .await
    }

    /// Responds to every call with an empty message.
    pub async fn agreeable() -> Self {
        Self::serving(|mut visit: Visit| async move {
            visit.body().await;
            visit.answer(b"");
        })
        .await
    }

    /// Speaks TLS with this certificate and then runs `talk`.
    pub async fn talking<F, A>(certificate: &Issued, talk: F) -> Self
    where
        F: Fn(TlsStream<TcpStream>, Arrivals) -> A + Send + Sync + 'static,
        A: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = acceptor(certificate);
        let (arrivals, connections) = (Arrivals::default(), Arc::new(AtomicUsize::new(0)));
        let (noted, counted) = (arrivals.clone(), connections.clone());
        let task = tokio::spawn(async move {
            // Dropped with this task, so no connection survives the server.
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let accepted = acceptor.accept(stream).await;
                counted.fetch_add(1, Ordering::SeqCst);
                if let Ok(stream) = accepted {
                    open.spawn(talk(stream, noted.clone()));
                }
            }
        });
        Self { address, arrivals, connections, task: task.abort_handle() }
    }

    /// The endpoint for the proxy's configuration.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            tls: true,
            host: self.address.ip().to_string().into(),
            port: self.address.port(),
        }
    }

    /// A proxy with this policy in front of the fake.
    pub async fn world(&self, policy: &str) -> World {
        World::with(policy).config(self.replace_etcd()).start().await
    }

    /// The configuration change that replaces etcd by the fake.
    pub fn replace_etcd(&self) -> impl FnOnce(&mut Config) + Send + 'static {
        let endpoint = self.endpoint();
        move |config| config.upstream.endpoints = vec![endpoint]
    }

    /// The requests to a method so far. `rpc` is its name alone, as in etcd's `rpc.proto`.
    pub fn arrivals(&self, rpc: &str) -> Vec<Arrival> {
        let path = format!("/{rpc}");
        let all = self.arrivals.arrivals.lock().unwrap();
        all.iter().filter(|arrival| arrival.path.ends_with(&path)).cloned().collect()
    }

    /// The number of requests for this RPC so far that are `wanted`. It copies none: a flood asks
    /// often.
    pub fn count(&self, rpc: &str, wanted: impl Fn(&Arrival) -> bool) -> usize {
        let path = format!("/{rpc}");
        let all = self.arrivals.arrivals.lock().unwrap();
        all.iter().filter(|arrival| arrival.path.ends_with(&path) && wanted(arrival)).count()
    }

    /// All requests so far, health checks excluded.
    pub fn all_arrivals(&self) -> Vec<Arrival> {
        self.arrivals.arrivals.lock().unwrap().clone()
    }

    /// Sets the health that it reports from now on.
    pub fn set_health(&self, state: FakeHealth) {
        *self.arrivals.health.lock().unwrap() = state;
    }

    /// The number of health checks with this method (its name alone).
    pub fn questions(&self, rpc: &str) -> usize {
        self.arrivals
            .questions
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.ends_with(&format!("/{rpc}")))
            .count()
    }

    /// The number of connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Visit {
    /// Reads the request to its end.
    pub async fn body(&mut self) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Some(Ok(chunk)) = self.body.data().await {
            let _ = self.body.flow_control().release_capacity(chunk.len());
            whole.extend_from_slice(&chunk);
        }
        self.arrivals.arrivals.lock().unwrap()[self.index].body.clone_from(&whole);
        whole
    }

    /// Waits until the client resets the stream, which has no response yet, and records it.
    pub async fn reset(&mut self) {
        let reason = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.was_reset(reason);
    }

    /// Like [`Visit::reset`], for a stream whose response has begun.
    pub async fn reset_amid(&self, out: &mut SendStream<Bytes>) {
        let reason = poll_fn(|cx| out.poll_reset(cx)).await;
        self.was_reset(reason);
    }

    /// An end of the whole connection is recorded as `CONNECT_ERROR`.
    fn was_reset(&self, reason: Result<Reason, h2::Error>) {
        self.arrivals.arrivals.lock().unwrap()[self.index].reset =
            Some(reason.unwrap_or(Reason::CONNECT_ERROR));
    }

    /// Sends a complete response with one message.
    pub fn answer(&mut self, message: &[u8]) {
        let mut out = self.begin(message);
        out.send_trailers(trailers(0, "")).unwrap();
    }

    /// Sends headers and one message. The rest is up to the test.
    pub fn begin(&mut self, message: &[u8]) -> SendStream<Bytes> {
        let mut out = self.head();
        out.send_data(framed(message).into(), false).unwrap();
        out
    }

    /// Sends the headers of a response.
    pub fn head(&mut self) -> SendStream<Bytes> {
        let response =
            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        self.respond.send_response(response, false).unwrap()
    }

    /// Sends a response that is only a status.
    pub fn status(&mut self, code: u32, message: &str) {
        let mut response =
            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        response.headers_mut().extend(trailers(code, message));
        self.respond.send_response(response, true).unwrap();
    }
}

impl Control {
    /// Closes the TCP connection without GOAWAY. Never returns, so that the stream sends nothing
    /// more either.
    pub async fn drop_it(&self) {
        let _ = self.0.send(Command::Drop);
        std::future::pending::<()>().await;
    }

    /// Sends GOAWAY and lets open streams continue, as etcd does when it stops.
    pub fn go_away_gracefully(&self) {
        let _ = self.0.send(Command::GoAwayGracefully);
    }

    /// Sends GOAWAY and ends the connection.
    pub fn go_away(&self, reason: Reason) {
        let _ = self.0.send(Command::GoAway(reason));
    }
}

/// The trailers of a response.
pub fn trailers(code: u32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    if !message.is_empty() {
        trailers.insert("grpc-message", message.parse().unwrap());
    }
    trailers
}

/// A certificate that the proxy accepts as etcd's.
pub fn certificate() -> Issued {
    authorities().upstream.server(&["127.0.0.1"]).unwrap()
}

fn acceptor(issued: &Issued) -> TlsAcceptor {
    let chain =
        CertificateDer::pem_slice_iter(issued.certificate.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The server of [`Fake::serving`], over any stream.
pub async fn http2<S, F, A>(stream: S, arrivals: Arrivals, behave: Arc<F>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(Visit) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    // etcd has no such limits.
    let mut settings = h2::server::Builder::new();
    settings
        .max_pending_accept_reset_streams(1 << 20)
        .max_local_error_reset_streams(None)
        .data_frame_budget(usize::MAX);
    let Ok(mut connection) = settings.handshake(stream).await else { return };
    let (control, mut commands) = mpsc::unbounded_channel();
    let mut calls = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(Command::GoAway(reason)) => {
                    connection.abrupt_shutdown(reason);
                    continue;
                }
                Some(Command::GoAwayGracefully) => {
                    connection.graceful_shutdown();
                    continue;
                }
                Some(Command::Drop) | None => return,
            },
            accepted = connection.accept() => accepted,
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let Some(visit) = visit(request, respond, &arrivals, &control) else { continue };
        calls.spawn(behave(visit));
    }
}

/// Records a request. A health check is answered right away.
fn visit(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    arrivals: &Arrivals,
    control: &mpsc::UnboundedSender<Command>,
) -> Option<Visit> {
    let (head, body) = request.into_parts();
    let path = head.uri.path_and_query().unwrap().to_string();
    let is_own = head
        .headers
        .get("user-agent")
        .is_some_and(|agent| agent.as_bytes().starts_with(b"etcd-warden/"));
    let state = *arrivals.health.lock().unwrap();
    if is_own && let Some(answer) = health(&path, state, head.headers.contains_key("hasleader")) {
        arrivals.questions.lock().unwrap().push(path);
        let mut response =
            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        match answer {
            Ok(message) => {
                let mut out = respond.send_response(response, false).unwrap();
                out.send_data(framed(&message).into(), false).unwrap();
                out.send_trailers(trailers(0, "")).unwrap();
            }
            Err(text) => {
                response.headers_mut().extend(trailers(14, text));
                respond.send_response(response, true).unwrap();
            }
        }
        return None;
    }
    let mut noted = arrivals.arrivals.lock().unwrap();
    let index = noted.len();
    noted.push(Arrival {
        path: path.clone(),
        headers: head.headers,
        body: Vec::new(),
        reset: None,
    });
    drop(noted);
    Some(Visit {
        path,
        body,
        respond,
        connection: Control(control.clone()),
        index,
        arrivals: arrivals.clone(),
    })
}

/// The response to a health check; `None` for any other path.
fn health(
    path: &str,
    state: FakeHealth,
    asks_for_leader: bool,
) -> Option<Result<Vec<u8>, &'static str>> {
    let header = Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
    let member = |id| Member { id, ..Member::default() };
    Some(match path {
        "/etcdserverpb.Cluster/MemberList" if state == FakeHealth::Learner => {
            Err("etcdserver: rpc not supported for learner")
        }
        "/etcdserverpb.Cluster/MemberList"
            if state == FakeHealth::Leaderless && asks_for_leader =>
        {
            Err("etcdserver: no leader")
        }
        "/etcdserverpb.Cluster/MemberList" => {
            let members = if state == FakeHealth::Removed {
                vec![member(2)]
            } else {
                vec![member(1), member(2)]
            };
            Ok(MemberListResponse { header, members }.encode_to_vec())
        }
        "/etcdserverpb.KV/Range" => {
            Ok(RangeResponse { header, ..RangeResponse::default() }.encode_to_vec())
        }
        "/etcdserverpb.Maintenance/Status" => {
            Ok(StatusResponse { header, leader: 1, ..StatusResponse::default() }.encode_to_vec())
        }
        _ => return None,
    })
}
