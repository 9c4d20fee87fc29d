//! What passes between TLS and `h2`, frame by frame, in both directions: towards clients and
//! towards etcd.
//!
//! `h2` does its work for each frame without asking what it costs, refuses what etcd takes, and
//! says nothing of what it refuses. Here each frame is seen before `h2` sees it: what it costs is
//! counted ([`cost`]), what `h2` would trip over and no promise hangs on is smoothed ([`hpack`],
//! empty and tiny DATA), what it would overlook is found, and what it answers by itself is noted
//! ([`layer`]). Payloads are not looked at, kept or copied, but for header blocks and SETTINGS.
//!
//! All but [`io`] is pure.

pub mod cost;
pub mod frame;
pub mod hpack;
mod huffman;
pub mod io;
pub mod layer;
pub mod streams;
