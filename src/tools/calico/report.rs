//! Collects the results of an inspection: deviations, and errors about what is not understood. Each
//! has its object, field, line and column.

use std::fmt;

use etcd_warden_core::diagnostics::{Diagnostics, Findings, SourcePosition};
use etcd_warden_core::printable::Printable;

use super::cursor::{Cursor, field};
use super::edit::Refusal;
use super::manifest::Object;
use super::value::Step;

/// A difference from a segmented manifest that `segment` corrects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Line and column of the field.
    pub position: SourcePosition,
    /// Kind, namespace and name of the object.
    pub object: String,
    /// The path of the field in the object.
    pub field: String,
    /// The difference.
    pub message: String,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, object, field, message } = self;
        let text = format!("{object}, {field}: {message}");
        write!(f, "{}:{}: {}", position.line, position.column, Printable(&text))
    }
}

pub(super) struct Report<'t> {
    objects: Vec<Object<'t>>,
    findings: Findings<'t>,
    deviations: Vec<Deviation>,
}

impl<'t> Report<'t> {
    pub(super) fn new(file: &str, text: &'t str) -> Self {
        Self { objects: Vec::new(), findings: Findings::new(file, text), deviations: Vec::new() }
    }

    /// Sets the objects that later messages name.
    pub(super) fn set_objects(&mut self, objects: Vec<Object<'t>>) {
        self.objects = objects;
    }

    /// Adds an error about a node.
    pub(super) fn error(
        &mut self,
        at: &Cursor<'_>,
        message: impl fmt::Display,
        help: impl Into<String>,
    ) {
        let message = format!("{}: {message}", self.title(&at.path));
        self.findings.error(at.node.position, message, help);
    }

    /// Adds an error about a position, or with a default position about the file as a whole.
    pub(super) fn error_at(
        &mut self,
        position: SourcePosition,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.findings.error(position, message, help);
    }

    pub(super) fn refusal(&mut self, refusal: Refusal) {
        let message = format!("{}: {}", self.title(&refusal.path), refusal.message);
        self.findings.error(refusal.position, message, refusal.help);
    }

    pub(super) fn deviation(&mut self, at: &Cursor<'_>, message: impl Into<String>) {
        let object = self.object(&at.path);
        let deviation = Deviation {
            position: at.node.position,
            object: object.map(Object::title).unwrap_or_default(),
            field: object.map(|object| field(&object.at, &at.path)).unwrap_or_default(),
            message: message.into(),
        };
        if !self.deviations.contains(&deviation) {
            self.deviations.push(deviation);
        }
    }

    /// The deviations, or all errors if there are any.
    pub(super) fn finish(self) -> Result<Vec<Deviation>, Diagnostics> {
        let mut deviations = self.deviations;
        deviations.sort_by_key(|deviation| deviation.position);
        if self.findings.has_errors() { Err(self.findings.finish()) } else { Ok(deviations) }
    }

    fn object(&self, path: &[Step]) -> Option<&Object<'t>> {
        self.objects.iter().find(|object| path.starts_with(&object.at.path))
    }

    /// The object and field at a path.
    fn title(&self, path: &[Step]) -> String {
        match self.object(path) {
            None => "the manifest".to_owned(),
            Some(object) if path.len() == object.at.path.len() => object.title(),
            Some(object) => format!("{}, {}", object.title(), field(&object.at, path)),
        }
    }
}
