//! The task that drives a connection: it runs h2, pings the member, and determines why the
//! connection ended.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};

use super::LinkState;
use crate::upstream::dial::ConnectError;
use crate::upstream::ping_interval::PingInterval;

const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Close {
    /// etcd closed it because it was pinged too often, at this interval.
    TooManyPings(Duration),
    /// Our h2 closed it: the member violated the protocol or exceeded one of h2's limits.
    Protocol,
    Other,
}

/// Waits for etcd's SETTINGS, the first frame that it sends (RFC 9113, 3.4). Streams that are
/// opened earlier may exceed etcd's limit; they would be refused, or wait behind long streams.
pub(super) async fn wait_for_settings<S>(
    connection: &mut Connection<S, Bytes>,
) -> Result<(), ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closed = |why: &str| ConnectError::Http2(why.to_owned());
    poll_fn(|cx| match connection.poll_unpin(cx) {
        Poll::Ready(Ok(())) => Poll::Ready(Err(closed("the connection was closed at once"))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(closed(&error.to_string()))),
        Poll::Pending if connection.max_concurrent_send_streams() > 0 => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await
}

/// Runs the connection until it ends. While streams are open it pings, so that a member that hangs
/// does not block its clients forever.
pub(super) async fn drive<S>(
    mut connection: Connection<S, Bytes>,
    state: &LinkState,
    pings: &PingInterval,
) -> Close
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let ping_pong = connection.ping_pong();
    let window = state.window.clone();
    // h2 gets a task of its own: its waker fires for each frame sent or received, and would poll
    // everything else in the same task as well.
    let mut driven = tokio::task::spawn_local(poll_fn(move |cx| {
        let polled = connection.poll_unpin(cx);
        window.driven();
        polled
    }));
    let interval = Cell::new(pings.get());
    let watchdog = async {
        let Some(mut ping_pong) = ping_pong else { return pending().await };
        loop {
            if state.streams.get() == 0 {
                state.busy.notified().await;
            }
            interval.set(pings.get());
            sleep(interval.get()).await;
            if state.streams.get() > 0 {
                let pong = timeout(PING_TIMEOUT, ping_pong.ping(h2::Ping::opaque())).await;
                if !matches!(pong, Ok(Ok(_))) {
                    return;
                }
            }
        }
    };
    let mut close = Close::Other;
    tokio::select! {
        // The connection first: etcd's GOAWAY says more than the ping that it leaves unanswered.
        biased;
        ended = &mut driven => if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "connection to etcd ended");
            close = why(&error, interval.get());
            if close == Close::Protocol {
                tracing::warn!(
                    %error,
                    streams = state.streams.get(),
                    "closing connection to etcd and its calls: HTTP/2 protocol error"
                );
            }
        },
        () = state.close.notified() => tracing::warn!(
            "closing connection to etcd: its server certificate is no longer trusted"
        ),
        () = watchdog => tracing::warn!(
            "closing connection to etcd: no answer to a ping within {} s",
            PING_TIMEOUT.as_secs()
        ),
    }
    driven.abort();
    close
}

fn why(error: &h2::Error, interval: Duration) -> Close {
    let calm_down = error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    // gRPC servers send this GOAWAY with the debug data "too_many_pings" (gRFC A8, "Server
    // Enforcement").
    if error.is_go_away() && error.is_remote() && calm_down {
        Close::TooManyPings(interval)
    } else if error.is_library() {
        Close::Protocol
    } else {
        Close::Other
    }
}
