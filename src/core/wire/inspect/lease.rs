//! The Lease service except LeaseGrant and LeaseKeepAlive (`wire/lease.rs`).

use crate::wire::message::messages;

messages! {
    LeaseRevokeRequest (Refuse) {
        1 ID: int64;
    }
    LeaseTimeToLiveRequest (Refuse) {
        1 ID: int64;
        2 keys: bool;
    }
    LeaseLeasesRequest (Refuse) {}
}
