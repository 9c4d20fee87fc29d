//! The smallest HTTP client that reads etcd's `/health` and `/metrics` (and our own) in plain text.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// For the whole answer: a server that says nothing, or a byte now and then, holds no tool up.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes that an answer may have: etcd's metrics have some 200 KiB.
const MOST: u64 = 16 << 20;

/// Status and body of `GET PATH` in plain text. HTTP/1.0, so that the answer ends where the
/// connection does.
///
/// # Errors
/// When there is no answer within 10 s, when it is not HTTP, or has more than 16 MiB.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.take(MOST + 1).read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(PATIENCE, asked).await.map_err(|_| {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no whole answer within {} s", PATIENCE.as_secs()),
        )
    })??;
    let wrong =
        |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{address} {what}"));
    if u64::try_from(answer.len()).is_ok_and(|length| length > MOST) {
        return Err(wrong("answers with more than 16 MiB"));
    }
    parse(&answer).ok_or_else(|| wrong("does not speak HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_status_and_a_body() {
        assert_eq!(
            parse("HTTP/1.0 503 Service Unavailable\r\nA: b\r\n\r\nx\r\n\r\ny"),
            Some((503, "x\r\n\r\ny".to_owned()))
        );
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }

    #[tokio::test]
    async fn an_answer_without_end_is_cut_and_said() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let endless = async {
            let (mut stream, _) = server.accept().await.unwrap();
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        };
        let (answer, ()) = tokio::join!(get(address, "/metrics"), endless);
        assert!(answer.unwrap_err().to_string().ends_with("answers with more than 16 MiB"));
    }
}
