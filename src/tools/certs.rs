//! Certificates for components, issued from the operator's own CA; what certificates say; and their
//! renewal.
//!
//! Nothing here serves requests, and nothing here trusts what it has made: each certificate is
//! verified as the proxy verifies its clients (`webpki`, with the CA as anchor) before a byte of it
//! is written.
//!
//! Certificates are put together here and not by rcgen, which keeps one value for each attribute of
//! a name: a CA called `DC=example, DC=org` or with two OUs would get certificates whose issuer is
//! another name, and a renewed subject would lose some.

pub mod ca;
pub mod component;
pub mod found;
pub mod issue;
pub mod key;
pub mod layout;
pub mod nodes;
pub mod reading;
pub mod renew;
pub mod request;
pub mod server;
pub mod store;
pub mod subject;

mod certificate;
mod der;
mod encrypted;
mod manifest;
mod threads;

use std::fs::File;
use std::io;
use std::path::Path;

use etcd_warden_core::diagnostics::{Diagnostic, Diagnostics, Severity};
use etcd_warden_gateway::files::{self, ReadError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use layout::Owner;

/// A mistake of the command line or of a file as a whole: `what` is the flag or the file.
fn mistake(what: &str, message: impl Into<String>, help: &str) -> Diagnostic {
    finding(Severity::Error, what, message.into(), help)
}

/// Something that is done otherwise than the operator may expect.
fn note(what: &str, message: impl Into<String>, help: &str) -> Diagnostic {
    finding(Severity::Warning, what, message.into(), help)
}

fn finding(severity: Severity, what: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic::new(severity, what, message).help(help)
}

/// One mistake as all there is.
fn refuse<T>(what: &str, message: impl Into<String>, help: &str) -> Result<T, Diagnostics> {
    Err(Diagnostics::about(what, message, Some(help).filter(|help| !help.is_empty())))
}

/// The sections of a PEM file; none where one of them is cut or malformed. The error's own words
/// could hold a line of a key.
fn sections(bytes: &[u8]) -> Option<Vec<pem::Pem>> {
    let begun = bytes.windows(11).filter(|window| window == b"-----BEGIN ").count();
    pem::parse_many(bytes).ok().filter(|sections| sections.len() == begun)
}

/// The bytes of a file, at most `most` of them.
fn read(path: &Path, most: u64) -> Result<Vec<u8>, Diagnostics> {
    bytes(path, files::read(path, most))
}

/// What is told of a file by its opening itself, so that nobody can change it in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Whether it lies behind a symbolic link.
    pub linked: bool,
    /// Whose it is, unless it does.
    pub owner: Option<Owner>,
}

/// The bytes of a file, at most `most` of them, and whose it is.
fn read_told(path: &Path, most: u64) -> (Result<Vec<u8>, Diagnostics>, Told) {
    // Nobody is waited for who may have put a pipe here meanwhile.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP) => (read(path, most), Told { linked: true, owner: None }),
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
                Told { linked: false, owner },
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
