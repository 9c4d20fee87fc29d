//! What each page says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use etcd_warden_core::keyspace::Escaped;
use etcd_warden_core::policy::Mode;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::metrics::Metrics;

/// One thing that must be well before this proxy should get requests.
#[derive(Clone, Debug)]
pub struct Check {
    /// `upstream`, `policy`, `certificate`, ...
    pub name: &'static str,
    /// What is wrong, if anything.
    pub result: Result<(), String>,
}

/// The policy that decides.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyView {
    /// Rises by one with each reload that was taken.
    pub generation: u64,
    /// Hexadecimal SHA-256 of its text.
    pub hash: String,
    /// Where it was read: `file`, or `state-dir` when the file was broken at the start.
    pub source: &'static str,
    /// The mode in force for bindings without one of their own.
    pub mode: Mode,
    /// What overrides the modes of the policy: the setting `mode`, or what was asked for at the
    /// admin socket since.
    pub mode_override: Option<Mode>,
    /// Names of the roles.
    pub roles: Vec<String>,
    /// How many bindings there are.
    pub bindings: usize,
    /// Why the last reload of the policy failed, with the place of the mistake; `None` when it did
    /// not.
    pub last_error: Option<String>,
    /// The same of certificates and revocation lists, by what was not reloaded; empty when all
    /// were.
    pub certificate_errors: BTreeMap<&'static str, String>,
}

/// One open stream.
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

/// The process answers: that is all that a liveness probe may ask, else a dead etcd would restart
/// the proxy.
pub(super) fn live() -> Page {
    text(StatusCode::OK, "ok\n".to_owned())
}

/// A line for each check, as Kubernetes' own `/readyz?verbose`, and 503 when one is not well.
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

pub(super) fn not_served() -> Page {
    text(
        StatusCode::NOT_FOUND,
        "this page names identities and is not served here unless asked for\n".to_owned(),
    )
}

pub(super) fn not_found() -> Page {
    text(
        StatusCode::NOT_FOUND,
        "there is /metrics, /livez, /readyz, /policy and /debug/streams\n".to_owned(),
    )
}

pub(super) fn only_get() -> Page {
    let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    page.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    page
}

pub(super) fn no_mode() -> Page {
    text(StatusCode::BAD_REQUEST, "say `shadow`, `enforce` or `policy`\n".to_owned())
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
