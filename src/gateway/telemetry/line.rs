//! One event, one line: what no value of a field may break.

use std::io::{self, Write};
use std::sync::Arc;

use etcd_warden_core::printable::{escape, is_unfit};
use serde_json::{Map, Value};
use tracing_subscriber::fmt::MakeWriter;

use super::Passed;

/// Bytes of one line, at most: what is longer is cut. Names of a certificate have up to 64 KiB, and
/// lines that wait hold memory.
pub const MAX_LINE: usize = 16 * 1024;

/// What a line, or a text in an object, ends with that was cut.
const CUT: &str = " (cut)";

/// Makers of writers that keep each event on one line.
pub(super) struct OneLine<W> {
    pub(super) writer: W,
    pub(super) ansi: bool,
    /// Events are JSON objects.
    pub(super) json: bool,
    pub(super) passed: Arc<Passed>,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine {
            writer: self.writer.make_writer(),
            ansi: self.ansi,
            json: self.json,
            passed: self.passed.clone(),
        }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// `event` is one whole event with its end of line: tracing-subscriber formats aside and writes
    /// once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(event)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        let line = if self.json { object(text) } else { plain(text, self.ansi) } + end;
        self.passed.one_is_made();
        self.writer.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A line for people: what is unfit is spelled as its bytes.
fn plain(text: &str, ansi: bool) -> String {
    let mut line = String::with_capacity(text.len().min(MAX_LINE));
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        if line.len() >= MAX_LINE {
            line.push_str(CUT);
            break;
        }
        let colour = if char == '\x1b' && ansi { colour(rest.as_str()) } else { None };
        if let Some((colour, behind)) = colour {
            line.push(char);
            line.push_str(colour);
            rest = behind.chars();
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

/// A JSON object that stays one: what is unfit is spelled as JSON reads it, and of a line that is
/// too long the texts are cut, as far as it takes.
fn object(text: &str) -> String {
    if let Some(line) = json(text) {
        return line;
    }
    let mut most = MAX_LINE / 2;
    while let (1.., Ok(mut fields)) = (most, serde_json::from_str::<Map<String, Value>>(text)) {
        fields.values_mut().for_each(|value| cut(value, most));
        if let Some(line) = serde_json::to_string(&fields).ok().and_then(|short| json(&short)) {
            return line;
        }
        most /= 2;
    }
    // Not even the names of its fields have room.
    r#"{"level":"ERROR","message":"a line of the log was too long","target":"etcd_warden_gateway::telemetry"}"#.to_owned()
}

/// A JSON text with what is unfit spelled out, unless that is too long. Outside of its strings JSON
/// has nothing unfit (RFC 8259, section 2).
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

/// Leaves `most` bytes of a text, and nothing of what is nested.
fn cut(value: &mut Value, most: usize) {
    match value {
        Value::String(text) if text.len() > most => {
            let end = (0..=most).rev().find(|end| text.is_char_boundary(*end));
            text.truncate(end.unwrap_or_default());
            text.push_str(CUT);
        }
        Value::Array(_) | Value::Object(_) => *value = Value::Null,
        _ => {}
    }
}

/// Splits the rest of a sequence that sets colours (ECMA-48, SGR: `[`, numbers, `m`) from what
/// stands behind it. tracing-subscriber writes no others; it escapes those of messages itself
/// (RUSTSEC-2025-0055), but not those of fields.
fn colour(behind_escape: &str) -> Option<(&str, &str)> {
    let numbers = behind_escape.strip_prefix('[')?;
    let end =
        numbers.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m')?;
    behind_escape.split_at_checked(behind_escape.len() - end.len())
}
