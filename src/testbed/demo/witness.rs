//! What the audit says about a call: the proxy's own lines, read back from its file.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::method::Method;
use etcd_warden_gateway::audit::line::unescape;
use serde::{Deserialize, Serialize};

use super::call::abbreviate;

/// A line is written by a thread of its own, soon after the answer.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A reader of one proxy's audit file.
pub(super) struct Witness {
    file: PathBuf,
}

/// How many lines there were before a call.
#[derive(Clone, Copy)]
pub(super) struct Mark(usize);

/// What one line says, as short as the reader needs it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Testimony {
    /// `allow`, `deny` or `would_deny`.
    pub(super) decision: String,
    /// The grant that allowed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<String>,
    /// The closed reason of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What exactly nothing covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

/// The part of an audit line that is read here.
#[derive(Deserialize)]
struct Line {
    decision: String,
    identity: Identity,
    method: Option<String>,
    grant: Option<String>,
    reason: Option<String>,
    missing: Option<Missing>,
}

#[derive(Deserialize)]
struct Identity {
    cn: Option<String>,
}

#[derive(Deserialize)]
struct Missing {
    verb: Option<String>,
    key: Option<String>,
    range_end: Option<String>,
    capability: Option<String>,
}

impl Witness {
    /// A reader of this file, which need not be there yet.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file }
    }

    /// Where the file ends now.
    pub(super) fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark(self.all_lines()?.len()))
    }

    /// What the first line after the mark says about a call of this method by this name.
    pub(super) async fn testimony(
        &self,
        mark: Mark,
        common_name: &str,
        method: Method,
    ) -> anyhow::Result<Testimony> {
        let deadline = Instant::now() + WRITTEN_WITHIN;
        loop {
            for line in self.all_lines()?.iter().skip(mark.0) {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("an audit line cannot be read: {line}"))?;
                if line.identity.cn.as_deref() == Some(common_name)
                    && line.method.as_deref() == Some(method.path())
                {
                    return Ok(line.into());
                }
            }
            if Instant::now() > deadline {
                bail!("the audit has no line about it");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// All whole lines of the file.
    pub(super) fn all_lines(&self) -> anyhow::Result<Vec<String>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read `{}`", self.file.display()))?,
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::to_owned).collect())
    }
}

impl From<Line> for Testimony {
    fn from(line: Line) -> Self {
        Self {
            decision: line.decision,
            grant: line.grant.as_deref().map(abbreviate),
            reason: line.reason,
            missing: line.missing.as_ref().and_then(Missing::as_text),
        }
    }
}

impl Missing {
    /// `create KEY`, `read PREFIX*`, or the name of a capability.
    fn as_text(&self) -> Option<String> {
        if let Some(capability) = &self.capability {
            return Some(format!("capability {capability}"));
        }
        let (key, range_end) =
            (unescape(self.key.as_deref()?)?, unescape(self.range_end.as_deref()?)?);
        Some(format!(
            "{} {}",
            self.verb.as_deref()?,
            abbreviate(&KeyRange::from_request(&key, &range_end).to_string())
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_reads_as_a_range_of_keys() {
        let text = |json: &str| serde_json::from_str::<Missing>(json).unwrap().as_text();
        assert_eq!(
            text(r#"{"verb": "read", "key": "/a/", "range_end": "/a0"}"#).unwrap(),
            "read /a/*"
        );
        assert_eq!(
            text(r#"{"verb": "create", "key": "/a\\x00", "range_end": ""}"#).unwrap(),
            "create /a\\x00"
        );
        assert_eq!(text(r#"{"capability": "compact"}"#).unwrap(), "capability compact");
        assert_eq!(text(r#"{"lease": "0000000000000001"}"#), None);
    }

    #[test]
    fn a_line_that_is_being_written_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit");
        let witness = Witness::of(file.clone());
        assert!(witness.all_lines().unwrap().is_empty());
        std::fs::write(&file, "{\"a\":1}\n{\"b\"").unwrap();
        assert_eq!(witness.all_lines().unwrap(), ["{\"a\":1}"]);
    }
}
