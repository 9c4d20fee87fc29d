//! One attempt to read from etcd, by whoever comes along.

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

/// A door that has not answered by then does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A server that refuses the certificate has said so by then.
const REFUSED_BY: Duration = Duration::from_millis(200);

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nobody listens there, or nothing comes through to it.
    Nobody(String),
    /// Not let in: TLS or HTTP/2 ended before any answer of gRPC.
    ShutOut(String),
    /// Let in: gRPC answered, with this code and message.
    LetIn(u32, String),
}

impl Answer {
    /// Whether keys can be read.
    #[must_use]
    pub fn reads(&self) -> bool {
        matches!(self, Answer::LetIn(0, _))
    }
}

/// Asks for one key that is not there, `\0`: whoever is told so could have asked for any. `probe`:
/// over TLS; else in plain text.
pub async fn knock(host: &str, port: u16, probe: Option<&ProbeClient>) -> Answer {
    let tcp = match timeout(PATIENCE, TcpStream::connect((host, port))).await {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => return Answer::Nobody(error.to_string()),
        Err(_) => return Answer::Nobody("no answer".into()),
    };
    let asked = async {
        match probe {
            None => ask(tcp, "http", host, port).await,
            Some(probe) => {
                let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                let mut tls = BufStream::new(
                    TlsConnector::from(probe.rustls_config()).connect(name, tcp).await?,
                );
                // With TLS 1.3 a server that refuses says so after our side of the handshake is
                // done, and what is sent to it then makes its word be lost.
                if let Ok(heard) = timeout(REFUSED_BY, tls.fill_buf()).await {
                    heard?;
                }
                ask(tls, "https", host, port).await
            }
        }
    };
    match timeout(PATIENCE, asked).await {
        Ok(Ok((code, message))) => Answer::LetIn(code, message),
        Ok(Err(error)) => Answer::ShutOut(error.to_string()),
        Err(_) => Answer::ShutOut("no answer".into()),
    }
}

async fn ask(
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
        let (head, mut answer) = response.await.map_err(io::Error::other)?.into_parts();
        if let Some(said) = said(&head.headers) {
            return Ok(said);
        }
        while let Some(chunk) = answer.data().await {
            let chunk = chunk.map_err(io::Error::other)?;
            let _ = answer.flow_control().release_capacity(chunk.len());
        }
        let trailers = answer.trailers().await.map_err(io::Error::other)?.unwrap_or_default();
        said(&trailers)
            .ok_or_else(|| io::Error::other(format!("no gRPC: HTTP status {}", head.status)))
    };
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        answer = exchange => match answer {
            Ok(status) => Ok(status),
            // The error of the connection says more than that of its stream: it has the TLS alert.
            Err(error) => match timeout(Duration::from_secs(1), connection).await {
                Ok(Err(why)) => Err(io::Error::other(why)),
                _ => Err(error),
            },
        },
        ended = &mut connection => Err(ended.err().map_or_else(|| io::Error::other("the connection was closed"), io::Error::other)),
    }
}

/// Code and message, as they can be shown.
fn said(headers: &HeaderMap) -> Option<(u32, String)> {
    status::code(headers).map(|code| (code, Escaped(&status::message(headers)).to_string()))
}
