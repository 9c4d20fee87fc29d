//! The operator's side: HTTP/1.1 on an address of its own, for probes, Prometheus and a look inside. GET and HEAD only; nothing can
//! be changed here.
//!
//! Loopback is open to every pod in the host's network, so this counts its callers and their time: one request for each connection, at
//! most [`MAX_CONNECTIONS`] of them, [`DEADLINE`] for each. What names identities (`/debug/*`) is there only when asked for.

mod page;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::Metrics;
pub use page::{Check, PolicyView, StreamView};

/// Connections served at once; more wait in the listener's backlog.
pub const MAX_CONNECTIONS: usize = 64;
/// From accept to the last byte of the answer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// For the request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of a request's header (hyper takes no less).
const MAX_HEADER: usize = 8 * 1024;

/// What the pages are made of.
pub struct AdminState {
    /// `/metrics`
    pub metrics: Arc<Metrics>,
    /// `/readyz`: each thing that must be well.
    pub readiness: Box<dyn Fn() -> Vec<Check> + Send + Sync>,
    /// `/policy`
    pub policy: Box<dyn Fn() -> PolicyView + Send + Sync>,
    /// `/debug/streams`; `None`: not served. It names identities.
    pub streams: Option<Box<dyn Fn() -> Vec<StreamView> + Send + Sync>>,
}

/// Serves until `shutdown`; then takes no more connections and ends when the open ones have their answer (within [`DEADLINE`]).
pub async fn serve(listener: TcpListener, state: Arc<AdminState>, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = accept => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let state = Arc::clone(&state);
                connections.spawn(async move {
                    let _place = place;
                    // A caller that is too slow gets no answer; nobody else waits for it.
                    let _ = tokio::time::timeout(DEADLINE, answer_one(stream, state)).await;
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: they come back.
                tracing::warn!(%error, "the admin address cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn answer_one(stream: TcpStream, state: Arc<AdminState>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(&state, &request)) }
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

fn answer<B>(state: &AdminState, request: &Request<B>) -> Response<Full<Bytes>> {
    let page = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => page::metrics(&state.metrics),
        (&Method::GET | &Method::HEAD, "/livez") => page::live(),
        (&Method::GET | &Method::HEAD, "/readyz") => page::ready(&(state.readiness)()),
        (&Method::GET | &Method::HEAD, "/policy") => page::json(&(state.policy)()),
        (&Method::GET | &Method::HEAD, "/debug/streams") => match &state.streams {
            Some(streams) => page::json(&streams()),
            None => page::not_served(),
        },
        (&Method::GET | &Method::HEAD, _) => page::not_found(),
        _ => page::only_get(),
    };
    page.map(|text| Full::new(Bytes::from(text)))
}

#[cfg(test)]
mod tests;
