//! What the demo found, for people and for machines.

use std::fmt::Write as _;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::call::{Call, Outcome, R};
use super::script::{Component, Verdict};
use super::stage::Stage;
use super::witness::Testimony;

/// Everything that was asked, and what came of it.
pub(super) struct Report {
    place: Place,
    pub(super) rows: Vec<Row>,
    pub(super) shadow: Vec<ShadowRow>,
    /// Every line of both audit files.
    pub(super) audit: Vec<String>,
}

/// Where things are.
struct Place {
    etcd_version: String,
    etcd: String,
    etcdctl: PathBuf,
    enforcing: String,
    shadow: String,
    folder: PathBuf,
}

/// A call under enforcement.
pub(super) struct Row {
    pub(super) component: &'static Component,
    pub(super) call: Call,
    pub(super) expected: Verdict,
    /// What the client and the audit agree on; `None` when they do not, or when it is neither.
    pub(super) verdict: Option<Verdict>,
    pub(super) outcome: Outcome,
    pub(super) testimony: Testimony,
}

/// A refused call, again in shadow mode.
pub(super) struct ShadowRow {
    pub(super) component: &'static Component,
    pub(super) call: Call,
    pub(super) outcome: Outcome,
    pub(super) testimony: Testimony,
}

impl Row {
    fn as_expected(&self) -> bool {
        self.verdict == Some(self.expected)
    }
}

impl ShadowRow {
    fn as_expected(&self) -> bool {
        self.outcome == Outcome::Passed && self.testimony.decision == "would_deny"
    }
}

/// Whether colour codes are written.
#[derive(Clone, Copy)]
pub(super) enum Ink {
    Colour,
    Plain,
}

const GREEN: &str = "32";
const RED: &str = "31";
const YELLOW: &str = "33";
const BOLD: &str = "1";
const DIM: &str = "2";

impl Ink {
    fn paint(self, code: &str, text: &str) -> String {
        match self {
            Ink::Colour => format!("\x1b[{code}m{text}\x1b[0m"),
            Ink::Plain => text.to_owned(),
        }
    }
}

impl Report {
    /// A report without any call yet.
    pub(super) fn new(stage: &Stage) -> Self {
        let place = Place {
            etcd_version: stage.etcd.programs().version.to_string(),
            etcd: stage.etcd.endpoints().join(","),
            etcdctl: stage.etcd.programs().etcdctl.clone().unwrap_or_else(|| "etcdctl".into()),
            enforcing: format!("https://{}", stage.enforcing.address),
            shadow: format!("https://{}", stage.shadow.address),
            folder: stage.folder.path().to_owned(),
        };
        Self { place, rows: Vec::new(), shadow: Vec::new(), audit: Vec::new() }
    }

    /// Whether every call ended as it should.
    pub(super) fn as_expected(&self) -> bool {
        self.rows.iter().all(Row::as_expected) && self.shadow.iter().all(ShadowRow::as_expected)
    }

    /// One JSON document.
    pub(super) fn json(&self) -> Value {
        let place = &self.place;
        let audit: Vec<Value> =
            self.audit.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        json!({
            "etcd": { "version": place.etcd_version, "endpoints": place.etcd, "tls": true, "auth": false },
            "proxies": { "enforce": place.enforcing, "shadow": place.shadow },
            "folder": place.folder,
            "calls": self.rows.iter().map(|row| json!({
                "component": row.component.name,
                "cn": row.component.common_name,
                "role": row.component.role,
                "call": row.call.to_string(),
                "expected": row.expected,
                "verdict": row.verdict,
                "as_expected": row.as_expected(),
                "audit": row.testimony,
            })).collect::<Vec<_>>(),
            "shadow": self.shadow.iter().map(|row| json!({
                "component": row.component.name,
                "cn": row.component.common_name,
                "call": row.call.to_string(),
                "as_expected": row.as_expected(),
                "audit": row.testimony,
            })).collect::<Vec<_>>(),
            "audit": audit,
            "as_expected": self.as_expected(),
        })
    }

    /// The report as text.
    pub(super) fn text(&self, ink: Ink) -> String {
        let mut out = String::new();
        self.write_text(ink, &mut out).map_or_else(|_| String::new(), |()| out)
    }

    /// How to go on, for a demo that stays up: lines for a shell, as they are.
    pub(super) fn invitation(&self, ink: Ink) -> String {
        let (place, etcdctl) = (&self.place, self.place.etcdctl.display());
        let title = "Go on yourself, as calico-node or with any other certificate of the folder; Ctrl-C here ends it all:";
        format!(
            "\n{}\n
  cd {}
  export ETCDCTL_ENDPOINTS={} ETCDCTL_CACERT=ca.crt
  export ETCDCTL_CERT=calico-node.crt ETCDCTL_KEY=calico-node.key
  R={R}
  {etcdctl} get --prefix $R/nodes/
  {etcdctl} put $R/tiers/default mine
\n",
            ink.paint(BOLD, title),
            place.folder.display(),
            place.enforcing,
        )
    }

    fn write_text(&self, ink: Ink, out: &mut String) -> std::fmt::Result {
        let place = &self.place;
        writeln!(
            out,
            "\n{}",
            ink.paint(
                BOLD,
                "etcd-warden: one etcd, nine components, each with what Calico documents for it"
            )
        )?;
        writeln!(
            out,
            "\n  etcd     {} at {}, TLS, its own auth off",
            place.etcd_version, place.etcd
        )?;
        writeln!(
            out,
            "  proxy    {}, client certificates, policy calico/documented, enforcing",
            place.enforcing
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
                    ink.paint(BOLD, row.component.name),
                    ink.paint(DIM, &format!("{certificate}, {role}"))
                )?;
            }
            row.write_text(ink, width, out)?;
        }
        self.write_shadow(ink, width, out)?;
        self.write_audit(ink, out)?;
        self.write_sum(ink, out)
    }

    fn write_shadow(&self, ink: Ink, width: usize, out: &mut String) -> std::fmt::Result {
        let title = "The refused calls once more, through a proxy in shadow mode: they pass, and are recorded";
        writeln!(out, "\n{}", ink.paint(BOLD, title))?;
        writeln!(
            out,
            "  {}",
            ink.paint(DIM, &format!("{}, the same policy with --mode shadow", self.place.shadow))
        )?;
        for row in &self.shadow {
            let (code, word) =
                if row.as_expected() { (YELLOW, "passed ") } else { (RED, "WRONG  ") };
            let call = format!("{:width$}", row.call.to_string());
            let recorded = format!("{}  {}", row.testimony.decision, row.component.common_name);
            writeln!(
                out,
                "  {}  {call}  {}{}",
                ink.paint(code, word),
                ink.paint(DIM, &recorded),
                failure(&row.outcome)
            )?;
        }
        Ok(())
    }

    /// One audit line of each kind, whole.
    fn write_audit(&self, ink: Ink, out: &mut String) -> std::fmt::Result {
        let (lines, calls) = (self.audit.len(), self.rows.len() + self.shadow.len());
        let title = format!(
            "What the audit wrote: {lines} lines for {calls} calls. The first of each kind:"
        );
        writeln!(out, "\n{}", ink.paint(BOLD, &title))?;
        for decision in ["allow", "deny", "would_deny"] {
            let mark = format!("\"decision\":\"{decision}\"");
            if let Some(line) = self.audit.iter().find(|line| line.contains(&mark)) {
                writeln!(out, "  {}", ink.paint(DIM, line))?;
            }
        }
        Ok(())
    }

    fn write_sum(&self, ink: Ink, out: &mut String) -> std::fmt::Result {
        let allowed = self.rows.iter().filter(|row| row.verdict == Some(Verdict::Allowed)).count();
        let refused = self.rows.iter().filter(|row| row.verdict == Some(Verdict::Refused)).count();
        let sum = format!(
            "{allowed} allowed, {refused} refused, {} let through in shadow mode",
            self.shadow.len()
        );
        if self.as_expected() {
            return writeln!(
                out,
                "\n{}",
                ink.paint(GREEN, &format!("{sum}: every verdict is the expected one."))
            );
        }
        let rows = self.rows.iter().filter(|row| !row.as_expected()).count();
        let shadow = self.shadow.iter().filter(|row| !row.as_expected()).count();
        writeln!(
            out,
            "\n{}",
            ink.paint(RED, &format!("{sum}; NOT as expected: {}.", rows + shadow))
        )
    }

    fn call_width(&self) -> usize {
        self.rows.iter().map(|row| row.call.to_string().len()).max().unwrap_or_default()
    }
}

impl Row {
    fn write_text(&self, ink: Ink, width: usize, out: &mut String) -> std::fmt::Result {
        let (code, word) = match (self.as_expected(), self.expected) {
            (true, Verdict::Allowed) => (GREEN, "allowed"),
            (true, Verdict::Refused) => (RED, "refused"),
            (false, Verdict::Allowed) => (RED, "WRONG: is to be allowed"),
            (false, Verdict::Refused) => (RED, "WRONG: is to be refused"),
        };
        let call = format!("{:width$}", self.call.to_string());
        writeln!(
            out,
            "  {}  {call}  {}{}",
            ink.paint(code, word),
            ink.paint(DIM, &self.why()),
            failure(&self.outcome)
        )
    }

    /// The grant, without its role and its place; or what is missing.
    fn why(&self) -> String {
        let testimony = &self.testimony;
        if let Some(grant) = &testimony.grant {
            let keys = grant.split_once(": ").map_or(grant.as_str(), |(_, keys)| keys);
            let keys = keys.split_once(" (").map_or(keys, |(keys, _)| keys);
            return keys.replace("[read, create, update, delete]", "[rw]");
        }
        match (&testimony.missing, &testimony.reason) {
            (Some(missing), _) => format!("needs {missing}"),
            (None, Some(reason)) => reason.clone(),
            (None, None) => String::new(),
        }
    }
}

/// What went wrong, where something did.
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

    fn row(verdict: Option<Verdict>, outcome: Outcome) -> Row {
        let component = &COMPONENTS[0];
        let grant =
            "calico-node: $R/* [read, create, update, delete] (builtin:calico/documented:18)"
                .to_owned();
        let testimony = Testimony {
            decision: "allow".to_owned(),
            grant: Some(grant),
            reason: None,
            missing: None,
        };
        Row {
            component,
            call: Call::Snapshot,
            expected: Verdict::Allowed,
            verdict,
            outcome,
            testimony,
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        let place = Place {
            etcd_version: "3.7.3".to_owned(),
            etcd: "https://127.0.0.1:1".to_owned(),
            etcdctl: "etcdctl".into(),
            enforcing: "https://127.0.0.1:2".to_owned(),
            shadow: "https://127.0.0.1:3".to_owned(),
            folder: "/tmp/demo".into(),
        };
        Report { place, rows, shadow: Vec::new(), audit: Vec::new() }
    }

    #[test]
    fn one_verdict_that_is_not_the_expected_one_spoils_the_whole() {
        let good = || row(Some(Verdict::Allowed), Outcome::Passed);
        assert!(report(vec![good()]).as_expected());
        for bad in [
            row(Some(Verdict::Refused), Outcome::Refused),
            row(None, Outcome::Failed("boom".to_owned())),
        ] {
            let report = report(vec![good(), bad]);
            assert!(!report.as_expected());
            let text = report.text(Ink::Plain);
            assert!(text.contains("WRONG") && text.contains("NOT as expected: 1."), "{text}");
        }
    }

    #[test]
    fn a_shadow_row_must_both_pass_and_be_recorded() {
        let shadow = |outcome, decision: &str| ShadowRow {
            component: &COMPONENTS[0],
            call: Call::Snapshot,
            outcome,
            testimony: Testimony {
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
    fn a_grant_is_shown_without_its_role_and_place() {
        assert_eq!(row(None, Outcome::Passed).why(), "$R/* [rw]");
    }

    #[test]
    fn colour_is_only_where_it_is_wanted() {
        let report = report(vec![row(Some(Verdict::Allowed), Outcome::Passed)]);
        assert!(report.text(Ink::Colour).contains("\x1b[32mallowed"));
        assert!(!(report.text(Ink::Plain) + &report.invitation(Ink::Plain)).contains('\x1b'));
    }
}
