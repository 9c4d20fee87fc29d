//! Escapes text from untrusted sources (a peer, a certificate, a file, etcd) for a terminal and for
//! one line of output.
//!
//! [`crate::keyspace::Escaped`] is for keys: bytes, reversible, printable ASCII only. This module
//! is for text: letters of every language stay as they are. Terminal control sequences, line breaks
//! and invisible characters are escaped.

use std::fmt::{self, Write as _};

/// Number of characters of one untrusted text that a message shows.
const MAX_SHOWN_CHARS: usize = 1000;

/// True if a character must be escaped: C0 and C1 controls and DEL (ECMA-48), line and paragraph
/// separators, and the format characters of Unicode (category Cf) that reorder the surrounding text
/// or are invisible (UAX #9, UTR #36).
pub fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// Writes a character as `\u` escapes of its UTF-16 units, for example `\u001b`. JSON reads them as
/// the same character.
///
/// # Errors
/// Errors of the writer.
pub fn escape(c: char, out: &mut impl fmt::Write) -> fmt::Result {
    c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(out, "\\u{unit:04x}"))
}

/// Displays a text as one line: characters that [`is_unfit`] names are escaped, and text beyond
/// 1,000 characters is cut.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'t>(pub &'t str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.chars();
        for c in rest.by_ref().take(MAX_SHOWN_CHARS) {
            if is_unfit(c) { escape(c, f)? } else { f.write_char(c)? }
        }
        match rest.as_str().len() {
            0 => Ok(()),
            left => write!(f, "... ({left} more bytes)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped_and_letters_stay() {
        let hostile =
            "n\u{f6}de \u{4e16}\x1b]0;x\x07\r\n\u{9b}31m\u{202e}\u{2028}\u{e0041}\u{feff}\x7f\t";
        let shown = Printable(hostile).to_string();
        assert_eq!(
            shown,
            "n\u{f6}de \u{4e16}\\u001b]0;x\\u0007\\u000d\\u000a\\u009b31m\\u202e\\u2028\\udb40\\udc41\
             \\ufeff\\u007f\\u0009"
        );
        let read: String = serde_json::from_str(&format!("\"{shown}\"")).unwrap();
        assert_eq!(read, hostile, "JSON reads it back");
    }

    #[test]
    fn text_over_1000_characters_is_cut() {
        let shown = Printable(&"x".repeat(1_000_000)).to_string();
        assert!(
            shown.len() < 1100 && shown.ends_with("... (999000 more bytes)"),
            "{}",
            shown.len()
        );
    }
}
