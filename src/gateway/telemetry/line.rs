//! Keeps each event on one line, whatever its fields contain.

use std::io::{self, Write};
use std::sync::Arc;

use etcd_warden_core::printable::{escape, is_unfit};
use serde_json::{Map, Value};
use tracing_subscriber::fmt::MakeWriter;

use super::LineCounts;

/// Largest size of a line in bytes; longer ones are cut. The names in a certificate can have 64
/// KiB, and queued lines are in memory.
pub const MAX_LINE: usize = 16 * 1024;

/// The end of a line that was cut, or of a JSON string.
const CUT: &str = " (cut)";

/// A writer, or a maker of writers, that keeps each event on one line.
pub(super) struct OneLine<W> {
    pub(super) writer: W,
    pub(super) ansi: bool,
    /// Events are JSON objects.
    pub(super) json: bool,
    pub(super) counts: Arc<LineCounts>,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine {
            writer: self.writer.make_writer(),
            ansi: self.ansi,
            json: self.json,
            counts: self.counts.clone(),
        }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// Writes one event with its end of line. tracing-subscriber formats an event into a buffer and
    /// writes it with one call.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(event)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        let line = if self.json { object(text) } else { plain(text, self.ansi) } + end;
        self.counts.count_made();
        self.writer.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A plain line: characters that are unfit for a terminal are written as their bytes.
fn plain(text: &str, ansi: bool) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE));
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if line.len() >= MAX_LINE {
            line.push_str(CUT);
            break;
        }
        let colour = if char == '\x1b' && ansi { colour(rest.as_str()) } else { None };
        if let Some((colour, after)) = colour {
            line.push(char);
            line.push_str(colour);
            rest = after.chars();
        } else if is_unfit(char) {
            char.encode_utf8(&mut [0; 4])
                .bytes()
                .for_each(|byte| line.push_str(&format!("\\x{byte:02x}")));
        } else {
            line.push(char);
        }
    }
    line
}

/// A line of JSON: characters that are unfit for a terminal are written as JSON escapes. If the
/// line is too long, its strings are cut until it fits.
fn object(text: &str) -> String {
    if let Some(line) = json(text) {
        return line;
    }
    let mut max = MAX_LINE / 2;
    while let (1.., Ok(mut fields)) = (max, serde_json::from_str::<Map<String, Value>>(text)) {
        fields.values_mut().for_each(|value| cut(value, max));
        if let Some(line) = serde_json::to_string(&fields).ok().and_then(|short| json(&short)) {
            return line;
        }
        max /= 2;
    }
    // The names of its fields alone are too long.
    r#"{"level":"ERROR","message":"a line was too long","target":"etcd_warden_gateway::telemetry"}"#
        .to_owned()
}

/// A JSON text with unfit characters escaped; `None` if it is too long. Such characters occur only
/// in strings (RFC 8259, section 2).
fn json(text: &str) -> Option<String> {
    let mut line = String::with_capacity(text.len().min(MAX_LINE));
    for char in text.chars() {
        if is_unfit(char) {
            escape(char, &mut line).ok()?;
        } else {
            line.push(char);
        }
        if line.len() > MAX_LINE {
            return None;
        }
    }
    Some(line)
}

/// Cuts a string to `max` bytes, and replaces an array or object by null.
fn cut(value: &mut Value, max: usize) {
    match value {
        Value::String(text) if text.len() > max => {
            let end = (0..=max).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text.push_str(CUT);
        }
        Value::Array(_) | Value::Object(_) => *value = Value::Null,
        _ => {}
    }
}

/// Splits the rest of a sequence that sets colours (ECMA-48, SGR: `[`, numbers, `m`) from the text
/// after it. tracing-subscriber writes no other sequences. It escapes those in messages itself
/// (RUSTSEC-2025-0055), but not those in fields.
fn colour(after_escape: &str) -> Option<(&str, &str)> {
    let numbers = after_escape.strip_prefix('[')?;
    let end =
        numbers.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m')?;
    after_escape.split_at_checked(after_escape.len() - end.len())
}
