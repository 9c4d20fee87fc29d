//! Failures of requests, and their names in reports.

use etcd_warden_core::keyspace::Escaped;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A gRPC status code with its message.
    Grpc(u32, String),
    /// No response within `--timeout`.
    Timeout,
    /// The connection was lost during the request.
    Lost(String),
    /// There was no connection, so nothing was sent.
    NoConnection(String),
    /// Nothing was sent because the run is stopping.
    Stopped,
    /// A watch was refused or canceled, and the reason is not a gRPC status.
    Cancelled(String),
    /// The response is not gRPC.
    NotGrpc(String),
    /// The status is OK, but the response is not the expected one.
    Wrong(String),
}

/// OperationNames of the gRPC status codes (`google.rpc.Code`, spelled as in grpc-go), by number.
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
    /// The failure for a watch's `cancel_reason`. If that is a gRPC error as Go formats it, the
    /// failure has that code.
    #[must_use]
    pub fn cancelled(reason: &str) -> Self {
        let result = |text: &str| Escaped(text.as_bytes()).to_string();
        let status = || {
            let (name, message) =
                reason.strip_prefix("rpc error: code = ")?.split_once(" desc = ")?;
            let code = CODES.iter().position(|known| *known == name)?;
            Some(Failure::Grpc(u32::try_from(code).ok()?, result(message)))
        };
        status().unwrap_or_else(|| Failure::Cancelled(result(reason)))
    }

    /// Its name in reports.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Failure::Grpc(code, _) => usize::try_from(*code)
                .ok()
                .and_then(|code| CODES.get(code))
                .map_or_else(|| format!("code {code}"), ToString::to_string),
            Failure::Timeout => "no response in time".to_owned(),
            Failure::Lost(_) => "connection lost".to_owned(),
            Failure::NoConnection(_) => "no connection".to_owned(),
            Failure::Stopped => "stopped by a signal".to_owned(),
            Failure::Cancelled(_) => "watch cancelled".to_owned(),
            Failure::NotGrpc(_) => "not gRPC".to_owned(),
            Failure::Wrong(_) => "wrong response".to_owned(),
        }
    }

    /// Its details; empty if there are none.
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

    /// True if etcd may have executed the request and counted it as successful.
    #[must_use]
    pub fn is_uncertain(&self) -> bool {
        // A proxy may return Unavailable, Canceled, DeadlineExceeded or Unknown when it has lost
        // the response.
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
