//! The audit line of a changed mode. It belongs to no request, but later lines depend on it.

use std::sync::Arc;
use std::time::SystemTime;

use etcd_warden_core::policy::Mode;
use serde::Serialize;

use super::line::{PolicyFields, timestamp};

/// A process at the admin socket has overridden the modes of the policy, or has ended the override.
#[derive(Clone, Debug)]
pub struct ModeChange {
    /// When the mode was changed.
    pub time: SystemTime,
    /// The mode that overrides the policy's modes. `None`: none does.
    pub mode: Option<Mode>,
    /// The override before.
    pub before: Option<Mode>,
    /// The user id of the process, as the kernel reports it.
    pub uid: u32,
    /// Its process id.
    pub pid: Option<i32>,
    /// The generation that starts with this change.
    pub generation: u64,
    /// Hexadecimal SHA-256 of the policy's text.
    pub policy_hash: Arc<str>,
}

#[derive(Serialize)]
struct ModeChangeLine<'c> {
    time: String,
    event: &'static str,
    mode: &'static str,
    before: &'static str,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    policy: PolicyFields<'c>,
}

impl ModeChange {
    /// The name of an override: `policy` if there is none.
    pub const fn name(mode: Option<Mode>) -> &'static str {
        match mode {
            Some(Mode::Shadow) => "shadow",
            Some(Mode::Enforce) => "enforce",
            None => "policy",
        }
    }

    /// One line of JSON with its end of line.
    pub(super) fn line(&self) -> Vec<u8> {
        let line = ModeChangeLine {
            time: timestamp(self.time),
            event: "mode",
            mode: Self::name(self.mode),
            before: Self::name(self.before),
            uid: self.uid,
            pid: self.pid,
            policy: PolicyFields { generation: self.generation, hash: &self.policy_hash },
        };
        // Serializing these types cannot fail.
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
    fn the_documented_example_is_current() {
        let change = ModeChange {
            time: UNIX_EPOCH + Duration::from_micros(1_793_000_000_123_456),
            mode: Some(Mode::Shadow),
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
