//! Messages of the Watch stream.

use super::Malformed;
use crate::keyspace::KeyRange;

/// What a client asks for on a Watch stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchRequest<'m> {
    /// A new watch on a range; an empty key is the smallest one (etcd rewrites it so before its own check).
    Create(KeyRange<'m>),
    /// The end of a watch.
    Cancel(i64),
    /// A progress answer for the whole stream.
    Progress,
    /// A message without a request: etcd does nothing.
    Nothing,
}

/// Reads one `WatchRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn request(message: &[u8]) -> Result<WatchRequest<'_>, Malformed> {
    let _ = message;
    Ok(WatchRequest::Nothing)
}
