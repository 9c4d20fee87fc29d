//! The operator's side: HTTP/1.1 on an address of its own, for probes, Prometheus and a look
//! inside. GET and HEAD only; nothing can be changed there. At a socket in the file system, for
//! root and the proxy's own user, the mode can (`POST /mode`).
//!
//! Loopback is open to every pod in the host's network, so this counts its callers and their time:
//! one request for each connection, [`DEADLINE`] for each, and of too many the oldest goes
//! (`admin/guests`). What names identities (`/debug/*`) is there only when asked for.

mod door;
mod guests;
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
use door::Caller;
pub use door::{Door, Peer, Socket};
use guests::{Guest, Guests};
pub use page::{Check, PolicyView, StreamView};

/// Connections at once at each door, and so the descriptors that it may take.
pub const MAX_CONNECTIONS: usize = guests::MAX_ASKING + guests::MAX_ANSWERED;
/// From accept to the last byte of the answer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// For the request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request's header (hyper takes no less).
const MAX_HEADER: usize = 8 * 1024;

/// Bytes of what `POST /mode` says.
const MAX_MODE: usize = 64;

/// What the pages are made of.
pub struct AdminState {
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// `/readyz`: each thing that must be well.
    pub readiness: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// `/policy`
    pub policy: Box<dyn Fn() -> PolicyView + Send + Sync>,
    /// `/debug/streams`, which names identities.
    pub streams: Box<dyn Fn() -> Vec<StreamView> + Send + Sync>,
    /// It is served to anybody who reaches the address.
    pub debug: bool,
    /// `POST /mode`, at the socket: what overrides the policy's modes from now on, and who wants
    /// it.
    pub change_mode: Box<dyn Fn(Option<Mode>, Peer) + Send + Sync>,
}

/// Serves one door until `shutdown`; then takes no more connections and ends when the open ones
/// have their answer (within [`DEADLINE`]).
pub async fn serve(door: Door, state: Arc<AdminState>, shutdown: CancellationToken) {
    let guests = Guests::default();
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = door.accept() => accepted,
        };
        match accepted {
            Ok(None) => {}
            Ok(Some(caller)) => {
                let (state, guest) = (Arc::clone(&state), Arc::new(guests.enter(caller.origin)));
                connections.spawn(async move {
                    // A caller that is too slow gets no answer; nobody else waits for it.
                    let answered = tokio::time::timeout(
                        DEADLINE,
                        answer_one(caller, state, Arc::clone(&guest)),
                    );
                    tokio::select! {
                        biased;
                        _ = answered => {}
                        () = guest.gives_way() => {}
                    }
                });
                // Each is looked at once before the next one comes: what it has said by then is
                // answered, however many there are.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                // Out of file descriptors, most likely: they come back.
                tracing::warn!(%error, ?door, "an admin connection cannot be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn answer_one(caller: Caller, state: Arc<AdminState>, guest: Arc<Guest>) {
    let Caller { stream, peer, .. } = caller;
    let service = service_fn(move |request: Request<Incoming>| {
        guest.has_asked();
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(MAX_HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an admin request failed");
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
        (&Method::GET | &Method::HEAD, "/debug/streams", _) => page::not_served(),
        (&Method::GET | &Method::HEAD, _, _) => page::not_found(),
        (&Method::POST, "/mode", Some(peer)) => change_mode(state, peer, request.into_body()).await,
        _ => page::only_get(),
    };
    page.map(|text| Full::new(Bytes::from(text)))
}

/// Does what the body says.
async fn change_mode(state: &Arc<AdminState>, peer: Peer, body: Incoming) -> page::Page {
    let Ok(body) = Limited::new(body, MAX_MODE).collect().await else { return page::no_mode() };
    let asked = match body.to_bytes().trim_ascii() {
        b"shadow" => Some(Mode::Shadow),
        b"enforce" => Some(Mode::Enforce),
        b"policy" => None,
        _ => return page::no_mode(),
    };
    (state.change_mode)(asked, peer);
    page::json(&(state.policy)())
}

#[cfg(test)]
mod tests;
