//! Keys as a policy writes them, with `{captures}` still open.

use std::sync::Arc;

use super::keyset::{KeySet, Pattern};
use super::name::{Captures, capture_name, escape, unclosed};
use crate::keyspace::{OwnedEnd, OwnedRange, prefix_end};

/// Why a key cannot be read: what is wrong, what to write instead, and where in the text (bytes
/// from its start).
pub(super) type KeyError = (String, &'static str, usize);

/// Keys of one entry, before a binding's captures are filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// The text ends in `*`: everything that begins like this.
    tail: bool,
    /// A range with an explicit end, from `{from, to}`. Then `parts` is its start, and there is no
    /// tail.
    interval: Option<OwnedEnd>,
}

/// A piece of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Vec<u8>),
    Capture {
        name: Arc<str>,
        dashes_doubled: bool,
    },
    /// An inner `*`: one or more bytes without `/`.
    Segment,
}

impl Template {
    /// Reads a key: text with `\xNN` and `\\`, `*` at the end, `/*/` inside, `{name}` and
    /// `{name|dash-doubled}`.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub(super) fn parse(written: &str) -> Result<Self, KeyError> {
        let mut parts: Vec<Part> = Vec::new();
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
                        r"a brace that is meant as such is `\x7d`",
                        at,
                    ));
                }
                '*' if behind.is_empty() => tail = true,
                '*' => {
                    let whole = behind.starts_with('/')
                        && matches!(parts.last(), Some(Part::Literal(text)) if text.ends_with(b"/"));
                    if !whole {
                        let help = r"inside a key, `*` is one whole path segment: `/*/`; a star that is meant as such is `\x2a`";
                        return Err((
                            "`*` stands for a part of a path segment".to_owned(),
                            help,
                            at,
                        ));
                    }
                    parts.push(Part::Segment);
                }
                c => literal(&mut parts, c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
            at += c.len_utf8();
        }
        if parts.is_empty() && !tail {
            return Err(("a key cannot be empty".to_owned(), "`*` alone is every key", 0));
        }
        Ok(Self { parts, tail, interval: None })
    }

    /// The half-open range of keys `[from, to)`, or from `from` on. Both are plain bytes with
    /// escapes.
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
                "no key is in this range".to_owned(),
                "`to` is the first key behind the range, so it is greater than `from`",
                0,
            ));
        }
        Ok(Self { parts: vec![Part::Literal(start)], tail: false, interval: Some(interval) })
    }

    /// The captures that the key needs.
    pub fn captures(&self) -> impl Iterator<Item = &Arc<str>> {
        self.parts.iter().filter_map(|part| match part {
            Part::Capture { name, .. } => Some(name),
            Part::Literal(_) | Part::Segment => None,
        })
    }

    /// The keys for one caller; `None` when a capture has no value, and then there are none.
    #[must_use]
    pub fn resolve(&self, captures: &Captures) -> Option<KeySet> {
        let mut literals = vec![Vec::new()];
        for part in &self.parts {
            if matches!(part, Part::Segment) {
                literals.push(Vec::new());
                continue;
            }
            let last = literals.last_mut()?;
            match part {
                Part::Literal(text) => last.extend_from_slice(text),
                Part::Capture { name, dashes_doubled } => {
                    let (_, value) = captures.iter().find(|(known, _)| known == name)?;
                    last.extend_from_slice(
                        if *dashes_doubled { value.replace('-', "--") } else { value.to_string() }
                            .as_bytes(),
                    );
                }
                Part::Segment => {}
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
        // No key is empty, so that every range from "" begins with the smallest one.
        let start = if start.is_empty() { vec![0] } else { start };
        Some(KeySet::Range(OwnedRange { start: start.into(), end }))
    }

    /// What is likely a mistake about the end of the key: it begins a longer name than was meant.
    pub(super) fn spills(&self) -> Option<(&'static str, &'static str)> {
        match self.parts.as_slice() {
            [.., Part::Capture { .. }] if self.tail => Some((
                "this also holds every name that begins with the captured one (`n1` and `n10`)",
                "end the name before the `*`: `{name}/*`, or write the exact key",
            )),
            [.., Part::Capture { dashes_doubled: true, .. }, Part::Literal(text)]
                if self.tail && text == b"-" =>
            {
                Some((
                    "`a-` also begins the doubled name `a--b` of another one",
                    "name what stands behind the dash: `{node|dash-doubled}-k8s-*`",
                ))
            }
            _ => None,
        }
    }

    /// The bytes that all keys begin with, whatever is captured.
    pub(super) fn fixed_prefix(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Literal(text)) => text,
            _ => b"",
        }
    }

    /// The captured values with which `key` is among the keys: at most [`Template::SOLUTIONS`].
    #[must_use]
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

    /// How many solutions [`Template::solve`] gives at most.
    pub const SOLUTIONS: usize = 16;

    fn search(
        &self,
        parts: &[Part],
        rest: &[u8],
        captures: &mut Captures,
        found: &mut Vec<Captures>,
    ) {
        let Some((part, others)) = parts.split_first() else {
            let mut solution = captures.clone();
            solution.sort();
            if (rest.is_empty() || self.tail)
                && found.len() < Self::SOLUTIONS
                && !found.contains(&solution)
            {
                found.push(solution);
            }
            return;
        };
        match part {
            Part::Literal(text) => {
                if let Some(rest) = rest.strip_prefix(text.as_slice()) {
                    self.search(others, rest, captures, found);
                }
            }
            Part::Segment => {
                let length = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
                if let Some((_, rest)) =
                    rest.split_at_checked(length).filter(|(segment, _)| !segment.is_empty())
                {
                    self.search(others, rest, captures, found);
                }
            }
            Part::Capture { name, dashes_doubled } => {
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

fn literal(parts: &mut Vec<Part>, bytes: &[u8]) {
    match parts.last_mut() {
        Some(Part::Literal(text)) => text.extend_from_slice(bytes),
        _ => parts.push(Part::Literal(bytes.to_vec())),
    }
}

fn capture(inside: &str) -> Result<Part, (String, &'static str)> {
    let (name, filter) =
        inside.split_once('|').map_or((inside, None), |(name, filter)| (name, Some(filter)));
    let name = capture_name(name)?.into();
    match filter {
        None => Ok(Part::Capture { name, dashes_doubled: false }),
        Some("dash-doubled") => Ok(Part::Capture { name, dashes_doubled: true }),
        Some(other) => Err((
            format!("`{other}` is no way to write a captured value"),
            "the one that there is: `{name|dash-doubled}`",
        )),
    }
}

/// A key without captures and stars.
fn plain(written: &str) -> Result<Vec<u8>, KeyError> {
    let template = Template::parse(written)?;
    match template.parts.as_slice() {
        [Part::Literal(text)] if !template.tail => Ok(text.clone()),
        _ => Err((
            "the end of a range is one exact key".to_owned(),
            r"no captures here; a star that is meant as such is `\x2a`",
            0,
        )),
    }
}
