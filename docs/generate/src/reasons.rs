//! The tables of refusals and findings, from the closed lists that the product itself uses.

use sluice_pipeline::reject::{Description, RejectReason};
use sluice_snapshot::ConfigReason;
use sluice_translate::finding::{Condition, FindingReason};

const REJECTIONS: &str = "\
# Refusals

Every answer that Sluice itself gives with a status of 400 or above is problem details (RFC 9457): `type` ends in the
reason, `title` is below. Nothing in it names a secret, a rule or an object. The access log line of the same request
names the object, the rule, limit or provider that decided, and the reason; the metrics count by reason.

A reason that begins with `config-` is never the caller's fault: a resource is broken, its status says how. Only the
requests that the broken part covers are refused.

| reason | status | title |
|---|---|---|
";

const FINDINGS: &str = "\
# Findings

What can be wrong with a resource. The reason stands in the condition below it, or, for a warning, only in
`kubectl sluice status`, in `kubectl-sluice validate` and in the operator's log: the object serves as it is.

| reason | condition | what usually mends it |
|---|---|---|
";

/// The page of refusals.
pub(crate) fn rejections() -> String {
    let all = RejectReason::ALL
        .into_iter()
        .chain(ConfigReason::ALL.into_iter().map(RejectReason::Config));
    let rows: String = all
        .map(|reason| {
            let Description {
                status,
                name,
                title,
            } = reason.describe();
            format!("| `{name}` | {status} | {title} |\n")
        })
        .collect();
    format!("{REJECTIONS}{rows}")
}

/// The page of findings.
pub(crate) fn findings() -> String {
    let rows: String = FindingReason::ALL
        .into_iter()
        .map(|reason| {
            let condition = match reason.condition() {
                Condition::Accepted => "`Accepted`",
                Condition::ResolvedRefs => "`ResolvedRefs`",
                Condition::Scaling => "`Scaling`",
                Condition::Warning => "a warning",
            };
            format!(
                "| `{}` | {condition} | {} |\n",
                reason.as_str(),
                reason.hint()
            )
        })
        .collect();
    format!("{FINDINGS}{rows}")
}
