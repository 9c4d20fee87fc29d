//! A layer between TLS and `h2` that inspects each frame, on connections to clients and to etcd.
//!
//! `h2` processes frames without a limit on their cost, refuses some requests that etcd accepts,
//! and does not report its refusals. So this layer inspects each frame before `h2` reads it:
//!
//! * [`cost`] charges the cost of the frame.
//! * [`hpack`] normalises requests that `h2` would refuse for a form that does not matter. Empty
//!   DATA frames are dropped and small ones are merged.
//! * [`layer`] detects protocol errors that `h2` does not detect, and records the RST_STREAM and
//!   GOAWAY frames that `h2` itself sends.
//!
//! Payloads other than header blocks and SETTINGS are not read, kept or copied. All modules except
//! [`io`] are pure.

pub mod cost;
pub mod frame;
pub mod hpack;
mod huffman;
pub mod io;
pub mod layer;
pub mod streams;
