//! etcd to client: answers passed on, our own put in between two of them.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::Bytes;
use etcd_warden_core::method::Method;
use etcd_warden_core::wire::header::ResponseHeader;
use etcd_warden_core::wire::{self, Fault, Malformed, frame};
use h2::SendStream;
use h2::server::SendResponse;
use http::{HeaderMap, Response};
use smallvec::SmallVec;
use tokio::sync::watch;

use super::{Closing, Dialogue};
use crate::proxy::delivery::{Delivery, Undelivered};
use crate::proxy::forward::{Answer, classify};
use crate::proxy::inflow::Inflow;
use crate::proxy::intake::ClientGone;
use crate::proxy::relay::{self, Ended};
use crate::proxy::reply::{self, Status};
use crate::proxy::stream::splitter::{Fate, Splitter};
use crate::upstream::Class;

impl Dialogue<'_> {
    /// etcd to client.
    pub(super) async fn down(
        &self,
        mut etcd: Etcd,
        respond: &mut SendResponse<Bytes>,
        mut changes: watch::Receiver<u64>,
    ) -> Result<Ended, ClientGone> {
        let mut client: Option<SendStream<Bytes>> = None;
        let delivery = self.call.delivery(Class::Long);
        let mut splitter = Splitter::default();
        let mut ending = pin!(self.call.client.ending.cancelled());
        let mut pieces = Vec::new();
        loop {
            if let Some(closing) = self.verdict.take() {
                return self.over(client, respond, closing);
            }
            if splitter.at_boundary()
                && let Err(closing) =
                    self.say_own(&mut client, respond, &delivery, &mut etcd, ending.as_mut()).await
            {
                return self.over(client, respond, closing);
            }
            let event = tokio::select! {
                biased;
                () = &mut ending => return self.close(client, respond, &self.call.ended_with_connection()),
                changed = changes.changed() => { if changed.is_ok() { self.recheck(); } continue }
                () = self.wake_down.notified() => continue,
                _ = left(client.as_mut(), respond) => return Err(ClientGone),
                event = etcd.next() => event,
            };
            match event {
                Event::Head(answer) if answer.body().is_end_stream() && client.is_none() => {
                    return relay::head_alone(respond, answer.map(drop), &delivery);
                }
                Event::Head(answer) => {
                    let (parts, body) = answer.into_parts();
                    if client.is_none() {
                        client = Some(
                            respond
                                .send_response(Response::from_parts(parts, ()), false)
                                .map_err(|_| ClientGone)?,
                        );
                    }
                    etcd = Etcd::Talking(body);
                }
                Event::Data(chunk) => {
                    let length = chunk.len();
                    let read = splitter.feed(
                        chunk,
                        |flag, seen, length| self.fate(flag, seen, length),
                        &mut pieces,
                    );
                    let out = self.head(&mut client, respond)?;
                    for piece in pieces.drain(..) {
                        if let Err(closing) =
                            self.pass(out, piece, &delivery, &mut etcd, ending.as_mut()).await
                        {
                            return self.over(client, respond, closing);
                        }
                    }
                    if let Err(malformed) = read {
                        tracing::error!(%malformed, "cannot read a watch answer of etcd");
                        return self.close(client, respond, &Status::lost());
                    }
                    etcd.read(length);
                }
                Event::End(trailers) => {
                    return relay::finish(self.head(&mut client, respond)?, trailers);
                }
                Event::Failed(error) => {
                    return match &mut client {
                        Some(out) => relay::fail(out, &classify(&error)),
                        None => Ok(relay::refuse_or_reset(respond, &classify(&error))),
                    };
                }
            }
        }
    }

    /// What becomes of one message of etcd's.
    fn fate(&self, flag: u8, seen: &[u8], length: usize) -> Result<Option<Fate>, Malformed> {
        if self.method != Method::Watch {
            return Ok(Some(Fate { pass: true, after: SmallVec::new() }));
        }
        // etcd has no compressor; a message that cannot be read cannot be told from one that begins
        // a watch.
        if flag != 0 {
            return Err(Malformed { field: "WatchResponse", offset: 0, fault: Fault::WireType });
        }
        let Some(head) = wire::watch::response_head(seen, length)? else { return Ok(None) };
        self.saw_header(head.header, head.created);
        let mut ledger = self.ledger.borrow_mut();
        let action = ledger.on_response(&head);
        // An event changes no number, and only the answer to a create makes room for another.
        if head.created || head.canceled {
            self.count_watches(&ledger);
        }
        if head.created {
            self.wake_up.notify_one();
        }
        let mut after = SmallVec::new();
        if let Some(id) = action.cancel {
            after.push(self.ended_by_policy(id));
        }
        after.extend(
            action.refusals.into_iter().map(|refusal| frame::encode(&self.refused_create(refusal))),
        );
        Ok(Some(Fate { pass: action.forward, after }))
    }

    /// Keeps the newest header for answers of our own; the answer to a create also tells other
    /// streams of this member.
    fn saw_header(&self, header: &[u8], created: bool) {
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

    /// Sends our own messages, the head first if etcd's has not come.
    async fn say_own(
        &self,
        client: &mut Option<SendStream<Bytes>>,
        respond: &mut SendResponse<Bytes>,
        delivery: &Delivery<'_>,
        etcd: &mut Etcd,
        mut ending: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Closing> {
        loop {
            let next = self.to_client.borrow_mut().pop_front();
            let Some(message) = next else { return Ok(()) };
            let out = self.head(client, respond).map_err(|ClientGone| Closing::Gone)?;
            self.pass(out, message, delivery, etcd, ending.as_mut()).await?;
            self.wake_up.notify_one();
        }
    }

    /// Sends to the client. Who does not read must not hold up the end of its stream or connection.
    async fn pass(
        &self,
        out: &mut SendStream<Bytes>,
        piece: Bytes,
        delivery: &Delivery<'_>,
        etcd: &mut Etcd,
        ending: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), Closing> {
        tokio::select! {
            biased;
            sent = delivery.send_before(out, piece, delivery.behind(None), |cx| etcd.keep(cx)) => sent.map_err(|undelivered| match undelivered {
                Undelivered::Gone => Closing::Gone,
                Undelivered::Unread => Closing::With(delivery.unread()),
            }),
            () = ending => Err(Closing::With(self.call.ended_with_connection())),
            closing = self.closing() => Err(closing),
        }
    }

    /// Waits until the client's side has found out how the stream ends.
    async fn closing(&self) -> Closing {
        loop {
            if let Some(closing) = self.verdict.take() {
                return closing;
            }
            self.wake_down.notified().await;
        }
    }

    fn head<'o>(
        &self,
        client: &'o mut Option<SendStream<Bytes>>,
        respond: &mut SendResponse<Bytes>,
    ) -> Result<&'o mut SendStream<Bytes>, ClientGone> {
        match client {
            Some(out) => Ok(out),
            None => {
                Ok(client
                    .insert(respond.send_response(reply::head(), false).map_err(|_| ClientGone)?))
            }
        }
    }

    fn over(
        &self,
        client: Option<SendStream<Bytes>>,
        respond: &mut SendResponse<Bytes>,
        closing: Closing,
    ) -> Result<Ended, ClientGone> {
        match closing {
            Closing::Gone => Err(ClientGone),
            Closing::With(status) => self.close(client, respond, &status),
        }
    }

    fn close(
        &self,
        client: Option<SendStream<Bytes>>,
        respond: &mut SendResponse<Bytes>,
        status: &Status,
    ) -> Result<Ended, ClientGone> {
        match client {
            Some(mut out) => relay::end(&mut out, status),
            None => {
                status.send(respond);
                Ok(Ended::Answered(Some(status.code)))
            }
        }
    }
}

/// etcd's side of the stream.
pub(super) enum Etcd {
    /// The caller may not speak at all: nothing of it goes there, and nothing comes back.
    Absent,
    /// No head yet.
    Silent(Answer),
    /// A head that was kept, or what came in its place.
    Heard(Box<Result<Response<Inflow>, h2::Error>>),
    /// Messages.
    Talking(Inflow),
}

enum Event {
    Head(Response<Inflow>),
    Data(Bytes),
    End(Option<HeaderMap>),
    Failed(h2::Error),
}

impl Etcd {
    async fn next(&mut self) -> Event {
        match self {
            Etcd::Absent => std::future::pending().await,
            Etcd::Silent(response) => {
                Event::begun(response.await.map(|response| response.map(Inflow::new)))
            }
            Etcd::Heard(_) => match std::mem::replace(self, Etcd::Absent) {
                Etcd::Heard(heard) => Event::begun(*heard),
                _ => std::future::pending().await,
            },
            Etcd::Talking(body) => match body.data().await {
                Some(Ok(chunk)) => Event::Data(chunk),
                Some(Err(error)) => Event::Failed(error),
                None => body.trailers().await.map_or_else(Event::Failed, Event::End),
            },
        }
    }

    /// Keeps what comes while the client is waited for.
    fn keep(&mut self, cx: &mut Context<'_>) {
        if let Etcd::Silent(response) = self
            && let Poll::Ready(heard) = Pin::new(response).poll(cx)
        {
            *self = Etcd::Heard(Box::new(heard.map(|response| response.map(Inflow::new))));
        }
        match self {
            Etcd::Heard(heard) => {
                if let Ok(response) = &mut **heard {
                    response.body_mut().keep(cx);
                }
            }
            Etcd::Talking(body) => body.keep(cx),
            Etcd::Absent | Etcd::Silent(_) => {}
        }
    }

    /// These bytes were passed on: etcd may send more.
    fn read(&mut self, length: usize) {
        if let Etcd::Talking(body) = self {
            body.release(length);
        }
    }
}

impl Event {
    fn begun(answer: Result<Response<Inflow>, h2::Error>) -> Self {
        answer.map_or_else(Self::Failed, Self::Head)
    }
}

/// Waits until the client resets the stream.
async fn left(client: Option<&mut SendStream<Bytes>>, respond: &mut SendResponse<Bytes>) {
    match client {
        Some(out) => drop(std::future::poll_fn(|cx| out.poll_reset(cx)).await),
        None => drop(std::future::poll_fn(|cx| respond.poll_reset(cx)).await),
    }
}
