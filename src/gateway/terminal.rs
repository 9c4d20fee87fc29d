//! The one door to standard output and standard error for every command: no character of a peer's,
//! a file's or etcd's text that a terminal obeys passes through it, whatever the command has
//! forgotten to escape. A test in `tests/it/layering.rs` looks for any other door.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use etcd_warden_core::printable::{escape, is_unfit};

/// A writer of text: lines and tabs stay, whatever else is unfit ([`is_unfit`]) is spelled
/// `\u001b`, and bytes that are no UTF-8 `\xff`.
pub struct Plain<'w> {
    inner: &'w mut dyn Write,
}

impl<'w> Plain<'w> {
    /// Writes to `inner`.
    #[must_use]
    pub fn new(inner: &'w mut dyn Write) -> Self {
        Self { inner }
    }

    /// A file of the operator's that goes to standard output as it is, byte for byte.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn verbatim(&mut self, file: &[u8]) -> io::Result<()> {
        self.inner.write_all(file)
    }
}

impl Write for Plain<'_> {
    /// Takes all of it. A character is not to be split over two calls; `write!` never does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            for c in chunk.valid().chars() {
                let fits = !is_unfit(c) || matches!(c, '\n' | '\t');
                // Writing to a String does not fail.
                let _ = if fits { text.write_char(c) } else { escape(c, &mut text) };
            }
            for byte in chunk.invalid() {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
        self.inner.write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes to standard output. That a reader has gone away (`| head`) is no failure: it has seen
/// enough.
///
/// # Errors
/// Standard output takes nothing more: the disk is full, for example.
pub fn out(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout();
    let mut plain = Plain::new(&mut stdout);
    match plain.write_fmt(text).and_then(|()| plain.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. When that cannot be done, there is no other place to say so.
pub fn err(text: fmt::Arguments<'_>) {
    let mut stderr = io::stderr();
    let _ = writeln!(Plain::new(&mut stderr), "{text}");
}

/// Writes to standard output text whose colours (ECMA-48, SGR) are ours: everything else of it has
/// gone through [`etcd_warden_core::printable`].
///
/// # Errors
/// As [`out`].
pub fn coloured(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout();
    let mut rest = text;
    let written = loop {
        let Some((before, behind)) = rest.split_once("\x1b[") else {
            break Plain::new(&mut stdout).write_all(rest.as_bytes());
        };
        let end =
            behind.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m');
        let colour = end.map_or("\\u001b[", |end| {
            rest.get(before.len()..rest.len() - end.len()).unwrap_or_default()
        });
        if let Err(error) = Plain::new(&mut stdout)
            .write_all(before.as_bytes())
            .and_then(|()| stdout.write_all(colour.as_bytes()))
        {
            break Err(error);
        }
        rest = end.unwrap_or(behind);
    };
    match written.and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_and_tabs_of_all_controls_pass_the_door() {
        let mut written = Vec::new();
        let mut out = Plain::new(&mut written);
        let foreign = "\x1b[31m\r\u{9b}\u{202e}\u{e9}";
        write!(out, "a\tb\n{foreign}").unwrap();
        out.write_all(b"\xff\x00").unwrap();
        out.verbatim(b"\r\n").unwrap();
        assert_eq!(
            written,
            "a\tb\n\\u001b[31m\\u000d\\u009b\\u202e\u{e9}\\xff\\u0000\r\n".as_bytes()
        );
    }
}
