//! The file: one YAML mapping of settings, read strictly. Unknown and repeated keys, empty values
//! and lists, and anything deeper than a setting needs are mistakes, and all of them are found in
//! one pass.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::granit_parser::{Event, Marker, Parser, ScalarStyle, Span};

use super::diagnostic::{Diagnostic, Origin, SourceText, suggestion};
use super::given::{Given, Item};
use super::settings::{Key, SETTINGS, Shape};
use crate::files::{self, Unread};

/// Bytes that a configuration file may have.
const MAX_BYTES: u64 = 1 << 20;

/// What the file at `path` sets; `None` when it cannot be read to its end, so that nobody can tell
/// what it leaves out.
pub(super) fn read(path: &Path, mistakes: &mut Vec<Diagnostic>) -> Option<Vec<Given>> {
    let name = path.display().to_string();
    let whole = |message: String| Diagnostic {
        origin: Origin::File {
            source: Arc::new(SourceText { name: name.clone(), text: String::new() }),
            line: 0,
            column: 0,
        },
        message,
    };
    match files::read(path, MAX_BYTES) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => return parse(&name, text, mistakes),
            Err(error) => mistakes.push(whole(format!(
                "is not UTF-8, from byte {} on",
                error.utf8_error().valid_up_to()
            ))),
        },
        Err(why @ Unread::Large(_)) => {
            mistakes.push(whole(format!("{why}: not a configuration file")))
        }
        Err(why) => mistakes.push(whole(why.to_string())),
    }
    None
}

/// What `text` sets; `name` is where it came from.
fn parse(name: &str, text: String, mistakes: &mut Vec<Diagnostic>) -> Option<Vec<Given>> {
    let source = Arc::new(SourceText { name: name.to_owned(), text });
    let mut reader =
        Reader { source: &source, events: Parser::new_from_str(&source.text), mistakes };
    reader.document()
}

struct Reader<'s, P> {
    source: &'s Arc<SourceText>,
    events: P,
    mistakes: &'s mut Vec<Diagnostic>,
}

/// What stands in a value's place.
enum Node {
    Scalar(String),
    List(Vec<(String, Origin)>),
    Map(Vec<(String, String, Origin)>),
    /// A mistake that has been reported.
    Bad,
}

/// The file cannot be read on: a mistake of YAML itself, which has been reported, or its end.
struct Broken;

type Next<'s> = (Event<'s>, Span);

impl<'s, P: Iterator<Item = Result<Next<'s>, serde_saphyr::granit_parser::ScanError>>>
    Reader<'s, P>
{
    fn document(&mut self) -> Option<Vec<Given>> {
        let (mut given, before) = (Vec::new(), self.mistakes.len());
        self.settings(&mut given).ok()?;
        if given.is_empty() && self.mistakes.len() == before {
            let origin = Origin::File { source: Arc::clone(self.source), line: 0, column: 0 };
            self.mistakes.push(Diagnostic { origin, message: "holds no setting".into() });
        }
        Some(given)
    }

    fn settings(&mut self, given: &mut Vec<Given>) -> Result<(), Broken> {
        let mut seen: BTreeMap<Key, usize> = BTreeMap::new();
        let mut documents = 0;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents == 2 {
                        self.mistake(
                            span.start,
                            "a second document; the configuration is one".into(),
                        );
                        return Ok(());
                    }
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.plain(anchor, tag.is_some(), span.start);
                    while let Some((key, place, at)) = self.key()? {
                        self.setting(&key, place, at, &mut seen, given)?;
                    }
                }
                Event::Scalar(text, ..) if text.is_empty() => {}
                Event::Scalar(..) | Event::SequenceStart(..) | Event::Alias(_) => {
                    self.mistake(
                        span.start,
                        "the configuration is a mapping: write `SETTING: VALUE` lines".into(),
                    );
                    self.skip(&event)?;
                }
                _ => {}
            }
        }
    }

    fn setting(
        &mut self,
        name: &str,
        origin: Origin,
        at: Marker,
        seen: &mut BTreeMap<Key, usize>,
        given: &mut Vec<Given>,
    ) -> Result<(), Broken> {
        let Some(key) = Key::named(name) else {
            let near = suggestion(name, SETTINGS.iter().map(|setting| setting.name));
            self.mistake(at, format!("no setting is named `{}`{near}", name.escape_debug()));
            return self.skip_node();
        };
        if let Some(first) = seen.insert(key, at.line()) {
            self.mistake(at, format!("`{key}` is set a second time; the first is in line {first}"));
            seen.insert(key, first);
            return self.skip_node();
        }
        let (node, value_at) = self.node()?;
        let value_origin = self.origin(value_at);
        let items = match (node, key.setting().shape) {
            (Node::Bad, _) => {
                given.push(Given { key, origin, items: Vec::new() });
                return Ok(());
            }
            (Node::Scalar(text), _) => Item::split(key, &[text], &value_origin),
            (Node::List(values), Shape::List) if values.is_empty() => {
                Err("an empty list; leave the setting out to keep the default".into())
            }
            (Node::List(values), Shape::List) => Ok(values
                .into_iter()
                .map(|(text, origin)| Item { name: None, text, origin })
                .collect()),
            (Node::Map(values), Shape::Named) if values.is_empty() => {
                Err("an empty mapping; leave the setting out to keep the default".into())
            }
            (Node::Map(values), Shape::Named) => Ok(values
                .into_iter()
                .map(|(name, text, origin)| Item { name: Some(name), text, origin })
                .collect()),
            (_, Shape::One) => Err(format!("`{key}` takes one value")),
            (_, Shape::List) => Err(format!("`{key}` takes a list of values")),
            (_, Shape::Named) => Err(format!("`{key}` takes one value, or `NAME: VALUE` lines")),
        };
        given.push(Given::new(key, origin, value_origin, items, self.mistakes));
        Ok(())
    }

    /// The next key of the open mapping; `None` at its end.
    fn key(&mut self) -> Result<Option<(String, Origin, Marker)>, Broken> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::MappingEnd => return Ok(None),
                Event::Scalar(text, _, anchor, tag) => {
                    self.plain(anchor, tag.is_some(), span.start);
                    return Ok(Some((text.into_owned(), self.origin(span.start), span.start)));
                }
                Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    self.mistake(span.start, "a key is one word".into());
                    self.skip(&event)?;
                    self.skip_node()?;
                }
                _ => {}
            }
        }
    }

    /// One value, whole, and where it begins.
    fn node(&mut self) -> Result<(Node, Marker), Broken> {
        loop {
            let (event, span) = self.next()?;
            let at = span.start;
            match event {
                Event::Scalar(text, style, anchor, tag) => {
                    let plain = self.plain(anchor, tag.is_some(), at);
                    return Ok((
                        if plain && self.has_value(&text, style, at) {
                            Node::Scalar(text.into_owned())
                        } else {
                            Node::Bad
                        },
                        at,
                    ));
                }
                Event::SequenceStart(_, anchor, tag) => {
                    let mut plain = self.plain(anchor, tag.is_some(), at);
                    let mut values = Vec::new();
                    loop {
                        let (event, span) = self.next()?;
                        match event {
                            Event::SequenceEnd => {
                                return Ok((
                                    if plain { Node::List(values) } else { Node::Bad },
                                    at,
                                ));
                            }
                            Event::Scalar(text, style, anchor, tag) => {
                                plain &= self.plain(anchor, tag.is_some(), span.start)
                                    && self.has_value(&text, style, span.start);
                                values.push((text.into_owned(), self.origin(span.start)));
                            }
                            Event::SequenceStart(..)
                            | Event::MappingStart(..)
                            | Event::Alias(_) => {
                                self.mistake(
                                    span.start,
                                    "each element of this list is one value".into(),
                                );
                                self.skip(&event)?;
                                plain = false;
                            }
                            _ => {}
                        }
                    }
                }
                Event::MappingStart(_, anchor, tag) => {
                    let mut plain = self.plain(anchor, tag.is_some(), at);
                    let mut values: Vec<(String, String, Origin)> = Vec::new();
                    while let Some((name, origin, name_at)) = self.key()? {
                        if values.iter().any(|(other, ..)| *other == name) {
                            self.mistake(
                                name_at,
                                format!("`{}` is named a second time", name.escape_debug()),
                            );
                            plain = false;
                        }
                        match self.node()? {
                            (Node::Scalar(text), _) => values.push((name, text, origin)),
                            (Node::Bad, _) => plain = false,
                            (Node::List(_) | Node::Map(_), at) => {
                                self.mistake(at, "each name has one value".into());
                                plain = false;
                            }
                        }
                    }
                    return Ok((if plain { Node::Map(values) } else { Node::Bad }, at));
                }
                Event::Alias(_) => {
                    self.mistake(
                        at,
                        "aliases are not for configuration files: write the value out".into(),
                    );
                    return Ok((Node::Bad, at));
                }
                _ => {}
            }
        }
    }

    /// Reads over one value.
    fn skip_node(&mut self) -> Result<(), Broken> {
        let (event, _) = self.next()?;
        self.skip(&event)
    }

    /// Reads over what `opening` began.
    fn skip(&mut self, opening: &Event<'_>) -> Result<(), Broken> {
        let mut depth =
            usize::from(matches!(opening, Event::SequenceStart(..) | Event::MappingStart(..)));
        while depth > 0 {
            match self.next()?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Result<Next<'s>, Broken> {
        loop {
            match self.events.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(next)) => return Ok(next),
                Some(Err(error)) => {
                    self.mistake(*error.marker(), format!("not YAML: {}", error.info()));
                    return Err(Broken);
                }
                None => return Err(Broken),
            }
        }
    }

    fn has_value(&mut self, text: &str, style: ScalarStyle, at: Marker) -> bool {
        let nothing = text.trim().is_empty()
            || (style == ScalarStyle::Plain && matches!(text, "~" | "null" | "Null" | "NULL"));
        if nothing {
            self.mistake(at, "has no value; leave it out to keep the default".into());
        }
        !nothing
    }

    /// Anchors and tags would mean something to YAML that means nothing here.
    fn plain(&mut self, anchor: usize, tagged: bool, at: Marker) -> bool {
        let plain = anchor == 0 && !tagged;
        if !plain {
            self.mistake(at, "anchors and tags are not for configuration files".into());
        }
        plain
    }

    fn mistake(&mut self, at: Marker, message: String) {
        let origin = self.origin(at);
        self.mistakes.push(Diagnostic { origin, message });
    }

    fn origin(&self, at: Marker) -> Origin {
        Origin::File { source: Arc::clone(self.source), line: at.line(), column: at.col() + 1 }
    }
}

#[cfg(test)]
mod tests;
