//! From a permit and bytes to etcd's answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use futures_util::FutureExt as _;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, Response};

use super::live_permit::LivePermit;
use super::upload::{Unsent, Upload};
use crate::metrics::Metrics;
use crate::metrics::reason::UpstreamFailure;
use crate::upstream::Class;
use crate::upstream::link::{Link, StreamSlot};
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::{Pool, Target};
use crate::upstream::window::{RequestNumber, Window};

/// A request to be forwarded: its head, and the first bytes of its body.
pub struct Outgoing {
    /// `GET` and the like occur only in shadow mode, where whatever came goes on.
    pub verb: http::Method,
    /// What it asks for.
    pub target: Target,
    /// Metadata that goes on.
    pub headers: HeaderMap,
    /// The bytes that were judged.
    pub body: Bytes,
    /// Whether they are all.
    pub ends: bool,
    /// Which connections it goes over.
    pub class: Class,
}

impl Outgoing {
    /// A request of a known method.
    #[must_use]
    pub fn of(method: Method, headers: HeaderMap, body: Bytes, ends: bool) -> Self {
        Self {
            verb: http::Method::POST,
            target: Target::Method(method),
            headers,
            body,
            ends,
            class: Class::of(method),
        }
    }
}

/// etcd's answer has begun.
pub struct Exchange {
    /// Its head, and the body to come.
    pub response: Response<RecvStream>,
    /// The member that answers.
    pub member: MemberIndex,
    /// Keeps the slot on the connection until the answer has ended.
    pub slot: StreamSlot,
}

/// A request is under way.
pub struct Sent {
    /// Becomes the answer.
    pub response: Answer,
    /// Our side of the stream, for requests that go on.
    pub send: Upload,
    /// The member it went to.
    pub member: MemberIndex,
    /// Keeps the slot on the connection.
    pub slot: StreamSlot,
}

/// The head of etcd's answer, to come.
pub struct Answer {
    response: ResponseFuture,
    window: Window,
    request: RequestNumber,
}

impl Future for Answer {
    type Output = Result<Response<RecvStream>, h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.response.poll_unpin(cx);
        if let Poll::Ready(Ok(_)) = polled {
            self.window.answered(self.request);
        }
        polled
    }
}

/// Why a connection took no request. Nothing was carried out.
enum NotOpened {
    /// It takes no more streams.
    Ending,
    /// The permit was withdrawn before the message was whole there.
    Withdrawn,
}

/// Connections of one member that may turn out to be ending before another member is tried: those
/// that a lane keeps, and a new one.
const ENDING_CONNECTIONS: usize = 3;

/// Why there is no answer.
#[derive(Debug)]
pub enum ForwardError {
    /// Nothing was sent, or etcd said that it did not look at it.
    NotSent,
    /// The permit was withdrawn before etcd had the whole message: it can have carried out nothing.
    Withdrawn,
    /// It was sent, and nobody knows what became of it.
    Lost,
    /// etcd reset the stream; the client learns the very reason.
    Reset(Reason),
    /// There was no room to hold the answer.
    NoRoom,
}

/// Sends requests over one worker's pool, and keeps one client connection with one member.
pub struct Forwarder {
    pool: Rc<Pool>,
    metrics: std::sync::Arc<Metrics>,
    home: RefCell<MemberIndex>,
}

impl Forwarder {
    /// For a new client connection: picks its member.
    #[must_use]
    pub fn new(pool: Rc<Pool>, metrics: std::sync::Arc<Metrics>) -> Self {
        let home = pool.members.choose(None);
        Self { pool, metrics, home: RefCell::new(home) }
    }

    /// The member that this client's calls go to. It changes when that member can serve less than
    /// another one: see [`Members::home`]. Streams that are open there stay, as they do at
    /// etcd's own client: etcd itself ends those that asked for a leader (`hasleader`), and the
    /// others miss nothing while their member has none.
    ///
    /// [`Members::home`]: crate::upstream::members::Members::home
    #[must_use]
    pub fn home(&self) -> MemberIndex {
        let home = self.pool.members.home(*self.home.borrow());
        *self.home.borrow_mut() = home;
        home
    }

    fn move_away(&self, from: MemberIndex) -> MemberIndex {
        let to = self.pool.members.choose(Some(from));
        *self.home.borrow_mut() = to;
        to
    }

    /// Sends a request, to another member if the first cannot be reached. The permit is checked
    /// after the last wait, with the first byte next.
    ///
    /// # Errors
    /// [`ForwardError::NotSent`] or [`ForwardError::Withdrawn`]: what happens after the bytes were handed over shows in the answer.
    pub async fn send(
        &self,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
        to: Option<MemberIndex>,
    ) -> Result<Sent, ForwardError> {
        let mut member = to.unwrap_or_else(|| self.home());
        for attempt in 0..=self.pool.members.len() {
            if attempt > 0 {
                self.metrics.upstream_retries.increment(1);
                member = self.move_away(member);
            }
            for _ in 0..ENDING_CONNECTIONS {
                let Ok((link, slot)) = self.pool.link(member, outgoing.class).await else { break };
                match self.send_over(&link, member, permit, outgoing).await {
                    Ok((response, send)) => return Ok(Sent { response, send, member, slot }),
                    // It is ending (GOAWAY), which says nothing of the member.
                    Err(NotOpened::Ending) => link.retire(),
                    Err(NotOpened::Withdrawn) => return Err(ForwardError::Withdrawn),
                }
            }
        }
        self.metrics.upstream_failure(UpstreamFailure::NoMember);
        Err(ForwardError::NotSent)
    }

    async fn send_over(
        &self,
        link: &Link,
        member: MemberIndex,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
    ) -> Result<(Answer, Upload), NotOpened> {
        let mut sender = link.sender();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|_| NotOpened::Ending)?;
        if link.window().is_behind() {
            // Heads are in no window. On the heap: most requests find a socket that takes them.
            Box::pin(link.window().drained()).await;
            if link.is_closed() {
                return Err(NotOpened::Ending);
            }
        }
        if !permit.holds() {
            return Err(NotOpened::Withdrawn);
        }
        let bare = outgoing.ends && outgoing.body.is_empty();
        let (response, send) = sender
            .send_request(self.request(member, outgoing), bare)
            .map_err(|_| NotOpened::Ending)?;
        let window = link.window().clone();
        let response = Answer { response, request: window.begin(), window: window.clone() };
        let mut upload = Upload::new(send, window);
        if !bare {
            match upload.write(permit, outgoing.body.clone(), outgoing.ends).await {
                // A stream that has ended has an answer that says why.
                Ok(()) | Err(Unsent::Closed) => {}
                // etcd has a part of the message at most, and cannot carry that out: the stream is
                // reset.
                Err(Unsent::Withdrawn | Unsent::Cut) => return Err(NotOpened::Withdrawn),
            }
        }
        Ok((response, upload))
    }

    /// Sends a whole request and waits for the head of the answer. Only what a member says that it
    /// did not process is sent again. What was lost with its connection is not, not even a
    /// read: the request may be what ended the member, and would end the next one as well.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn exchange(
        &self,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
        to: Option<MemberIndex>,
    ) -> Result<Exchange, ForwardError> {
        let mut attempts = self.pool.members.len().saturating_add(1);
        let mut to = to;
        loop {
            let Sent { response, mut send, member, slot } = self.send(permit, outgoing, to).await?;
            let error = match response.await {
                Ok(response) => {
                    send.answered();
                    return Ok(Exchange { response, member, slot });
                }
                Err(error) => error,
            };
            let failure = classify(&error);
            attempts = attempts.saturating_sub(1);
            if !matches!(failure, ForwardError::NotSent) || attempts == 0 {
                self.metrics.upstream_failure(match failure {
                    ForwardError::NotSent | ForwardError::Withdrawn => UpstreamFailure::NoMember,
                    ForwardError::Lost | ForwardError::NoRoom => UpstreamFailure::Lost,
                    ForwardError::Reset(_) => UpstreamFailure::Reset,
                });
                return Err(failure);
            }
            self.metrics.upstream_retries.increment(1);
            to = Some(self.pool.members.choose(Some(member)));
        }
    }

    fn request(&self, member: MemberIndex, outgoing: &Outgoing) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = outgoing.verb.clone();
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = outgoing.headers.clone();
        if let Some(uri) = self.pool.uri(member, &outgoing.target) {
            *request.uri_mut() = uri;
        }
        request
    }
}

/// What an error says of whether etcd processed the request. Two things promise that it did not
/// (RFC 9113, 8.7): REFUSED_STREAM, and a GOAWAY whose last stream is before this one. h2 gives the
/// latter's error to those streams alone: the others end as a broken connection
/// (`Inner::recv_go_away` and `recv_eof` in h2's `proto/streams/streams.rs`).
#[must_use]
pub fn classify(error: &h2::Error) -> ForwardError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => ForwardError::NotSent,
        _ if error.is_go_away() && error.is_remote() => ForwardError::NotSent,
        Some(reason) if error.is_reset() && error.is_remote() => ForwardError::Reset(reason),
        _ => ForwardError::Lost,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A SETTINGS frame without any setting, and a GOAWAY with NO_ERROR after this stream (RFC
    /// 9113, 6.5 and 6.8).
    fn settings_and_go_away(last_stream: u8) -> Vec<u8> {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0];
        [&settings[..], &go_away].concat()
    }

    /// The HEADERS frames behind the client's preface of 24 bytes.
    fn headers_frames(seen: &[u8]) -> usize {
        let (mut at, mut count) = (24, 0);
        while let Some(head) = seen.get(at..at + 9) {
            count += usize::from(head[3] == 1);
            at += 9 + usize::from(head[1]) * 256 + usize::from(head[2]);
        }
        count
    }

    /// What becomes of the requests with stream ids 1 and 3 when the server sends GOAWAY and closes
    /// the connection.
    async fn after_go_away(last_stream: u8) -> [ForwardError; 2] {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let driven = tokio::spawn(connection);
        let request = || Request::post("https://etcd/a").body(()).unwrap();
        let (first, _) = send.send_request(request(), true).unwrap();
        let mut send = send.ready().await.unwrap();
        let (second, _) = send.send_request(request(), true).unwrap();
        let (mut read, mut seen) = (vec![0; 1 << 16], Vec::new());
        while headers_frames(&seen) < 2 {
            let length = far.read(&mut read).await.unwrap();
            seen.extend_from_slice(&read[..length]);
        }
        far.write_all(&settings_and_go_away(last_stream)).await.unwrap();
        drop(far);
        let failures = [classify(&first.await.unwrap_err()), classify(&second.await.unwrap_err())];
        let _ = driven.await;
        failures
    }

    #[tokio::test]
    async fn goaway_says_which_requests_were_not_processed() {
        assert!(matches!(after_go_away(0).await, [ForwardError::NotSent, ForwardError::NotSent]));
        assert!(matches!(after_go_away(1).await, [ForwardError::Lost, ForwardError::NotSent]));
        assert!(matches!(after_go_away(3).await, [ForwardError::Lost, ForwardError::Lost]));
    }
}
