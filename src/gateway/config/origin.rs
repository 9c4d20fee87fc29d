//! The sources of settings, and errors about what they contain.

use std::sync::Arc;

use etcd_warden_core::diagnostics::{Diagnostic, Severity, SourcePosition};
use etcd_warden_core::printable::Printable;

/// A configuration file that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SourceText {
    /// The path, as the operator wrote it.
    pub(super) name: String,
    pub(super) text: String,
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `--NAME`.
    Flag(String),
    /// An environment variable.
    Variable(String),
    File {
        source: Arc<SourceText>,
        /// Line 0 means the file as a whole.
        position: SourcePosition,
    },
    /// No source sets the value.
    Default,
}

impl Origin {
    /// The form that `--print-config` shows, without a column.
    pub(super) fn short(&self) -> String {
        match self {
            Origin::Flag(flag) => format!("flag {flag}"),
            Origin::Variable(name) => format!("env {name}"),
            Origin::File { source, position } => {
                format!("{}:{}", Printable(&source.name), position.line)
            }
            Origin::Default => "default".to_owned(),
        }
    }

    /// An error about the value that has this origin.
    pub(super) fn error(&self, message: impl Into<String>) -> Diagnostic {
        let about = |name: &str, message| Diagnostic::new(Severity::Error, name, message);
        match self {
            Origin::Flag(name) | Origin::Variable(name) => about(name, message.into()),
            Origin::File { source, position } => {
                about(&source.name, message.into()).at(&source.text, *position)
            }
            Origin::Default => Diagnostic::without_origin(message),
        }
    }
}

/// `did you mean ...?` if a known name is similar to the unknown one; else empty.
pub(super) fn suggestion<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> String {
    etcd_warden_core::diagnostics::nearest(unknown, known)
        .map(|name| format!("did you mean `{name}`?"))
        .unwrap_or_default()
}
