//! Every hole that was published in this field, each as a test that carries its id. Where an etcd
//! that has the hole can be built, the attack first succeeds against it with its own auth on, and
//! then fails through the proxy in front of that same process.

mod grpc_proxy;
mod https;
mod names;
mod requests;
mod stage;
mod transport;
