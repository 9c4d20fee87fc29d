//! Reads one name per line, or the table that `calicoctl get nodes` and `kubectl get nodes` print.
//! `#` begins a comment; empty lines are skipped.

use etcd_warden_core::diagnostics::{Diagnostics, Severity};

use super::{NodeName, Source, shown};

/// The header of the first column in both tables. No node has this name: names are in lower case.
const HEADER: &str = "NAME";

pub(super) fn names<'a>(source: &Source<'a>, found: &mut Diagnostics) -> Vec<NodeName<'a>> {
    let (mut names, mut in_table) = (Vec::new(), false);
    for line in source.text.lines() {
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content
            .split_whitespace()
            .map(|word| NodeName { text: word.into(), at: source.offset(word) });
        let Some(name) = words.next() else { continue };
        match (name.text == HEADER, names.is_empty() && !in_table) {
            (true, true) => {
                in_table = true;
                continue;
            }
            (true, false) => {
                let message = "a header below other lines".to_owned();
                found.push(source.finding(
                    Severity::Error,
                    &name,
                    message,
                    "use a file with one list, and remove the header",
                ));
                continue;
            }
            (false, _) => {}
        }
        // In a table, the other columns follow the name.
        if let Some(second) = words.next().filter(|_| !in_table) {
            let message =
                format!("`{}` is a second word on the line of a node", shown(&second.text));
            let help = "write one name per line, and comments after `#`; a table begins with its \
                        header `NAME`";
            found.push(source.finding(Severity::Error, &second, message, help));
        }
        names.push(name);
    }
    names
}
