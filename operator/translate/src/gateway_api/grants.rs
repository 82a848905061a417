//! ReferenceGrants: whether a namespace lets an object of another refer to one of its own.

use sluice_crds::gateway_api::{GrantFrom, GrantTo};

use crate::{view::View, world::ObjectId};

/// Whether `from` may refer to the core object `kind` `name` of `namespace`: its own, or one that a grant there names.
pub(super) fn permits(
    view: &View<'_>,
    from: &ObjectId,
    kind: &str,
    namespace: &str,
    name: &str,
) -> bool {
    if *from.namespace == *namespace {
        return true;
    }
    let to_us = |grantee: &GrantFrom| {
        grantee.group == sluice_crds::gateway_api::GROUP
            && grantee.kind == from.kind.as_str()
            && grantee.namespace == *from.namespace
    };
    let for_it = |object: &GrantTo| {
        object.group.is_empty()
            && object.kind == kind
            && object.name.as_deref().is_none_or(|one| one == name)
    };
    let grants = view.grants_of(namespace);
    let mut specs = grants.iter().filter_map(|grant| grant.sound());
    specs.any(|spec| spec.from.iter().any(to_us) && spec.to.iter().any(for_it))
}

/// Why not, in a clause.
pub(super) fn missing(from: &ObjectId, kind: &str, namespace: &str, name: &str) -> String {
    format!(
        "{kind} {namespace}/{name} is of another namespace, and no ReferenceGrant of {namespace} lets {}s of namespace {} refer to it",
        from.kind.as_str(),
        from.namespace
    )
}
