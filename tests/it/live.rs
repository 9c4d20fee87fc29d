//! A call whose messages are written and read one by one.

use bytes::Bytes;
use etcd_warden_core::method::Method;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream};
use prost::Message;

use crate::world::SOON;
use crate::world::raw::{Raw, framed, grpc_headers};

/// gRPC code and message at the end of a call.
pub type Status = (u32, String);

/// An open call. Dropping it resets its stream.
pub struct Live {
    request: SendStream<Bytes>,
    answer: Side,
    held: Vec<u8>,
}

enum Side {
    Silent(ResponseFuture),
    Talking(RecvStream),
}

impl Live {
    /// Opens the stream without a message.
    pub async fn open(raw: &mut Raw, method: Method) -> Self {
        let stream = raw.open(method.path(), &grpc_headers()).await.unwrap();
        Self { request: stream.request, answer: Side::Silent(stream.response), held: Vec::new() }
    }

    /// Opens a stream with its only request.
    pub async fn ask(raw: &mut Raw, method: Method, message: &[u8]) -> Self {
        let mut live = Self::open(raw, method).await;
        live.request.send_data(framed(message).into(), true).unwrap();
        live
    }

    /// Sends a message; more may follow.
    pub fn send(&mut self, message: &impl Message) {
        self.send_bytes(&message.encode_to_vec());
    }

    pub fn send_bytes(&mut self, message: &[u8]) {
        self.request.send_data(framed(message).into(), false).unwrap();
    }

    /// Sends bytes without adding a gRPC frame.
    pub fn send_as_they_are(&mut self, bytes: &[u8]) {
        self.request.send_data(Bytes::copy_from_slice(bytes), false).unwrap();
    }

    /// The next message, or the status that ends the call.
    pub async fn next<M: Message + Default>(&mut self) -> Result<M, Status> {
        self.next_bytes().await.map(|bytes| M::decode(&bytes[..]).unwrap())
    }

    pub async fn next_bytes(&mut self) -> Result<Vec<u8>, Status> {
        tokio::time::timeout(SOON, self.read())
            .await
            .unwrap_or_else(|_| panic!("no answer within {SOON:?}"))
    }

    /// The status that ends the call. Earlier messages are discarded.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next_bytes().await {
                return status;
            }
        }
    }

    /// Reads and discards `bytes` bytes of a message that may be larger.
    pub async fn skip(&mut self, bytes: usize) {
        let read = async {
            if let Side::Silent(response) = &mut self.answer {
                self.answer = Side::Talking(response.await.unwrap().into_body());
            }
            let mut left = bytes;
            while let (Side::Talking(body), 1..) = (&mut self.answer, left) {
                let data = body.data().await.expect("more data arrives").unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                left = left.saturating_sub(data.len());
            }
        };
        tokio::time::timeout(SOON, read)
            .await
            .unwrap_or_else(|_| panic!("no {bytes} bytes within {SOON:?}"));
    }

    /// True if nothing has arrived after a short wait.
    pub async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(std::time::Duration::from_millis(100), self.read()).await.is_err()
    }

    async fn read(&mut self) -> Result<Vec<u8>, Status> {
        loop {
            if let Some(message) = self.whole() {
                return Ok(message);
            }
            match &mut self.answer {
                Side::Silent(response) => {
                    let response = response.await.unwrap();
                    if let Some(status) = status(response.headers()) {
                        return Err(status);
                    }
                    self.answer = Side::Talking(response.into_body());
                }
                Side::Talking(body) => match body.data().await {
                    Some(data) => {
                        let data = data.unwrap();
                        body.flow_control().release_capacity(data.len()).unwrap();
                        self.held.extend_from_slice(&data);
                    }
                    None => {
                        return Err(
                            status(&body.trailers().await.unwrap().unwrap_or_default()).unwrap()
                        );
                    }
                },
            }
        }
    }

    fn whole(&mut self) -> Option<Vec<u8>> {
        let head: [u8; 5] = self.held.get(..5)?.try_into().unwrap();
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let message = self.held.get(5..5 + length)?.to_vec();
        self.held.drain(..5 + length);
        Some(message)
    }
}

fn status(headers: &http::HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().unwrap().parse().unwrap();
    let message = headers.get("grpc-message").map_or("", |message| message.to_str().unwrap());
    Some((code, message.to_owned()))
}
