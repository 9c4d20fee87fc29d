//! One name on each line, or the table that `calicoctl get nodes` and `kubectl get nodes` print.
//! `#` begins a comment, an empty line means nothing.

use etcd_warden_core::diagnostics::{Diagnostics, Severity};

use super::{Source, Written, shown};

/// What both programs print over the column of names, which is their first. No node is called so:
/// Calico's names are in lower case.
const HEADER: &str = "NAME";

pub(super) fn names<'a>(source: &Source<'a>, found: &mut Diagnostics) -> Vec<Written<'a>> {
    let (mut names, mut in_table) = (Vec::new(), false);
    for line in source.text.lines() {
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content
            .split_whitespace()
            .map(|word| Written { text: word.into(), at: source.offset(word) });
        let Some(name) = words.next() else { continue };
        match (name.text == HEADER, names.is_empty() && !in_table) {
            (true, true) => {
                in_table = true;
                continue;
            }
            (true, false) => {
                let message = "this is a header below other lines".to_owned();
                found.push(source.finding(
                    Severity::Error,
                    &name,
                    message,
                    "one list in one file: take the header away",
                ));
                continue;
            }
            (false, _) => {}
        }
        // Below a header, what is behind the name is of other columns.
        if let Some(second) = words.next().filter(|_| !in_table) {
            let message =
                format!("`{}` is a second word in the line of a node", shown(&second.text));
            let help = "one name on each line, and comments behind `#`; a table begins with its header, `NAME`";
            found.push(source.finding(Severity::Error, &second, message, help));
        }
        names.push(name);
    }
    names
}
