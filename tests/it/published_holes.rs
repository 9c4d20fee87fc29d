//! Every published hole in this field, each as a test with its id. If an etcd with the hole can be
//! built, the attack first succeeds against it with its own auth on, and then fails through the
//! proxy in front of the same process.

mod grpc_proxy;
mod https;
mod names;
mod requests;
mod fixture;
mod transport;
