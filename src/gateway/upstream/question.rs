//! The one question that the proxy asks because of a client: which keys are attached to a lease.
//!
//! The answer may have megabytes for nine bytes of a request. So it goes over a connection of its
//! own ([`Class::Own`]), apart from requests and from health checks; it is read as it arrives, and
//! nothing of it is kept. Who is charged is decided in `proxy/lease_questions`.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use etcd_warden_core::method::Method;
use etcd_warden_core::wire::frame;
use etcd_warden_core::wire::lease::encode_time_to_live;
use etcd_warden_core::wire::lease_keys::{LeaseKeys, Unreadable};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Request, Response};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::dial::ConnectError;
use super::link::{Link, Place};
use super::members::MemberIndex;
use super::pool::{Pool, Target};
use super::{AGENT, Class};

/// A question that is not answered by then has failed.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Connections that may turn out to be ending before the question has failed: those that a lane
/// keeps, and a new one.
const ENDING_CONNECTIONS: usize = 3;

/// Bytes of an answer that are read before it is looked whether others have their turn: a key takes
/// two of them at least.
const PART: usize = 256;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Unanswered {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// HTTP/2.
    #[error("the question was lost: {0}")]
    Lost(#[from] h2::Error),
    /// etcd said something else.
    #[error("etcd does not say which keys a lease has: {0}")]
    Refused(String),
    /// What came is no answer.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// There is no room for a key of it.
    #[error("no room for a key of a lease")]
    NoRoom,
    /// Nothing in time.
    #[error("no answer within {} s", QUESTION_TIMEOUT.as_secs())]
    Timeout,
}

/// What looks at the answer.
pub trait Listener {
    /// One attached key. False: nothing more has to be seen.
    fn see(&mut self, key: &[u8]) -> bool;
    /// Whether it has worked for so long that others have their turn first. After each yes it
    /// begins anew.
    fn has_worked(&mut self) -> bool;
    /// Whether this many bytes may be held for a key that has not come whole.
    fn may_hold(&mut self, bytes: usize) -> bool;
}

/// Shows the keys that are attached to the lease `id` to `listener`, until it has seen enough: none
/// for a lease that does not exist. A key has `longest` bytes at most.
///
/// # Errors
/// etcd did not say it, or not to the end.
pub async fn lease_keys(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
    longest: usize,
    listener: &mut impl Listener,
) -> Result<(), Unanswered> {
    timeout(QUESTION_TIMEOUT, asked(pool, member, id, longest, listener))
        .await
        .unwrap_or(Err(Unanswered::Timeout))
}

async fn asked(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
    longest: usize,
    listener: &mut impl Listener,
) -> Result<(), Unanswered> {
    // The place on the connection is given back when all has been read.
    let (response, _place) = sent(pool, member, id).await?;
    let (head, mut body) = response.await?.into_parts();
    accepted(&Response::from_parts(head, ()))?;
    let mut scan = LeaseKeys::of(id, longest);
    while let Some(piece) = body.data().await {
        let piece = piece?;
        if show(&mut scan, &piece, listener).await? {
            // The stream is reset when it is dropped: etcd sends no more of it than one window.
            return Ok(());
        }
        if !listener.may_hold(scan.held()) {
            return Err(Unanswered::NoRoom);
        }
        let _ = body.flow_control().release_capacity(piece.len());
    }
    ended_well(&mut body).await?;
    Ok(scan.finish()?)
}

/// Shows the keys of one piece. True: the listener has seen enough. HTTP/2 has the next piece at
/// once for as long as there is one, so that nothing but this lets others have their turn.
async fn show(
    scan: &mut LeaseKeys,
    piece: &[u8],
    listener: &mut impl Listener,
) -> Result<bool, Unreadable> {
    let mut enough = false;
    for part in piece.chunks(PART) {
        scan.push(part, |key| enough = enough || !listener.see(key))?;
        if enough {
            return Ok(true);
        }
        if listener.has_worked() {
            yield_now().await;
        }
    }
    Ok(false)
}

async fn sent(
    pool: &Rc<Pool>,
    member: MemberIndex,
    id: i64,
) -> Result<(ResponseFuture, Place), Unanswered> {
    for _ in 0..ENDING_CONNECTIONS {
        let (link, place) = pool.link(member, Class::Own).await?;
        match send_over(pool, &link, member, id).await {
            Some(response) => return Ok((response, place)),
            // It is ending (GOAWAY), which says nothing of the member.
            None => link.retire(),
        }
    }
    Err(Unanswered::Refused("its connections are ending".to_owned()))
}

/// `None`: the connection takes no more streams, and nothing was sent.
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
        (USER_AGENT, HeaderValue::from_static(AGENT)),
    ]);
    let mut sender = link.sender();
    poll_fn(|cx| sender.poll_ready(cx)).await.ok()?;
    let (response, mut send) = sender.send_request(request, false).ok()?;
    // If the stream has ended already, the answer says why.
    let _ = send.send_data(frame::encode(&encode_time_to_live(id)), true);
    Some(response)
}

/// The head of an answer that has a message behind it.
fn accepted(head: &Response<()>) -> Result<(), Unanswered> {
    let is_grpc = head
        .headers()
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if head.status() != http::StatusCode::OK || !is_grpc {
        return Err(Unanswered::Refused(format!("HTTP status {}", head.status())));
    }
    if head.headers().contains_key("grpc-status") { status(head.headers()) } else { Ok(()) }
}

async fn ended_well(body: &mut RecvStream) -> Result<(), Unanswered> {
    match body.trailers().await? {
        Some(trailers) => status(&trailers),
        None => Err(Unanswered::Refused("no status".to_owned())),
    }
}

fn status(headers: &HeaderMap) -> Result<(), Unanswered> {
    match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"0") => Ok(()),
        _ => {
            let text = |name| {
                headers
                    .get(name)
                    .map(|value| value.as_bytes().escape_ascii().to_string())
                    .unwrap_or_default()
            };
            Err(Unanswered::Refused(format!(
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

    /// Has seen so many keys, and works for as long as ten of them.
    #[derive(Default)]
    struct Ten {
        seen: usize,
        rests: usize,
    }

    impl Listener for Ten {
        fn see(&mut self, _: &[u8]) -> bool {
            self.seen += 1;
            true
        }

        fn has_worked(&mut self) -> bool {
            let due = self.seen >= 10 * (self.rests + 1);
            self.rests += usize::from(due);
            due
        }

        fn may_hold(&mut self, _: usize) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn others_have_their_turn_amid_one_piece_of_an_answer() {
        let answer = LeaseTimeToLiveResponse {
            id: 7,
            keys: vec![b"k".to_vec(); 10_000],
            ..LeaseTimeToLiveResponse::default()
        };
        let piece = frame::encode(&answer.encode_to_vec());
        let (mut scan, mut listener, mut turns) = (LeaseKeys::of(7, 100), Ten::default(), 0);
        let enough = {
            let mut shown = pin!(show(&mut scan, &piece, &mut listener));
            loop {
                match poll!(shown.as_mut()) {
                    Poll::Ready(enough) => break enough.unwrap(),
                    Poll::Pending => turns += 1,
                }
            }
        };
        assert!(!enough);
        assert_eq!((listener.seen, listener.rests), (10_000, turns));
        // A part has 85 keys, of three bytes each.
        assert!(turns > 100, "{turns}");
        scan.finish().unwrap();
    }
}
