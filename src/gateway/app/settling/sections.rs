//! PEM sections of files. A file that still has all sections that are in effect cannot have lost
//! one by being cut, so it can be used before it is stable.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use crate::files::Files;

const BEGIN: &[u8] = b"-----BEGIN ";

/// The SHA-256 of each section of each file.
#[derive(Debug)]
pub(super) struct Sections(BTreeMap<PathBuf, BTreeSet<[u8; 32]>>);

impl Sections {
    /// The sections of all files that could be read.
    pub(super) fn of(files: &Files) -> Self {
        Self(files.iter().map(|(path, bytes)| (path.to_owned(), digests(bytes))).collect())
    }

    /// Whether all of `others` are here, and each file of theirs has at least one.
    pub(super) fn contain(&self, others: &Self) -> bool {
        others.0.iter().all(|(path, sections)| {
            !sections.is_empty() && self.0.get(path).is_some_and(|here| here.is_superset(sections))
        })
    }
}

/// The digest of each section, from one `-----BEGIN` to the next. Empty if there is no PEM.
fn digests(bytes: &[u8]) -> BTreeSet<[u8; 32]> {
    let starts: Vec<usize> = bytes
        .windows(BEGIN.len())
        .enumerate()
        .filter(|(_, window)| *window == BEGIN)
        .map(|(at, _)| at)
        .collect();
    let ends = starts.iter().skip(1).copied().chain([bytes.len()]);
    let sections = starts.iter().zip(ends).filter_map(|(start, end)| bytes.get(*start..end));
    sections.map(|section| Sha256::digest(section.trim_ascii_end()).into()).collect()
}
