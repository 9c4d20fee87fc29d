//! The messages and clients of etcd's API, generated from `proto/`: for questions of our own, tests and benches. The request
//! path does not decode messages; see [`crate::wire`].
#![allow(clippy::all, clippy::pedantic, clippy::indexing_slicing, missing_docs, rustdoc::all, reason = "generated code")]

/// Keys and events.
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// etcd's own users and roles.
pub mod authpb {
    tonic::include_proto!("authpb");
}

/// The services of the client port.
pub mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

/// Locks.
pub mod v3lockpb {
    tonic::include_proto!("v3lockpb");
}

/// Elections.
pub mod v3electionpb {
    tonic::include_proto!("v3electionpb");
}
