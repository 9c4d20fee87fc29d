//! Secrets in Kubernetes manifests: those of `--output secret`, and those of `kubectl get secret -o yaml` or `-o json`.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::layout::{CERT_FILE, KEY_FILE};

/// The names of certificate and key in a Secret: Calico's, and those of `kubernetes.io/tls`.
const NAMES: [(&str, &str); 2] = [(CERT_FILE, KEY_FILE), ("tls.crt", "tls.key")];

/// A Secret with a certificate.
pub struct Secret {
    /// Its name.
    pub name: String,
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
    name: String,
}

/// Whether a file is looked at as a manifest, by its name.
pub(super) fn may_be(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// The Secrets with a certificate in a manifest. What is no Secret, and what cannot be read, is passed over.
pub(super) fn secrets(text: &str) -> Vec<Secret> {
    documents(text).into_iter().filter_map(|text| serde_saphyr::from_str::<Document>(&text).ok()).flat_map(of_document).collect()
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
        let decoded = || String::from_utf8(STANDARD.decode(data.get(name)?.trim()).ok()?).ok();
        text.get(name).cloned().or_else(decoded)
    };
    let found = NAMES.iter().find_map(|(certificate, key)| Some((*certificate, value(certificate)?, value(key))));
    found
        .map(|(certificate_name, certificate, key)| Secret {
            name: document.metadata.name,
            certificate_name,
            certificate,
            key: key.map(Zeroizing::new),
        })
        .into_iter()
        .collect()
}

/// The manifest with PEM texts in place of others, as `(old, new)`: as it stands there, with its indentation, or in base64. Says how many
/// were found.
pub(super) fn replaced(text: &str, changes: &[(String, Zeroizing<String>)]) -> (Zeroizing<String>, usize) {
    let mut plain: HashMap<&str, (Vec<&str>, &str)> = HashMap::new();
    let mut encoded: HashMap<String, Zeroizing<String>> = HashMap::new();
    for (old, new) in changes {
        let lines: Vec<&str> = old.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // The line behind `BEGIN` is another one in each certificate and in each key.
        if let Some(second) = lines.get(1) {
            plain.insert(second, (lines, new));
        }
        encoded.insert(STANDARD.encode(old), Zeroizing::new(STANDARD.encode(new.as_bytes())));
    }
    let lines: Vec<&str> = text.lines().collect();
    let mut out = Zeroizing::new(String::with_capacity(text.len() * 2));
    let (mut at, mut found) = (0, 0);
    while let Some(line) = lines.get(at) {
        let next = lines.get(at + 1).map_or("", |line| line.trim());
        let block =
            plain.get(next).filter(|(old, _)| lines.iter().skip(at).take(old.len()).map(|line| line.trim()).eq(old.iter().copied()));
        if let Some((old, new)) = block {
            let indentation: String = line.chars().take_while(|c| c.is_whitespace()).collect();
            for line in new.lines() {
                out.push_str(&indentation);
                push_line(&mut out, line);
            }
            (at, found) = (at + old.len(), found + 1);
            continue;
        }
        let value = line.rsplit(' ').next().unwrap_or_default().trim_matches(['"', ',', '\'']);
        match encoded.get(value) {
            Some(new) => {
                push_line(&mut out, &line.replace(value, new));
                found += 1;
            }
            None => push_line(&mut out, line),
        }
        at += 1;
    }
    (out, found)
}

fn push_line(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
mod tests;
