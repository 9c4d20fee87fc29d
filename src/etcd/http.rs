//! The smallest HTTP client that reads etcd's `/health` and `/metrics` (and our own) on 127.0.0.1.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Status and body of `GET PATH` in plain text. HTTP/1.0, so that the answer ends where the connection does.
///
/// # Errors
/// When nobody answers, or not in HTTP.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    parse(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{address} does not speak HTTP")))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        assert_eq!(parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nx\r\n\r\ny"), Some((503, "x\r\n\r\ny".to_owned())));
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}
