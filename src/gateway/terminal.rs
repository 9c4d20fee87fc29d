//! Writes to standard output and standard error. Every command uses this module, which escapes all
//! characters that a terminal would obey, even if the command has not escaped the text of a peer, a
//! file or etcd. A test in `tests/it/layering.rs` searches for other writers.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use etcd_warden_core::printable::{escape, is_unfit};

/// A writer that keeps line feeds and tabs, writes other unfit characters ([`is_unfit`]) as
/// `\u001b`, and bytes that are not UTF-8 as `\xff`.
pub struct Plain<'w> {
    inner: &'w mut dyn Write,
}

impl<'w> Plain<'w> {
    /// Escapes text for `inner`.
    pub fn new(inner: &'w mut dyn Write) -> Self {
        Self { inner }
    }

    /// Writes a file of the operator unchanged.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn verbatim(&mut self, file: &[u8]) -> io::Result<()> {
        self.inner.write_all(file)
    }
}

impl Write for Plain<'_> {
    /// Writes all bytes. A character must not be split over two calls; `write!` never does that.
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

/// Writes to standard output. A closed pipe (`| head`) is no error.
///
/// # Errors
/// Standard output cannot be written, for example because the disk is full.
pub fn out(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut stdout = io::stdout();
    let mut plain = Plain::new(&mut stdout);
    match plain.write_fmt(text).and_then(|()| plain.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a line to standard error. A failure is ignored: there is no output left to report it.
pub fn err(text: fmt::Arguments<'_>) {
    let mut stderr = io::stderr();
    let _ = writeln!(Plain::new(&mut stderr), "{text}");
}

/// Writes text with colors (ECMA-48, SGR) to standard output. Text of others in it must have been
/// escaped with [`etcd_warden_core::printable`], because colors in it would pass.
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
    fn line_feeds_and_tabs_are_the_only_controls_that_pass() {
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
