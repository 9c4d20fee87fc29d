//! The log: one event, one line, on standard error.
//!
//! Names and keys come from callers. Say them through [`crate::keyspace::Escaped`]:
//! `tracing::warn!(cn = %Escaped(cn.as_bytes()), "refused")`. Where that is forgotten, the writer below still lets no control character
//! of a value through, so that nobody can forge a second line or talk to a terminal.

use std::io::{self, IsTerminal, Write};

use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::Log;
use crate::printable::is_unfit;

/// Starts the log. Only the first call of a process takes effect; later ones (tests) check the filter and leave the log as it is.
///
/// # Errors
/// A filter that `EnvFilter` cannot read, with what is wrong in it.
pub fn init(log: &Log) -> Result<(), String> {
    let ansi = !log.json && io::stderr().is_terminal();
    let subscriber = subscriber(log, ansi, io::stderr)?;
    // An error here says that there is a log already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The log as `init` sets it up, on another writer. `ansi`: colours, for terminals.
///
/// # Errors
/// As [`init`].
pub fn subscriber<W>(log: &Log, ansi: bool, writer: W) -> Result<Box<dyn Subscriber + Send + Sync>, String>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&log.filter).map_err(|error| format!("log filter `{}`: {error}", log.filter))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(OneLine { writer, ansi });
    Ok(if log.json { Box::new(builder.json().flatten_event(true).finish()) } else { Box::new(builder.finish()) })
}

/// Makers of writers that keep each event on one line.
struct OneLine<W> {
    writer: W,
    ansi: bool,
}

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine { writer: self.writer.make_writer(), ansi: self.ansi }
    }
}

impl<W: Write> Write for OneLine<W> {
    /// `event` is one whole event with its end of line: tracing-subscriber formats aside and writes once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = std::str::from_utf8(event).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let (text, end) = text.strip_suffix('\n').map_or((text, ""), |text| (text, "\n"));
        let mut line = String::with_capacity(event.len());
        let mut rest = text.chars();
        while let Some(char) = rest.next() {
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::keyspace::Escaped;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, ansi: bool, event: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let log = Log { json, filter: "info".to_owned() };
        let subscriber = subscriber(&log, ansi, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, event);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    const FORGED: &str = "eve\u{1b}[2K\u{9b}2K\r\n2026-01-01T00:00:00Z  INFO root logged in";

    #[test]
    fn a_common_name_cannot_forge_a_line() {
        for (json, ansi) in [(false, false), (false, true), (true, false)] {
            let escaped = logged(json, ansi, || tracing::warn!(cn = %Escaped(FORGED.as_bytes()), "refused"));
            let forgotten = logged(json, ansi, || tracing::warn!(cn = %FORGED, "refused {FORGED}"));
            for text in [&escaped, &forgotten] {
                assert_eq!(text.lines().count(), 1, "{text:?}");
                assert!(!text.contains("\u{1b}[2K") && !text.contains(['\r', '\u{9b}']), "{text:?}");
            }
            let spelling = if json { r"eve\\x1b[2K\\xc2\\x9b2K\\x0d\\x0a2026" } else { r"eve\x1b[2K\xc2\x9b2K\x0d\x0a2026" };
            assert!(escaped.contains(spelling), "{escaped:?}");
        }
    }

    #[test]
    fn json_is_one_object_with_the_fields_on_top() {
        let text = logged(true, false, || tracing::info!(member = "a:2379", "well"));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&value["level"], &value["message"], &value["member"]), (&"INFO".into(), &"well".into(), &"a:2379".into()));
    }

    #[test]
    fn the_filter_decides_and_a_bad_one_is_named() {
        assert_eq!(logged(false, false, || tracing::debug!("detail")), "");
        let error = init(&Log { json: false, filter: "etcd_warden=loudly".to_owned() }).unwrap_err();
        assert!(error.starts_with("log filter `etcd_warden=loudly`: "), "{error}");
    }

    #[test]
    fn starting_twice_is_no_mistake() {
        let log = Log { json: false, filter: "error".to_owned() };
        assert_eq!((init(&log), init(&log)), (Ok(()), Ok(())));
    }
}
