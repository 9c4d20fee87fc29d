//! How a call ends. [`Outcome`] is recorded, [`Abort`] is the reason why the proxy ends a call
//! early, and [`UpstreamError`] is the reason why there is no complete response from etcd.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};

use super::reply::Status;

/// How a call ended, as metrics and the audit log record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client got this gRPC status; `None` if its stream was reset or it got an HTTP status.
    Answered(Option<u32>),
    /// The client reset its stream, or its connection ended, before the call had ended.
    ClientGone,
}

/// Why the proxy ends a call before etcd has ended it.
#[derive(Debug)]
pub enum Abort {
    /// The client reset its stream, or its connection ended: no response is possible.
    ClientGone,
    /// There is no response from etcd, or it is incomplete.
    Upstream(UpstreamError),
    /// The proxy ends the call with this status.
    Stop(Status),
}

/// Why there is no complete response from etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Nothing was sent, or etcd reported that it did not process the request.
    NotSent,
    /// The permit was withdrawn before etcd had the whole message, so etcd has executed nothing.
    Withdrawn,
    /// The request was sent, and its effect is unknown.
    Lost,
    /// etcd reset the stream. The client's stream is reset with the same code.
    Reset(Reason),
}

impl From<UpstreamError> for Abort {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}

impl UpstreamError {
    /// Classifies an error of `h2` by whether etcd may have processed the request. Two errors prove
    /// that it did not (RFC 9113, 8.7): REFUSED_STREAM, and a GOAWAY with a last stream id below
    /// that of the request. `h2` reports the GOAWAY only to the streams above the last stream id.
    /// The others end with a broken connection (`Inner::recv_go_away` and `recv_eof` in its
    /// `proto/streams/streams.rs`).
    pub(crate) fn of(error: &h2::Error) -> Self {
        match error.reason() {
            Some(Reason::REFUSED_STREAM) => Self::NotSent,
            _ if error.is_go_away() && error.is_remote() => Self::NotSent,
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(reason),
            _ => Self::Lost,
        }
    }
}

impl Abort {
    /// Ends a call whose response has not begun.
    pub(crate) fn end_call(self, respond: &mut SendResponse<Bytes>) -> Outcome {
        let status = match self {
            Self::ClientGone => return Outcome::ClientGone,
            Self::Stop(status) => status,
            Self::Upstream(UpstreamError::NotSent | UpstreamError::Withdrawn) => Status::not_sent(),
            Self::Upstream(UpstreamError::Lost) => Status::lost(),
            Self::Upstream(UpstreamError::Reset(reason)) => {
                respond.send_reset(reason);
                return Outcome::Answered(None);
            }
        };
        status.send(respond);
        Outcome::Answered(Some(status.code))
    }

    /// Ends a call whose response head was sent.
    pub(crate) fn end_response(self, out: &mut SendStream<Bytes>) -> Outcome {
        match self {
            Self::ClientGone => Outcome::ClientGone,
            Self::Stop(status) => end_with(out, &status),
            Self::Upstream(UpstreamError::Reset(reason)) => {
                out.send_reset(reason);
                Outcome::Answered(None)
            }
            // The response has begun, so etcd has processed the request, at least in part.
            Self::Upstream(
                UpstreamError::NotSent | UpstreamError::Withdrawn | UpstreamError::Lost,
            ) => end_with(out, &Status::lost()),
        }
    }
}

/// Ends a response with a status of the proxy's own.
pub(crate) fn end_with(out: &mut SendStream<Bytes>, status: &Status) -> Outcome {
    match out.send_trailers(status.trailers()) {
        Ok(()) => Outcome::Answered(Some(status.code)),
        Err(_) => Outcome::ClientGone,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// An empty SETTINGS frame, and a GOAWAY with NO_ERROR and this last stream (RFC 9113, 6.5 and
    /// 6.8).
    fn settings_and_go_away(last_stream: u8) -> Vec<u8> {
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let go_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last_stream, 0, 0, 0, 0];
        [&settings[..], &go_away].concat()
    }

    /// Counts the HEADERS frames after the client's preface of 24 bytes.
    fn headers_frames(seen: &[u8]) -> usize {
        let (mut at, mut count) = (24, 0);
        while let Some(head) = seen.get(at..at + 9) {
            count += usize::from(head[3] == 1);
            at += 9 + usize::from(head[1]) * 256 + usize::from(head[2]);
        }
        count
    }

    /// The errors of the requests on streams 1 and 3 when the server sends GOAWAY and closes the
    /// connection.
    async fn after_go_away(last_stream: u8) -> [UpstreamError; 2] {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let (mut send, connection) = h2::client::handshake(near).await.unwrap();
        let driven = tokio::spawn(connection);
        let request = || Request::post("https://etcd/a").body(()).unwrap();
        let (first, _) = send.send_request(request(), true).unwrap();
        let mut send = send.ready().await.unwrap();
        let (second, _) = send.send_request(request(), true).unwrap();
        let (mut read, mut seen) = (vec![0; 1 << 16], Vec::new());
        while headers_frames(&seen) < 2 {
            let length = far.read(&mut read).await.unwrap();
            seen.extend_from_slice(&read[..length]);
        }
        far.write_all(&settings_and_go_away(last_stream)).await.unwrap();
        drop(far);
        let errors = [first.await.unwrap_err(), second.await.unwrap_err()];
        let _ = driven.await;
        errors.each_ref().map(UpstreamError::of)
    }

    #[tokio::test]
    async fn goaway_says_which_requests_were_not_processed() {
        use UpstreamError::{Lost, NotSent};
        assert_eq!(after_go_away(0).await, [NotSent, NotSent]);
        assert_eq!(after_go_away(1).await, [Lost, NotSent]);
        assert_eq!(after_go_away(3).await, [Lost, Lost]);
    }
}
