//! Patterns of a certificate's names: exact text, or text with `{captures}`.

use std::sync::Arc;

/// Captured values by name, sorted by name.
pub type Captures = Vec<(Arc<str>, Arc<str>)>;

/// The longest DNS-1123 subdomain (Kubernetes' rule for object names).
const LONGEST_SUBDOMAIN: usize = 253;

/// What a pattern makes of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameMatch {
    /// Another name.
    No,
    /// The text around the captures fits, but a captured value is no DNS-1123 subdomain.
    BadCapture,
    /// It matches.
    Yes(Captures),
}

/// A pattern of names. Between two captures stands a character that no captured value can hold, so
/// that a name has one reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamePattern {
    /// What stands before the first capture; the whole name if there is none.
    head: Arc<str>,
    /// Each capture with the text behind it.
    captures: Vec<(Arc<str>, Arc<str>)>,
}

impl NamePattern {
    /// Reads a pattern. `\xNN` is a character, `\\` a backslash.
    ///
    /// # Errors
    /// What is wrong, and what to write instead.
    pub fn parse(written: &str) -> Result<Self, (String, &'static str)> {
        let mut head = String::new();
        let mut captures: Vec<(Arc<str>, String)> = Vec::new();
        let mut rest = written;
        while let Some(c) = rest.chars().next() {
            let behind = rest.get(c.len_utf8()..).unwrap_or_default();
            let literal = captures.last_mut().map_or(&mut head, |(_, text)| text);
            match c {
                '\\' => {
                    let (byte, length) = escape(behind)?;
                    if !byte.is_ascii() {
                        return Err((
                            "an escape in a name is an ASCII character".to_owned(),
                            "write the character itself",
                        ));
                    }
                    literal.push(char::from(byte));
                    rest = behind.get(length..).unwrap_or_default();
                    continue;
                }
                '{' => {
                    let (inside, after) = behind.split_once('}').ok_or_else(unclosed)?;
                    let name = capture_name(inside)?;
                    if let Some((_, between)) = captures.last()
                        && between.bytes().all(may_be_captured)
                    {
                        let help = "put a character between them that no captured value can hold, such as `:` or `/`";
                        return Err(("nothing certain separates two captures".to_owned(), help));
                    }
                    if captures.iter().any(|(known, _)| **known == *name) {
                        return Err((
                            format!("`{{{name}}}` is captured twice"),
                            "give the second one another name",
                        ));
                    }
                    captures.push((name.into(), String::new()));
                    rest = after;
                    continue;
                }
                '}' => {
                    return Err((
                        "`}` without `{`".to_owned(),
                        r"a brace that is meant as such is `\x7d`",
                    ));
                }
                '*' => {
                    let help = r"write `{name}` to match and capture a DNS name; a star that is meant as such is `\x2a`";
                    return Err(("`*` has no meaning in a name".to_owned(), help));
                }
                c => literal.push(c),
            }
            rest = behind;
        }
        if head.is_empty() && captures.is_empty() {
            return Err(("a name cannot be empty".to_owned(), ""));
        }
        Ok(Self {
            head: head.into(),
            captures: captures.into_iter().map(|(name, text)| (name, text.into())).collect(),
        })
    }

    /// The exact name, if the pattern captures nothing.
    #[must_use]
    pub fn exact(&self) -> Option<&Arc<str>> {
        self.captures.is_empty().then_some(&self.head)
    }

    /// The names of the captures.
    pub fn captures(&self) -> impl Iterator<Item = &Arc<str>> {
        self.captures.iter().map(|(name, _)| name)
    }

    /// What `name` is to the pattern.
    #[must_use]
    pub fn matches(&self, name: &str) -> NameMatch {
        let Some(mut rest) = name.strip_prefix(&*self.head) else { return NameMatch::No };
        let mut captures = Captures::new();
        let mut good = true;
        for (at, (capture, behind)) in self.captures.iter().enumerate() {
            let last = at + 1 == self.captures.len();
            let found = if last {
                rest.strip_suffix(&**behind).map(|value| (value, ""))
            } else {
                rest.split_once(&**behind)
            };
            let Some((value, after)) = found else { return NameMatch::No };
            good &= is_subdomain(value);
            captures.push((Arc::clone(capture), value.into()));
            rest = after;
        }
        captures.sort();
        match (rest.is_empty(), good) {
            (false, _) => NameMatch::No,
            (true, false) => NameMatch::BadCapture,
            (true, true) => NameMatch::Yes(captures),
        }
    }
}

/// The name inside the braces of a capture: a lower-case letter, then lower-case letters, digits
/// and `_`.
pub(super) fn capture_name(inside: &str) -> Result<&str, (String, &'static str)> {
    let good = inside.starts_with(|c: char| c.is_ascii_lowercase())
        && inside
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let help = r"a capture is `{name}` with lower-case letters, digits and `_`; braces that are meant as such are `\x7b` and `\x7d`";
    if good { Ok(inside) } else { Err((format!("`{{{inside}}}` is no capture"), help)) }
}

/// Reads what stands behind a backslash: the byte, and how many characters it took.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn escape(behind: &str) -> Result<(u8, usize), (String, &'static str)> {
    if behind.starts_with('\\') {
        return Ok((b'\\', 1));
    }
    let digits = behind.strip_prefix('x').and_then(|digits| digits.get(..2));
    match digits
        .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
        .map(|digits| u8::from_str_radix(digits, 16))
    {
        Some(Ok(byte)) => Ok((byte, 3)),
        _ => {
            let written: String =
                behind.chars().take(if behind.starts_with('x') { 3 } else { 1 }).collect();
            Err((
                format!(r"`\{written}` is no escape"),
                r"a byte is `\xNN` with two hexadecimal digits, a backslash is `\\`",
            ))
        }
    }
}

pub(super) fn unclosed() -> (String, &'static str) {
    ("`{` without `}`".to_owned(), r"a brace that is meant as such is `\x7b`")
}

/// Whether `value` is a DNS-1123 subdomain: labels of lower-case letters, digits and `-` that begin
/// and end with a letter or a digit, joined by `.`, at most 253 characters in all.
#[must_use]
pub fn is_subdomain(value: &str) -> bool {
    let end = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    let label = |label: &str| end(label.as_bytes().first()) && end(label.as_bytes().last());
    value.len() <= LONGEST_SUBDOMAIN
        && value.bytes().all(may_be_captured)
        && value.split('.').all(label)
}

const fn may_be_captured(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yes(pattern: &str, name: &str) -> Option<Vec<(String, String)>> {
        match NamePattern::parse(pattern).unwrap().matches(name) {
            NameMatch::Yes(captures) => {
                Some(captures.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
            }
            NameMatch::No | NameMatch::BadCapture => None,
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
        Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_name_has_one_reading() {
        assert_eq!(yes("etcd-root", "etcd-root"), pairs(&[]));
        assert_eq!(yes("etcd-root", "etcd-root2"), None);
        assert_eq!(
            yes("calico-node:{node}", "calico-node:n1.example.com"),
            pairs(&[("node", "n1.example.com")])
        );
        assert_eq!(
            yes("{node}.example.com", "a.example.com.example.com"),
            pairs(&[("node", "a.example.com")])
        );
        assert_eq!(
            yes("spiffe://{td}/ns/{ns}", "spiffe://a.b/ns/c"),
            pairs(&[("ns", "c"), ("td", "a.b")])
        );
        assert_eq!(yes("spiffe://{td}/ns/{ns}", "spiffe://a.b/ns/c/ns/d"), None);
        assert_eq!(yes(r"a\x2ab\\", r"a*b\"), pairs(&[]));
    }

    #[test]
    fn a_captured_value_can_never_carry_a_separator_into_a_key() {
        let pattern = NamePattern::parse("n:{node}").unwrap();
        let long = "a".repeat(254);
        for bad in [
            "", "a/b", "*", "a\0", "A", "-a", "a-", "a..b", ".a", "a.", "é", "a b", "a_b", "..",
            &long,
        ] {
            assert_eq!(pattern.matches(&format!("n:{bad}")), NameMatch::BadCapture, "{bad:?}");
        }
        assert_eq!(pattern.matches("m:a"), NameMatch::No);
    }

    #[test]
    fn a_captures_name_has_letters_digits_and_underscores() {
        assert_eq!(yes("{node_2}", "a"), pairs(&[("node_2", "a")]));
        for bad in ["{2a}", "{_a}", "{a-b}", "{aB}", "{a b}"] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_with_two_readings_are_refused() {
        for bad in [
            "{a}{b}",
            "{a}.{b}",
            "{a}-x-{b}",
            "{a}:{a}",
            "{",
            "}",
            "*",
            "a*",
            "{A}",
            "{}",
            r"\q",
            r"\x4",
            r"\xff",
            "",
        ] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }
}
