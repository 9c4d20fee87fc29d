//! Getting and running a real etcd. One function serves the demo, the tests and the benches:
//! [`find()`] takes the etcd that is named, or one on `PATH` where that is good enough, or builds a
//! pinned release from its Go module ([`build`]). [`Etcd`] runs one or several members of it on
//! 127.0.0.1 and leaves nothing behind.

pub mod build;
pub mod find;
pub mod run;

pub use build::Release;
pub use find::{Programs, Source, Version, find};
pub use run::{Etcd, Options, Tls};
