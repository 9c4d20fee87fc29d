//! Sends a permitted request to etcd. Retries it on another member only if no member has processed
//! it.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use futures_util::FutureExt as _;
use h2::client::ResponseFuture;
use http::{HeaderMap, Request, Response};

use super::live_permit::LivePermit;
use super::outcome::UpstreamError;
use super::response_body::ResponseBody;
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
    /// The HTTP method. Always POST, except in shadow mode, which forwards any request.
    pub verb: http::Method,
    /// The path.
    pub target: Target,
    /// The metadata to forward.
    pub headers: HeaderMap,
    /// The bytes that were judged.
    pub body: Bytes,
    /// True if `body` is the whole body.
    pub ends: bool,
    /// The class of connections that the request uses.
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

/// A call whose response has begun.
pub struct Exchange {
    /// The head of the response, and its body.
    pub response: Response<ResponseBody>,
    /// The member that responds.
    pub member: MemberIndex,
    /// The stream's slot on the connection, held until the response has ended.
    pub slot: StreamSlot,
}

/// A call whose request head was sent.
pub struct Sent {
    /// The future of the response head.
    pub response: PendingResponse,
    /// The request side of the stream, for a request whose body continues.
    pub send: Upload,
    /// The member that the request was sent to.
    pub member: MemberIndex,
    /// The stream's slot on the connection.
    pub slot: StreamSlot,
}

/// The future of the head of etcd's response.
pub struct PendingResponse {
    response: ResponseFuture,
    window: Window,
    request: RequestNumber,
}

impl Future for PendingResponse {
    type Output = Result<Response<ResponseBody>, UpstreamError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.response.poll_unpin(cx);
        if let Poll::Ready(Ok(_)) = polled {
            self.window.answered(self.request);
        }
        polled.map(|response| match response {
            Ok(response) => Ok(response.map(ResponseBody::new)),
            Err(error) => Err(UpstreamError::of(&error)),
        })
    }
}

/// Why a request was not sent over a connection. etcd has not executed it.
enum NotOpened {
    /// The connection accepts no more streams.
    Ending,
    /// The permit was withdrawn before the whole message was written.
    Withdrawn,
}

/// Number of connections to one member that are tried before another member. Each may turn out to
/// be ending. A class keeps two connections, and the third is new.
const ENDING_CONNECTIONS: usize = 3;

/// Sends the requests of one client connection over its worker's pool, all to one member while that
/// is possible.
pub struct Forwarder {
    pool: Rc<Pool>,
    metrics: Arc<Metrics>,
    /// The member that the requests are sent to.
    home: RefCell<MemberIndex>,
}

impl Forwarder {
    /// Chooses a member for a new client connection.
    #[must_use]
    pub fn new(pool: Rc<Pool>, metrics: Arc<Metrics>) -> Self {
        let home = pool.members.choose(None);
        Self { pool, metrics, home: RefCell::new(home) }
    }

    /// The member that this client's calls are sent to. It changes when another member can serve
    /// more calls: see [`Members::home`].
    ///
    /// Open streams stay on their member, as with etcd's own client. If the member loses its
    /// leader, etcd itself ends the streams that require one (metadata `hasleader`). The others
    /// receive no event while there is no leader, and miss none afterwards.
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

    /// Sends a request, and tries another member if the first cannot be reached. The permit is
    /// checked after the last wait, immediately before the first byte is written.
    ///
    /// # Errors
    /// [`UpstreamError::NotSent`] or [`UpstreamError::Withdrawn`]. The response reports errors that
    /// occur after the bytes were passed to `h2`.
    pub async fn send(
        &self,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
        to: Option<MemberIndex>,
    ) -> Result<Sent, UpstreamError> {
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
                    // The connection is ending (GOAWAY); the member may be healthy.
                    Err(NotOpened::Ending) => link.retire(),
                    Err(NotOpened::Withdrawn) => return Err(UpstreamError::Withdrawn),
                }
            }
        }
        self.metrics.upstream_failure(UpstreamFailure::NoMember);
        Err(UpstreamError::NotSent)
    }

    async fn send_over(
        &self,
        link: &Link,
        member: MemberIndex,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
    ) -> Result<(PendingResponse, Upload), NotOpened> {
        // Wait for a stream and for the socket.
        let mut sender = link.sender();
        poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|_| NotOpened::Ending)?;
        if link.window().is_behind() {
            // Flow control does not apply to heads, so wait for the socket. On the heap, because
            // the socket is ready for most requests.
            Box::pin(link.window().drained()).await;
            if link.is_closed() {
                return Err(NotOpened::Ending);
            }
        }
        // Check the permit; no wait follows before the head is written.
        if !permit.holds() {
            return Err(NotOpened::Withdrawn);
        }
        let bare = outgoing.ends && outgoing.body.is_empty();
        let (response, send) = sender
            .send_request(self.request(member, outgoing), bare)
            .map_err(|_| NotOpened::Ending)?;
        let window = link.window().clone();
        let response =
            PendingResponse { response, request: window.begin(), window: window.clone() };
        // Write the message.
        let mut upload = Upload::new(send, window);
        if !bare {
            match upload.write(permit, outgoing.body.clone(), outgoing.ends).await {
                // If etcd has ended the stream, its response has the reason.
                Ok(()) | Err(Unsent::Closed) => {}
                // etcd has at most a part of the message and cannot execute it. Dropping the upload
                // resets the stream.
                Err(Unsent::Withdrawn | Unsent::Cut) => return Err(NotOpened::Withdrawn),
            }
        }
        Ok((response, upload))
    }

    /// Sends a whole request and waits for the head of the response.
    ///
    /// A request is retried only if the member reports that it did not process it (REFUSED_STREAM
    /// or GOAWAY). A request that was lost with its connection is never retried, not even a read:
    /// it may have crashed the member and would crash the next one.
    ///
    /// # Errors
    /// See [`UpstreamError`].
    pub async fn exchange(
        &self,
        permit: &LivePermit<'_>,
        outgoing: &Outgoing,
        to: Option<MemberIndex>,
    ) -> Result<Exchange, UpstreamError> {
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
            attempts = attempts.saturating_sub(1);
            if error != UpstreamError::NotSent || attempts == 0 {
                self.metrics.upstream_failure(match error {
                    UpstreamError::NotSent | UpstreamError::Withdrawn => UpstreamFailure::NoMember,
                    UpstreamError::Lost => UpstreamFailure::Lost,
                    UpstreamError::Reset(_) => UpstreamFailure::Reset,
                });
                return Err(error);
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
