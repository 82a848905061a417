//! RateLimitPolicies that hold for a route because they target its Gateway.

use sluice_crds::rate_limit_policy::TargetKind;
use sluice_snapshot::UnitName;

use super::attach;
use crate::{view::View, world::Claim};

/// The policies of the Gateways that a route attaches to, or of the listeners there. They hold for the route wherever it is
/// served: a second Gateway makes it no less limited.
pub(crate) fn of_gateways(view: &View<'_>, claim: &Claim) -> Vec<UnitName> {
    let mut found = Vec::new();
    for parent in &claim.gateways {
        let Some((namespace, name)) = attach::gateway_of(view, parent) else {
            continue;
        };
        let policies = view.policies_of(TargetKind::Gateway, &namespace, &name);
        if policies.is_empty() {
            continue;
        }
        let Ok(keys) = attach::attached(view, claim, parent) else {
            continue;
        };
        let holds = |section: &Option<String>| {
            section
                .as_ref()
                .is_none_or(|section| keys.contains(section))
        };
        let policies = policies.into_iter().filter(|target| holds(&target.section));
        found.extend(
            policies.map(|target| UnitName::policy(&target.policy.namespace, &target.policy.name)),
        );
    }
    found
}
