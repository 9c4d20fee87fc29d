//! The tools of the other tests do what they say.

use http::HeaderMap;

use crate::world::raw::wire::FirstBlock;
use crate::world::raw::{Answer, Raw, framed, grpc_headers};

/// A server for one request that gives its head and body back.
async fn echo(stream: tokio::io::DuplexStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let mut seen = request.headers().clone();
            seen.insert("path", request.uri().path().parse().unwrap());
            let mut response = http::Response::new(());
            *response.headers_mut() = seen;
            let mut body = request.into_body();
            let mut send = respond.send_response(response, false).unwrap();
            while let Some(data) = body.data().await {
                send.send_data(data.unwrap(), false).unwrap();
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "7".parse().unwrap());
            trailers.insert("grpc-message", "no".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        });
    }
}

#[tokio::test]
async fn a_well_made_call_is_sent_and_its_answer_read() {
    let (near, far) = tokio::io::duplex(65_536);
    tokio::spawn(echo(far));
    let answer = Raw::over(near).await.call("/a/B", b"message").await;
    assert_eq!((answer.status, answer.grpc_status(), answer.grpc_message()), (200, Some(7), "no"));
    assert_eq!(answer.headers["path"], "/a/B");
    assert_eq!(answer.headers["te"], "trailers");
    assert_eq!(answer.messages(), [b"message"]);
    assert!(answer.error.is_none());
}

#[tokio::test]
async fn the_first_header_block_is_sent_as_it_was_written() {
    let (near, far) = tokio::io::duplex(65_536);
    tokio::spawn(echo(far));
    let long = vec![b'x'; 700];
    let head: &[(&[u8], &[u8])] =
        &[(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/%2e//odd"), (b"long", &long), (b"twice", b"1"), (b"twice", b"2")];
    let mut raw = Raw::over(FirstBlock::replaced(near, head)).await;
    let stream = raw.open("/replaced", &grpc_headers()).await.unwrap();
    let mut request = stream.request;
    request.send_data(framed(b"x").into(), true).unwrap();
    let answer = Answer::read(stream.response).await;
    assert_eq!(answer.headers["path"], "/%2e//odd");
    assert_eq!(answer.headers["long"].as_bytes(), long);
    assert_eq!(answer.headers.get_all("twice").iter().count(), 2);
    assert!(!answer.headers.contains_key("te"));
}
