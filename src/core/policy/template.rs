//! Keys as they are written in a policy, with `{captures}` that are not filled in yet.

use std::sync::Arc;

use super::keyset::{KeySet, Pattern};
use super::name::{Captures, capture_name, escape, unclosed};
use crate::keyspace::{OwnedEnd, OwnedRange, prefix_end};

/// Why a key cannot be parsed: the message, the help, and the offset in the text in bytes.
pub(super) type KeyError = (String, &'static str, usize);

/// The keys of one entry before captured values are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Token>,
    /// The text ends in `*`: the keys are a prefix.
    tail: bool,
    /// The end of a range `{from, to}`. Then `parts` is its start, and there is no tail.
    interval: Option<OwnedEnd>,
}

/// A token of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Literal(Vec<u8>),
    Capture {
        name: Arc<str>,
        dashes_doubled: bool,
    },
    /// An inner `*`: one or more bytes except `/`.
    Segment,
}

impl Token {
    fn ends_with_slash(&self) -> bool {
        matches!(self, Token::Literal(text) if text.ends_with(b"/"))
    }
}

impl Template {
    /// Parses a key: text with `\xNN` and `\\`, `*` at the end, `/*/` inside, `{name}` and
    /// `{name|dash-doubled}`.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub(super) fn parse(written: &str) -> Result<Self, KeyError> {
        let mut parts: Vec<Token> = Vec::new();
        let mut tail = false;
        let mut at = 0;
        while let Some(c) = written.get(at..).and_then(|rest| rest.chars().next()) {
            let behind = written.get(at + c.len_utf8()..).unwrap_or_default();
            let placed = |(message, help): (String, &'static str)| (message, help, at);
            match c {
                '\\' => {
                    let (byte, length) = escape(behind).map_err(placed)?;
                    literal(&mut parts, &[byte]);
                    at += length;
                }
                '{' => {
                    let (inside, _) =
                        behind.split_once('}').ok_or_else(unclosed).map_err(placed)?;
                    parts.push(capture(inside).map_err(placed)?);
                    at += inside.len() + 1;
                }
                '}' => {
                    return Err((
                        "`}` without `{`".to_owned(),
                        r"write `\x7d` for a literal brace",
                        at,
                    ));
                }
                '*' if behind.is_empty() => tail = true,
                '*' => {
                    let whole =
                        behind.starts_with('/') && parts.last().is_some_and(Token::ends_with_slash);
                    if !whole {
                        let help = "inside a key, `*` is one whole path segment: `/*/`; write `\\x2a` \
                                    for a literal star";
                        return Err((
                            "`*` cannot match part of a path segment".to_owned(),
                            help,
                            at,
                        ));
                    }
                    parts.push(Token::Segment);
                }
                c => literal(&mut parts, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            at += c.len_utf8();
        }
        if parts.is_empty() && !tail {
            return Err(("a key cannot be empty".to_owned(), "write `*` for every key", 0));
        }
        Ok(Self { parts, tail, interval: None })
    }

    /// Parses the half-open range `[from, to)`, or the range from `from` on. Both bounds are text
    /// with escapes.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub(super) fn interval(from: &str, to: Option<&str>) -> Result<Self, KeyError> {
        let start = plain(from)?;
        let interval = match to {
            None => OwnedEnd::Open,
            Some(to) => OwnedEnd::Before(plain(to)?.into()),
        };
        if matches!(&interval, OwnedEnd::Before(end) if **end <= *start) {
            return Err((
                "this range contains no key".to_owned(),
                "`to` is exclusive and must be greater than `from`",
                0,
            ));
        }
        Ok(Self { parts: vec![Token::Literal(start)], tail: false, interval: Some(interval) })
    }

    /// The names of the captures that the key uses.
    pub fn captures(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Token::Capture { name, .. } => Some(name),
            Token::Literal(_) | Token::Segment => None,
        })
    }

    /// Fills in captured values. `None` if a capture has no value: then the entry has no keys.
    pub fn resolve(&self, captures: &Captures) -> Option<KeySet> {
        let mut literals = vec![Vec::new()];
        for part in &self.parts {
            if matches!(part, Token::Segment) {
                literals.push(Vec::new());
                continue;
            }
            let last = literals.last_mut()?;
            match part {
                Token::Literal(text) => last.extend_from_slice(text),
                Token::Capture { name, dashes_doubled } => {
                    let (_, value) = captures.iter().find(|(known, _)| known == name)?;
                    last.extend_from_slice(
                        if *dashes_doubled { value.replace('-', "--") } else { value.to_string() }
                            .as_bytes(),
                    );
                }
                Token::Segment => {}
            }
        }
        if literals.len() > 1 {
            return Some(KeySet::Pattern(Pattern::new(literals, self.tail)));
        }
        let start = literals.pop()?;
        let end = match &self.interval {
            Some(end) => end.clone(),
            None if self.tail => prefix_end(&start).map_or(OwnedEnd::Open, OwnedEnd::Before),
            None => OwnedEnd::OnlyStart,
        };
        // No key is empty, so a range from "" starts at the smallest key.
        let start = if start.is_empty() { vec![0] } else { start };
        Some(KeySet::Range(OwnedRange { start: start.into(), end }))
    }

    /// Returns a warning (message and help) if the end of the key probably matches more names than
    /// intended.
    pub(super) fn spills(&self) -> Option<(&'static str, &'static str)> {
        match self.parts.as_slice() {
            [.., Token::Capture { .. }] if self.tail => Some((
                "this also matches every name that begins with the captured one (`n1` and `n10`)",
                "end the name before the `*`: `{name}/*`, or write the exact key",
            )),
            [.., Token::Capture { dashes_doubled: true, .. }, Token::Literal(text)]
                if self.tail && text == b"-" =>
            {
                Some((
                    "`a-` is also a prefix of `a--b`, the doubled name of another node",
                    "write what follows the dash, as in `{node|dash-doubled}-k8s-*`",
                ))
            }
            _ => None,
        }
    }

    /// The common prefix of all keys, for all captured values.
    pub(super) fn fixed_prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Token::Literal(text)) => text,
            _ => b"",
        }
    }

    /// Finds captured values for which the template includes `key`, at most
    /// [`Template::MAX_SOLUTIONS`] sets of them.
    pub fn solve(&self, key: &[u8]) -> Vec<Captures> {
        let mut found = Vec::new();
        if self.captures().next().is_none() {
            if self.resolve(&Captures::new()).is_some_and(|set| set.contains(key)) {
                found.push(Captures::new());
            }
        } else {
            self.search(&self.parts, key, &mut Captures::new(), &mut found);
        }
        found
    }

    /// Maximum number of solutions of [`Template::solve`].
    pub const MAX_SOLUTIONS: usize = 16;

    fn search(
        &self,
        parts: &[Token],
        rest: &[u8],
        captures: &mut Captures,
        found: &mut Vec<Captures>,
    ) {
        let Some((part, others)) = parts.split_first() else {
            let mut solution = captures.clone();
            solution.sort();
            if (rest.is_empty() || self.tail)
                && found.len() < Self::MAX_SOLUTIONS
                && !found.contains(&solution)
            {
                found.push(solution);
            }
            return;
        };
        match part {
            Token::Literal(text) => {
                if let Some(rest) = rest.strip_prefix(text.as_slice()) {
                    self.search(others, rest, captures, found);
                }
            }
            Token::Segment => {
                let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                if let Some((_, rest)) =
                    rest.split_at_checked(length).filter(|(segment, _)| !segment.is_empty())
                {
                    self.search(others, rest, captures, found);
                }
            }
            Token::Capture { name, dashes_doubled } => {
                for length in 1..=rest.len() {
                    let Some((value, after)) = rest.split_at_checked(length) else { return };
                    let Ok(text) = std::str::from_utf8(value) else { continue };
                    let value =
                        if *dashes_doubled { text.replace("--", "-") } else { text.to_owned() };
                    let same = !*dashes_doubled || value.replace('-', "--") == text;
                    let known = captures
                        .iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| Arc::clone(value));
                    if !same
                        || !super::name::is_subdomain(&value)
                        || known.as_ref().is_some_and(|known| **known != *value)
                    {
                        continue;
                    }
                    if known.is_none() {
                        captures.push((Arc::clone(name), value.into()));
                    }
                    self.search(others, after, captures, found);
                    if known.is_none() {
                        captures.pop();
                    }
                }
            }
        }
    }
}

fn literal(parts: &mut Vec<Token>, bytes: &[u8]) {
    match parts.last_mut() {
        Some(Token::Literal(text)) => text.extend_from_slice(bytes),
        _ => parts.push(Token::Literal(bytes.to_vec())),
    }
}

fn capture(inside: &str) -> Result<Token, (String, &'static str)> {
    let (name, filter) =
        inside.split_once('|').map_or((inside, None), |(name, filter)| (name, Some(filter)));
    let name = capture_name(name)?.into();
    match filter {
        None => Ok(Token::Capture { name, dashes_doubled: false }),
        Some("dash-doubled") => Ok(Token::Capture { name, dashes_doubled: true }),
        Some(other) => Err((
            format!("there is no filter `{other}`"),
            "the only filter is `{name|dash-doubled}`",
        )),
    }
}

/// A key without captures and `*`.
fn plain(written: &str) -> Result<Vec<u8>, KeyError> {
    let template = Template::parse(written)?;
    match template.parts.as_slice() {
        [Token::Literal(text)] if !template.tail => Ok(text.clone()),
        _ => Err((
            "a bound of a range must be an exact key".to_owned(),
            r"captures and `*` are not allowed here; write `\x2a` for a literal star",
            0,
        )),
    }
}
