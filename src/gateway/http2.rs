//! The bytes between TLS and `h2`, frame by frame, in both directions: towards clients and towards
//! etcd.
//!
//! `h2` works for each frame without regard to its cost, refuses some requests that etcd accepts,
//! and does not report what it refuses. Here each frame is inspected before `h2` reads it:
//!
//! * its cost is charged ([`cost`]);
//! * requests that `h2` would refuse although their form does not matter are normalised
//!   ([`hpack`]), and so are empty and tiny DATA frames;
//! * protocol errors that `h2` does not detect are detected, and resets and GOAWAYs of `h2`'s own
//!   are recorded ([`layer`]).
//!
//! Payloads other than header blocks and SETTINGS are not read, kept or copied. All modules but
//! [`io`] are pure.

pub mod cost;
pub mod frame;
pub mod hpack;
mod huffman;
pub mod io;
pub mod layer;
pub mod streams;
