//! The report of the demo, as text and JSON.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::audit_reader::AuditRecord;
use super::call::{Call, Outcome, R};
use super::script::{CallResult, Component};
use super::stage::Stage;

/// All calls and their results.
pub(super) struct Report {
    setup: Setup,
    pub(super) rows: Vec<Row>,
    pub(super) shadow: Vec<ShadowRow>,
    /// All lines of both audit logs.
    pub(super) audit: Vec<String>,
}

/// Addresses and paths of the demo.
struct Setup {
    etcd_version: String,
    etcd: String,
    etcdctl: PathBuf,
    enforcing: String,
    shadow: String,
    folder: PathBuf,
}

/// A call with enforcement.
pub(super) struct Row {
    pub(super) component: &'static Component,
    pub(super) call: Call,
    pub(super) expected: CallResult,
    /// The result on which client and audit log agree; `None` if they differ, or for an error.
    pub(super) actual: Option<CallResult>,
    pub(super) outcome: Outcome,
    pub(super) record: AuditRecord,
}

/// A denied call, repeated in shadow mode.
pub(super) struct ShadowRow {
    pub(super) component: &'static Component,
    pub(super) call: Call,
    pub(super) outcome: Outcome,
    pub(super) record: AuditRecord,
}

impl Row {
    fn as_expected(&self) -> bool {
        self.actual == Some(self.expected)
    }
}

impl ShadowRow {
    fn as_expected(&self) -> bool {
        self.outcome == Outcome::Passed && self.record.decision == "would_deny"
    }
}

/// Whether colour codes are written.
#[derive(Clone, Copy)]
pub(super) enum Style {
    Colour,
    Plain,
}

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Style::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Style::Plain => text.to_owned(),
        }
    }
}

impl Report {
    /// A report without calls.
    pub(super) fn new(stage: &Stage) -> Self {
        let setup = Setup {
            etcd_version: stage.etcd.programs().version.to_string(),
            etcd: stage.etcd.endpoints().join(","),
            etcdctl: stage.etcd.programs().etcdctl.clone().unwrap_or_else(|| "etcdctl".into()),
            enforcing: format!("https://{}", stage.enforcing.address),
            shadow: format!("https://{}", stage.shadow.address),
            folder: stage.folder.path().to_owned(),
        };
        Self { setup, rows: Vec::new(), shadow: Vec::new(), audit: Vec::new() }
    }

    /// True if every result is the expected one.
    pub(super) fn as_expected(&self) -> bool {
        self.rows.iter().all(Row::as_expected) && self.shadow.iter().all(ShadowRow::as_expected)
    }

    /// The report as one JSON document.
    pub(super) fn json(&self) -> Value {
        let setup = &self.setup;
        let audit: Vec<Value> =
            self.audit.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        json!({
            "etcd": { "version": setup.etcd_version, "endpoints": setup.etcd, "tls": true, "auth": false },
            "proxies": { "enforce": setup.enforcing, "shadow": setup.shadow },
            "folder": setup.folder,
            "calls": self.rows.iter().map(|row| json!({
                "component": row.component.name,
                "cn": row.component.common_name,
                "role": row.component.role,
                "call": row.call.to_string(),
                "expected": row.expected,
                "verdict": row.actual,
                "as_expected": row.as_expected(),
                "audit": row.record,
            })).collect::<Vec<_>>(),
            "shadow": self.shadow.iter().map(|row| json!({
                "component": row.component.name,
                "cn": row.component.common_name,
                "call": row.call.to_string(),
                "as_expected": row.as_expected(),
                "audit": row.record,
            })).collect::<Vec<_>>(),
            "audit": audit,
            "as_expected": self.as_expected(),
        })
    }

    /// The report as text.
    pub(super) fn text(&self, style: Style) -> String {
        let mut out = String::new();
        self.write_text(style, &mut out).map_or_else(|_| String::new(), |()| out)
    }

    /// Commands for a shell to continue with, while the demo keeps running.
    pub(super) fn next_steps(&self, style: Style) -> String {
        let (setup, etcdctl) = (&self.setup, self.setup.etcdctl.display());
        let title = "Try it as calico-node, or with any other certificate in this directory; Ctrl-C ends the demo:";
        format!(
            "\n{}\n
  cd {}
  export ETCDCTL_ENDPOINTS={} ETCDCTL_CACERT=ca.crt
  export ETCDCTL_CERT=calico-node.crt ETCDCTL_KEY=calico-node.key
  R={R}
  {etcdctl} get --prefix $R/nodes/
  {etcdctl} put $R/tiers/default mine
\n",
            style.paint(BOLD, title),
            setup.folder.display(),
            setup.enforcing,
        )
    }

    fn write_text(&self, style: Style, out: &mut String) -> std::fmt::Result {
        let setup = &self.setup;
        writeln!(
            out,
            "\n{}",
            style.paint(
                BOLD,
                "etcd-warden: one etcd, nine components, each with the rights that Calico documents for it"
            )
        )?;
        writeln!(
            out,
            "\n  etcd     {} at {}, TLS, its own auth off",
            setup.etcd_version, setup.etcd
        )?;
        writeln!(
            out,
            "  gateway  {}, client certificates, policy calico/documented, enforced",
            setup.enforcing
        )?;
        writeln!(out, "  $R       {R}")?;
        let width = self.call_width();
        let mut last = None;
        for row in &self.rows {
            if last.replace(row.component.name) != Some(row.component.name) {
                let certificate = format!("CN={}", row.component.common_name);
                let role = row
                    .component
                    .role
                    .map_or_else(|| "no role".to_owned(), |role| format!("role {role}"));
                writeln!(
                    out,
                    "\n{}  {}",
                    style.paint(BOLD, row.component.name),
                    style.paint(DIM, &format!("{certificate}, {role}"))
                )?;
            }
            row.write_text(style, width, out)?;
        }
        self.write_shadow(style, width, out)?;
        self.write_audit(style, out)?;
        self.write_sum(style, out)
    }

    fn write_shadow(&self, style: Style, width: usize, out: &mut String) -> std::fmt::Result {
        let title =
            "The denied calls again, through a gateway in shadow mode: forwarded and recorded";
        writeln!(out, "\n{}", style.paint(BOLD, title))?;
        writeln!(
            out,
            "  {}",
            style.paint(DIM, &format!("{}, the same policy with --mode shadow", self.setup.shadow))
        )?;
        for row in &self.shadow {
            let (code, word) =
                if row.as_expected() { (YELLOW, "passed ") } else { (RED, "WRONG  ") };
            let call = format!("{:width$}", row.call.to_string());
            let recorded = format!("{}  {}", row.record.decision, row.component.common_name);
            writeln!(
                out,
                "  {}  {call}  {}{}",
                style.paint(code, word),
                style.paint(DIM, &recorded),
                failure(&row.outcome)
            )?;
        }
        Ok(())
    }

    /// The first audit record of each decision.
    fn write_audit(&self, style: Style, out: &mut String) -> std::fmt::Result {
        let (lines, calls) = (self.audit.len(), self.rows.len() + self.shadow.len());
        let title =
            format!("The audit log has {lines} records for {calls} calls. The first of each kind:");
        writeln!(out, "\n{}", style.paint(BOLD, &title))?;
        for decision in ["allow", "deny", "would_deny"] {
            let mark = format!("\"decision\":\"{decision}\"");
            if let Some(line) = self.audit.iter().find(|line| line.contains(&mark)) {
                writeln!(out, "  {}", style.paint(DIM, line))?;
            }
        }
        Ok(())
    }

    fn write_sum(&self, style: Style, out: &mut String) -> std::fmt::Result {
        let allowed =
            self.rows.iter().filter(|row| row.actual == Some(CallResult::Allowed)).count();
        let refused =
            self.rows.iter().filter(|row| row.actual == Some(CallResult::Refused)).count();
        let sum = format!(
            "{allowed} allowed, {refused} refused, {} forwarded in shadow mode",
            self.shadow.len()
        );
        if self.as_expected() {
            return writeln!(
                out,
                "\n{}",
                style.paint(GREEN, &format!("{sum}: every result is the expected one."))
            );
        }
        let rows = self.rows.iter().filter(|row| !row.as_expected()).count();
        let shadow = self.shadow.iter().filter(|row| !row.as_expected()).count();
        writeln!(
            out,
            "\n{}",
            style.paint(RED, &format!("{sum}; NOT as expected: {}.", rows + shadow))
        )
    }

    fn call_width(&self) -> usize {
        self.rows.iter().map(|row| row.call.to_string().len()).max().unwrap_or_default()
    }
}

impl Row {
    fn write_text(&self, style: Style, width: usize, out: &mut String) -> std::fmt::Result {
        let (code, word) = match (self.as_expected(), self.expected) {
            (true, CallResult::Allowed) => (GREEN, "allowed"),
            (true, CallResult::Refused) => (RED, "refused"),
            (false, CallResult::Allowed) => (RED, "WRONG: must be allowed"),
            (false, CallResult::Refused) => (RED, "WRONG: must be refused"),
        };
        let call = format!("{:width$}", self.call.to_string());
        writeln!(
            out,
            "  {}  {call}  {}{}",
            style.paint(code, word),
            style.paint(DIM, &self.why()),
            failure(&self.outcome)
        )
    }

    /// The grant without its role and source position, or what is missing.
    fn why(&self) -> String {
        let record = &self.record;
        if let Some(grant) = &record.grant {
            let keys = grant.split_once(": ").map_or(grant.as_str(), |(_, keys)| keys);
            let keys = keys.split_once(" (").map_or(keys, |(keys, _)| keys);
            return keys.replace("[read, create, update, delete]", "[rw]");
        }
        match (&record.missing, &record.reason) {
            (Some(missing), _) => format!("needs {missing}"),
            (None, Some(reason)) => reason.clone(),
            (None, None) => String::new(),
        }
    }
}

/// The error, if there was one.
fn failure(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Passed | Outcome::Refused => String::new(),
        Outcome::Failed(error) => format!("  {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::script::COMPONENTS;
    use super::*;

    fn row(actual: Option<CallResult>, outcome: Outcome) -> Row {
        let component = &COMPONENTS[0];
        let grant =
            "calico-node: $R/* [read, create, update, delete] (builtin:calico/documented:18)"
                .to_owned();
        let record = AuditRecord {
            decision: "allow".to_owned(),
            grant: Some(grant),
            reason: None,
            missing: None,
        };
        Row {
            component,
            call: Call::Snapshot,
            expected: CallResult::Allowed,
            actual,
            outcome,
            record,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        let setup = Setup {
            etcd_version: "3.7.3".to_owned(),
            etcd: "https://127.0.0.1:1".to_owned(),
            etcdctl: "etcdctl".into(),
            enforcing: "https://127.0.0.1:2".to_owned(),
            shadow: "https://127.0.0.1:3".to_owned(),
            folder: "/tmp/demo".into(),
        };
        Report { setup, rows, shadow: Vec::new(), audit: Vec::new() }
    }

    #[test]
    fn one_unexpected_result_is_reported_and_fails_the_demo() {
        let good = || row(Some(CallResult::Allowed), Outcome::Passed);
        assert!(report(vec![good()]).as_expected());
        for bad in [
            row(Some(CallResult::Refused), Outcome::Refused),
            row(None, Outcome::Failed("boom".to_owned())),
        ] {
            let report = report(vec![good(), bad]);
            assert!(!report.as_expected());
            let text = report.text(Style::Plain);
            assert!(text.contains("WRONG") && text.contains("NOT as expected: 1."), "{text}");
        }
    }

    #[test]
    fn a_shadow_call_must_be_forwarded_and_recorded() {
        let shadow = |outcome, decision: &str| ShadowRow {
            component: &COMPONENTS[0],
            call: Call::Snapshot,
            outcome,
            record: AuditRecord {
                decision: decision.to_owned(),
                grant: None,
                reason: None,
                missing: None,
            },
        };
        assert!(shadow(Outcome::Passed, "would_deny").as_expected());
        assert!(!shadow(Outcome::Passed, "allow").as_expected());
        assert!(!shadow(Outcome::Refused, "would_deny").as_expected());
    }

    #[test]
    fn a_grant_is_shown_without_its_role_and_position() {
        assert_eq!(row(None, Outcome::Passed).why(), "$R/* [rw]");
    }

    #[test]
    fn colour_codes_are_written_only_on_request() {
        let report = report(vec![row(Some(CallResult::Allowed), Outcome::Passed)]);
        assert!(report.text(Style::Colour).contains("\x1b[32mallowed"));
        assert!(!(report.text(Style::Plain) + &report.next_steps(Style::Plain)).contains('\x1b'));
    }
}
