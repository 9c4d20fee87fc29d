//! The audit line of a changed mode: not of a request, but of what all later lines depend on.

use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::policy::Mode;
use serde::Serialize;

use super::line::timestamp;

/// Somebody at the admin socket has overridden the modes of the policy, or has given that up.
#[derive(Clone, Debug)]
pub struct ModeChange {
    /// When.
    pub time: SystemTime,
    /// What overrides the policy's modes from now on; `None`: nothing.
    pub asked: Option<Mode>,
    /// What did before.
    pub before: Option<Mode>,
    /// The user who asked, as the kernel says.
    pub uid: u32,
    /// The process, likewise.
    pub pid: Option<i32>,
    /// The generation that begins with it.
    pub generation: u64,
    /// The hash of its text.
    pub policy_hash: Arc<str>,
}

#[derive(Serialize)]
struct Line<'c> {
    time: String,
    event: &'static str,
    mode: &'static str,
    before: &'static str,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    policy: Policy<'c>,
}

#[derive(Serialize)]
struct Policy<'c> {
    generation: u64,
    hash: &'c str,
}

impl ModeChange {
    /// What an override is called: `policy` where there is none.
    #[must_use]
    pub const fn name(mode: Option<Mode>) -> &'static str {
        match mode {
            Some(Mode::Shadow) => "shadow",
            Some(Mode::Enforce) => "enforce",
            None => "policy",
        }
    }

    /// One line of JSON with its end.
    #[must_use]
    pub(super) fn line(&self) -> Vec<u8> {
        let line = Line {
            time: timestamp(self.time),
            event: "mode",
            mode: Self::name(self.asked),
            before: Self::name(self.before),
            uid: self.uid,
            pid: self.pid,
            policy: Policy { generation: self.generation, hash: &self.policy_hash },
        };
        // Nothing in it can fail to be JSON.
        let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_example_in_the_document_is_what_the_code_writes() {
        let change = ModeChange {
            time: UNIX_EPOCH + Duration::from_micros(1_793_000_000_123_456),
            asked: Some(Mode::Shadow),
            before: None,
            uid: 0,
            pid: Some(4711),
            generation: 8,
            policy_hash: "9f2c".into(),
        };
        let document = include_str!("../../../docs/audit.md");
        let line = String::from_utf8(change.line()).unwrap();
        assert!(document.contains(&line), "docs/audit.md should show:\n{line}");
    }
}
