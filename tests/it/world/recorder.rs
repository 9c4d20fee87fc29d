//! A server in front of an etcd that forwards everything and records the requests of real clients.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use etcd_warden_testbed::etcd::Etcd;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{Request, Response};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::fake::{Fake, certificate};
use super::raw::{Answer, Raw};

/// One message of a request.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Connections identify programs: each program has its own.
    pub connection: usize,
    pub path: String,
    pub message: Vec<u8>,
}

/// The server; dropping it ends it. Clients trust it as they trust etcd, and it accepts any client
/// certificate.
pub struct Recorder {
    server: Fake,
    taken: Arc<Mutex<Vec<Taken>>>,
}

impl Recorder {
    pub async fn before(etcd: &Etcd) -> Self {
        let (taken, connections, address) =
            (Arc::new(Mutex::new(Vec::new())), AtomicUsize::new(0), etcd.addresses()[0]);
        let kept = taken.clone();
        let issued = certificate();
        let server = Fake::talking(&issued, move |stream, _| {
            let noted = Noted {
                connection: connections.fetch_add(1, Ordering::SeqCst),
                taken: kept.clone(),
            };
            async move { talk(stream, Raw::direct(address).await, noted).await }
        });
        Self { server: server.await, taken }
    }

    pub fn endpoint(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// All requests so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Noted {
    connection: usize,
    taken: Arc<Mutex<Vec<Taken>>>,
}

async fn talk(stream: TlsStream<TcpStream>, upstream: Raw, noted: Noted) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let upstream = Arc::new(tokio::sync::Mutex::new(upstream));
    let mut calls = tokio::task::JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        calls.spawn(pass(request, respond, upstream.clone(), noted.clone()));
    }
}

async fn pass(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    upstream: Arc<tokio::sync::Mutex<Raw>>,
    noted: Noted,
) {
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let mut outgoing = Request::post(format!("https://127.0.0.1{path}")).body(()).unwrap();
    *outgoing.headers_mut() = head.headers;
    let Ok(stream) = upstream.lock().await.begin(outgoing, false).await else { return };
    let mut send = stream.request;
    let upwards = async move {
        let mut unread = Answer::default();
        while let Some(data) = body.data().await {
            let Ok(data) = data else { return send.send_reset(h2::Reason::CANCEL) };
            let _ = body.flow_control().release_capacity(data.len());
            unread.body.extend_from_slice(&data);
            let messages: Vec<Vec<u8>> =
                unread.messages().into_iter().map(<[u8]>::to_vec).collect();
            let read: usize = messages.iter().map(|message| message.len() + 5).sum();
            unread.body.drain(..read);
            let taken = messages.into_iter().map(|message| Taken {
                connection: noted.connection,
                path: path.clone(),
                message,
            });
            noted.taken.lock().unwrap().extend(taken);
            let _ = send.send_data(data, false);
        }
        let _ = send.send_data(Bytes::new(), true);
        // Keeps the stream open until the response has arrived.
        std::future::pending::<()>().await;
    };
    let downwards = async move {
        let Ok(response) = stream.response.await else { return };
        let (head, mut body) = response.into_parts();
        let mut answer = Response::new(());
        *answer.headers_mut() = head.headers;
        let Ok(mut out) = respond.send_response(answer, body.is_end_stream()) else { return };
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            let _ = out.send_data(data, false);
        }
        if let Ok(Some(trailers)) = body.trailers().await {
            let _ = out.send_trailers(trailers);
        }
    };
    tokio::select! { () = upwards => {}, () = downwards => {} }
}
