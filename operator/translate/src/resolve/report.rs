//! Findings as they are made while one object is resolved.

use sluice_snapshot::ConfigError;

use crate::{
    finding::{Condition, Finding, FindingReason, clipped},
    standing::Outcome,
    world::ObjectId,
};

/// The findings of one object so far.
pub(crate) struct Report {
    id: ObjectId,
    findings: Vec<Finding>,
}

impl Report {
    pub(crate) fn of(id: &ObjectId) -> Self {
        Self {
            id: id.clone(),
            findings: Vec::new(),
        }
    }

    /// A problem of the field at `path`; an empty path is the object as a whole.
    pub(crate) fn add(&mut self, reason: FindingReason, path: &str, what: &str) {
        let path = Some(path).filter(|path| !path.is_empty());
        let finding = Finding::new(&self.id, reason, path, what);
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// A problem that makes requests be refused.
    pub(crate) fn error(&mut self, path: &str, error: &ConfigError) {
        self.add(error.reason.into(), path, &error.message);
    }

    /// Takes over what another report has.
    pub(crate) fn merge(&mut self, other: Self) {
        for finding in other.findings {
            if !self.findings.contains(&finding) {
                self.findings.push(finding);
            }
        }
    }

    /// What was said first for a reason.
    pub(crate) fn first(&self, reason: FindingReason) -> Option<&str> {
        let mut findings = self.findings.iter();
        let found = findings.find(|finding| finding.reason == reason)?;
        Some(&found.message)
    }

    /// What was said last.
    pub(crate) fn last_message(&self) -> String {
        let last = self.findings.last();
        last.map(|finding| finding.message.clone())
            .unwrap_or_default()
    }

    /// What the first finding that speaks for a condition makes of it; `good` where there is none.
    pub(crate) fn outcome(&self, condition: Condition, good: &'static str) -> Outcome {
        let mut findings = self.findings.iter();
        match findings.find(|finding| finding.reason.condition() == condition) {
            None => Outcome::good(good),
            Some(finding) => Outcome::bad(finding.reason.gateway_api(), &*finding.message),
        }
    }

    /// What the object's owner should know though it serves, in one text.
    pub(crate) fn warnings(&self) -> String {
        let findings = self.findings.iter();
        let warnings = findings.filter(|finding| finding.reason.condition() == Condition::Warning);
        let texts: Vec<&str> = warnings.map(|finding| finding.message.as_str()).collect();
        clipped(&texts.join("; "))
    }

    /// Sorted, so that the order of evaluation is nobody's business.
    pub(crate) fn into_findings(mut self) -> Vec<Finding> {
        self.findings.sort();
        self.findings
    }
}
