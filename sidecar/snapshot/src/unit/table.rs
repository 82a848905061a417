//! Some of the routes of the listeners that one Gateway or ListenerSet has. Where there are many, each unit has few of them,
//! so that one that comes or goes changes little; which unit a route stands in says nothing, its age is written out.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use super::inbound::RouteUse;
use crate::name::UnitName;

/// Some of the routes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Table {
    /// The listeners that any of them attaches to, each once.
    pub listeners: Vec<ListenerRoutes>,
}

/// What one listener serves of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerRoutes {
    /// The listener unit.
    pub listener: UnitName,
    /// Elder routes first. For a listener of protocol TLS or TCP they are stream routes.
    pub routes: Vec<AgedUse>,
}

/// A route as a table uses it, and how old it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AgedUse {
    /// When the object was created, in seconds since 1970; none is younger than all. Of two of one second
    /// [`UnitName::by_object`] decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// The route unit.
    pub unit: UnitName,
    /// Lower-case hostnames, exact or with a `*.` prefix; empty means any.
    pub hostnames: Vec<String>,
}

impl Table {
    pub(super) fn needs(&self) -> Vec<UnitName> {
        let routes = self.listeners.iter().flat_map(|listener| &listener.routes);
        routes.map(|route| route.unit.clone()).collect()
    }
}

impl AgedUse {
    /// As a root unit has it.
    pub fn plain(&self) -> RouteUse {
        RouteUse {
            unit: self.unit.clone(),
            hostnames: self.hostnames.clone(),
        }
    }

    /// Elder first; of the same second by namespace, name and kind.
    pub fn by_age(&self, other: &Self) -> Ordering {
        let created = |one: &Self| one.created.unwrap_or(i64::MAX);
        created(self)
            .cmp(&created(other))
            .then_with(|| self.unit.by_object(&other.unit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_ordered_by_age_then_name_then_kind() {
        let used = |created: Option<i64>, unit: UnitName| AgedUse {
            created,
            unit,
            hostnames: Vec::new(),
        };
        let sorted = [
            used(Some(1), UnitName::http_route("z", "z")),
            used(Some(2), UnitName::grpc_route("a", "a")),
            used(Some(2), UnitName::route("a", "b")),
            used(Some(2), UnitName::http_route("a", "b")),
            used(Some(2), UnitName::grpc_route("a", "b")),
            used(Some(2), UnitName::route("b", "a")),
            used(None, UnitName::route("a", "a")),
        ];
        for (at, one) in sorted.iter().enumerate() {
            for (beside, other) in sorted.iter().enumerate() {
                assert_eq!(one.by_age(other), at.cmp(&beside), "{one:?} {other:?}");
            }
        }
    }
}
