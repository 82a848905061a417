//! The delay before the app is told to stop. A Pod that is deleted still gets requests until every node has heard of it;
//! an app that exits at once would refuse them. Its containers therefore sleep first, and the grace period is raised by as
//! much, so that the app has what it had before.
//!
//! A second call must not raise it again: the first one records the Pod's own grace period in an annotation.

use serde_json::{Map, Value, json};

use super::{InjectError, json};

/// The Pod's own grace period in seconds, recorded where it was raised.
pub(super) const RECORD: &str = "sluice.dev/app-grace-period";
/// What the API server takes where a Pod does not say.
const DEFAULT_GRACE: u64 = 30;

/// The grace period that an earlier call recorded.
pub(super) fn recorded_grace(metadata: &Map<String, Value>) -> Option<u64> {
    let annotations = metadata.get("annotations")?.as_object()?;
    annotations.get(RECORD)?.as_str()?.parse().ok()
}

/// Writes the Pod's own grace period down; `None` where there is no place for it.
pub(super) fn record_grace(pod: &mut Value, seconds: u64) -> Option<()> {
    let annotations = json::object(pod.get_mut("metadata")?, "annotations")?;
    annotations.insert(RECORD.to_owned(), seconds.to_string().into());
    Some(())
}

/// Gives every container without a preStop hook of its own a sleep of `seconds`, and raises the grace period by it. The
/// answer is the Pod's own grace period, where it was raised.
///
/// A Pod with a grace period of 0 is to end at once, and does.
pub(super) fn delay(
    spec: &mut Map<String, Value>,
    seconds: u64,
    recorded: Option<u64>,
) -> Result<Option<u64>, InjectError> {
    let there = spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_u64);
    let own = recorded.or(there).unwrap_or(DEFAULT_GRACE);
    if seconds == 0 || own == 0 {
        return Ok(None);
    }
    let mut sleeps = recorded.is_some();
    for container in json::list(spec, "containers").ok_or(InjectError::NotAPod)? {
        let lifecycle = json::object(container, "lifecycle").ok_or(InjectError::NotAPod)?;
        if lifecycle.get("preStop").is_none_or(Value::is_null) {
            lifecycle.insert("preStop".to_owned(), json!({"sleep": {"seconds": seconds}}));
            sleeps = true;
        }
    }
    if !sleeps {
        return Ok(None);
    }
    // Whoever raised it further in between may have had a reason.
    let raised = there.unwrap_or(0).max(own + seconds);
    spec.insert("terminationGracePeriodSeconds".to_owned(), raised.into());
    Ok(Some(own))
}
