//! What is wrong with an object, in words its owner can act on. The reasons are a closed list.

use sluice_snapshot::{ConfigReason, unit::ObjectRef};

use crate::world::ObjectId;

/// The condition of an object's status that a finding speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// The object by itself, and against its elders.
    Accepted,
    /// What the object refers to.
    ResolvedRefs,
    /// The HorizontalPodAutoscaler; no part of Ready.
    Scaling,
    /// None: the object serves as it is, and its owner should know something.
    Warning,
}

/// Why. The reason of the status condition has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingReason {
    /// A value does not compile or contradicts another.
    Invalid,
    /// An elder ApiRoute has the same hostname on the same port.
    Conflicted,
    /// The stored object does not decode.
    Undecodable,
    /// What the object makes is larger than the stream carries.
    TooLarge,
    /// The slots of a ShardSet are covered twice or not at all.
    SlotsUncovered,
    /// A parentRef names no Service, no port of it, or no Gateway of ours.
    ParentNotFound,
    /// A parentRef names a Gateway, and none of its listeners.
    NoMatchingParent,
    /// The listeners that a parentRef names take no routes of this namespace or kind.
    NotAllowedByListeners,
    /// The listeners that a parentRef names have no hostname in common with the route.
    NoMatchingListenerHostname,
    /// A backendRef names nothing that exists.
    BackendNotFound,
    /// A forward target enforces policy of its own.
    TargetEnforces,
    /// A Secret, or the entry of one, does not exist.
    SecretNotFound,
    /// A Secret exists and may not or cannot be used for this.
    SecretNotUsable,
    /// SluiceConfig declares no such store.
    StoreNotFound,
    /// A profile or a provider does not exist.
    ReferenceNotFound,
    /// A policy's target, or the rule it names, does not exist.
    TargetNotFound,
    /// No match of a rule yields the key of the ShardSet it leads to.
    ShardKeyMissing,
    /// Something else scales the workload already.
    TargetTaken,
    /// An elder ApiRoute scales the same workload and decides something otherwise.
    ScalingConflict,
    /// One entry of a Secret cannot be used; the others are.
    EntryNotUsable,
    /// A key id stands in two Secrets: the elder's counts.
    DuplicateKeyId,
    /// A profile has blocks that nobody takes over.
    BlockIgnored,
    /// A parent Service has no pods that could serve the route.
    NoPods,
    /// A manifest has a field that the schema does not know.
    UnknownField,
    /// A manifest does not obey the schema.
    SchemaViolation,
    /// A manifest file cannot be read.
    UnreadableFile,
    /// Two manifests are the same object: the first counts.
    DuplicateObject,
    /// What is referred to is of another namespace, which does not allow it.
    RefNotPermitted,
    /// A reference names a kind that nothing here can be.
    InvalidKind,
    /// A route of the Gateway API asks for what is not served.
    UnsupportedValue,
    /// Two filters of one rule exclude each other.
    IncompatibleFilters,
    /// A listener takes kinds of route that its protocol has not.
    InvalidRouteKinds,
    /// A field of the Gateway API that changes nothing here.
    FieldIgnored,
    /// A hostname of a route is outside every listener that the route attaches to.
    HostnameIgnored,
    /// An elder route has the same match for the same host: nothing arrives here.
    MatchShadowed,
}

impl FindingReason {
    /// Every reason, for tests that demand an example of each.
    pub const ALL: [Self; 35] = [
        Self::Invalid,
        Self::Conflicted,
        Self::Undecodable,
        Self::TooLarge,
        Self::SlotsUncovered,
        Self::ParentNotFound,
        Self::NoMatchingParent,
        Self::NotAllowedByListeners,
        Self::NoMatchingListenerHostname,
        Self::BackendNotFound,
        Self::TargetEnforces,
        Self::SecretNotFound,
        Self::SecretNotUsable,
        Self::StoreNotFound,
        Self::ReferenceNotFound,
        Self::TargetNotFound,
        Self::ShardKeyMissing,
        Self::TargetTaken,
        Self::ScalingConflict,
        Self::EntryNotUsable,
        Self::DuplicateKeyId,
        Self::BlockIgnored,
        Self::NoPods,
        Self::UnknownField,
        Self::SchemaViolation,
        Self::UnreadableFile,
        Self::DuplicateObject,
        Self::RefNotPermitted,
        Self::InvalidKind,
        Self::UnsupportedValue,
        Self::IncompatibleFilters,
        Self::InvalidRouteKinds,
        Self::FieldIgnored,
        Self::HostnameIgnored,
        Self::MatchShadowed,
    ];

    /// The reason as status conditions write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "Invalid",
            Self::Conflicted => "Conflicted",
            Self::Undecodable => "Undecodable",
            Self::TooLarge => "TooLarge",
            Self::SlotsUncovered => "SlotsUncovered",
            Self::ParentNotFound => "ParentNotFound",
            Self::NoMatchingParent => "NoMatchingParent",
            Self::NotAllowedByListeners => "NotAllowedByListeners",
            Self::NoMatchingListenerHostname => "NoMatchingListenerHostname",
            Self::BackendNotFound => "BackendNotFound",
            Self::TargetEnforces => "TargetEnforces",
            Self::SecretNotFound => "SecretNotFound",
            Self::SecretNotUsable => "SecretNotUsable",
            Self::StoreNotFound => "StoreNotFound",
            Self::ReferenceNotFound => "ReferenceNotFound",
            Self::TargetNotFound => "TargetNotFound",
            Self::ShardKeyMissing => "ShardKeyMissing",
            Self::TargetTaken => "TargetTaken",
            Self::ScalingConflict => "ScalingConflict",
            Self::EntryNotUsable => "EntryNotUsable",
            Self::DuplicateKeyId => "DuplicateKeyId",
            Self::BlockIgnored => "BlockIgnored",
            Self::NoPods => "NoPods",
            Self::UnknownField => "UnknownField",
            Self::SchemaViolation => "SchemaViolation",
            Self::UnreadableFile => "UnreadableFile",
            Self::DuplicateObject => "DuplicateObject",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::InvalidKind => "InvalidKind",
            Self::UnsupportedValue => "UnsupportedValue",
            Self::IncompatibleFilters => "IncompatibleFilters",
            Self::InvalidRouteKinds => "InvalidRouteKinds",
            Self::FieldIgnored => "FieldIgnored",
            Self::HostnameIgnored => "HostnameIgnored",
            Self::MatchShadowed => "MatchShadowed",
        }
    }

    /// The reason as the Gateway API says it in the conditions of its own kinds.
    pub(crate) const fn gateway_api(self) -> &'static str {
        match self {
            Self::Invalid | Self::TooLarge | Self::SchemaViolation | Self::Undecodable => {
                Self::UnsupportedValue.as_str()
            }
            other => other.as_str(),
        }
    }

    /// The condition it makes `False`; a warning touches none.
    pub const fn condition(self) -> Condition {
        match self {
            Self::Invalid
            | Self::Conflicted
            | Self::Undecodable
            | Self::TooLarge
            | Self::SlotsUncovered
            | Self::NoMatchingParent
            | Self::NotAllowedByListeners
            | Self::NoMatchingListenerHostname
            | Self::SchemaViolation
            | Self::UnsupportedValue
            | Self::IncompatibleFilters => Condition::Accepted,
            Self::ParentNotFound
            | Self::BackendNotFound
            | Self::TargetEnforces
            | Self::SecretNotFound
            | Self::SecretNotUsable
            | Self::StoreNotFound
            | Self::ReferenceNotFound
            | Self::TargetNotFound
            | Self::ShardKeyMissing
            | Self::RefNotPermitted
            | Self::InvalidKind
            | Self::InvalidRouteKinds => Condition::ResolvedRefs,
            Self::TargetTaken | Self::ScalingConflict => Condition::Scaling,
            Self::EntryNotUsable
            | Self::DuplicateKeyId
            | Self::BlockIgnored
            | Self::NoPods
            | Self::UnknownField
            | Self::UnreadableFile
            | Self::DuplicateObject
            | Self::FieldIgnored
            | Self::HostnameIgnored
            | Self::MatchShadowed => Condition::Warning,
        }
    }

    /// Whether no other object can mend it, so that an admission webhook may refuse the object.
    pub const fn is_own_fault(self) -> bool {
        matches!(
            self,
            Self::Invalid | Self::TooLarge | Self::SlotsUncovered | Self::SchemaViolation
        )
    }

    /// What usually mends it.
    pub const fn hint(self) -> &'static str {
        match self {
            Self::Invalid => "correct the value",
            Self::Conflicted => "give one of the two another hostname or port, or delete one",
            Self::Undecodable => {
                "store the object again in a form this operator's version knows, or update the operator"
            }
            Self::TooLarge => "split the object",
            Self::SlotsUncovered => "let placement name each of 0-16383 exactly once",
            Self::ParentNotFound => {
                "create the Service or Gateway, or correct name, namespace and port of the parentRef"
            }
            Self::NoMatchingParent => "correct sectionName or port, or add the listener",
            Self::NotAllowedByListeners => {
                "let the listener's allowedRoutes name this namespace, or attach elsewhere"
            }
            Self::NoMatchingListenerHostname => "give route and listener a hostname in common",
            Self::BackendNotFound => "create it in the same namespace, or correct name and port",
            Self::TargetEnforces => {
                "forward to a Service whose pods have no auth, limits or cache of their own"
            }
            Self::SecretNotFound => {
                "create it in the same namespace with label sluice.dev/use and the type of that use"
            }
            Self::SecretNotUsable => {
                "give the Secret the label and type of this use, and usable entries"
            }
            Self::StoreNotFound => "declare the store in SluiceConfig, or correct the name",
            Self::ReferenceNotFound => "create it, or correct the name",
            Self::TargetNotFound => "create the target, or correct name and sectionName",
            Self::ShardKeyMissing => {
                "match with a RegularExpression that has the named group, or take the key from elsewhere"
            }
            Self::TargetTaken => "delete the other one, or remove spec.scaling",
            Self::ScalingConflict => {
                "give both the same, or leave it to the elder; metrics and schedules of all of them count"
            }
            Self::EntryNotUsable => "replace the entry",
            Self::DuplicateKeyId => "rename the entry in one of the Secrets",
            Self::BlockIgnored => "remove the block from the profile",
            Self::NoPods => "let the Service select pods, or wait for them",
            Self::UnknownField => "remove the field, or correct its name",
            Self::SchemaViolation => "correct the field",
            Self::UnreadableFile => "correct the file",
            Self::DuplicateObject => "delete one of the two",
            Self::RefNotPermitted => {
                "let that namespace's owners create a ReferenceGrant for it, or refer to an object of your own namespace"
            }
            Self::InvalidKind => "name a kind that is served here",
            Self::UnsupportedValue => "leave it out, or ask for what is served",
            Self::IncompatibleFilters => "keep one of the filters, or make it two rules",
            Self::InvalidRouteKinds => "name kinds of the listener's protocol in allowedRoutes",
            Self::FieldIgnored => "remove the field, or do without it",
            Self::HostnameIgnored => {
                "remove the hostname, or give a listener one in common with it"
            }
            Self::MatchShadowed => {
                "remove the match, make it narrower, or agree with the elder route's owners"
            }
        }
    }
}

impl From<ConfigReason> for FindingReason {
    fn from(reason: ConfigReason) -> Self {
        match reason {
            ConfigReason::Invalid
            | ConfigReason::PolicyUnavailable
            | ConfigReason::SidecarTooOld => Self::Invalid,
            ConfigReason::BackendNotFound => Self::BackendNotFound,
            ConfigReason::TargetEnforces => Self::TargetEnforces,
            ConfigReason::SecretNotFound => Self::SecretNotFound,
            ConfigReason::SecretNotUsable => Self::SecretNotUsable,
            ConfigReason::StoreNotFound => Self::StoreNotFound,
            ConfigReason::ReferenceNotFound => Self::ReferenceNotFound,
            ConfigReason::SlotsUncovered => Self::SlotsUncovered,
            ConfigReason::TooLarge => Self::TooLarge,
        }
    }
}

/// One problem of one object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The object whose owner can mend it.
    pub object: ObjectRef,
    /// Why.
    pub reason: FindingReason,
    /// The field, as kubectl writes paths: `spec.rules[0].matches[1].path`.
    pub path: Option<String>,
    /// What, where and the likely mend; stable, so that a status that says the same is not written again.
    pub message: String,
}

impl Finding {
    /// A problem of an object. `what` is a clause without a full stop; the usual mend is added to it.
    pub fn new(object: &ObjectId, reason: FindingReason, path: Option<&str>, what: &str) -> Self {
        let place = path.map(|path| format!("{path}: ")).unwrap_or_default();
        // Some compilers draw their errors over several lines; a condition is one.
        let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
        let what = clipped(&what);
        Self {
            object: object.reference(),
            reason,
            path: path.map(str::to_owned),
            message: format!("{place}{what}; {}", reason.hint()),
        }
    }
}

/// The longest explanation, in characters: it may quote what a user wrote.
const LONGEST: usize = 1_000;

/// The start of a text that may be of any length.
pub(crate) fn clipped(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn reasons_have_names_and_hints_of_their_own() {
        let names: BTreeSet<_> = FindingReason::ALL.map(FindingReason::as_str).into();
        let hints: BTreeSet<_> = FindingReason::ALL.map(FindingReason::hint).into();
        assert_eq!(names.len(), FindingReason::ALL.len());
        assert_eq!(hints.len(), FindingReason::ALL.len());
    }

    #[test]
    fn an_explanation_is_one_line_of_bounded_length() {
        let id = ObjectId::new(crate::world::Kind::ApiRoute, "shop", "orders");
        let what = format!("a\n   b {}", "é".repeat(5_000));
        let message = Finding::new(&id, FindingReason::Invalid, None, &what).message;
        assert!(message.starts_with("a b é") && message.ends_with("...; correct the value"));
        assert!(message.chars().count() < 1_100);
    }

    #[test]
    fn what_another_object_can_mend_is_nobodys_own_fault() {
        for reason in FindingReason::ALL {
            if reason.is_own_fault() {
                assert_eq!(reason.condition(), Condition::Accepted, "{reason:?}");
            }
        }
        assert!(!FindingReason::Conflicted.is_own_fault());
    }
}
