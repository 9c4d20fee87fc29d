//! Reads the audit log of a gateway.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use etcd_warden_core::keyspace::KeyRange;
use etcd_warden_core::method::Method;
use etcd_warden_gateway::audit::line::unescape;
use serde::{Deserialize, Serialize};

use super::call::abbreviate;

/// The audit writer is a separate thread, so a record appears shortly after the response.
const RECORD_TIMEOUT: Duration = Duration::from_secs(10);
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Reads the audit log of one gateway.
pub(super) struct AuditReader {
    file: PathBuf,
}

/// The number of records before a call.
#[derive(Clone, Copy)]
pub(super) struct Mark(usize);

/// The fields of an audit record that the report shows.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AuditRecord {
    /// `allow`, `deny` or `would_deny`.
    pub(super) decision: String,
    /// The grant that allowed the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) grant: Option<String>,
    /// The reason code of a denial.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// The access or capability that no grant covers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) missing: Option<String>,
}

/// The fields of an audit record that are read.
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

impl AuditReader {
    /// The reader of this file, which need not exist yet.
    pub(super) fn of(file: PathBuf) -> Self {
        Self { file }
    }

    /// The present end of the file.
    pub(super) fn mark(&self) -> anyhow::Result<Mark> {
        Ok(Mark(self.all_lines()?.len()))
    }

    /// The first record after the mark for this method and common name.
    pub(super) async fn record(
        &self,
        mark: Mark,
        common_name: &str,
        method: Method,
    ) -> anyhow::Result<AuditRecord> {
        let deadline = Instant::now() + RECORD_TIMEOUT;
        loop {
            for line in self.all_lines()?.iter().skip(mark.0) {
                let line: Line = serde_json::from_str(line)
                    .with_context(|| format!("invalid audit record: {line}"))?;
                if line.identity.cn.as_deref() == Some(common_name)
                    && line.method.as_deref() == Some(method.path())
                {
                    return Ok(line.into());
                }
            }
            if Instant::now() > deadline {
                bail!("the audit log has no record of this call");
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// All complete lines of the file.
    pub(super) fn all_lines(&self) -> anyhow::Result<Vec<String>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(|| format!("cannot read `{}`", self.file.display()))?,
        };
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::to_owned).collect())
    }
}

impl From<Line> for AuditRecord {
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
    /// `create KEY`, `read PREFIX*`, or a capability.
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
    fn a_missing_access_is_shown_as_a_range_of_keys() {
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
    fn an_incomplete_line_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("audit");
        let audit_reader = AuditReader::of(file.clone());
        assert!(audit_reader.all_lines().unwrap().is_empty());
        std::fs::write(&file, "{\"a\":1}\n{\"b\"").unwrap();
        assert_eq!(audit_reader.all_lines().unwrap(), ["{\"a\":1}"]);
    }
}
