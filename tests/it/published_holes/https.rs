//! HTTP/1.1 over TLS, as etcd speaks it beside gRPC.

use std::net::SocketAddr;

use etcd_warden_testbed::pki::{Authority, Issued};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::raw::tls_over;

/// The complete response to one request, or the error.
pub async fn request(
    address: SocketAddr,
    authority: &Authority,
    issued: &Issued,
    head: &str,
    body: &str,
) -> std::io::Result<String> {
    let stream = TcpStream::connect(address).await?;
    let mut stream =
        tls_over(stream, authority, address, Some(issued), &[b"http/1.1"], rustls::ALL_VERSIONS)
            .await?;
    let length = body.len();
    let request = format!(
        "{head} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
