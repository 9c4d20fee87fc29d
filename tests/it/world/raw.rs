//! A client for requests that no normal client sends: any pseudo-header, any header, any bytes, in
//! any order.
//!
//! Responses are read by the `h2` crate. What `h2` would refuse to send is sent by replacing the
//! first header block of the connection by a handwritten one ([`wire`]).

pub mod wire;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use etcd_warden_testbed::pki::{Authority, Issued, Leaf};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{SOON, World, authorities, root};
use wire::FirstBlock;

/// One HTTP/2 connection to the proxy.
pub struct Raw {
    send: SendRequest<Bytes>,
    /// Ends when the connection does, with its error if there is one.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// A stream whose request is still being written.
pub struct Stream {
    pub request: SendStream<Bytes>,
    pub response: ResponseFuture,
}

/// The response to a request.
#[derive(Debug, Default)]
pub struct Answer {
    /// The HTTP status; 0 if there were no headers.
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// The error that ended the stream or the connection, if there is one.
    pub error: Option<h2::Error>,
}

impl World {
    /// A connection with a certificate for this name.
    pub async fn raw(&self, common_name: &str) -> Raw {
        Raw::over(self.tls(&Leaf::client(common_name)).await).await
    }

    /// A new TLS connection with ALPN h2 and any certificate of the clients' CA. Nothing has been
    /// sent on it.
    pub async fn tls(&self, leaf: &Leaf) -> TlsStream<TcpStream> {
        let issued = authorities().clients.issue(leaf).unwrap();
        tls(self.address(), Some(&issued), &[b"h2"], rustls::ALL_VERSIONS).await.unwrap()
    }

    /// Sends one request on its own connection, with exactly this header block and then these bytes
    /// as DATA.
    pub async fn request_as_written(
        &self,
        common_name: &str,
        head: &[(&[u8], &[u8])],
        body: &[u8],
    ) -> Answer {
        let stream = FirstBlock::replaced(self.tls(&Leaf::client(common_name)).await, head);
        Raw::over(stream).await.send("/replaced", &HeaderMap::new(), body).await
    }
}

/// A TLS connection to the proxy, with or without a certificate.
pub async fn tls(
    address: SocketAddr,
    issued: Option<&Issued>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    tls_over(
        TcpStream::connect(address).await?,
        &authorities().clients,
        address,
        issued,
        alpn,
        versions,
    )
    .await
}

/// A TLS connection to any server, over a connection on which a PROXY header may have been sent.
pub async fn tls_over(
    stream: TcpStream,
    authority: &Authority,
    address: SocketAddr,
    issued: Option<&Issued>,
    alpn: &[&[u8]],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match issued {
        None => builder.with_no_client_auth(),
        Some(issued) => {
            let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes())
                .map(Result::unwrap)
                .collect();
            let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
            // Not checked here: the proxy must refuse a certificate.
            let shown =
                CertifiedKey::new(chain, provider.key_provider.load_private_key(key).unwrap());
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await
}

/// One gRPC message, uncompressed, with its length prefix.
pub fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}

/// Compresses a message as gRPC clients do.
pub fn gzip(message: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(message).unwrap();
    encoder.finish().unwrap()
}

/// One gRPC message, compressed, with its flag and length prefix.
pub fn gzipped(message: &[u8]) -> Vec<u8> {
    [&[1], &framed(&gzip(message))[1..]].concat()
}

impl Raw {
    /// A connection to etcd itself.
    pub async fn direct(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::over(
            tls_over(
                stream,
                &authorities().upstream,
                address,
                Some(root()),
                &[b"h2"],
                rustls::ALL_VERSIONS,
            )
            .await
            .unwrap(),
        )
        .await
    }

    /// HTTP/2 over any stream.
    pub async fn over<S>(stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        Self::over_as(&h2::client::Builder::new(), stream).await
    }

    /// HTTP/2 over any stream, with these settings.
    pub async fn over_as<S>(settings: &h2::client::Builder, stream: S) -> Self
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        // Tests may leave many small responses unread; h2 would take them for an attack.
        let (send, connection) =
            settings.clone().data_frame_budget(1 << 30).handshake(stream).await.unwrap();
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Waits until the server closes the connection after GOAWAY and all responses. It closes as
    /// soon as no stream is open, so late acknowledgements of the client may fail.
    pub async fn closed_in_order(self) {
        let ended = tokio::time::timeout(SOON, self.connection)
            .await
            .expect("the connection ends")
            .unwrap();
        let late = |error: &h2::Error| {
            error.get_io().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
        };
        assert!(ended.as_ref().err().is_none_or(late), "{ended:?}");
    }

    /// A valid unary gRPC call.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Answer {
        self.send(path, &grpc_headers(), &framed(message)).await
    }

    /// A POST with these headers and bytes; the last byte ends the stream.
    pub async fn send(&mut self, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        match self.open(path, headers).await {
            Err(error) => Answer { error: Some(error), ..Answer::default() },
            Ok(mut stream) => {
                // A refusal may arrive before the end of the request. Only the response matters.
                let _ = stream.request.send_data(Bytes::copy_from_slice(body), true);
                Answer::read(stream.response).await
            }
        }
    }

    /// A POST whose body is sent later.
    pub async fn open(&mut self, path: &str, headers: &HeaderMap) -> Result<Stream, h2::Error> {
        let mut request = Request::post(format!("https://127.0.0.1{path}")).body(()).unwrap();
        *request.headers_mut() = headers.clone();
        self.begin(request, false).await
    }

    /// Any request; `ends` says whether the headers end it.
    pub async fn begin(&mut self, request: Request<()>, ends: bool) -> Result<Stream, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, request) = send.send_request(request, ends)?;
        Ok(Stream { request, response })
    }
}

/// The headers of a valid call.
pub fn grpc_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/grpc".parse().unwrap());
    headers.insert("te", "trailers".parse().unwrap());
    headers
}

impl Answer {
    /// Reads a response to its end.
    pub async fn read(response: ResponseFuture) -> Self {
        let mut answer = Self::default();
        match response.await {
            Err(error) => answer.error = Some(error),
            Ok(response) => {
                answer.status = response.status().as_u16();
                answer.headers = response.headers().clone();
                answer.error = answer.read_body(response.into_body()).await.err();
            }
        }
        answer
    }

    async fn read_body(&mut self, mut body: RecvStream) -> Result<(), h2::Error> {
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.body.extend_from_slice(&data);
        }
        self.trailers = body.trailers().await?.unwrap_or_default();
        Ok(())
    }

    /// The gRPC status, from the trailers or from a trailers-only response.
    pub fn grpc_status(&self) -> Option<u32> {
        self.field("grpc-status").map(|status| status.parse().unwrap())
    }

    /// The gRPC message as sent (percent-encoded where necessary).
    pub fn grpc_message(&self) -> &str {
        self.field("grpc-message").unwrap_or_default()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let value = self.trailers.get(name).or_else(|| self.headers.get(name))?;
        Some(value.to_str().unwrap())
    }

    /// The complete messages of the body.
    pub fn messages(&self) -> Vec<&[u8]> {
        let mut messages = Vec::new();
        let mut rest = &self.body[..];
        while let [0, a, b, c, d, tail @ ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let Some((message, tail)) = tail.split_at_checked(length) else { break };
            messages.push(message);
            rest = tail;
        }
        messages
    }
}
