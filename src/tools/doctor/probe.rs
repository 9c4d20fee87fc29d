//! A probe: one attempt to read a key.

use std::io;
use std::pin::pin;
use std::time::Duration;

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::{frame, status};
use etcd_warden_proto::etcdserverpb::RangeRequest;

use crate::probe_tls::ProbeClient;
use http::{HeaderMap, Request};
use prost::Message as _;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// For connecting, and for the response.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a server to refuse the certificate, before a request is sent.
const REFUSAL_TIMEOUT: Duration = Duration::from_millis(200);

/// The result of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeResult {
    /// No server listens, or it cannot be reached.
    Unreachable(String),
    /// The server ended the connection before any gRPC response.
    Refused(String),
    /// The server accepted the client and responded with this gRPC code and message.
    Accepted(u32, String),
}

impl ProbeResult {
    /// True if keys can be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self, ProbeResult::Accepted(0, _))
    }
}

/// Reads one key that does not exist, `\0`: a client that may do that could read other keys, too.
/// Uses TLS with `probe`, else plain text.
pub async fn probe(host: &str, port: u16, probe: Option<&ProbeClient>) -> ProbeResult {
    let tcp = match timeout(TIMEOUT, TcpStream::connect((host, port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return ProbeResult::Unreachable(error.to_string()),
        Err(_) => return ProbeResult::Unreachable("no response".into()),
    };
    let attempt = async {
        match probe {
            None => read_key(tcp, "http", host, port).await,
            Some(probe) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let mut tls = BufStream::new(
                    TlsConnector::from(probe.rustls_config()).connect(name, tcp).await?,
                );
                // With TLS 1.3 a server refuses the certificate after the client has finished the
                // handshake. A request that is sent before that makes the alert be lost.
                if let Ok(read) = timeout(REFUSAL_TIMEOUT, tls.fill_buf()).await {
                    read?;
                }
                read_key(tls, "https", host, port).await
            }
        }
    };
    match timeout(TIMEOUT, attempt).await {
        Ok(Ok((code, message))) => ProbeResult::Accepted(code, message),
        Ok(Err(error)) => ProbeResult::Refused(error.to_string()),
        Err(_) => ProbeResult::Refused("no response".into()),
    }
}

async fn read_key(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    scheme: &str,
    host: &str,
    port: u16,
) -> io::Result<(u32, String)> {
    let (mut sender, connection) = h2::client::handshake(stream).await.map_err(io::Error::other)?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let request = Request::post(format!("{scheme}://{host}:{port}{}", Method::Range.path()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(io::Error::other)?;
    let message = RangeRequest {
        key: vec![0],
        limit: 1,
        keys_only: true,
        serializable: true,
        ..RangeRequest::default()
    };
    let exchange = async {
        let (response, mut body) = sender.send_request(request, false).map_err(io::Error::other)?;
        body.send_data(frame::encode(&message.encode_to_vec()), true).map_err(io::Error::other)?;
        let (head, mut body_stream) = response.await.map_err(io::Error::other)?.into_parts();
        if let Some(status) = grpc_status(&head.headers) {
            return Ok(status);
        }
        while let Some(chunk) = body_stream.data().await {
            let chunk = chunk.map_err(io::Error::other)?;
            let _ = body_stream.flow_control().release_capacity(chunk.len());
        }
        let trailers = body_stream.trailers().await.map_err(io::Error::other)?.unwrap_or_default();
        grpc_status(&trailers)
            .ok_or_else(|| io::Error::other(format!("no gRPC: HTTP status {}", head.status)))
    };
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        result = exchange => match result {
            Ok(status) => Ok(status),
            // The error of the connection has the TLS alert, that of its stream does not.
            Err(error) => match timeout(Duration::from_secs(1), connection).await {
                Ok(Err(why)) => Err(io::Error::other(why)),
                _ => Err(error),
            },
        },
        ended = &mut connection => Err(ended.err().map_or_else(|| io::Error::other("the connection was closed"), io::Error::other)),
    }
}

/// gRPC code and message, escaped for display.
fn grpc_status(headers: &HeaderMap) -> Option<(u32, String)> {
    status::code(headers).map(|code| (code, Escaped(&status::message(headers)).to_string()))
}
