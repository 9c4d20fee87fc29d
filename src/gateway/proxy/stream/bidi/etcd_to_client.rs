//! The direction from etcd to the client: passes etcd's messages on and inserts the proxy's own
//! messages between them.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::header::ResponseHeader;
use etcd_warden_core::wire::{self, Fault, Malformed, frame};
use h2::SendStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response};
use smallvec::SmallVec;
use tokio::sync::watch;

use super::BidiStream;
use crate::proxy::delivery::Delivery;
use crate::proxy::forward::PendingResponse;
use crate::proxy::outcome::{Abort, UpstreamError};
use crate::proxy::relay;
use crate::proxy::reply::{self, Status};
use crate::proxy::response_body::ResponseBody;
use crate::proxy::stream::splitter::{Disposition, Splitter};
use crate::upstream::Class;

impl BidiStream<'_> {
    /// Passes on the response until the stream ends.
    pub(super) async fn etcd_to_client(
        &self,
        etcd: Etcd,
        respond: &mut SendResponse<Bytes>,
        changes: watch::Receiver<u64>,
    ) {
        let mut client = Downstream { respond, out: None };
        match self.relay_response(etcd, &mut client, changes).await {
            Ok(End::Head(head)) => {
                let delivery = self.call.delivery(Class::Long);
                relay::head_alone(client.respond, head, &delivery);
            }
            Ok(End::Trailers(trailers)) => {
                if let Ok(out) = client.out() {
                    relay::finish(out, trailers);
                }
            }
            Err(abort) => {
                match &mut client.out {
                    Some(out) => abort.end_response(out),
                    None => abort.end_call(client.respond),
                };
            }
        }
    }

    async fn relay_response(
        &self,
        mut etcd: Etcd,
        client: &mut Downstream<'_>,
        mut changes: watch::Receiver<u64>,
    ) -> Result<End, Abort> {
        let delivery = self.call.delivery(Class::Long);
        let mut splitter = Splitter::default();
        let mut ending = pin!(self.call.client.ending.cancelled());
        let mut pieces = Vec::new();
        loop {
            // Send the proxy's own messages.
            if let Some(abort) = self.abort.take() {
                return Err(abort);
            }
            if splitter.at_boundary() {
                self.send_own(client, &delivery, &mut etcd, ending.as_mut()).await?;
            }
            // Wait.
            let event = tokio::select! {
                biased;
                () = &mut ending => return Err(Abort::Stop(self.call.ended_with_connection())),
                changed = changes.changed() => {
                    if changed.is_ok() {
                        self.recheck().await;
                    }
                    continue;
                }
                () = self.wake_to_client.notified() => continue,
                () = client.gone() => return Err(Abort::ClientGone),
                event = etcd.next() => event?,
            };
            // Relay etcd's response.
            match event {
                Event::Head(response)
                    if response.body().is_end_stream() && client.out.is_none() =>
                {
                    return Ok(End::Head(response.map(drop)));
                }
                // The client has a head of the proxy's own, so etcd's only head becomes the
                // trailers: it has the status.
                Event::Head(response) if response.body().is_end_stream() => {
                    let mut trailers = response.into_parts().0.headers;
                    trailers.remove(CONTENT_TYPE);
                    return Ok(End::Trailers(Some(trailers)));
                }
                Event::Head(response) => {
                    let (parts, body) = response.into_parts();
                    client.begin(Response::from_parts(parts, ()))?;
                    etcd = Etcd::Responding(body);
                }
                Event::Data(chunk) => {
                    let length = chunk.len();
                    let read = splitter.feed(
                        chunk,
                        |flag, seen, length| self.disposition(flag, seen, length),
                        &mut pieces,
                    );
                    let out = client.out()?;
                    for piece in pieces.drain(..) {
                        self.pass(out, piece, &delivery, &mut etcd, ending.as_mut()).await?;
                    }
                    if let Err(malformed) = read {
                        tracing::error!(%malformed, "cannot read a watch response of etcd");
                        return Err(Abort::Stop(Status::lost()));
                    }
                    etcd.release(length);
                }
                Event::End(trailers) => return Ok(End::Trailers(trailers)),
            }
        }
    }

    /// Decides how to relay one message of etcd.
    fn disposition(
        &self,
        flag: u8,
        seen: &[u8],
        length: usize,
    ) -> Result<Option<Disposition>, Malformed> {
        if self.method != Method::Watch {
            return Ok(Some(Disposition { pass: true, after: SmallVec::new() }));
        }
        // etcd does not compress these messages (see `encoding`). A compressed one cannot be read
        // here, and it might begin a watch, so it must not be passed on.
        if flag != 0 {
            return Err(Malformed { field: "WatchResponse", offset: 0, fault: Fault::WireType });
        }
        let Some(head) = wire::watch::response_head(seen, length)? else { return Ok(None) };
        self.note_header(head.header, head.created);
        let mut ledger = self.ledger.borrow_mut();
        let action = ledger.on_response(&head);
        // Only these responses change the number of watches. Events do not.
        if head.created || head.canceled {
            self.count_watches(&ledger);
        }
        // A response to a create makes room for another create (`MAX_WAITING`).
        if head.created {
            self.wake_to_etcd.notify_one();
        }
        let mut after = SmallVec::new();
        if let Some(id) = action.cancel {
            after.push(self.canceled_by_policy(id));
        }
        after.extend(
            action.refusals.into_iter().map(|refusal| frame::encode(&self.refused_create(refusal))),
        );
        Ok(Some(Disposition { pass: action.forward, after }))
    }

    /// Keeps the newest response header for the proxy's own messages on this stream. The header of
    /// a response to a create is also kept for later streams to this member.
    fn note_header(&self, header: &[u8], created: bool) {
        let mut last = self.header.borrow_mut();
        last.clear();
        last.extend_from_slice(header);
        if created
            && let Ok(header) = ResponseHeader::decode(header)
            && let Some(member) = self.call.shared().members.at(self.member)
        {
            member.set_header(header);
        }
    }

    /// Sends the proxy's own messages. If etcd's response head has not arrived, sends the proxy's
    /// own head first.
    async fn send_own(
        &self,
        client: &mut Downstream<'_>,
        delivery: &Delivery<'_>,
        etcd: &mut Etcd,
        mut ending: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Abort> {
        loop {
            let next = self.to_client.borrow_mut().pop_front();
            let Some(message) = next else { return Ok(()) };
            self.pass(client.out()?, message, delivery, etcd, ending.as_mut()).await?;
            self.wake_to_etcd.notify_one();
        }
    }

    /// Sends one piece to the client. Stops waiting for a client that does not read if its stream
    /// or connection must end.
    async fn pass(
        &self,
        out: &mut SendStream<Bytes>,
        piece: Bytes,
        delivery: &Delivery<'_>,
        etcd: &mut Etcd,
        ending: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Abort> {
        let behind = delivery.behind(None);
        tokio::select! {
            biased;
            sent = delivery.send_before(out, piece, behind, |cx| etcd.keep(cx)) => sent,
            () = ending => Err(Abort::Stop(self.call.ended_with_connection())),
            abort = self.aborted() => Err(abort),
        }
    }

    /// Waits until `client_to_etcd` wants the stream to end.
    async fn aborted(&self) -> Abort {
        loop {
            if let Some(abort) = self.abort.take() {
                return abort;
            }
            self.wake_to_client.notified().await;
        }
    }
}

/// The end of etcd's response.
enum End {
    /// A head that ends the stream (gRPC's *Trailers-Only*).
    Head(Response<()>),
    /// The trailers, or the end of the stream without them.
    Trailers(Option<HeaderMap>),
}

/// The response to the client.
struct Downstream<'r> {
    respond: &'r mut SendResponse<Bytes>,
    /// The stream of messages; `None` until the head was sent.
    out: Option<SendStream<Bytes>>,
}

impl Downstream<'_> {
    /// Sends the head, unless a head was sent before.
    fn begin(&mut self, head: Response<()>) -> Result<(), Abort> {
        if self.out.is_none() {
            let out = self.respond.send_response(head, false).map_err(|_| Abort::ClientGone)?;
            self.out = Some(out);
        }
        Ok(())
    }

    /// The stream of messages. If no head was sent, sends the proxy's own head first.
    fn out(&mut self) -> Result<&mut SendStream<Bytes>, Abort> {
        if self.out.is_none() {
            self.begin(reply::head())?;
        }
        self.out.as_mut().ok_or(Abort::ClientGone)
    }

    /// Waits until the client resets the stream.
    async fn gone(&mut self) {
        match &mut self.out {
            Some(out) => drop(poll_fn(|cx| out.poll_reset(cx)).await),
            None => drop(poll_fn(|cx| self.respond.poll_reset(cx)).await),
        }
    }
}

/// The state of the response from etcd.
pub(super) enum Etcd {
    /// No stream to etcd was opened: the client has no right or no slot.
    Absent,
    /// The head has not arrived.
    Waiting(PendingResponse),
    /// A head, or an error instead of it, that arrived while the client did not read.
    Kept(Box<Result<Response<ResponseBody>, UpstreamError>>),
    /// The head was relayed, and messages arrive.
    Responding(ResponseBody),
}

enum Event {
    Head(Response<ResponseBody>),
    Data(Bytes),
    End(Option<HeaderMap>),
}

impl Etcd {
    async fn next(&mut self) -> Result<Event, UpstreamError> {
        match self {
            Etcd::Absent => std::future::pending().await,
            Etcd::Waiting(response) => response.await.map(Event::Head),
            Etcd::Kept(_) => match std::mem::replace(self, Etcd::Absent) {
                Etcd::Kept(kept) => (*kept).map(Event::Head),
                _ => std::future::pending().await,
            },
            Etcd::Responding(body) => match body.data().await {
                Some(chunk) => chunk.map(Event::Data),
                None => body.trailers().await.map(Event::End),
            },
        }
    }

    /// Receives and keeps what etcd sends while the client does not read.
    fn keep(&mut self, cx: &mut Context<'_>) {
        if let Etcd::Waiting(response) = self
            && let Poll::Ready(response) = Pin::new(response).poll(cx)
        {
            *self = Etcd::Kept(Box::new(response));
        }
        match self {
            Etcd::Kept(kept) => {
                if let Ok(response) = &mut **kept {
                    response.body_mut().keep(cx);
                }
            }
            Etcd::Responding(body) => body.keep(cx),
            Etcd::Absent | Etcd::Waiting(_) => {}
        }
    }

    /// Returns flow-control capacity for bytes that were passed on, so that etcd may send more.
    fn release(&mut self, length: usize) {
        if let Etcd::Responding(body) = self {
            body.release(length);
        }
    }
}
