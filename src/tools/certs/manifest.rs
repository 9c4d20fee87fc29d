//! Secrets in Kubernetes manifests: those of `--output secret`, and those of `kubectl get secret -o
//! yaml` or `-o json`.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::layout::{CERT_FILE, KEY_FILE};

/// The names of certificate and key in a Secret: Calico's, and those of `kubernetes.io/tls`.
const NAMES: [(&str, &str); 2] = [(CERT_FILE, KEY_FILE), ("tls.crt", "tls.key")];

/// What a Secret is called. Other namespaces may have others of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Its namespace, where the manifest says it.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// What stands in a manifest.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) secrets: Vec<Secret>,
    /// Documents that may hold Secrets and cannot be read.
    pub(super) unreadable: Vec<String>,
}

/// A Secret with a certificate.
pub struct Secret {
    /// Its name.
    pub name: SecretName,
    /// What its certificate is called in it.
    pub certificate_name: &'static str,
    /// PEM.
    pub certificate: String,
    /// PEM.
    pub key: Option<Zeroizing<String>>,
}

#[derive(Deserialize)]
struct Document {
    kind: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    items: Option<Vec<Document>>,
    #[serde(default, rename = "stringData")]
    text: Option<BTreeMap<String, String>>,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    name: String,
}

/// Whether a file is looked at as a manifest, by its name.
pub(super) fn may_be(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// The Secrets with a certificate in a manifest. What is no Secret is passed over.
pub(super) fn secrets(text: &str) -> Seen {
    let mut seen = Seen::default();
    for (number, text) in (1..).zip(documents(text)) {
        match serde_saphyr::from_str::<Document>(&text) {
            Ok(document) => seen.secrets.extend(of_document(document)),
            Err(_) if is_of_another_kind(&text) => {}
            Err(_) => {
                seen.unreadable.push(format!("document {number} of the manifest cannot be read"))
            }
        }
    }
    seen
}

/// Whether this is no Kubernetes object, or one that is neither a Secret nor a list, in which one
/// could be.
fn is_of_another_kind(text: &str) -> bool {
    let Ok(object) = serde_saphyr::from_str::<serde_json::Value>(text) else { return false };
    !object.is_object()
        || object
            .get("kind")
            .and_then(serde_json::Value::as_str)
            .is_some_and(|kind| kind != "Secret" && !kind.ends_with("List"))
}

/// The documents of a YAML stream: a line `---` parts them, as `kubectl` and this program write it.
fn documents(text: &str) -> Vec<Zeroizing<String>> {
    let mut documents = vec![Zeroizing::new(String::new())];
    for line in text.lines() {
        if line.trim_end() == "---" {
            documents.push(Zeroizing::new(String::new()));
        } else if let Some(last) = documents.last_mut() {
            last.push_str(line);
            last.push('\n');
        }
    }
    documents.retain(|document| !document.trim().is_empty());
    documents
}

fn of_document(document: Document) -> Vec<Secret> {
    if let Some(items) = document.items {
        return items.into_iter().flat_map(of_document).collect();
    }
    if document.kind.as_deref() != Some("Secret") {
        return Vec::new();
    }
    let (text, data) = (document.text.unwrap_or_default(), document.data.unwrap_or_default());
    let value = |name: &str| {
        // What is not base64 is there all the same, and holds nothing.
        let decoded = |value: &String| {
            String::from_utf8(STANDARD.decode(value.trim()).unwrap_or_default()).unwrap_or_default()
        };
        text.get(name).cloned().or_else(|| data.get(name).map(decoded))
    };
    let found = NAMES
        .iter()
        .find_map(|(certificate, key)| Some((*certificate, value(certificate)?, value(key))));
    found
        .map(|(certificate_name, certificate, key)| Secret {
            name: SecretName {
                namespace: document.metadata.namespace,
                name: document.metadata.name,
            },
            certificate_name,
            certificate,
            key: key.map(Zeroizing::new),
        })
        .into_iter()
        .collect()
}

/// A PEM text that is to be replaced where it stands as it is.
struct Block<'t> {
    /// Its place among the changes.
    number: usize,
    old: Vec<&'t str>,
    new: &'t str,
}

/// The manifest with PEM texts in place of others, as `(old, new)`: as it stands there, with its
/// indentation, or in base64. Says how often each was found.
pub(super) fn replaced(
    text: &str,
    changes: &[(String, Zeroizing<String>)],
) -> (Zeroizing<String>, Vec<usize>) {
    let mut plain: HashMap<&str, Vec<Block<'_>>> = HashMap::new();
    let mut encoded: HashMap<String, (usize, Zeroizing<String>)> = HashMap::new();
    for (number, (old, new)) in changes.iter().enumerate() {
        let lines: Vec<&str> = old.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // The line behind `BEGIN` is another one in most certificates and keys.
        if let Some(second) = lines.get(1) {
            plain.entry(second).or_default().push(Block { number, old: lines, new });
        }
        encoded.insert(
            STANDARD.encode(old),
            (number, Zeroizing::new(STANDARD.encode(new.as_bytes()))),
        );
    }
    // With their ends, which stay as they are.
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 2));
    let (mut at, mut counts) = (0, vec![0; changes.len()]);
    let mut count = |number: usize| counts.get_mut(number).map_or((), |count| *count += 1);
    while let Some(line) = lines.get(at) {
        let next = lines.get(at + 1).map_or("", |line| line.trim());
        let mut blocks = plain.get(next).into_iter().flatten();
        let block = blocks.find(|Block { old, .. }| {
            lines.iter().skip(at).take(old.len()).map(|line| line.trim()).eq(old.iter().copied())
        });
        if let Some(Block { number, old, new }) = block {
            let indentation: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            let (end, last) =
                (line_end(line), lines.get(at + old.len() - 1).map_or("", |line| line_end(line)));
            for (place, line) in new.lines().enumerate() {
                let between = if place == 0 { "" } else { end };
                [between, &indentation, line].into_iter().for_each(|part| out.push_str(part));
            }
            out.push_str(last);
            count(*number);
            at += old.len();
            continue;
        }
        let value =
            line.trim_end().rsplit(' ').next().unwrap_or_default().trim_matches(['"', ',', '\'']);
        match encoded.get(value) {
            Some((number, new)) => {
                out.push_str(&line.replace(value, new));
                count(*number);
            }
            None => out.push_str(line),
        }
        at += 1;
    }
    (out, counts)
}

/// How a line ends: not at all at the end of a file, it may be.
fn line_end(line: &str) -> &'static str {
    line.strip_suffix('\n').map_or("", |line| if line.ends_with('\r') { "\r\n" } else { "\n" })
}

#[cfg(test)]
mod tests;
