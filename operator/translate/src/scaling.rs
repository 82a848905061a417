//! HorizontalPodAutoscalers: one per scale target, from the eldest ApiRoute that scales it.

use sluice_crds::api_route::{
    Scaling,
    scaling::{ScaleTargetRef, ScalingBehavior, ScalingSignal},
};

use crate::{
    finding::{Finding, FindingReason},
    view::View,
    world::{ObjectId, RouteFacts},
};

/// The metric of requests a second, of each pod.
pub const REQUESTS_PER_SECOND: &str = "sluice_requests_per_second";
/// The metric of requests being answered, of each pod.
pub const IN_FLIGHT: &str = "sluice_in_flight";

/// The HorizontalPodAutoscaler that should exist.
#[derive(Debug, Clone, PartialEq)]
pub struct HpaIntent {
    /// Its namespace: the routes'.
    pub namespace: String,
    /// `sluice-<name of the target>`.
    pub name: String,
    /// The workload, verbatim.
    pub target: ScaleTargetRef,
    /// Fewest pods; none: the API's default.
    pub min_replicas: Option<i32>,
    /// Most pods.
    pub max_replicas: i32,
    /// `Pods` metrics in the order of the resource: name and averageValue.
    pub metrics: Vec<(&'static str, String)>,
    /// How fast it follows, verbatim.
    pub behavior: Option<ScalingBehavior>,
    /// Every ApiRoute that scales the workload, eldest first: name and uid.
    pub owners: Vec<(ObjectId, String)>,
}

/// The HPA that `route` stands for, if it is the eldest that scales its target; and what is wrong with its scaling.
pub(crate) fn resolve(view: &View<'_>, route: &RouteFacts) -> (Option<HpaIntent>, Vec<Finding>) {
    let Some(scaling) = route.sound().and_then(|spec| spec.scaling.as_ref()) else {
        return (None, Vec::new());
    };
    let target = &scaling.scale_target_ref;
    let namespace = &*route.id.namespace;
    let mut routes = view.routes_of_scale_target(namespace, &target.name);
    routes.sort_by_key(|route| route.age());
    let find =
        |reason, what: String| vec![Finding::new(&route.id, reason, Some("spec.scaling"), &what)];
    // Both would be called sluice-<name>: two kinds of one name are one target to whoever names the HPA.
    let eldest = routes
        .iter()
        .find_map(|route| Some((route, scaling_of(route)?)));
    let Some((eldest, theirs)) = eldest else {
        return (None, Vec::new());
    };
    if eldest.id != route.id {
        let said = format!("{}", eldest.id);
        return match theirs.scale_target_ref == *target {
            true if theirs == scaling => (None, Vec::new()),
            true => (
                None,
                find(
                    FindingReason::ScalingOverruled,
                    format!(
                        "{said} is elder and scales {} {} too",
                        target.kind, target.name
                    ),
                ),
            ),
            false => (
                None,
                find(
                    FindingReason::TargetTaken,
                    format!(
                        "{said} is elder and scales a {} of the same name",
                        theirs.scale_target_ref.kind
                    ),
                ),
            ),
        };
    }
    let name = format!("sluice-{}", target.name);
    let foreign = view
        .hpas_of(namespace, &target.name)
        .into_iter()
        .find(|hpa| {
            hpa.target_kind == target.kind.as_str() && !(hpa.ours && *hpa.id.name == *name)
        });
    if let Some(foreign) = foreign {
        let what = format!(
            "{} scales {} {} already",
            foreign.id, target.kind, target.name
        );
        return (None, find(FindingReason::TargetTaken, what));
    }
    let owners = routes.iter().filter(|route| {
        scaling_of(route).is_some_and(|scaling| scaling.scale_target_ref == *target)
    });
    let owners = owners
        .map(|route| (route.id.clone(), route.meta.uid.clone()))
        .collect();
    match intent(namespace, name, scaling, owners) {
        Ok(intent) => (Some(intent), Vec::new()),
        Err(what) => (None, find(FindingReason::Invalid, what)),
    }
}

fn scaling_of(route: &RouteFacts) -> Option<&Scaling> {
    route.sound().and_then(|spec| spec.scaling.as_ref())
}

fn intent(
    namespace: &str,
    name: String,
    scaling: &Scaling,
    owners: Vec<(ObjectId, String)>,
) -> Result<HpaIntent, String> {
    let Scaling {
        scale_target_ref,
        min_replicas,
        max_replicas,
        metrics,
        behavior,
    } = scaling;
    let metrics = metrics.iter().map(|metric| match metric.get() {
        Ok(ScalingSignal::RequestsPerSecond(target)) => Ok((
            REQUESTS_PER_SECOND,
            target.average_value.as_str().to_owned(),
        )),
        Ok(ScalingSignal::InFlight(target)) => {
            Ok((IN_FLIGHT, target.average_value.as_str().to_owned()))
        }
        Err(error) => Err(error.to_string()),
    });
    Ok(HpaIntent {
        namespace: namespace.to_owned(),
        name,
        target: scale_target_ref.clone(),
        min_replicas: *min_replicas,
        max_replicas: *max_replicas,
        metrics: metrics.collect::<Result<_, _>>()?,
        behavior: behavior.clone(),
        owners,
    })
}
