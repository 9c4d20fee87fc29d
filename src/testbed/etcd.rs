//! Finds, builds and runs a real etcd, for the demo, tests and benchmarks. [`find()`] uses the
//! named etcd, or one on `PATH` if permitted, or builds a pinned release from its Go module
//! ([`build`]). [`Etcd`] runs one or more members on 127.0.0.1 and removes everything at the end.

pub mod build;
pub mod find;
pub mod run;

pub use build::Release;
pub use find::{Programs, Source, Version, find};
pub use run::{Etcd, Options, Tls};
