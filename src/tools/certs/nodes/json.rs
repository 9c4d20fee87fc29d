//! Reads the JSON of `calicoctl get nodes -o json` (Calico's own names) and of `kubectl get nodes
//! -o json` (mostly the same names).

use etcd_warden_core::diagnostics::{Diagnostics, Severity, SourcePosition};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{NameFrom, NodeName, Source};

/// A list of nodes, or one node.
#[derive(Deserialize)]
struct Document<'a> {
    kind: Option<String>,
    #[serde(borrow)]
    items: Option<Vec<Item<'a>>>,
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    kind: Option<String>,
    #[serde(borrow)]
    metadata: Option<Metadata<'a>>,
    #[serde(borrow)]
    status: Option<Status<'a>>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Status<'a> {
    #[serde(borrow, default)]
    addresses: Vec<Address<'a>>,
}

#[derive(Deserialize)]
struct Address<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(borrow)]
    address: &'a RawValue,
}

pub(super) fn names<'a>(
    source: &Source<'a>,
    from: NameFrom,
    found: &mut Diagnostics,
) -> Vec<NodeName<'a>> {
    let document: Document<'a> = match serde_json::from_str(source.text) {
        Ok(document) => document,
        Err(error) => {
            let place =
                SourcePosition { line: error.line(), column: error.column().max(1), width: 1 };
            let help = "expected the output of `calicoctl get nodes -o json` or `kubectl get nodes \
                        -o json`";
            found.push(source.at(
                Severity::Error,
                Some(place),
                format!("this is not a list of nodes in JSON: {error}"),
                help,
            ));
            return Vec::new();
        }
    };
    let one = Item { kind: document.kind, metadata: document.metadata, status: document.status };
    let items = document.items.unwrap_or_else(|| vec![one]);
    let mut names = Vec::new();
    let mut others = Vec::new();
    for (number, item) in items.into_iter().enumerate() {
        let entry = format!("entry {}", number + 1);
        if let Some(kind) = item.kind.filter(|kind| kind != "Node") {
            let message = format!("{entry} is a {kind}, not a Node");
            found.push(source.at(
                Severity::Error,
                None,
                message,
                "expected the output of `calicoctl get nodes -o json`",
            ));
            continue;
        }
        let name =
            item.metadata.and_then(|metadata| metadata.name).and_then(|raw| written(source, raw));
        let host = item.status.and_then(|status| {
            status.addresses.into_iter().find(|address| address.kind == "Hostname")
        });
        let host = host.and_then(|address| written(source, address.address));
        if let (Some(name), Some(host)) = (&name, &host)
            && !host.text.eq_ignore_ascii_case(&name.text)
        {
            others.push((name.text.to_string(), host.text.to_string()));
        }
        match (from, name, host) {
            (NameFrom::Name, Some(name), _) | (NameFrom::Hostname, _, Some(name)) => {
                names.push(name);
            }
            (NameFrom::Name, None, _) => found.push(source.at(
                Severity::Error,
                None,
                format!("{entry} has no `metadata.name`"),
                "",
            )),
            (NameFrom::Hostname, name, None) => {
                let name = name.map_or(entry, |name| format!("node `{}`", name.text));
                let message = format!("{name} has no address of the type `Hostname`");
                found.push(source.at(
                    Severity::Error,
                    None,
                    message,
                    "use `metadata.name` with `--node-name-from name`",
                ));
            }
        }
    }
    if let Some((name, host)) = others.first() {
        let message = format!(
            "{} of these nodes have a host name that differs from their name in Kubernetes, such \
             as `{host}` for `{name}`: calico/node without `NODENAME` uses the host name",
            others.len()
        );
        let help = "check with `calicoctl get nodes`; `--node-name-from hostname` uses the host \
                    names";
        found.push(source.at(Severity::Warning, None, message, help));
    }
    names
}

/// A JSON string; its offset is that of the character after the quotation mark.
fn written<'a>(source: &Source<'a>, raw: &'a RawValue) -> Option<NodeName<'a>> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    Some(NodeName { text: text.into(), at: source.offset(raw.get()).map(|at| at + 1) })
}
