//! Whether a Gateway is programmed: its edges run, have an address, and acknowledged its listeners. Pure.

use sluice_translate::standing::Outcome;

use crate::{children::edge::State, stream::Live};

/// What only acks and addresses can say.
#[derive(Debug, Default)]
pub struct Facts {
    /// Which edges acknowledged the listeners.
    pub live: Live,
    /// How far the edge's objects have come; none where the operator makes none.
    pub edge: Option<State>,
}

/// Reasons are the Gateway API's GatewayConditionReason.
pub fn programmed(accepted: &Outcome, facts: &Facts) -> Outcome {
    let Facts { live, edge } = facts;
    if !accepted.status {
        return Outcome::bad("Invalid", "it is not accepted");
    }
    if let Some(State {
        trouble: Some(trouble),
        ..
    }) = edge
    {
        return Outcome::bad("NoResources", trouble);
    }
    if live.of == 0 {
        return Outcome::bad("Pending", "no edge is ready yet");
    }
    if live.pods < live.of {
        let missing = live.missing.first().map_or("", |missing| &missing.pod);
        return Outcome::bad(
            "Pending",
            format!(
                "{} of {} edges have acknowledged its listeners; not yet {missing}",
                live.pods, live.of
            ),
        );
    }
    let found = edge.as_ref();
    if let Some(address) = found.and_then(State::not_given) {
        return Outcome::bad(
            "AddressNotUsable",
            format!(
                "spec.addresses asks for {address}, which its Service has not got: can the provider of load balancers assign it, and no other address? One can be asked for"
            ),
        );
    }
    if edge.as_ref().is_some_and(|edge| edge.addresses.is_empty()) {
        return Outcome::bad(
            "AddressNotAssigned",
            "its Service has no address yet: does this cluster assign addresses to Services of type LoadBalancer? The ConfigMap of infrastructure.parametersRef may say serviceType: ClusterIP",
        );
    }
    Outcome::good("Programmed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        children::edge::Address,
        stream::{Missing, Why},
    };

    fn live(pods: usize, of: usize) -> Live {
        let missing = (pods < of).then(|| Missing {
            namespace: "shop".into(),
            pod: "public-1".into(),
            why: Why::Pending,
        });
        Live {
            pods,
            of,
            missing: missing.into_iter().collect(),
            ..Live::default()
        }
    }

    fn says(accepted: &Outcome, live: Live, edge: Option<State>) -> (bool, &'static str) {
        let found = programmed(accepted, &Facts { live, edge });
        (found.status, found.reason)
    }

    #[test]
    fn each_thing_that_is_missing_has_its_reason() {
        let good = Outcome::good("Accepted");
        let there = || {
            Some(State {
                asked: [[192, 0, 2, 1].into()].into(),
                addresses: vec![Address::Ip("192.0.2.1".into())],
                ..State::default()
            })
        };
        let elsewhere = Some(State {
            asked: [[192, 0, 2, 7].into()].into(),
            ..there().unwrap_or_default()
        });
        let troubled = Some(State {
            trouble: Some("Service shop/public-sluice exists".into()),
            ..State::default()
        });
        let nowhere = || Some(State::default());
        let refused = Outcome::bad("Invalid", "no");
        assert_eq!(says(&refused, live(2, 2), there()), (false, "Invalid"));
        assert_eq!(says(&good, live(2, 2), troubled), (false, "NoResources"));
        assert_eq!(says(&good, live(0, 0), there()), (false, "Pending"));
        assert_eq!(says(&good, live(1, 2), there()), (false, "Pending"));
        assert_eq!(
            says(&good, live(2, 2), nowhere()),
            (false, "AddressNotAssigned")
        );
        assert_eq!(
            says(&good, live(2, 2), elsewhere),
            (false, "AddressNotUsable")
        );
        assert_eq!(says(&good, live(2, 2), there()), (true, "Programmed"));
        // Without a cluster whoever starts edges knows where they are.
        assert_eq!(says(&good, live(1, 1), None), (true, "Programmed"));
    }
}
