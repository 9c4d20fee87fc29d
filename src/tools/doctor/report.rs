//! The findings, in the order of the checks.

use std::fmt;

use etcd_warden_core::printable::Printable;
use serde_json::{Value, json};

/// The subject area of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The gateway's own files.
    Files,
    /// etcd, with the gateway's certificate.
    Etcd,
    /// Ways to etcd that bypass the gateway.
    Bypass,
    /// The gateway, from a client's view.
    Proxy,
    /// The existing keys and the policy.
    Keys,
}

impl Part {
    /// Its stable name in the output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Files => "files",
            Part::Etcd => "etcd",
            Part::Bypass => "ways around the proxy",
            Part::Proxy => "the proxy",
            Part::Keys => "keys and policy",
        }
    }

    /// Its heading in the text.
    const fn heading(self) -> &'static str {
        match self {
            Part::Bypass => "bypasses of the gateway",
            Part::Proxy => "the gateway",
            Part::Files | Part::Etcd | Part::Keys => self.name(),
        }
    }
}

/// The severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No problem.
    Ok,
    /// Should be checked.
    Warning,
    /// Must be corrected.
    Wrong,
}

impl Severity {
    /// Its stable name in the output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Ok => "ok",
            Severity::Warning => "warning",
            Severity::Wrong => "wrong",
        }
    }
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The subject area.
    pub part: Part,
    /// The severity.
    pub severity: Severity,
    /// What was checked.
    pub subject: String,
    /// The observation.
    pub seen: String,
    /// What to do; empty if there is nothing to do.
    pub advice: String,
}

/// All findings.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// Adds a finding without a problem.
    pub fn ok(&mut self, part: Part, subject: impl Into<String>, seen: impl Into<String>) {
        self.push(part, Severity::Ok, subject.into(), seen.into(), "");
    }

    /// Adds a warning.
    pub fn warning(
        &mut self,
        part: Part,
        subject: impl Into<String>,
        seen: impl Into<String>,
        advice: &str,
    ) {
        self.push(part, Severity::Warning, subject.into(), seen.into(), advice);
    }

    /// Adds a problem that must be corrected.
    pub fn wrong(
        &mut self,
        part: Part,
        subject: impl Into<String>,
        seen: impl Into<String>,
        advice: &str,
    ) {
        self.push(part, Severity::Wrong, subject.into(), seen.into(), advice);
    }

    fn push(
        &mut self,
        part: Part,
        severity: Severity,
        subject: String,
        seen: String,
        advice: &str,
    ) {
        // Names, versions and error texts may come from a peer. They are escaped, so that each is
        // one line without control characters.
        let [subject, seen, advice] =
            [&subject, &seen, advice].map(|text| Printable(text).to_string());
        self.findings.push(Finding { part, severity, subject, seen, advice });
    }

    /// All findings.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// The highest severity.
    #[must_use]
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok)
    }

    /// The report as JSON.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "part": finding.part.name(),
                "verdict": finding.severity.name(),
                "subject": finding.subject,
                "seen": finding.seen,
                "advice": finding.advice,
            })
        };
        json!({
            "verdict": self.severity().name(),
            "findings": self.findings.iter().map(finding).collect::<Vec<_>>(),
        })
    }

    fn number_of(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// The report as text: findings by subject area, with advice below.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .findings
            .iter()
            .map(|finding| finding.subject.chars().count())
            .max()
            .unwrap_or(0)
            .min(60);
        let mut last = None;
        for Finding { part, severity, subject, seen, advice } in &self.findings {
            if last != Some(*part) {
                writeln!(f, "{}{}", if last.is_some() { "\n" } else { "" }, part.heading())?;
                last = Some(*part);
            }
            writeln!(f, "  {:<7}  {subject:<width$}  {seen}", severity.name())?;
            if !advice.is_empty() {
                writeln!(f, "           = help: {advice}")?;
            }
        }
        let [ok, warnings, wrong] = [Severity::Ok, Severity::Warning, Severity::Wrong]
            .map(|severity| self.number_of(severity));
        write!(f, "\n{} checks: {ok} ok, {warnings} warnings, {wrong} wrong", self.findings.len())
    }
}
