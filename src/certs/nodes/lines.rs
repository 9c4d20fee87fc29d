//! One name on each line. `#` begins a comment, an empty line means nothing.

use super::{Source, Written, shown};
use crate::policy::Diagnostics;
use crate::policy::diagnostics::Severity;

pub(super) fn names<'a>(source: &Source<'a>, found: &mut Diagnostics) -> Vec<Written<'a>> {
    let mut names = Vec::new();
    for line in source.text.lines() {
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content.split_whitespace().map(|word| Written { text: word.into(), at: source.offset(word) });
        let Some(name) = words.next() else { continue };
        if let Some(second) = words.next() {
            let message = format!("`{}` is a second word in the line of a node", shown(&second.text));
            found.push(source.finding(Severity::Mistake, &second, message, "one name on each line, and comments behind `#`"));
        }
        names.push(name);
    }
    names
}
