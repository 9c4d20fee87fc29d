use std::sync::{Arc, Mutex};

use etcd_warden_core::keyspace::Escaped;

use super::*;

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
        let escaped =
            logged(json, ansi, || tracing::warn!(cn = %Escaped(FORGED.as_bytes()), "refused"));
        let forgotten = logged(json, ansi, || tracing::warn!(cn = %FORGED, "refused {FORGED}"));
        for text in [&escaped, &forgotten] {
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(!text.contains("\u{1b}[2K") && !text.contains(['\r', '\u{9b}']), "{text:?}");
        }
        let spelling = if json {
            r"eve\\x1b[2K\\xc2\\x9b2K\\x0d\\x0a2026"
        } else {
            r"eve\x1b[2K\xc2\x9b2K\x0d\x0a2026"
        };
        assert!(escaped.contains(spelling), "{escaped:?}");
    }
}

#[test]
fn json_is_one_object_with_the_fields_on_top() {
    let text = logged(true, false, || tracing::info!(member = "a:2379", "well"));
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&value["level"], &value["message"], &value["member"]),
        (&"INFO".into(), &"well".into(), &"a:2379".into())
    );
}

#[test]
fn applies_the_filter_and_quotes_a_bad_one() {
    assert_eq!(logged(false, false, || tracing::debug!("detail")), "");
    let error = init(&Log { json: false, filter: "etcd_warden=loudly".to_owned() }).unwrap_err();
    assert!(error.starts_with("log filter `etcd_warden=loudly`: "), "{error}");
}

#[test]
fn init_can_be_called_twice() {
    let log = Log { json: false, filter: "error".to_owned() };
    assert_eq!((init(&log), init(&log)), (Ok(()), Ok(())));
}

#[test]
fn suppresses_similar_lines_and_counts_them() {
    let repeats = Repeats::default();
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let log = Log { json: false, filter: "debug".to_owned() };
    let subscriber =
        build(&log, false, move || writer.clone(), Arc::default(), repeats.clone()).unwrap();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..1000 {
            tracing::info!(failure = "expired", peer = "192.0.2.1", "handshake failed");
            tracing::debug!("detail");
        }
        for failure in ["revoked", "expired"] {
            tracing::info!(failure, peer = "192.0.2.1", "handshake failed");
        }
    });
    let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
    let written = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!(written("detail"), 1000);
    assert!((50..60).contains(&written("expired")), "{}", written("expired"));
    assert_eq!(written("revoked"), 1);
    let suppressed = repeats.take();
    assert_eq!(suppressed.len(), 1, "{suppressed:?}");
    assert_eq!(
        (suppressed[0].0.as_str(), suppressed[0].1),
        ("handshake failed (expired)", repeats.total())
    );
    assert!(repeats.take().is_empty());
}

#[test]
fn a_long_line_is_cut() {
    let text = logged(false, false, || tracing::info!(name = "n".repeat(100_000), "refused"));
    assert!(text.len() < line::MAX_LINE + 100 && text.ends_with(" (cut)\n"), "{}", text.len());
}

/// Control characters, invisible characters, characters that JSON escapes, and letters.
const FOREIGN: &str = "a\u{202e}\u{2066}\u{200b}\u{feff}\u{2028}\u{85}\u{9b}31m\u{7f}\u{e0041}\
                       \0\t\r\n\u{1b}[31m\"\\\u{f6}\u{4e16}\u{1f600}";

#[test]
fn client_text_cannot_break_a_line_in_either_format() {
    for (json, times) in [false, true]
        .into_iter()
        .flat_map(|json| [1, 50, 300, 3_000, 30_000].map(|times| (json, times)))
    {
        // A text of one unfit character grows most. Cuts fall into the middle of each.
        for foreign in [FOREIGN, "\u{e0041}", "\u{202e}", "\"", "\u{1f600}", "\0"] {
            let name = foreign.repeat(times);
            let text = logged(
                json,
                false,
                || tracing::warn!(%name, again = ?name, port = 2379, "refused {name}"),
            );
            let line = text.strip_suffix('\n').unwrap();
            assert!(
                !line.contains(etcd_warden_core::printable::is_unfit),
                "{json} {times} {foreign:?}"
            );
            assert!(line.len() < line::MAX_LINE + 20, "{}", line.len());
            if !json {
                continue;
            }
            let value: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("{times} {foreign:?}: {error}"));
            assert_eq!(
                (&value["level"], &value["target"], &value["port"]),
                (&"WARN".into(), &module_path!().into(), &2379.into())
            );
            let read = value["name"].as_str().unwrap();
            let kept = read.strip_suffix(" (cut)").unwrap_or(read);
            assert!(name.starts_with(kept) && !kept.is_empty(), "{times} {foreign:?}: {kept:?}");
            assert!(read == name || kept != read, "{times} {foreign:?}: a cut says so");
        }
    }
}
