//! Findings as they are made while one object is resolved.

use sluice_snapshot::ConfigError;

use crate::{
    finding::{Finding, FindingReason},
    world::ObjectId,
};

/// The findings of one object so far.
pub(super) struct Report {
    id: ObjectId,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of(id: &ObjectId) -> Self {
        Self {
            id: id.clone(),
            findings: Vec::new(),
        }
    }

    /// A problem of the field at `path`; an empty path is the object as a whole.
    pub(super) fn add(&mut self, reason: FindingReason, path: &str, what: &str) {
        let path = Some(path).filter(|path| !path.is_empty());
        let finding = Finding::new(&self.id, reason, path, what);
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// A problem that makes requests be refused.
    pub(super) fn error(&mut self, path: &str, error: &ConfigError) {
        self.add(error.reason.into(), path, &error.message);
    }

    /// Sorted, so that the order of evaluation is nobody's business.
    pub(super) fn into_findings(mut self) -> Vec<Finding> {
        self.findings.sort();
        self.findings
    }
}
