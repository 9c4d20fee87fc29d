//! etcd's answer, passed on: nothing is buffered but what one window holds, and whoever stops
//! reading stops only himself.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use etcd_warden_core::wire::status;
use futures_util::future::{Either, select};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::header::TRAILER;
use http::{HeaderMap, Response};

use super::delivery::{Delivery, Undelivered};
use super::forward::{ForwardError, classify};
use super::inflow::Inflow;
use super::intake::ClientGone;
use super::reply::Status;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client got this gRPC status, or an answer that has none.
    Answered(Option<u32>),
    /// The client had left.
    ClientGone,
}

impl From<Result<Ended, ClientGone>> for Ended {
    fn from(result: Result<Ended, ClientGone>) -> Self {
        result.unwrap_or(Ended::ClientGone)
    }
}

/// Does `work` unless the client leaves first. Dropping the work is what cancels the call at etcd.
///
/// # Errors
/// The client left.
pub async fn unless_gone<T>(
    respond: &mut SendResponse<Bytes>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Result<T, ClientGone> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Ok(done)),
        Poll::Pending => respond.poll_reset(cx).map(|_| Err(ClientGone)),
    })
    .await
}

/// Passes on an answer: head, messages, trailers. A unary call is over for its client when the
/// trailers are there, so a short answer may wait for them and leave in one write; etcd often sends
/// it in three.
///
/// # Errors
/// The client left.
pub async fn answer(
    respond: &mut SendResponse<Bytes>,
    mut response: Response<RecvStream>,
    delivery: &Delivery<'_>,
) -> Result<Ended, ClientGone> {
    let begun = unless_gone(respond, pin!(beginning(response.body_mut(), delivery))).await?;
    pass_on(respond, response, begun, delivery, std::future::pending()).await
}

/// Passes on an answer that is a head and nothing else.
///
/// # Errors
/// The client left.
pub fn head_alone(
    respond: &mut SendResponse<Bytes>,
    mut head: Response<()>,
    delivery: &Delivery<'_>,
) -> Result<Ended, ClientGone> {
    if !delivery.as_it_came() {
        head.headers_mut().remove(TRAILER);
    }
    let status = status::code(head.headers());
    respond.send_response(head, true).map_err(|_| ClientGone)?;
    Ok(Ended::Answered(status))
}

/// Passes on an answer until it ends, or until `stop` says how it must end before.
///
/// # Errors
/// The client left.
pub async fn answer_until(
    respond: &mut SendResponse<Bytes>,
    response: Response<RecvStream>,
    delivery: &Delivery<'_>,
    stop: impl Future<Output = Cut>,
) -> Result<Ended, ClientGone> {
    pass_on(respond, response, [None, None], delivery, stop).await
}

/// What has come of an answer before anything of it is passed on: pieces of its body.
type Beginning = [Option<Result<Bytes, h2::Error>>; 2];

/// The whole message of a short unary answer, once it is known what follows; else the first piece.
async fn beginning(body: &mut RecvStream, delivery: &Delivery<'_>) -> Beginning {
    if !delivery.gathers() {
        return [None, None];
    }
    let first = body.data().await;
    let is_whole = first
        .as_ref()
        .is_some_and(|first| first.as_ref().is_ok_and(|chunk| delivery.rest(chunk) == Some(0)));
    // With the trailers next there is no second piece.
    [first, if is_whole { body.data().await } else { None }]
}

async fn pass_on(
    respond: &mut SendResponse<Bytes>,
    response: Response<RecvStream>,
    begun: Beginning,
    delivery: &Delivery<'_>,
    stop: impl Future<Output = Cut>,
) -> Result<Ended, ClientGone> {
    let (mut parts, body) = response.into_parts();
    let mut body = Inflow::new(body);
    if body.is_end_stream() && begun.iter().all(Option::is_none) {
        return head_alone(respond, Response::from_parts(parts, ()), delivery);
    }
    if !delivery.as_it_came() {
        parts.headers.remove(TRAILER);
    }
    let head = Response::from_parts(parts, ());
    let mut out = respond.send_response(head, false).map_err(|_| ClientGone)?;
    // Whoever stops reading is stopped all the same: `stop` is looked at while a send waits, too.
    let cut = match select(pin!(messages(begun, &mut body, &mut out, delivery)), pin!(stop)).await {
        Either::Left((copied, _)) => copied.err(),
        Either::Right((cut, _)) => Some(cut),
    };
    match cut {
        None => {}
        Some(Cut::Gone) => return Err(ClientGone),
        Some(Cut::Failed(error)) => return fail(&mut out, &error),
        Some(Cut::With(status)) => return end(&mut out, &status),
    }
    match body.trailers().await {
        Ok(trailers) => finish(&mut out, trailers),
        Err(error) => fail(&mut out, &classify(&error)),
    }
}

/// Why an answer ends before etcd has ended it.
pub enum Cut {
    /// The client left.
    Gone,
    /// etcd broke it off.
    Failed(ForwardError),
    /// The proxy ends it, with this status.
    With(Status),
}

impl Cut {
    /// Answers a request that etcd has not begun to answer.
    pub fn instead_of_an_answer(&self, respond: &mut SendResponse<Bytes>) -> Ended {
        match self {
            Cut::Gone => Ended::ClientGone,
            Cut::Failed(error) => refuse_or_reset(respond, error),
            Cut::With(status) => {
                status.send(respond);
                Ended::Answered(Some(status.code))
            }
        }
    }
}

async fn messages(
    begun: Beginning,
    body: &mut Inflow,
    out: &mut SendStream<Bytes>,
    delivery: &Delivery<'_>,
) -> Result<(), Cut> {
    let mut begun = begun.into_iter().flatten();
    let mut left = None;
    let mut first = true;
    loop {
        let piece = match begun.next() {
            Some(piece) => Some(piece),
            None => chunk(body, out).await.map_err(|ClientGone| Cut::Gone)?,
        };
        let Some(chunk) = piece else { return Ok(()) };
        let chunk = chunk.map_err(|error| Cut::Failed(classify(&error)))?;
        let length = chunk.len();
        left = if std::mem::take(&mut first) {
            delivery.rest(&chunk)
        } else {
            left.map(|left: usize| left.saturating_sub(length))
        };
        delivery.send_before(out, chunk, delivery.behind(left), |cx| body.keep(cx)).await.map_err(
            |undelivered| match undelivered {
                Undelivered::Gone => Cut::Gone,
                Undelivered::Unread => Cut::With(delivery.unread()),
            },
        )?;
        // Only now may etcd send more: a slow reader costs one window.
        body.release(length);
    }
}

/// The next bytes of etcd's answer.
///
/// # Errors
/// The client left.
pub async fn chunk(
    body: &mut Inflow,
    out: &mut SendStream<Bytes>,
) -> Result<Option<Result<Bytes, h2::Error>>, ClientGone> {
    poll_fn(|cx| match body.poll_data(cx) {
        Poll::Ready(chunk) => Poll::Ready(Ok(chunk)),
        Poll::Pending => out.poll_reset(cx).map(|_| Err(ClientGone)),
    })
    .await
}

/// Ends an answer with etcd's trailers.
///
/// # Errors
/// The client left.
pub fn finish(
    out: &mut SendStream<Bytes>,
    trailers: Option<HeaderMap>,
) -> Result<Ended, ClientGone> {
    let status = trailers.as_ref().and_then(status::code);
    match trailers {
        Some(trailers) => out.send_trailers(trailers),
        None => out.send_data(Bytes::new(), true),
    }
    .map_err(|_| ClientGone)?;
    Ok(Ended::Answered(status))
}

/// Ends an answer that etcd did not finish.
///
/// # Errors
/// The client left.
pub fn fail(out: &mut SendStream<Bytes>, error: &ForwardError) -> Result<Ended, ClientGone> {
    match error {
        ForwardError::Reset(reason) => {
            out.send_reset(*reason);
            Ok(Ended::Answered(None))
        }
        ForwardError::NotSent | ForwardError::Withdrawn | ForwardError::Lost => {
            end(out, &Status::lost())
        }
        ForwardError::NoRoom => end(out, &Status::too_many_requests()),
    }
}

/// Ends an answer with a status of the proxy's own.
///
/// # Errors
/// The client left.
pub fn end(out: &mut SendStream<Bytes>, status: &Status) -> Result<Ended, ClientGone> {
    out.send_trailers(status.trailers()).map_err(|_| ClientGone)?;
    Ok(Ended::Answered(Some(status.code)))
}

/// Answers a request that etcd gave no answer to.
pub fn refuse_or_reset(respond: &mut SendResponse<Bytes>, error: &ForwardError) -> Ended {
    let status = match error {
        ForwardError::NotSent | ForwardError::Withdrawn => Status::not_sent(),
        ForwardError::Lost => Status::lost(),
        ForwardError::NoRoom => Status::too_many_requests(),
        ForwardError::Reset(reason) => {
            respond.send_reset(*reason);
            return Ended::Answered(None);
        }
    };
    status.send(respond);
    Ended::Answered(Some(status.code))
}
