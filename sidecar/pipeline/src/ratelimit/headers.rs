//! The header fields that tell a client how much is left: `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers).

use super::Verdict;

/// The fields for the verdicts of a request, in their order; empty where no policy shows them.
///
/// A bucket is told as the quota of the time it takes to fill: `q` is its burst, `w` the seconds from empty to full, so
/// that `q / w` is its rate and `r` is never above `q`. `t` is the seconds until it is full again.
pub fn render(verdicts: &[Verdict]) -> Vec<(&'static str, String)> {
    let shown: Vec<&Verdict> = verdicts
        .iter()
        .filter(|verdict| verdict.policy.headers && !verdict.shadow)
        .collect();
    if shown.is_empty() {
        return Vec::new();
    }
    let mut policies = Vec::with_capacity(shown.len());
    let mut limits = Vec::with_capacity(shown.len());
    for verdict in &shown {
        let name = name(verdict, &shown);
        let bucket = &verdict.limit.bucket;
        policies.push(format!("{name};q={};w={}", bucket.burst(), bucket.fill_s()));
        limits.push(format!(
            "{name};r={};t={}",
            verdict.remaining.min(bucket.burst()),
            verdict.reset_s
        ));
    }
    vec![
        ("ratelimit-policy", policies.join(", ")),
        ("ratelimit", limits.join(", ")),
    ]
}

/// The limit's name as a structured-field string; with its policy's where two policies use the same one.
fn name(verdict: &Verdict, all: &[&Verdict]) -> String {
    let limit = &verdict.limit;
    let shared = all
        .iter()
        .any(|other| other.limit.name == limit.name && other.limit.id != limit.id);
    let name = if shared {
        format!("{}/{}", limit.object.name, limit.name)
    } else {
        limit.name.clone()
    };
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for character in name
        .chars()
        .filter(|character| matches!(character, ' '..='~'))
    {
        if matches!(character, '"' | '\\') {
            quoted.push('\\');
        }
        quoted.push(character);
    }
    quoted.push('"');
    quoted
}
