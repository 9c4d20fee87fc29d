//! What can come instead of a good answer, and how reports count it.

use etcd_warden_core::keyspace::Escaped;

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A status of gRPC, with its message.
    Grpc(u32, String),
    /// No answer within `--timeout`.
    Timeout,
    /// The connection ended under it.
    Lost(String),
    /// There was no connection: nothing was sent.
    NoConnection(String),
    /// Nothing was sent: the run is to end.
    Stopped,
    /// A watch that was refused, or ended, for a reason that is no status of gRPC.
    Cancelled(String),
    /// An answer that is no gRPC.
    NotGrpc(String),
    /// An answer with OK whose content is not what it had to be.
    Wrong(String),
}

/// gRPC's names of its codes (`google.rpc.Code` as grpc-go writes them), by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

impl Failure {
    /// What a watch's `cancel_reason` says: where it is an error of gRPC as Go writes one, that
    /// error.
    #[must_use]
    pub fn cancelled(reason: &str) -> Self {
        let shown = |text: &str| Escaped(text.as_bytes()).to_string();
        let status = || {
            let (name, message) =
                reason.strip_prefix("rpc error: code = ")?.split_once(" desc = ")?;
            let code = CODES.iter().position(|known| *known == name)?;
            Some(Failure::Grpc(u32::try_from(code).ok()?, shown(message)))
        };
        status().unwrap_or_else(|| Failure::Cancelled(shown(reason)))
    }

    /// As reports count it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Failure::Grpc(code, _) => usize::try_from(*code)
                .ok()
                .and_then(|code| CODES.get(code))
                .map_or_else(|| format!("code {code}"), ToString::to_string),
            Failure::Timeout => "no answer in time".to_owned(),
            Failure::Lost(_) => "connection lost".to_owned(),
            Failure::NoConnection(_) => "no connection".to_owned(),
            Failure::Stopped => "stopped by a signal".to_owned(),
            Failure::Cancelled(_) => "watch cancelled".to_owned(),
            Failure::NotGrpc(_) => "no gRPC".to_owned(),
            Failure::Wrong(_) => "wrong answer".to_owned(),
        }
    }

    /// What was said about it.
    #[must_use]
    pub fn message(&self) -> &str {
        match self {
            Failure::Grpc(_, message)
            | Failure::Lost(message)
            | Failure::NoConnection(message)
            | Failure::Cancelled(message)
            | Failure::NotGrpc(message)
            | Failure::Wrong(message) => message,
            Failure::Timeout | Failure::Stopped => "",
        }
    }

    /// Whether etcd may have done what was asked, and have counted it as done.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        // Unavailable, Canceled, DeadlineExceeded and Unknown can be a proxy's word for an answer
        // that it lost.
        matches!(
            self,
            Failure::Timeout
                | Failure::Lost(_)
                | Failure::NotGrpc(_)
                | Failure::Grpc(1 | 2 | 4 | 14, _)
        )
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.message().is_empty() {
            f.write_str(&self.name())
        } else {
            write!(f, "{}: {}", self.name(), self.message())
        }
    }
}
