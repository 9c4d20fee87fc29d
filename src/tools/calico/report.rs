//! What is found in a manifest: what it lacks, and what is not understood; each with object, field,
//! line and column.

use std::fmt;

use etcd_warden_core::policy::Diagnostics;
use etcd_warden_core::policy::diagnostics::{Findings, Place, Printable};

use super::cursor::{Cursor, field};
use super::edit::Refusal;
use super::manifest::Object;

/// Something that keeps a manifest from being segmented, and that `segment` changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// Line and column, from 1 on.
    pub place: Place,
    /// The object: kind, namespace and name.
    pub object: String,
    /// The field in it.
    pub field: String,
    /// What is not as it has to be.
    pub message: String,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, object, field, message } = self;
        let text = format!("{object}, {field}: {message}");
        // Names come from the file: what would move a terminal's cursor stays out.
        write!(f, "{}:{}: {}", place.line, place.column, Printable(&text))
    }
}

/// Collects both.
pub(super) struct Report<'t> {
    objects: Vec<Object<'t>>,
    findings: Findings<'t>,
    lacks: Vec<Lack>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        Self { objects: Vec::new(), findings: Findings::new(file, text), lacks: Vec::new() }
    }

    /// From here on, places are told as fields of these objects.
    pub(super) fn set_objects(&mut self, objects: Vec<Object<'t>>) {
        self.objects = objects;
    }

    /// Something that is not understood, at a node.
    pub(super) fn mistake(
        &mut self,
        at: &Cursor<'_>,
        message: impl fmt::Display,
        help: impl Into<String>,
    ) {
        let message = format!("{}: {message}", self.whose(&at.path));
        self.findings.mistake(at.node.place, message, help);
    }

    /// Something that is not understood, at a place of the file or about all of it.
    pub(super) fn mistake_at(
        &mut self,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.mistake(place, message, help);
    }

    pub(super) fn refusal(&mut self, refusal: Refusal) {
        let message = format!("{}: {}", self.whose(&refusal.path), refusal.message);
        self.findings.mistake(refusal.place, message, refusal.help);
    }

    /// Something that `segment` changes.
    pub(super) fn lack(&mut self, at: &Cursor<'_>, message: impl Into<String>) {
        let object = self.object(&at.path).map(Object::title).unwrap_or_default();
        let field =
            self.object(&at.path).map(|object| field(&object.at, &at.path)).unwrap_or_default();
        let lack = Lack { place: at.node.place, object, field, message: message.into() };
        if !self.lacks.contains(&lack) {
            self.lacks.push(lack);
        }
    }

    pub(super) fn finish(self) -> Result<Vec<Lack>, Diagnostics> {
        let mut lacks = self.lacks;
        lacks.sort_by_key(|lack| lack.place);
        if self.findings.has_mistakes() { Err(self.findings.finish()) } else { Ok(lacks) }
    }

    fn object(&self, path: &[super::yaml::Step]) -> Option<&Object<'t>> {
        self.objects.iter().find(|object| path.starts_with(&object.at.path))
    }

    fn whose(&self, path: &[super::yaml::Step]) -> String {
        match self.object(path) {
            None => "the manifest".to_owned(),
            Some(object) if path.len() == object.at.path.len() => object.title(),
            Some(object) => format!("{}, {}", object.title(), field(&object.at, path)),
        }
    }
}
