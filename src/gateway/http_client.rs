//! A minimal HTTP/1.0 client in plain text: `GET` over TCP (etcd's `/health` and `/metrics`, and
//! our own pages) and requests to the admin socket. Hyper's client is not linked for these.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// From connecting to the last byte of the response.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes that a response may have: etcd's metrics have some 200 KiB.
const MAX_RESPONSE: u64 = 16 << 20;

/// Status and body of a response.
pub type Response = (u16, String);

/// Sends `GET PATH` to an address.
///
/// # Errors
/// The connection fails, the response is incomplete after [`TIMEOUT`] (`TimedOut`), it is not HTTP
/// or has more than 16 MiB (`InvalidData`).
pub async fn get(address: SocketAddr, path: &str) -> io::Result<Response> {
    let exchange = async {
        let stream = TcpStream::connect(address).await?;
        send(stream, "GET", &address.to_string(), path, "").await
    };
    within_timeout(exchange).await
}

/// Sends a request with this body to a Unix socket.
///
/// # Errors
/// As [`get`].
pub async fn request_at_socket(
    socket: &Path,
    method: &str,
    path: &str,
    body: &str,
) -> io::Result<Response> {
    let exchange = async {
        let stream = UnixStream::connect(socket).await?;
        send(stream, method, "localhost", path, body).await
    };
    within_timeout(exchange).await
}

async fn within_timeout(
    exchange: impl Future<Output = io::Result<Response>>,
) -> io::Result<Response> {
    timeout(TIMEOUT, exchange).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no complete response within {} s", TIMEOUT.as_secs()),
        )
    })?
}

async fn send(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    host: &str,
    path: &str,
    body: &str,
) -> io::Result<Response> {
    // HTTP/1.0: the response ends where the connection does.
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.take(MAX_RESPONSE + 1).read_to_string(&mut response).await?;
    if u64::try_from(response.len()).is_ok_and(|length| length > MAX_RESPONSE) {
        return Err(invalid("the response has more than 16 MiB"));
    }
    if response.is_empty() {
        let why = "the connection was closed without a response";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    parse(&response).ok_or_else(|| invalid("the response is not HTTP"))
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn parse(response: &str) -> Option<Response> {
    let (head, body) = response.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_a_status_and_a_body() {
        assert_eq!(
            parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nx\r\n\r\ny"),
            Some((503, "x\r\n\r\ny".to_owned()))
        );
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }

    #[tokio::test]
    async fn a_response_without_end_is_cut_and_reported() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let endless = async {
            let (mut stream, _) = server.accept().await.unwrap();
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        };
        let (response, ()) = tokio::join!(get(address, "/metrics"), endless);
        assert_eq!(response.unwrap_err().to_string(), "the response has more than 16 MiB");
    }
}
