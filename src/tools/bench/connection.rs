//! One HTTP/2 connection of a client, directly on `h2`. It is reopened when it is lost.

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

/// Pause before a failed attempt to connect is reported.
const PAUSE: Duration = Duration::from_millis(100);

/// Large windows, so that flow control of the client does not limit the server.
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// Bytes of one response message, unless [`Connection::with_max_message`] sets another limit:
/// enough for a page of 5,000 keys, or a value.
const MAX_MESSAGE: usize = 64 << 20;

/// A server, and the client identity to use.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The server.
    pub endpoint: Endpoint,
    /// TLS configuration with the identity; `None` for plain text.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// A connection that is opened when it is needed. It belongs to one thread.
pub struct Connection {
    destination: Destination,
    live: RefCell<Option<Live>>,
    /// Locked while connecting, so that concurrent streams do not each open a connection.
    opening: Mutex<()>,
    authority: String,
    headers: HeaderMap,
    max_message: usize,
}

#[derive(Clone)]
struct Live {
    sender: SendRequest<Bytes>,
    ended: Rc<Cell<bool>>,
}

impl Connection {
    /// Does not connect yet.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        headers.insert(
            "user-agent",
            HeaderValue::from_static(concat!("etcd-warden-bench/", env!("CARGO_PKG_VERSION"))),
        );
        let authority = destination.endpoint.authority();
        Self {
            destination,
            live: RefCell::default(),
            opening: Mutex::new(()),
            authority,
            headers,
            max_message: MAX_MESSAGE,
        }
    }

    /// Sets the size limit of a response message in bytes. A larger one fails as soon as its gRPC
    /// header has arrived.
    #[must_use]
    pub fn with_max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// Connects, unless it is connected.
    ///
    /// # Errors
    /// Why it failed, after a pause, so that callers do not retry in a tight loop.
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
        let endpoint = &self.destination.endpoint;
        let tcp = TcpStream::connect((&*endpoint.host, endpoint.port))
            .await
            .map_err(|error| error.to_string())?;
        tcp.set_nodelay(true).map_err(|error| error.to_string())?;
        match self.destination.tls.as_ref().filter(|_| endpoint.tls) {
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

    /// Starts a call. Requests are sent through the first value, responses come from the second.
    ///
    /// # Errors
    /// There is no connection, or it accepts no stream.
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
        parts.scheme =
            Some(if self.destination.endpoint.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = self.authority.parse().ok();
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        let mut request = Request::new(());
        *request.method_mut() = Verb::POST;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        request.headers_mut().clone_from(&self.headers);
        request
    }

    /// Sends one message, and returns the response message.
    ///
    /// # Errors
    /// The call failed, or took longer than `request_timeout`.
    pub async fn call(
        &self,
        method: Method,
        message: Bytes,
        request_timeout: Duration,
    ) -> Result<Bytes, Failure> {
        timeout(request_timeout, self.unary(method, message)).await.unwrap_or(Err(Failure::Timeout))
    }

    async fn unary(&self, method: Method, message: Bytes) -> Result<Bytes, Failure> {
        let (mut send, response) = self.begin(method).await?;
        send.send_data(message, true).map_err(lost)?;
        let mut response = self.response(response).await?;
        let message = response
            .message()
            .await?
            .ok_or_else(|| Failure::NotGrpc("status OK without a message".to_owned()))?;
        // Checked before more is read: further messages could be an endless stream.
        if response.message().await?.is_some() {
            return Err(Failure::NotGrpc("more than one response message".to_owned()));
        }
        Ok(message)
    }

    /// The response to a started call. It buffers at most one message.
    ///
    /// # Errors
    /// The response is only a status, or there is none.
    pub async fn response(&self, response: ResponseFuture) -> Result<ResponseStream, Failure> {
        ResponseStream::of(response, self.max_message).await
    }
}

/// The response of a call, message by message.
pub struct ResponseStream {
    body: RecvStream,
    frames: Frames,
}

impl ResponseStream {
    /// Waits for the response headers.
    async fn of(response: ResponseFuture, most: usize) -> Result<Self, Failure> {
        let (head, body) = response.await.map_err(lost)?.into_parts();
        if let Some(ended) = ended(&head.headers) {
            return Err(ended
                .err()
                .unwrap_or_else(|| Failure::NotGrpc("status OK without a message".to_owned())));
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

    /// The next message; `None` at the end if the status is OK.
    ///
    /// # Errors
    /// Another status, or a response that is not gRPC.
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
            .unwrap_or_else(|| Err(Failure::NotGrpc("a response without a status".to_owned())))
    }
}

/// The result of the call, if these headers have its status.
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
        // Each of its streams reports the error.
        let _ = connection.await;
        driven.set(true);
    });
    Ok(Live { sender, ended })
}
