//! Patterns for the names in a certificate: exact text, or text with `{captures}`.

use std::sync::Arc;

/// Captured values by name, sorted by name.
pub type Captures = Vec<(Arc<str>, Arc<str>)>;

/// Maximum length of a DNS-1123 subdomain (Kubernetes' rule for object names).
const LONGEST_SUBDOMAIN: usize = 253;

/// The result of matching a name against a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameMatch {
    /// The name does not match.
    No,
    /// The text around the captures matches, but a captured value is not a DNS-1123 subdomain.
    BadCapture,
    /// The name matches with these captures.
    Yes(Captures),
}

/// A pattern for names. The text between two captures contains a character that no captured value
/// can contain. So there is only one way in which a name can match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamePattern {
    /// The text before the first capture; the whole name if there is none.
    head: Arc<str>,
    /// Each capture with the text after it.
    captures: Vec<(Arc<str>, Arc<str>)>,
}

impl NamePattern {
    /// Parses a pattern. `\xNN` is a character, `\\` a backslash.
    ///
    /// # Errors
    /// The message and the help.
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
                            "an escape in a name must be ASCII".to_owned(),
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
                        let help = "put a character between them that no captured value can \
                                    contain, such as `:` or `/`";
                        return Err((
                            "two captures need an unambiguous separator".to_owned(),
                            help,
                        ));
                    }
                    if captures.iter().any(|(known, _)| **known == *name) {
                        return Err((
                            format!("`{{{name}}}` is captured twice"),
                            "rename the second one",
                        ));
                    }
                    captures.push((name.into(), String::new()));
                    rest = after;
                    continue;
                }
                '}' => {
                    return Err((
                        "`}` without `{`".to_owned(),
                        r"write `\x7d` for a literal brace",
                    ));
                }
                '*' => {
                    let help = "write `{name}` to match and capture a DNS name, or `\\x2a` for a \
                                literal star";
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

    /// The exact name if the pattern has no captures.
    pub fn exact(&self) -> Option<&Arc<str>> {
        self.captures.is_empty().then_some(&self.head)
    }

    /// The names of the captures.
    pub fn captures(&self) -> impl Iterator<Item = &Arc<str>> {
        self.captures.iter().map(|(name, _)| name)
    }

    /// Matches `name` against the pattern.
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

/// Checks the name of a capture: a lower-case letter, then lower-case letters, digits and `_`.
pub(super) fn capture_name(inside: &str) -> Result<&str, (String, &'static str)> {
    let good = inside.starts_with(|c: char| c.is_ascii_lowercase())
        && inside
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    let help = "a capture is `{name}` with lower-case letters, digits and `_`; write `\\x7b` and \
                `\\x7d` for literal braces";
    if good { Ok(inside) } else { Err((format!("`{{{inside}}}` is not a valid capture"), help)) }
}

/// Parses the text after a backslash. Returns the byte and the number of characters.
///
/// # Errors
/// The message and the help.
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
                format!(r"`\{written}` is not a valid escape"),
                r"write a byte as `\xNN` with two hexadecimal digits, a backslash as `\\`",
            ))
        }
    }
}

pub(super) fn unclosed() -> (String, &'static str) {
    ("`{` without `}`".to_owned(), r"write `\x7b` for a literal brace")
}

/// True if `value` is a DNS-1123 subdomain: labels of lower-case letters, digits and `-` that begin
/// and end with a letter or a digit, joined by `.`, at most 253 characters in total.
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
    fn a_name_matches_in_one_way() {
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
    fn a_captured_value_never_contains_a_separator() {
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
    fn a_capture_name_has_letters_digits_and_underscores() {
        assert_eq!(yes("{node_2}", "a"), pairs(&[("node_2", "a")]));
        for bad in ["{2a}", "{_a}", "{a-b}", "{aB}", "{a b}"] {
            assert!(NamePattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_ambiguous_patterns() {
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
