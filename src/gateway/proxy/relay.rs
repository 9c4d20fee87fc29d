//! Relays a response from etcd to the client. It buffers at most one HTTP/2 window, so a client
//! that stops reading stops only its own stream.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use bytes::Bytes;
use etcd_warden_core::wire::status;
use futures_util::future::{Either, select};
use h2::SendStream;
use h2::server::SendResponse;
use http::header::TRAILER;
use http::{HeaderMap, Response};

use super::delivery::Delivery;
use super::outcome::{Abort, Outcome, UpstreamError};
use super::response_body::ResponseBody;

/// Runs `work` until it ends or the client resets its stream. In the second case the caller drops
/// `work`, which cancels the call at etcd.
///
/// # Errors
/// The error of `work`, or [`Abort::ClientGone`].
pub async fn unless_gone<T, E: Into<Abort>>(
    respond: &mut SendResponse<Bytes>,
    mut work: Pin<&mut impl Future<Output = Result<T, E>>>,
) -> Result<T, Abort> {
    poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(done.map_err(Into::into)),
        Poll::Pending => respond.poll_reset(cx).map(|_| Err(Abort::ClientGone)),
    })
    .await
}

/// Passes on a unary response: head, message, trailers.
///
/// A unary call is complete for its client only with the trailers. So a short response may wait for
/// them and leave in one write; etcd often sends it in three writes.
pub async fn answer(
    respond: &mut SendResponse<Bytes>,
    mut response: Response<ResponseBody>,
    delivery: &Delivery<'_>,
) -> Outcome {
    let first = unless_gone(respond, pin!(first_pieces(response.body_mut(), delivery))).await;
    match first {
        Ok(first) => pass_on(respond, response, first, delivery, std::future::pending()).await,
        Err(abort) => abort.end_call(respond),
    }
}

/// Passes on a response that consists of a head only.
pub fn head_alone(
    respond: &mut SendResponse<Bytes>,
    mut head: Response<()>,
    delivery: &Delivery<'_>,
) -> Outcome {
    if !delivery.is_unchanged() {
        head.headers_mut().remove(TRAILER);
    }
    let status = status::code(head.headers());
    match respond.send_response(head, true) {
        Ok(_) => Outcome::Answered(status),
        Err(_) => Outcome::ClientGone,
    }
}

/// Passes on a response until it ends, or until `stop` is ready with the reason to end it early.
pub async fn answer_until(
    respond: &mut SendResponse<Bytes>,
    response: Response<ResponseBody>,
    delivery: &Delivery<'_>,
    stop: impl Future<Output = Abort>,
) -> Outcome {
    pass_on(respond, response, [None, None], delivery, stop).await
}

/// Pieces of a body that were read before any part of the response was passed on.
type FirstPieces = [Option<Result<Bytes, UpstreamError>>; 2];

/// Reads the message of a short unary response and the piece after it. If the first piece is not
/// the whole message, reads only that.
async fn first_pieces(
    body: &mut ResponseBody,
    delivery: &Delivery<'_>,
) -> Result<FirstPieces, Abort> {
    if !delivery.gathers() {
        return Ok([None, None]);
    }
    let first = body.data().await;
    let is_whole = first
        .as_ref()
        .is_some_and(|first| first.as_ref().is_ok_and(|chunk| delivery.rest(chunk) == Some(0)));
    // If the trailers follow the message, the second piece is `None`.
    Ok([first, if is_whole { body.data().await } else { None }])
}

async fn pass_on(
    respond: &mut SendResponse<Bytes>,
    response: Response<ResponseBody>,
    first: FirstPieces,
    delivery: &Delivery<'_>,
    stop: impl Future<Output = Abort>,
) -> Outcome {
    // Send the head.
    let (mut parts, mut body) = response.into_parts();
    if body.is_end_stream() && first.iter().all(Option::is_none) {
        return head_alone(respond, Response::from_parts(parts, ()), delivery);
    }
    if !delivery.is_unchanged() {
        parts.headers.remove(TRAILER);
    }
    let Ok(mut out) = respond.send_response(Response::from_parts(parts, ()), false) else {
        return Outcome::ClientGone;
    };
    // Send the messages. `stop` is also polled while a send waits, so a client that does not read
    // cannot keep its call open.
    let copied =
        match select(pin!(messages(first, &mut body, &mut out, delivery)), pin!(stop)).await {
            Either::Left((copied, _)) => copied,
            Either::Right((abort, _)) => Err(abort),
        };
    // End the response.
    match copied {
        Ok(()) => match body.trailers().await {
            Ok(trailers) => finish(&mut out, trailers),
            Err(error) => Abort::Upstream(error).end_response(&mut out),
        },
        Err(abort) => abort.end_response(&mut out),
    }
}

async fn messages(
    first: FirstPieces,
    body: &mut ResponseBody,
    out: &mut SendStream<Bytes>,
    delivery: &Delivery<'_>,
) -> Result<(), Abort> {
    let mut first = first.into_iter().flatten();
    let mut left = None;
    let mut is_first = true;
    loop {
        let piece = match first.next() {
            Some(piece) => Some(piece?),
            None => chunk(body, out).await?,
        };
        let Some(chunk) = piece else { return Ok(()) };
        let length = chunk.len();
        left = if std::mem::take(&mut is_first) {
            delivery.rest(&chunk)
        } else {
            left.map(|left: usize| left.saturating_sub(length))
        };
        delivery.send_before(out, chunk, delivery.behind(left), |cx| body.keep(cx)).await?;
        // Only now may etcd send more, so a client that reads slowly costs at most one window.
        body.release(length);
    }
}

/// Reads the next bytes of the response, or `None` at its end.
async fn chunk(
    body: &mut ResponseBody,
    out: &mut SendStream<Bytes>,
) -> Result<Option<Bytes>, Abort> {
    poll_fn(|cx| match body.poll_data(cx) {
        Poll::Ready(chunk) => Poll::Ready(chunk.transpose().map_err(Abort::Upstream)),
        Poll::Pending => out.poll_reset(cx).map(|_| Err(Abort::ClientGone)),
    })
    .await
}

/// Ends a response with etcd's trailers.
pub fn finish(out: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) -> Outcome {
    let status = trailers.as_ref().and_then(status::code);
    let sent = match trailers {
        Some(trailers) => out.send_trailers(trailers),
        None => out.send_data(Bytes::new(), true),
    };
    if sent.is_ok() { Outcome::Answered(status) } else { Outcome::ClientGone }
}
