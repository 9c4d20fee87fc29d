//! Secrets in Kubernetes manifests: those of `--output secret`, and those of `kubectl get secret -o
//! yaml` or `-o json`.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use etcd_warden_core::yaml::{self, Limits, Node, Type};
use zeroize::Zeroizing;

use super::layout::{CERT_FILE, KEY_FILE};

/// The names of certificate and key in a Secret: Calico's, and those of `kubernetes.io/tls`.
const NAMES: [(&str, &str); 2] = [(CERT_FILE, KEY_FILE), ("tls.crt", "tls.key")];

/// Bounds of one document.
const LIMITS: Limits = Limits { documents: 1, depth: 64, values: 1_000_000, repeated: 10_000 };

/// The name of a Secret, which is unique in its namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// The namespace, if the manifest contains it.
    pub namespace: Option<String>,
    /// The name in the namespace.
    pub name: String,
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// The Secrets of a manifest.
#[derive(Default)]
pub(super) struct ManifestSecrets {
    pub(super) secrets: Vec<Secret>,
    /// An error for each document that may contain a Secret and cannot be read.
    pub(super) unreadable: Vec<String>,
}

/// A Secret with a certificate.
pub struct Secret {
    /// Namespace and name.
    pub name: SecretName,
    /// The key of the certificate in the data of the Secret.
    pub certificate_name: &'static str,
    /// The certificate chain in PEM.
    pub certificate: String,
    /// The private key in PEM, if the Secret contains it.
    pub key: Option<Zeroizing<String>>,
}

/// True if the name of a file is that of a manifest.
pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

/// The Secrets with a certificate in a manifest. Other objects are ignored.
pub(super) fn secrets(text: &str) -> ManifestSecrets {
    let mut seen = ManifestSecrets::default();
    for (number, text) in (1..).zip(documents(text)) {
        let result = yaml::parse(&text, LIMITS)
            .map_err(|_| Unreadable)
            .and_then(|roots| roots.iter().try_for_each(|root| read(root, &mut seen.secrets)));
        if result.is_err() {
            seen.unreadable.push(format!("cannot read document {number} of the manifest"));
        }
    }
    seen
}

/// A document that may hold a Secret and cannot be read.
struct Unreadable;

/// Adds the Secrets of an object, which may be a list of objects.
fn read(object: &Node<'_>, secrets: &mut Vec<Secret>) -> Result<(), Unreadable> {
    let kind = object.get("kind").and_then(Node::text);
    match object.get("items").map(|items| (items, items.schema_type())) {
        None | Some((_, Type::Null)) => {}
        Some((items, Type::List)) => {
            return items.items().iter().try_for_each(|item| read(item, secrets));
        }
        Some(_) if kind.is_some_and(|kind| kind.ends_with("List")) => return Err(Unreadable),
        Some(_) => {}
    }
    if kind != Some("Secret") {
        return Ok(());
    }
    let (text, data) = (values(object.get("stringData"))?, values(object.get("data"))?);
    let value = |name: &str| {
        // A value that is no base64 is there, and is reported as no certificate.
        let decoded = |value: &&str| {
            String::from_utf8(STANDARD.decode(value.trim()).unwrap_or_default()).unwrap_or_default()
        };
        let plain = text.get(name).map(|value| (*value).to_owned());
        plain.or_else(|| data.get(name).map(decoded))
    };
    let found = NAMES
        .iter()
        .find_map(|(certificate, key)| Some((*certificate, value(certificate)?, value(key))));
    let field = |name: &str| Some(object.get("metadata")?.get(name)?.scalar()?.to_owned());
    secrets.extend(found.map(|(certificate_name, certificate, key)| Secret {
        name: SecretName { namespace: field("namespace"), name: field("name").unwrap_or_default() },
        certificate_name,
        certificate,
        key: key.map(Zeroizing::new),
    }));
    Ok(())
}

/// The entries of `data` or `stringData`. A repeated key is an error: tools disagree on its value.
fn values<'n>(node: Option<&'n Node<'_>>) -> Result<HashMap<&'n str, &'n str>, Unreadable> {
    let Some(node) = node.filter(|node| node.schema_type() != Type::Null) else {
        return Ok(HashMap::new());
    };
    if node.schema_type() != Type::Map {
        return Err(Unreadable);
    }
    let mut values = HashMap::new();
    for (key, value) in node.entries() {
        let (Some(key), Some(value)) = (key.scalar(), value.scalar()) else {
            return Err(Unreadable);
        };
        if values.insert(key, value).is_some() {
            return Err(Unreadable);
        }
    }
    Ok(values)
}

/// The documents of a YAML stream, separated by lines `---` as `kubectl` and this program write
/// them. Each is parsed alone, so that an invalid document does not hide the others.
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

/// A PEM text to replace.
struct Block<'t> {
    /// The index in the list of changes.
    number: usize,
    old: Vec<&'t str>,
    new: &'t str,
}

/// Replaces PEM texts, given as `(old, new)`, in a manifest: plain text with its indentation, or
/// base64. Returns the new manifest and the number of replacements of each.
pub(super) fn replaced(
    text: &str,
    changes: &[(String, Zeroizing<String>)],
) -> (Zeroizing<String>, Vec<usize>) {
    let mut plain: HashMap<&str, Vec<Block<'_>>> = HashMap::new();
    let mut encoded: HashMap<String, (usize, Zeroizing<String>)> = HashMap::new();
    for (number, (old, new)) in changes.iter().enumerate() {
        let lines: Vec<&str> = old.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        // Index by the line after `BEGIN`: it differs in most certificates and keys.
        if let Some(second) = lines.get(1) {
            plain.entry(second).or_default().push(Block { number, old: lines, new });
        }
        encoded.insert(
            STANDARD.encode(old),
            (number, Zeroizing::new(STANDARD.encode(new.as_bytes()))),
        );
    }
    // With their line endings, which are preserved.
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

/// The line ending; empty for a last line without one.
fn line_end(line: &str) -> &'static str {
    line.strip_suffix('\n').map_or("", |line| if line.ends_with('\r') { "\r\n" } else { "\n" })
}

#[cfg(test)]
mod tests;
