//! One event, one line: what no value of a field may break.

use std::io::{self, Write};
use std::sync::Arc;

use tracing_subscriber::fmt::MakeWriter;

use super::Passed;
use crate::printable::is_unfit;

/// Bytes of one line, at most: what is longer is cut. Names of a certificate have up to 64 KiB, and lines that wait hold memory.
pub const MAX_LINE: usize = 16 * 1024;

/// What a line that was cut ends with.
const CUT: &str = " (cut)";

/// Makers of writers that keep each event on one line.
pub(super) struct OneLine<W> {
    pub(super) writer: W,
    pub(super) ansi: bool,
    pub(super) passed: Arc<Passed>,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine { writer: self.writer.make_writer(), ansi: self.ansi, passed: self.passed.clone() }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// `event` is one whole event with its end of line: tracing-subscriber formats aside and writes once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(event).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        let mut line = String::with_capacity(event.len().min(MAX_LINE));
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
            if line.len() >= MAX_LINE {
                line.push_str(CUT);
                break;
            }
            let colour = if char == '\x1b' && self.ansi { colour(rest.as_str()) } else { None };
            if let Some((colour, behind)) = colour {
                line.push(char);
                line.push_str(colour);
                rest = behind.chars();
            } else if is_unfit(char) {
                char.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| line.push_str(&format!("\\x{byte:02x}")));
            } else {
                line.push(char);
            }
        }
        line.push_str(end);
        self.passed.one_is_made();
        self.writer.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// Splits the rest of a sequence that sets colours (ECMA-48, SGR: `[`, numbers, `m`) from what stands behind it. tracing-subscriber
/// writes no others; it escapes those of messages itself (RUSTSEC-2025-0055), but not those of fields.
fn colour(behind_escape: &str) -> Option<(&str, &str)> {
    let numbers = behind_escape.strip_prefix('[')?;
    let end = numbers.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m')?;
    behind_escape.split_at_checked(behind_escape.len() - end.len())
}
