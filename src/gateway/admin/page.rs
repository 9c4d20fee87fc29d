//! The content of each admin page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Mode;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::metrics::Metrics;

/// One condition of readiness: while it fails, this gateway should get no requests.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name on the page: `upstream`, `policy`, `certificate`, ...
    pub name: &'static str,
    /// The error, if it fails.
    pub result: Result<(), String>,
}

/// The policy in effect, as `/policy` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyView {
    /// Rises by one with each successful reload and each change of the mode.
    pub generation: u64,
    /// Hexadecimal SHA-256 of its text.
    pub hash: String,
    /// Where it was read: `file`, or `state-dir` if the file had an error at the start.
    pub source: &'static str,
    /// The mode of bindings that set none of their own.
    pub mode: Mode,
    /// The mode that overrides those of the policy: from the setting `mode`, or from the admin
    /// socket.
    pub mode_override: Option<Mode>,
    /// Names of its roles.
    pub roles: Vec<String>,
    /// Number of its bindings.
    pub bindings: usize,
    /// Why the last reload of the policy failed, with the source position of the error. `None` if
    /// it succeeded.
    pub last_error: Option<String>,
    /// Why the last reload of certificates or revocation lists failed, by what was not reloaded.
    /// Empty if all of them succeeded.
    pub certificate_errors: BTreeMap<&'static str, String>,
}

/// One open stream, as `/debug/streams` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct StreamView {
    /// The principal's name.
    pub identity: String,
    /// The method's path.
    pub method: &'static str,
    /// Seconds since it was opened.
    pub age_seconds: u64,
    /// Watches on it.
    pub watches: usize,
}

pub(super) type Page = Response<String>;

pub(super) fn metrics(metrics: &Metrics) -> Page {
    page(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics.render())
}

/// Liveness: the process answers. It must not depend on etcd, or a dead etcd would make Kubernetes
/// restart the gateway.
pub(super) fn live() -> Page {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// Readiness: one line for each check, in the format of Kubernetes' `/readyz?verbose`, and status
/// 503 if a check fails.
pub(super) fn ready(checks: &[Check]) -> Page {
    let mut lines = String::new();
    for Check { name, result } in checks {
        // Writing to a String cannot fail.
        let _ = match result {
            Ok(()) => writeln!(lines, "[+]{name} ok"),
            Err(why) => writeln!(lines, "[-]{name} failed: {}", Escaped(why.as_bytes())),
        };
    }
    if checks.iter().all(|check| check.result.is_ok()) {
        text(StatusCode::OK, lines + "readyz check passed\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, lines + "readyz check failed\n")
    }
}

pub(super) fn json(value: &impl Serialize) -> Page {
    match serde_json::to_string_pretty(value) {
        Ok(json) => page(StatusCode::OK, "application/json", json + "\n"),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

pub(super) fn debug_is_off() -> Page {
    text(
        StatusCode::NOT_FOUND,
        "this page names identities: set `admin-debug` to serve it here\n".to_owned(),
    )
}

pub(super) fn not_found() -> Page {
    text(
        StatusCode::NOT_FOUND,
        "no such page: try /metrics, /livez, /readyz, /policy or /debug/streams\n".to_owned(),
    )
}

pub(super) fn method_not_allowed() -> Page {
    let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    page
}

pub(super) fn unknown_mode() -> Page {
    text(StatusCode::BAD_REQUEST, "unknown mode: send `shadow`, `enforce` or `policy`\n".to_owned())
}

fn text(status: StatusCode, body: String) -> Page {
    page(status, "text/plain; charset=utf-8", body)
}

fn page(status: StatusCode, content_type: &'static str, body: String) -> Page {
    let mut page = Response::new(body);
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}
