//! GatewayClasses: which Gateways are ours.

use sluice_crds::{CONTROLLER_NAME, gateway_api};

use crate::{
    resolve::Resolved,
    standing::{Outcome, Standing},
    view::View,
    world::GatewayClassFacts,
};

/// Whether Gateways of a class are ours. Where nobody says who serves the class, its name does: file mode needs no class.
pub(crate) fn is_ours(view: &View<'_>, class: &str) -> bool {
    let facts = view.gateway_class(class);
    match facts.as_ref().and_then(|facts| facts.sound()) {
        Some(spec) => spec.controller_name == CONTROLLER_NAME,
        None => class == gateway_api::CLASS,
    }
}

/// How a class of ours stands; one of others is none of ours.
pub(crate) fn resolve(facts: &GatewayClassFacts) -> Resolved {
    let ours = facts
        .sound()
        .filter(|spec| spec.controller_name == CONTROLLER_NAME);
    let standing = ours.map(|spec| Standing::GatewayClass {
        accepted: match &spec.parameters_ref {
            None => Outcome::good("Accepted"),
            Some(_) => Outcome::bad(
                "InvalidParameters",
                "spec.parametersRef: a class has no parameters here; remove it",
            ),
        },
    });
    Resolved {
        standing,
        ..Resolved::default()
    }
}
