//! Admin pages over HTTP/1.1: probes, metrics, the policy in effect, open streams.
//!
//! They are served on a TCP address, with GET and HEAD only, so that nothing can be changed there.
//! On a Unix socket for root and the gateway's own user, `POST /mode` also changes the mode.
//!
//! Every pod in the host's network can reach loopback. So the number of connections and the time of
//! each are bounded: one request per connection, [`DEADLINE`] for each, and when there are too many
//! the oldest one is closed ([`connections`]). Pages that name identities (`/debug/*`) are served
//! only if the configuration asks for them.

mod connections;
mod listener;
mod page;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_warden_core::policy::Mode;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
use connections::{AdminConnection, AdminConnections};
use listener::Accepted;
pub use listener::{AdminListener, Peer, Socket};
pub use page::{Check, PolicyView, StreamView};

/// Connections at once to each listener, and so the file descriptors that it may use.
pub const MAX_CONNECTIONS: usize = connections::MAX_WAITING + connections::MAX_ANSWERING;
/// From accepting a connection to the last byte of the response.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// For receiving the header of the request.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request's header. hyper accepts no lower limit.
const MAX_HEADER: usize = 8 * 1024;

/// Bytes of the body of `POST /mode`.
const MAX_MODE: usize = 64;

/// The sources of the admin pages.
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The checks of `/readyz`.
    pub readiness: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// For `/policy`.
    pub policy: Box<dyn Fn() -> PolicyView + Send + Sync>,
    /// For `/debug/streams`, which names identities.
    pub streams: Box<dyn Fn() -> Vec<StreamView> + Send + Sync>,
    /// Whether the TCP address serves `/debug/streams`.
    pub debug: bool,
    /// For `POST /mode`: overrides the modes of the policy, or ends the override (`None`), on
    /// behalf of a process.
    pub change_mode: Box<dyn Fn(Option<Mode>, Peer) + Send + Sync>,
}

/// Serves one listener until `shutdown`. Then accepts no more connections, and returns when the
/// open ones have their response (within [`DEADLINE`]).
pub async fn serve(listener: AdminListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let connections = AdminConnections::default();
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                let connection = Arc::new(connections.add(accepted.origin));
                let state = Arc::clone(&state);
                tasks.spawn(async move {
                    let answered = tokio::time::timeout(
                        DEADLINE,
                        answer_one(accepted, state, Arc::clone(&connection)),
                    );
                    tokio::select! {
                        biased;
                        _ = answered => {}
                        () = connection.evicted() => {}
                    }
                });
                // Each connection is polled once before the next one is accepted, so that a request
                // that has arrived is answered in any flood of connections.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // Most likely there is no free file descriptor, which is temporary.
                tracing::warn!(%error, ?listener, "cannot accept an admin connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    tasks.close();
    tasks.wait().await;
}

async fn answer_one(accepted: Accepted, state: Arc<AdminState>, connection: Arc<AdminConnection>) {
    let Accepted { stream, peer, .. } = accepted;
    let service = service_fn(move |request: Request<Incoming>| {
        connection.request_received();
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, peer, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        tracing::debug!(%error, "admin request failed");
    }
}

async fn answer(
    state: &Arc<AdminState>,
    peer: Option<Peer>,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let page = match (request.method(), request.uri().path(), peer) {
        (&Method::GET | &Method::HEAD, "/metrics", _) => page::metrics(&state.metrics),
        (&Method::GET | &Method::HEAD, "/livez", _) => page::live(),
        (&Method::GET | &Method::HEAD, "/readyz", _) => page::ready(&(state.readiness)()),
        (&Method::GET | &Method::HEAD, "/policy", _) => page::json(&(state.policy)()),
        (&Method::GET | &Method::HEAD, "/debug/streams", peer) if state.debug || peer.is_some() => {
            page::json(&(state.streams)())
        }
        (&Method::GET | &Method::HEAD, "/debug/streams", _) => page::debug_is_off(),
        (&Method::GET | &Method::HEAD, _, _) => page::not_found(),
        (&Method::POST, "/mode", Some(peer)) => change_mode(state, peer, request.into_body()).await,
        _ => page::method_not_allowed(),
    };
    page.map(|text| Full::new(Bytes::from(text)))
}

/// Changes the mode to the one that the body names.
async fn change_mode(state: &Arc<AdminState>, peer: Peer, body: Incoming) -> page::Page {
    let Ok(body) = Limited::new(body, MAX_MODE).collect().await else {
        return page::unknown_mode();
    };
    let mode = match body.to_bytes().trim_ascii() {
        b"shadow" => Some(Mode::Shadow),
        b"enforce" => Some(Mode::Enforce),
        b"policy" => None,
        _ => return page::unknown_mode(),
    };
    (state.change_mode)(mode, peer);
    page::json(&(state.policy)())
}

#[cfg(test)]
mod tests;
