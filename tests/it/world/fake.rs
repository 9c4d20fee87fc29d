//! A server where etcd should be, which behaves as a test says and remembers who came.

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

/// The server; it is gone when this is dropped.
pub struct Fake {
    pub address: SocketAddr,
    arrivals: Arrivals,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

pub type Arrivals = Arc<Notes>;

/// What a fake has noted, and what it says of itself.
#[derive(Default)]
pub struct Notes {
    arrivals: Mutex<Vec<Arrival>>,
    /// The paths of the proxy's own questions after its health.
    questions: Mutex<Vec<String>>,
    word: Mutex<Word>,
}

/// What a fake says of itself when the proxy asks for its health, in etcd's words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Word {
    /// A voting member that knows a leader.
    #[default]
    Well,
    /// `etcdserver: no leader`, to what asks for a leader.
    Leaderless,
    /// `etcdserver: rpc not supported for learner`.
    Learner,
    /// It is not in its own list of members.
    Removed,
}

/// A request that came: noted with its head, before anything is done with it.
#[derive(Clone, Debug)]
pub struct Arrival {
    pub path: String,
    pub headers: HeaderMap,
    /// What [`Visit::body`] has read of its body.
    pub body: Vec<u8>,
    /// How its stream ended on the client's side, if [`Visit::reset`] saw it.
    pub reset: Option<Reason>,
}

/// A request on its way to an answer.
pub struct Visit {
    pub path: String,
    body: RecvStream,
    pub respond: SendResponse<Bytes>,
    pub connection: Control,
    /// How many requests came before this one, questions after the health left out.
    pub place: usize,
    arrivals: Arrivals,
}

/// What can be done to the connection that a request came over.
#[derive(Clone)]
pub struct Control(mpsc::UnboundedSender<Command>);

enum Command {
    Drop,
    GoAway(Reason),
    GoAwayGracefully,
}

impl Fake {
    /// Speaks HTTP/2, says that it is well when it is asked for its status, and leaves everything
    /// else to `behave`.
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

    /// As [`Fake::agreeable`], but so many connections get no answer after their TLS handshake.
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

    /// Answers every call with an empty message, as etcd might.
    pub async fn agreeable() -> Self {
        Self::serving(|mut visit: Visit| async move {
            visit.body().await;
            visit.answer(b"");
        })
        .await
    }

    /// TLS with this certificate, and then whatever `talk` does.
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
            // Dropped with this task, so that nothing outlives the server.
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

    /// How the proxy is told of it.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            tls: true,
            host: self.address.ip().to_string().into(),
            port: self.address.port(),
        }
    }

    /// A proxy with this policy in front of it.
    pub async fn world(&self, policy: &str) -> World {
        World::with(policy).config(self.in_place_of_etcd()).start().await
    }

    /// The change of a configuration that puts it where etcd was.
    pub fn in_place_of_etcd(&self) -> impl FnOnce(&mut Config) + Send + 'static {
        let endpoint = self.endpoint();
        move |config| config.upstream.endpoints = vec![endpoint]
    }

    /// The requests to a method so far (its name alone, as etcd's `rpc.proto` has it).
    pub fn arrivals(&self, rpc: &str) -> Vec<Arrival> {
        self.all_arrivals()
            .into_iter()
            .filter(|arrival| arrival.path.ends_with(&format!("/{rpc}")))
            .collect()
    }

    /// All requests so far but for the questions after its health.
    pub fn all_arrivals(&self) -> Vec<Arrival> {
        self.arrivals.arrivals.lock().unwrap().clone()
    }

    /// What it says of itself from now on.
    pub fn says(&self, word: Word) {
        *self.arrivals.word.lock().unwrap() = word;
    }

    /// How often the proxy has asked it this about its health (the method's name alone).
    pub fn questions(&self, rpc: &str) -> usize {
        self.arrivals
            .questions
            .lock()
            .unwrap()
            .iter()
            .filter(|path| path.ends_with(&format!("/{rpc}")))
            .count()
    }

    /// How many connections there were so far.
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
        self.arrivals.arrivals.lock().unwrap()[self.place].body.clone_from(&whole);
        whole
    }

    /// Waits until the client resets the stream, which has no answer yet, and notes it.
    pub async fn reset(&mut self) {
        let reason = poll_fn(|cx| self.respond.poll_reset(cx)).await;
        self.was_reset(reason);
    }

    /// As [`Visit::reset`], of a stream whose answer has begun.
    pub async fn reset_amid(&self, out: &mut SendStream<Bytes>) {
        let reason = poll_fn(|cx| out.poll_reset(cx)).await;
        self.was_reset(reason);
    }

    /// An end of the whole connection counts as `CONNECT_ERROR`.
    fn was_reset(&self, reason: Result<Reason, h2::Error>) {
        self.arrivals.arrivals.lock().unwrap()[self.place].reset =
            Some(reason.unwrap_or(Reason::CONNECT_ERROR));
    }

    /// A whole answer of one message.
    pub fn answer(&mut self, message: &[u8]) {
        let mut out = self.begin(message);
        out.send_trailers(trailers(0, "")).unwrap();
    }

    /// The head of an answer and one message; what follows is the caller's.
    pub fn begin(&mut self, message: &[u8]) -> SendStream<Bytes> {
        let mut out = self.head();
        out.send_data(framed(message).into(), false).unwrap();
        out
    }

    /// The head of an answer.
    pub fn head(&mut self) -> SendStream<Bytes> {
        let response =
            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        self.respond.send_response(response, false).unwrap()
    }

    /// An answer that is a status alone.
    pub fn status(&mut self, code: u32, message: &str) {
        let mut response =
            Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        response.headers_mut().extend(trailers(code, message));
        self.respond.send_response(response, true).unwrap();
    }
}

impl Control {
    /// Ends the TCP connection, without a word. Never comes back, so that the stream says no last
    /// word either.
    pub async fn drop_it(&self) {
        let _ = self.0.send(Command::Drop);
        std::future::pending::<()>().await;
    }

    /// Says GOAWAY and lets the streams that are open go on, as etcd does when it stops.
    pub fn go_away_gracefully(&self) {
        let _ = self.0.send(Command::GoAwayGracefully);
    }

    /// Says GOAWAY and ends the connection.
    pub fn go_away(&self, reason: Reason) {
        let _ = self.0.send(Command::GoAway(reason));
    }
}

/// The trailers of an answer.
pub fn trailers(code: u32, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", code.into());
    if !message.is_empty() {
        trailers.insert("grpc-message", message.parse().unwrap());
    }
    trailers
}

/// A certificate that the proxy takes for etcd's.
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

/// What [`Fake::serving`] does, over any stream.
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

/// Notes a request; one after the health is answered here.
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
    let word = *arrivals.word.lock().unwrap();
    if is_own && let Some(answer) = health(&path, word, head.headers.contains_key("hasleader")) {
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
    let place = noted.len();
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
        place,
        arrivals: arrivals.clone(),
    })
}

/// The answer to a question after the health; `None` for a path that is none.
fn health(path: &str, word: Word, asks_for_leader: bool) -> Option<Result<Vec<u8>, &'static str>> {
    let header = Some(ResponseHeader { cluster_id: 1, member_id: 1, revision: 1, raft_term: 1 });
    let member = |id| Member { id, ..Member::default() };
    Some(match path {
        "/etcdserverpb.Cluster/MemberList" if word == Word::Learner => {
            Err("etcdserver: rpc not supported for learner")
        }
        "/etcdserverpb.Cluster/MemberList" if word == Word::Leaderless && asks_for_leader => {
            Err("etcdserver: no leader")
        }
        "/etcdserverpb.Cluster/MemberList" => {
            let members =
                if word == Word::Removed { vec![member(2)] } else { vec![member(1), member(2)] };
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
