//! Certificates for components: issued from the operator's CA, summarized, and renewed.
//!
//! Nothing here serves requests. Each issued certificate is verified as the gateway verifies its
//! clients (`webpki`, with the CA as trust anchor) before any file is written.
//!
//! Certificates are encoded here rather than by rcgen. Rcgen keeps one value per attribute of a
//! name: a CA called `DC=example, DC=org`, or one with two OUs, would issue certificates with
//! another issuer name, and a renewed subject would lose attributes.

pub mod ca;
pub mod component;
pub mod inventory;
pub mod issue;
pub mod key;
pub mod layout;
pub mod nodes;
pub mod summary;
pub mod renew;
pub mod request;
pub mod server;
pub mod store;
pub mod subject;

mod certificate;
mod der;
mod encrypted;
mod manifest;
mod parallel;

use std::fs::File;
use std::io;
use std::path::Path;

use etcd_warden_core::diagnostics::{Diagnostic, Diagnostics, Severity};
use etcd_warden_gateway::files::{self, ReadError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use layout::Owner;

/// An error about a flag or about a whole file (`what`).
fn error(what: &str, message: impl Into<String>, help: &str) -> Diagnostic {
    finding(Severity::Error, what, message.into(), help)
}

/// A note about something that the operator may not expect.
fn note(what: &str, message: impl Into<String>, help: &str) -> Diagnostic {
    finding(Severity::Warning, what, message.into(), help)
}

fn finding(severity: Severity, what: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic::new(severity, what, message).help(help)
}

/// Fails with a single error.
fn refuse<T>(what: &str, message: impl Into<String>, help: &str) -> Result<T, Diagnostics> {
    Err(Diagnostics::about(what, message, Some(help).filter(|help| !help.is_empty())))
}

/// The sections of a PEM file. `None` if a section is incomplete or malformed; the parser's error
/// is not shown, because it may quote a line of a key.
fn sections(bytes: &[u8]) -> Option<Vec<pem::Pem>> {
    let count = bytes.windows(11).filter(|window| window == b"-----BEGIN ").count();
    pem::parse_many(bytes).ok().filter(|sections| sections.len() == count)
}

/// Reads a file of at most `most` bytes.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, Diagnostics> {
    bytes(path, files::read(path, most))
}

/// Facts about a file, taken from the open file so that they hold for the bytes that were read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// True if the path is a symbolic link.
    pub linked: bool,
    /// Owner and mode; `None` for a symbolic link.
    pub owner: Option<Owner>,
}

/// Reads a file of at most `most` bytes, and its owner.
fn read_with_info(path: &Path, most: u64) -> (Result<Vec<u8>, Diagnostics>, FileInfo) {
    // NONBLOCK: if the path has become a pipe meanwhile, opening it must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => (read(path, most), FileInfo { linked: true, owner: None }),
        here => {
            let file =
                here.map(File::from).map_err(|error| ReadError::from(io::Error::from(error)));
            let owner = file
                .as_ref()
                .ok()
                .and_then(|file| file.metadata().ok())
                .map(|metadata| Owner::of(&metadata));
            (
                bytes(path, file.and_then(|file| files::read_open(file, most))),
                FileInfo { linked: false, owner },
            )
        }
    }
}

fn bytes(path: &Path, read: Result<Vec<u8>, ReadError>) -> Result<Vec<u8>, Diagnostics> {
    let name = path.display().to_string();
    match read {
        Ok(bytes) if bytes.is_empty() => refuse(&name, "the file is empty", ""),
        Ok(bytes) => Ok(bytes),
        Err(why) => refuse(&name, format!("the file {why}"), ""),
    }
}
