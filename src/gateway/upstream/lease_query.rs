//! LeaseTimeToLive with `keys`, sent because of a request of a client.
//!
//! A client's request of nine bytes can cause a response of megabytes. So the query has connections
//! of its own ([`Class::Own`]), apart from clients' calls and from health checks, and the response
//! is parsed as it arrives and not kept. `proxy/lease_lookup` decides who is charged.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_core::wire::lease::encode_time_to_live;
use etcd_warden_core::wire::lease_keys::{LeaseKeys, LeaseKeysError};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{self, CONTENT_TYPE, HeaderValue, TE};
use http::{HeaderMap, Request, Response};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::dial::ConnectError;
use super::link::{Link, StreamSlot};
use super::members::MemberIndex;
use super::pool::{Pool, Target};
use super::{Class, USER_AGENT};

const QUERY_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that may be closing before the query fails: those that the pool keeps per class, and
/// a new one.
const MAX_ATTEMPTS: usize = 3;

/// Bytes that are parsed before [`LeaseKeyVisitor::should_yield`] is called. A key takes at least
/// two bytes.
const CHUNK: usize = 256;

/// Why a query failed.
#[derive(Debug, thiserror::Error)]
pub enum LeaseQueryError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("HTTP/2 stream failed: {0}")]
    Http2(#[from] h2::Error),
    #[error("etcd did not return the keys of the lease: {0}")]
    Status(String),
    #[error(transparent)]
    Unreadable(#[from] LeaseKeysError),
    /// [`LeaseKeyVisitor::may_buffer`] returned false.
    #[error("no memory left for a key of the lease")]
    NoMemory,
    #[error("no response within {} s", QUERY_TIMEOUT.as_secs())]
    Timeout,
}

/// Receives the keys of a lease.
pub trait LeaseKeyVisitor {
    /// Receives one attached key. Returns false if no more keys are needed.
    fn visit(&mut self, key: &[u8]) -> bool;
    /// True if the task should yield now. Returning true starts a new time slice.
    fn should_yield(&mut self) -> bool;
    /// True if this many bytes may be buffered for a key that has arrived in part.
    fn may_buffer(&mut self, bytes: usize) -> bool;
}

/// Passes the keys attached to the lease `id` to `visitor` until it needs no more. A lease that
/// does not exist has none. A key of more than `longest` bytes is an error.
///
/// # Errors
/// The response is missing, incomplete or malformed; `visitor` may have received some keys.
pub async fn lease_keys(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
    longest: usize,
    visitor: &mut impl LeaseKeyVisitor,
) -> Result<(), LeaseQueryError> {
    timeout(QUERY_TIMEOUT, query(pool, member, id, longest, visitor))
        .await
        .unwrap_or(Err(LeaseQueryError::Timeout))
}

async fn query(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
    longest: usize,
    visitor: &mut impl LeaseKeyVisitor,
) -> Result<(), LeaseQueryError> {
    // The slot is released when the whole response has been read.
    let (response, _slot) = send(pool, member, id).await?;
    let (head, mut body) = response.await?.into_parts();
    check_head(&Response::from_parts(head, ()))?;
    let mut scan = LeaseKeys::new(id, longest);
    while let Some(piece) = body.data().await {
        let piece = piece?;
        if visit_keys(&mut scan, &piece, visitor).await? {
            // Dropping the body resets the stream; etcd sends at most one more window.
            return Ok(());
        }
        if !visitor.may_buffer(scan.held()) {
            return Err(LeaseQueryError::NoMemory);
        }
        let _ = body.flow_control().release_capacity(piece.len());
    }
    check_trailers(&mut body).await?;
    Ok(scan.finish()?)
}

/// Passes the keys in one piece of the response on. Returns true if no more are needed. h2 returns
/// pieces without waiting while it has any, so this function has to yield.
async fn visit_keys(
    scan: &mut LeaseKeys,
    piece: &[u8],
    visitor: &mut impl LeaseKeyVisitor,
) -> Result<bool, LeaseKeysError> {
    let mut done = false;
    for chunk in piece.chunks(CHUNK) {
        scan.push(chunk, |key| done = done || !visitor.visit(key))?;
        if done {
            return Ok(true);
        }
        if visitor.should_yield() {
            yield_now().await;
        }
    }
    Ok(false)
}

async fn send(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
) -> Result<(ResponseFuture, StreamSlot), LeaseQueryError> {
    for _ in 0..MAX_ATTEMPTS {
        let (link, slot) = pool.link(member, Class::Own).await?;
        match send_over(pool, &link, member, id).await {
            Some(response) => return Ok((response, slot)),
            // The connection is closing (GOAWAY); the member may still be healthy.
            None => link.retire(),
        }
    }
    Err(LeaseQueryError::Status("its connections are closing".to_owned()))
}

/// `None` if the connection takes no more streams; nothing was sent.
async fn send_over(
    pool: &Pool,
    link: &Link,
    member: MemberIndex,
    id: i64,
) -> Option<ResponseFuture> {
    let mut request =
        Request::post(pool.uri(member, &Target::Method(Method::LeaseTimeToLive))?).body(()).ok()?;
    request.headers_mut().extend([
        (CONTENT_TYPE, HeaderValue::from_static("application/grpc")),
        (TE, HeaderValue::from_static("trailers")),
        (header::USER_AGENT, HeaderValue::from_static(USER_AGENT)),
    ]);
    let mut sender = link.sender();
    poll_fn(|cx| sender.poll_ready(cx)).await.ok()?;
    let (response, mut send) = sender.send_request(request, false).ok()?;
    // If this fails, the stream has ended and the response says why.
    let _ = send.send_data(frame::encode(&encode_time_to_live(id)), true);
    Some(response)
}

/// Checks that a gRPC message follows this head.
fn check_head(head: &Response<()>) -> Result<(), LeaseQueryError> {
    let is_grpc = head
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if head.status() != http::StatusCode::OK || !is_grpc {
        return Err(LeaseQueryError::Status(format!("HTTP status {}", head.status())));
    }
    if head.headers().contains_key("grpc-status") { check_status(head.headers()) } else { Ok(()) }
}

async fn check_trailers(body: &mut RecvStream) -> Result<(), LeaseQueryError> {
    match body.trailers().await? {
        Some(trailers) => check_status(&trailers),
        None => Err(LeaseQueryError::Status("no gRPC status".to_owned())),
    }
}

fn check_status(headers: &HeaderMap) -> Result<(), LeaseQueryError> {
    match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        _ => {
            let text = |name| {
                headers
                    .get(name)
                    .map(|value| value.as_bytes().escape_ascii().to_string())
                    .unwrap_or_default()
            };
            Err(LeaseQueryError::Status(format!(
                "status {}: {}",
                text("grpc-status"),
                text("grpc-message")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Poll;

    use etcd_warden_proto::etcdserverpb::LeaseTimeToLiveResponse;
    use futures_util::poll;
    use prost::Message as _;

    use super::*;

    /// Counts keys, and yields after every ten.
    #[derive(Default)]
    struct Ten {
        keys: usize,
        yields: usize,
    }

    impl LeaseKeyVisitor for Ten {
        fn visit(&mut self, _: &[u8]) -> bool {
            self.keys += 1;
            true
        }

        fn should_yield(&mut self) -> bool {
            let due = self.keys >= 10 * (self.yields + 1);
            self.yields += usize::from(due);
            due
        }

        fn may_buffer(&mut self, _: usize) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn yields_within_one_piece_of_a_response() {
        let response = LeaseTimeToLiveResponse {
            id: 7,
            keys: vec![b"k".to_vec(); 10_000],
            ..LeaseTimeToLiveResponse::default()
        };
        let piece = frame::encode(&response.encode_to_vec());
        let (mut scan, mut visitor, mut pending) = (LeaseKeys::new(7, 100), Ten::default(), 0);
        let done = {
            let mut visited = pin!(visit_keys(&mut scan, &piece, &mut visitor));
            loop {
                match poll!(visited.as_mut()) {
                    Poll::Ready(done) => break done.unwrap(),
                    Poll::Pending => pending += 1,
                }
            }
        };
        assert!(!done);
        assert_eq!((visitor.keys, visitor.yields), (10_000, pending));
        // A chunk has 85 keys of three bytes each.
        assert!(pending > 100, "{pending}");
        scan.finish().unwrap();
    }
}
