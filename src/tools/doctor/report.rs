//! What was found, in the order in which it was looked for.

use std::fmt;

use etcd_warden_core::printable::Printable;
use serde_json::{Value, json};

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The proxy's own files.
    Files,
    /// etcd, as the proxy sees it.
    Etcd,
    /// Ways to etcd that do not lead through the proxy.
    Around,
    /// The proxy, as its clients see it.
    Proxy,
    /// The keys that are there, and the policy.
    Keys,
}

impl Part {
    /// The stable name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Files => "files",
            Part::Etcd => "etcd",
            Part::Around => "ways around the proxy",
            Part::Proxy => "the proxy",
            Part::Keys => "keys and policy",
        }
    }
}

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Somebody should look.
    Warning,
    /// It must not stay so.
    Wrong,
}

impl Verdict {
    /// The stable name in output.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Wrong => "wrong",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub part: Part,
    /// How it is.
    pub verdict: Verdict,
    /// What was looked at.
    pub subject: String,
    /// What was seen.
    pub seen: String,
    /// What to do; empty where nothing is to be done.
    pub advice: String,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    findings: Vec<Finding>,
}

impl Report {
    /// As it should be.
    pub fn ok(&mut self, part: Part, subject: impl Into<String>, seen: impl Into<String>) {
        self.push(part, Verdict::Ok, subject.into(), seen.into(), "");
    }

    /// Somebody should look.
    pub fn warning(
        &mut self,
        part: Part,
        subject: impl Into<String>,
        seen: impl Into<String>,
        advice: &str,
    ) {
        self.push(part, Verdict::Warning, subject.into(), seen.into(), advice);
    }

    /// It must not stay so.
    pub fn wrong(
        &mut self,
        part: Part,
        subject: impl Into<String>,
        seen: impl Into<String>,
        advice: &str,
    ) {
        self.push(part, Verdict::Wrong, subject.into(), seen.into(), advice);
    }

    fn push(&mut self, part: Part, verdict: Verdict, subject: String, seen: String, advice: &str) {
        // Names, versions and error texts are those of the peer that answers: each stays one line,
        // and is no command to a terminal.
        let [subject, seen, advice] =
            [&subject, &seen, advice].map(|text| Printable(text).to_string());
        self.findings.push(Finding { part, verdict, subject, seen, advice });
    }

    /// The findings.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How it is on the whole.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok)
    }

    /// For machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let finding = |finding: &Finding| {
            json!({
                "part": finding.part.name(),
                "verdict": finding.verdict.name(),
                "subject": finding.subject,
                "seen": finding.seen,
                "advice": finding.advice,
            })
        };
        json!({ "verdict": self.verdict().name(), "findings": self.findings.iter().map(finding).collect::<Vec<_>>() })
    }

    fn number_of(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

/// For people: each part with its findings, and what to do below what is not as it should be.
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
        for Finding { part, verdict, subject, seen, advice } in &self.findings {
            if last != Some(*part) {
                writeln!(f, "{}{}", if last.is_some() { "\n" } else { "" }, part.name())?;
                last = Some(*part);
            }
            writeln!(f, "  {:<7}  {subject:<width$}  {seen}", verdict.name())?;
            if !advice.is_empty() {
                writeln!(f, "           = help: {advice}")?;
            }
        }
        let [ok, warnings, wrong] =
            [Verdict::Ok, Verdict::Warning, Verdict::Wrong].map(|verdict| self.number_of(verdict));
        write!(
            f,
            "\n{} things looked at: {ok} ok, {warnings} to look at, {wrong} wrong",
            self.findings.len()
        )
    }
}
