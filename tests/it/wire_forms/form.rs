//! The files of `tests/wire`: a description; the method; the expected outcome; then the bytes,
//! hexadecimal or in quotes, up to a `#`.

use std::path::PathBuf;

use etcd_warden_core::method::Method;

/// One encoding.
#[derive(Clone, Debug)]
pub struct Form {
    /// The file's name without its extension.
    pub name: String,
    /// The description.
    pub what: String,
    pub method: Method,
    pub expected: Expected,
    pub bytes: Vec<u8>,
}

/// The expected outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Refused for its form, with this message: `FIELD at offset N: FAULT`.
    Refused(String),
    /// It has one reading, and the policy decides.
    Judged,
}

pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire"))
}

/// Every form, by name.
pub fn all() -> Vec<Form> {
    let mut forms = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "form") {
            let name = path.file_stem().unwrap().to_str().unwrap();
            forms.push(form(name, &std::fs::read_to_string(&path).unwrap()));
        }
    }
    forms.sort_by(|one, other| one.name.cmp(&other.name));
    forms
}

fn form(name: &str, text: &str) -> Form {
    let mut lines = text.lines();
    let mut line =
        || lines.next().unwrap_or_else(|| panic!("{name}: expected three lines, then bytes"));
    let (what, path, expected) = (line().to_owned(), line(), line());
    let expected = if expected == "judged" {
        Expected::Judged
    } else {
        Expected::Refused(expected.to_owned())
    };
    Form {
        name: name.to_owned(),
        what,
        method: method(name, path),
        expected,
        bytes: lines.flat_map(|line| bytes(name, line)).collect(),
    }
}

/// `KV/Put`, or the full name for a service of another package.
fn method(name: &str, path: &str) -> Method {
    let known = [format!("/etcdserverpb.{path}"), format!("/{path}")]
        .iter()
        .find_map(|path| Method::from_path(path));
    known.unwrap_or_else(|| panic!("{name}: no method `{path}`"))
}

fn bytes(name: &str, line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        if let Some(text) = rest.strip_prefix('"') {
            let (text, behind) = text
                .split_once('"')
                .unwrap_or_else(|| panic!("{name}: an unterminated text: {line}"));
            bytes.extend(unescaped(name, text));
            rest = behind.trim_start();
        } else {
            let (byte, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            assert_eq!(byte.len(), 2, "{name}: a byte has two digits: {line}");
            bytes.push(
                u8::from_str_radix(byte, 16)
                    .unwrap_or_else(|_| panic!("{name}: not a byte: {line}")),
            );
            rest = behind.trim_start();
        }
    }
    bytes
}

/// Text in which `\xNN` is a byte.
fn unescaped(name: &str, text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, behind) = part.split_at(2);
        bytes.push(
            u8::from_str_radix(digits, 16)
                .unwrap_or_else(|_| panic!("{name}: not a byte: \\x{part}")),
        );
        bytes.extend_from_slice(behind.as_bytes());
    }
    bytes
}

#[test]
fn bytes_are_read_as_they_are_written() {
    assert_eq!(bytes("x", r#"    0a 03 "g/a"   # a key"#), b"\x0a\x03g/a");
    assert_eq!(bytes("x", r#""\x00z\xff" 7f"#), b"\0z\xff\x7f");
    assert_eq!(bytes("x", "# nothing"), b"");
}
