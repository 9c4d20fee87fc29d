//! From a permit and bytes to etcd's answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};

use crate::authorize::Permit;
use crate::method::{Effect, Method};
use crate::metrics::Metrics;
use crate::metrics::reason::UpstreamFailure;
use crate::upstream::Class;
use crate::upstream::link::{Link, Place};
use crate::upstream::members::MemberIndex;
use crate::upstream::pool::{Pool, Target};

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
    /// Whether it may be sent again after it may have reached etcd.
    pub effect: Effect,
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
            effect: method.effect(),
        }
    }
}

/// etcd's answer has begun.
pub struct Exchange {
    /// Its head, and the body to come.
    pub response: Response<RecvStream>,
    /// The member that answers.
    pub member: MemberIndex,
    /// Keeps the place on the connection until the answer has ended.
    pub place: Place,
}

/// A request is under way.
pub struct Sent {
    /// Becomes the answer.
    pub response: ResponseFuture,
    /// Our side of the stream, for requests that go on.
    pub send: SendStream<Bytes>,
    /// The member it went to.
    pub member: MemberIndex,
    /// Keeps the place on the connection.
    pub place: Place,
}

/// Connections of one member that may turn out to be ending before another member is tried: those that a lane keeps, and a new one.
const ENDING_CONNECTIONS: usize = 3;

/// Why there is no answer.
#[derive(Debug)]
pub enum ForwardError {
    /// Nothing was sent, or etcd said that it did not look at it.
    NotSent,
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

    /// The member that this client's calls go to. It changes when that member can serve less than another one: see [`Members::home`].
    /// Streams that are open there stay, as they do at etcd's own client: etcd itself ends those that asked for a leader (`hasleader`),
    /// and the others miss nothing while their member has none.
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

    /// Sends a request, to another member if the first cannot be reached. Without a permit there is no way here.
    ///
    /// # Errors
    /// Only [`ForwardError::NotSent`]: what happens after the bytes were handed over shows in the answer.
    pub async fn send(&self, _permit: &Permit, outgoing: &Outgoing, to: Option<MemberIndex>) -> Result<Sent, ForwardError> {
        let mut member = to.unwrap_or_else(|| self.home());
        for attempt in 0..=self.pool.members.len() {
            if attempt > 0 {
                self.metrics.upstream_retries.increment(1);
                member = self.move_away(member);
            }
            for _ in 0..ENDING_CONNECTIONS {
                let Ok((link, place)) = self.pool.link(member, outgoing.class).await else { break };
                match self.send_over(&link, member, outgoing).await {
                    Some((response, send)) => return Ok(Sent { response, send, member, place }),
                    // It is ending (GOAWAY), which says nothing of the member.
                    None => link.retire(),
                }
            }
        }
        self.metrics.upstream_failure(UpstreamFailure::NoMember);
        Err(ForwardError::NotSent)
    }

    /// `None`: the connection takes no more streams, and nothing was sent.
    async fn send_over(&self, link: &Link, member: MemberIndex, outgoing: &Outgoing) -> Option<(ResponseFuture, SendStream<Bytes>)> {
        let mut sender = link.sender();
        poll_fn(|cx| sender.poll_ready(cx)).await.ok()?;
        let bare = outgoing.ends && outgoing.body.is_empty();
        let (response, mut send) = sender.send_request(self.request(member, outgoing), bare).ok()?;
        // The message is in memory anyway: h2 holds it until etcd's window takes it. If the stream has ended already, the answer says why.
        if !bare {
            let _ = send.send_data(outgoing.body.clone(), outgoing.ends);
        }
        Some((response, send))
    }

    /// Sends a whole request and waits for the head of the answer. What was refused unprocessed is sent again, and so is a read
    /// that was lost, to another member where there is one; a write that may have reached etcd never is.
    ///
    /// # Errors
    /// See [`ForwardError`].
    pub async fn exchange(&self, permit: &Permit, outgoing: &Outgoing, to: Option<MemberIndex>) -> Result<Exchange, ForwardError> {
        let mut attempts = self.pool.members.len().saturating_add(1);
        let mut to = to;
        loop {
            let Sent { response, send: _send, member, place } = self.send(permit, outgoing, to).await?;
            let error = match response.await {
                Ok(response) => return Ok(Exchange { response, member, place }),
                Err(error) => error,
            };
            let failure = classify(&error);
            let again = match failure {
                ForwardError::NotSent => true,
                ForwardError::Lost => outgoing.effect == Effect::Reads,
                ForwardError::Reset(_) | ForwardError::NoRoom => false,
            };
            attempts = attempts.saturating_sub(1);
            if !again || attempts == 0 {
                self.metrics.upstream_failure(match failure {
                    ForwardError::NotSent => UpstreamFailure::NoMember,
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

/// What an error says of whether etcd looked at the request. Only REFUSED_STREAM promises that it did not (RFC 9113, 8.7);
/// a GOAWAY might, but h2 does not tell one that covers this stream from one that does not.
#[must_use]
pub fn classify(error: &h2::Error) -> ForwardError {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) => ForwardError::NotSent,
        Some(reason) if error.is_reset() && error.is_remote() => ForwardError::Reset(reason),
        _ => ForwardError::Lost,
    }
}
