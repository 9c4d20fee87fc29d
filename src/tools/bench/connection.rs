//! One HTTP/2 connection of a client, opened again when it is lost. No layer between a request and
//! `h2`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame::{self, FrameFault, Frames};
use etcd_warden_core::wire::status;
use etcd_warden_gateway::config::Endpoint;
use etcd_warden_gateway::tls::server_name;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::uri::{PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method as Verb, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

pub use super::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two attempts to open a connection that could not be opened.
const PAUSE: Duration = Duration::from_millis(100);

/// No server waits for our windows: the client is not what is measured.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Bytes of one answer that are held, unless [`Connection::with_answers_up_to`] says otherwise: a
/// page of 5,000 keys, or a value.
const ANSWER: usize = 64 << 20;

/// A place to connect to, as somebody.
#[derive(Clone, Debug)]
pub struct Door {
    /// Where.
    pub endpoint: Endpoint,
    /// As whom; `None` for plain text.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// A connection, or the will to have one. Everything happens on one thread.
pub struct Connection {
    door: Door,
    live: RefCell<Option<Live>>,
    /// Held while it is opened, so that its streams do not all open one.
    opening: Mutex<()>,
    authority: String,
    headers: HeaderMap,
    answer: usize,
}

#[derive(Clone)]
struct Live {
    sender: SendRequest<Bytes>,
    ended: Rc<Cell<bool>>,
}

impl Connection {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(door: Door) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert(
            "user-agent",
            HeaderValue::from_static(concat!("etcd-warden-bench/", env!("CARGO_PKG_VERSION"))),
        );
        let authority = door.endpoint.authority();
        Self {
            door,
            live: RefCell::default(),
            opening: Mutex::new(()),
            authority,
            headers,
            answer: ANSWER,
        }
    }

    /// Takes messages of so many bytes; without it, of 64 MiB. A longer one is a failure as soon as
    /// its header says so.
    #[must_use]
    pub fn with_answers_up_to(mut self, bytes: usize) -> Self {
        self.answer = bytes;
        self
    }

    /// Opens it, unless it is open.
    ///
    /// # Errors
    /// What went wrong, a moment after it did: nobody is to try in a tight circle.
    pub async fn open(&self) -> Result<(), Failure> {
        self.live().await.map(drop)
    }

    async fn live(&self) -> Result<Live, Failure> {
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let _turn = self.opening.lock().await;
        if let Some(live) = self.usable() {
            return Ok(live);
        }
        let opened = timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .unwrap_or_else(|_| Err("no connection within 10 s".to_owned()));
        match opened {
            Ok(live) => {
                *self.live.borrow_mut() = Some(live.clone());
                Ok(live)
            }
            Err(why) => {
                tokio::time::sleep(PAUSE).await;
                Err(Failure::NoConnection(why))
            }
        }
    }

    fn usable(&self) -> Option<Live> {
        self.live.borrow().clone().filter(|live| !live.ended.get())
    }

    async fn connect(&self) -> Result<Live, String> {
        let endpoint = &self.door.endpoint;
        let tcp = TcpStream::connect((&*endpoint.host, endpoint.port))
            .await
            .map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        match self.door.tls.as_ref().filter(|_| endpoint.tls) {
            None => greet(tcp).await,
            Some(tls) => {
                let name = server_name(endpoint).map_err(|error| error.to_string())?;
                greet(
                    TlsConnector::from(tls.clone())
                        .connect(name, tcp)
                        .await
                        .map_err(|error| error.to_string())?,
                )
                .await
            }
        }
    }

    /// Begins a call; what is sent goes through the first half, what is answered comes from the
    /// second.
    ///
    /// # Errors
    /// There is no connection, or it takes no stream.
    pub async fn begin(
        &self,
        method: Method,
    ) -> Result<(SendStream<Bytes>, ResponseFuture), Failure> {
        let request = self.request(method.path());
        let mut live = self.live().await?;
        let refused = |error: h2::Error| {
            live.ended.set(true);
            Failure::NoConnection(error.to_string())
        };
        poll_fn(|cx| live.sender.poll_ready(cx)).await.map_err(refused)?;
        let (response, body) = live
            .sender
            .send_request(request, false)
            .map_err(|error| Failure::NoConnection(error.to_string()))?;
        Ok((body, response))
    }

    fn request(&self, path: &'static str) -> Request<()> {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.door.endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = self.authority.parse().ok();
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// One message, and the one that answers it.
    ///
    /// # Errors
    /// Whatever comes instead.
    pub async fn call(
        &self,
        method: Method,
        message: Bytes,
        patience: Duration,
    ) -> Result<Bytes, Failure> {
        timeout(patience, self.unary(method, message)).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn unary(&self, method: Method, message: Bytes) -> Result<Bytes, Failure> {
        let (mut send, response) = self.begin(method).await?;
        send.send_data(message, true).map_err(lost)?;
        let mut answer = self.answer(response).await?;
        let message = answer
            .message()
            .await?
            .ok_or_else(|| Failure::NotGrpc("OK without a message".to_owned()))?;
        // Looked at before more is read: a second message may be the first of a stream without end.
        if answer.message().await?.is_some() {
            return Err(Failure::NotGrpc("a second message where there is one".to_owned()));
        }
        Ok(message)
    }

    /// The answer to what has begun; nothing of it is held but one message.
    ///
    /// # Errors
    /// It is a status alone, or none came.
    pub async fn answer(&self, response: ResponseFuture) -> Result<Answer, Failure> {
        Answer::of(response, self.answer).await
    }
}

/// The answer of a call, as it comes.
pub struct Answer {
    body: RecvStream,
    frames: Frames,
}

impl Answer {
    /// Waits for its head.
    async fn of(response: ResponseFuture, most: usize) -> Result<Self, Failure> {
        let (head, body) = response.await.map_err(lost)?.into_parts();
        if let Some(ended) = ended(&head.headers) {
            return Err(ended
                .err()
                .unwrap_or_else(|| Failure::NotGrpc("OK without a message".to_owned())));
        }
        if !head.status.is_success() {
            return Err(Failure::NotGrpc(format!("HTTP status {}", head.status)));
        }
        Ok(Self { body, frames: Frames::new(most) })
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        let Some(chunk) = self.body.data().await else { return Ok(None) };
        let chunk = chunk.map_err(lost)?;
        let _ = self.body.flow_control().release_capacity(chunk.len());
        Ok(Some(chunk))
    }

    /// The next message; `None` at the end, when the status is OK.
    ///
    /// # Errors
    /// Another status, or no gRPC.
    pub async fn message(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(framed) =
                self.frames.next().map_err(|fault| Failure::NotGrpc(fault.to_string()))?
            {
                if frame::is_compressed(&framed) {
                    return Err(Failure::NotGrpc(frame::FrameFault::Compressed.to_string()));
                }
                return Ok(Some(framed.slice(frame::HEADER..)));
            }
            match self.chunk().await? {
                Some(chunk) => self.frames.push(chunk),
                None => {
                    self.end().await?;
                    return if self.frames.is_empty() {
                        Ok(None)
                    } else {
                        Err(Failure::NotGrpc(FrameFault::Cut.to_string()))
                    };
                }
            }
        }
    }

    async fn end(&mut self) -> Result<(), Failure> {
        let trailers = self.body.trailers().await.map_err(lost)?.unwrap_or_default();
        ended(&trailers)
            .unwrap_or_else(|| Err(Failure::NotGrpc("an answer without a status".to_owned())))
    }
}

/// How the call ended, if these headers say it.
fn ended(headers: &HeaderMap) -> Option<Result<(), Failure>> {
    status::code(headers).map(|code| match code {
        0 => Ok(()),
        _ => Err(Failure::Grpc(code, Escaped(&status::message(headers)).to_string())),
    })
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn lost(error: h2::Error) -> Failure {
    Failure::Lost(error.to_string())
}

async fn greet<S>(stream: S) -> Result<Live, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (sender, connection) = h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(256 * 1024)
        .enable_push(false)
        .handshake::<_, Bytes>(stream)
        .await
        .map_err(|error| error.to_string())?;
    let ended = Rc::new(Cell::new(false));
    let driven = ended.clone();
    tokio::task::spawn_local(async move {
        // What it ended with is told to each of its streams.
        let _ = connection.await;
        driven.set(true);
    });
    Ok(Live { sender, ended })
}
