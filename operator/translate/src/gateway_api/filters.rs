//! Filters, from the Gateway API's words to the sidecar's. One that cannot be honoured is a fault: a filter is never skipped.

use std::{collections::BTreeSet, sync::Arc};

use sluice_crds::{
    GROUP,
    gateway_api::{
        BackendRef, Cors, Fraction, Header, HeaderFilter, LocalReference, PathModifier,
        RequestMirror, RequestRedirect, RouteFilter, UrlRewrite,
    },
};
use sluice_snapshot::{
    ConfigError, ConfigReason,
    unit::route::{self, HeaderEdits, Mirror, Redirect, RedirectPath, Rewrite, Target},
};

use crate::{
    finding::FindingReason,
    resolve::{api_route::rules, seal},
    view::View,
    world::{Kind, ObjectId, RouteFacts},
};

/// How long browsers remember the answer of a preflight, in seconds, as the Gateway API has it.
const DEFAULT_MAX_AGE_S: u32 = 5;
/// The status of a redirect that names none.
const DEFAULT_REDIRECT: u16 = 302;

/// The filters of a rule, sorted by what they do.
#[derive(Default)]
pub(super) struct Filters {
    pub(super) request: HeaderEdits,
    pub(super) response: HeaderEdits,
    pub(super) redirect: Option<Redirect>,
    pub(super) rewrite: Option<Rewrite>,
    pub(super) mirrors: Vec<Mirror>,
    pub(super) cors: Option<route::Cors>,
    pub(super) profiles: Vec<Arc<RouteFacts>>,
}

/// What is wrong with a filter: the reason of the status, and what stands in the unit.
pub(super) type Fault = (FindingReason, ConfigError);

pub(super) fn fault(reason: FindingReason, what: impl Into<String>) -> Fault {
    (reason, ConfigError::new(ConfigReason::Invalid, what))
}

fn unsupported(what: impl Into<String>) -> Fault {
    fault(FindingReason::UnsupportedValue, what)
}

/// The filters of a rule of `route`. `mirror` looks a backend up; `broken` takes what is wrong and where.
pub(super) fn of_rule(
    view: &View<'_>,
    route: &ObjectId,
    specs: &[RouteFilter],
    path: &str,
    mirror: &mut impl FnMut(&BackendRef, &str) -> Target,
    broken: &mut impl FnMut(&str, Fault),
) -> Filters {
    let mut found = Filters::default();
    for (index, spec) in specs.iter().enumerate() {
        let path = format!("{path}.filters[{index}]");
        let made = one(view, route, spec, &path, mirror, &mut found);
        if let Err(fault) = made {
            broken(&path, fault);
        }
    }
    if found.redirect.is_some() && found.rewrite.is_some() {
        let what = "a rule redirects or rewrites, not both";
        let path = format!("{path}.filters");
        broken(&path, fault(FindingReason::IncompatibleFilters, what));
    }
    found
}

fn one(
    view: &View<'_>,
    route: &ObjectId,
    spec: &RouteFilter,
    path: &str,
    mirror: &mut impl FnMut(&BackendRef, &str) -> Target,
    found: &mut Filters,
) -> Result<(), Fault> {
    let RouteFilter {
        type_,
        request_header_modifier,
        response_header_modifier,
        request_mirror,
        request_redirect,
        url_rewrite,
        cors,
        external_auth: _,
        extension_ref,
    } = spec;
    let missing = || {
        unsupported(format!(
            "a filter of type {type_:?} needs the member of its type"
        ))
    };
    let twice = || {
        fault(
            FindingReason::IncompatibleFilters,
            format!("a second {type_} in one rule"),
        )
    };
    let calls = route.kind == Kind::GrpcRoute;
    match type_.as_str() {
        "RequestHeaderModifier" => edit(
            &mut found.request,
            request_header_modifier.as_ref().ok_or_else(missing)?,
        ),
        "ResponseHeaderModifier" => edit(
            &mut found.response,
            response_header_modifier.as_ref().ok_or_else(missing)?,
        ),
        "RequestMirror" => {
            let spec = request_mirror.as_ref().ok_or_else(missing)?;
            found.mirrors.push(mirrored(spec, path, mirror)?);
        }
        "RequestRedirect" if !calls => {
            let spec = request_redirect.as_ref().ok_or_else(missing)?;
            if found.redirect.replace(redirect(spec)?).is_some() {
                return Err(twice());
            }
        }
        "URLRewrite" if !calls => {
            let spec = url_rewrite.as_ref().ok_or_else(missing)?;
            if found.rewrite.replace(rewrite(spec)?).is_some() {
                return Err(twice());
            }
        }
        "CORS" if !calls => {
            let spec = cors.as_ref().ok_or_else(missing)?;
            if found.cors.replace(self::cors(spec)).is_some() {
                return Err(twice());
            }
        }
        "ExtensionRef" => {
            let reference = extension_ref.as_ref().ok_or_else(missing)?;
            found.profiles.push(profile(view, route, reference)?);
        }
        other => {
            let kind = route.kind.as_str();
            return Err(unsupported(format!(
                "a {kind} has no filter of type {other:?} here"
            )));
        }
    }
    Ok(())
}

/// The filters of a backendRef: edits of headers and no other.
pub(super) fn of_backend(specs: &[RouteFilter]) -> Result<(HeaderEdits, HeaderEdits), Fault> {
    let (mut request, mut response) = (HeaderEdits::default(), HeaderEdits::default());
    for spec in specs {
        let type_ = spec.type_.as_str();
        let (edits, modifier) = match type_ {
            "RequestHeaderModifier" => (&mut request, &spec.request_header_modifier),
            "ResponseHeaderModifier" => (&mut response, &spec.response_header_modifier),
            other => {
                let what = format!("a backendRef has no filter of type {other:?} here");
                return Err(unsupported(what));
            }
        };
        let missing = || unsupported(format!("a filter of type {type_:?} needs its member"));
        edit(edits, modifier.as_ref().ok_or_else(missing)?);
    }
    Ok((request, response))
}

/// Adds a filter's edits. A name that it removes is gone at the end, whatever else the filter says of it.
fn edit(edits: &mut HeaderEdits, spec: &HeaderFilter) {
    let HeaderFilter { set, add, remove } = spec;
    let removed: BTreeSet<String> = remove
        .iter()
        .map(|name| name.to_ascii_lowercase())
        .collect();
    let keep = |header: &&Header| !removed.contains(&header.name.to_ascii_lowercase());
    let pair = |header: &Header| (header.name.to_ascii_lowercase(), header.value.clone());
    edits.set.extend(set.iter().filter(keep).map(pair));
    edits.add.extend(add.iter().filter(keep).map(pair));
    edits.remove.extend(removed);
}

fn mirrored(
    spec: &RequestMirror,
    path: &str,
    mirror: &mut impl FnMut(&BackendRef, &str) -> Target,
) -> Result<Mirror, Fault> {
    let RequestMirror {
        backend_ref,
        percent,
        fraction,
    } = spec;
    let (numerator, denominator) = match (percent, fraction) {
        (None, None) => (1, 1),
        (Some(percent), None) => (*percent, 100),
        (
            None,
            Some(Fraction {
                numerator,
                denominator,
            }),
        ) => (*numerator, denominator.unwrap_or(100)),
        (Some(_), Some(_)) => {
            return Err(unsupported("a mirror has percent or fraction, not both"));
        }
    };
    if denominator == 0 || numerator > denominator {
        return Err(unsupported("a mirror takes at most all of the requests"));
    }
    let path = format!("{path}.requestMirror.backendRef");
    Ok(Mirror {
        target: mirror(backend_ref, &path),
        numerator,
        denominator,
    })
}

/// A host that is one and no wildcard.
fn host(hostname: Option<&String>) -> Result<Option<String>, Fault> {
    let Some(host) = hostname.map(|host| host.to_ascii_lowercase()) else {
        return Ok(None);
    };
    match seal::hostname(&host) {
        Ok(()) if !host.starts_with('*') => Ok(Some(host)),
        _ => Err(unsupported(format!("{host:?} is no hostname"))),
    }
}

fn path_change(spec: Option<&PathModifier>) -> Result<Option<RedirectPath>, Fault> {
    let Some(spec) = spec else {
        return Ok(None);
    };
    let PathModifier {
        type_,
        replace_full_path,
        replace_prefix_match,
    } = spec;
    Ok(Some(
        match (type_.as_str(), replace_full_path, replace_prefix_match) {
            ("ReplaceFullPath", Some(path), None) => RedirectPath::ReplaceFullPath(path.clone()),
            ("ReplacePrefixMatch", None, Some(prefix)) => {
                RedirectPath::ReplacePrefixMatch(prefix.clone())
            }
            _ => {
                return Err(unsupported(
                    "a path is changed by ReplaceFullPath or ReplacePrefixMatch, with the member of that name",
                ));
            }
        },
    ))
}

fn redirect(spec: &RequestRedirect) -> Result<Redirect, Fault> {
    let RequestRedirect {
        scheme,
        hostname,
        path,
        port,
        status_code,
    } = spec;
    if let Some(scheme) = scheme
        && !matches!(scheme.as_str(), "http" | "https")
    {
        return Err(unsupported(format!(
            "a redirect leads to http or https, not to {scheme:?}"
        )));
    }
    let status = status_code.unwrap_or(DEFAULT_REDIRECT);
    if !matches!(status, 301 | 302 | 303 | 307 | 308) {
        return Err(unsupported(format!(
            "a redirect answers 301, 302, 303, 307 or 308, not {status}"
        )));
    }
    Ok(Redirect {
        scheme: scheme.clone(),
        hostname: host(hostname.as_ref())?,
        port: *port,
        path: path_change(path.as_ref())?,
        status,
    })
}

fn rewrite(spec: &UrlRewrite) -> Result<Rewrite, Fault> {
    let UrlRewrite { hostname, path } = spec;
    Ok(Rewrite {
        hostname: host(hostname.as_ref())?,
        path: path_change(path.as_ref())?,
    })
}

fn cors(spec: &Cors) -> route::Cors {
    let Cors {
        allow_origins,
        allow_credentials,
        allow_methods,
        allow_headers,
        expose_headers,
        max_age,
    } = spec;
    route::Cors {
        allow_origins: allow_origins.clone(),
        allow_methods: allow_methods.clone(),
        allow_headers: allow_headers.clone(),
        expose_headers: expose_headers.clone(),
        allow_credentials: allow_credentials.unwrap_or(false),
        max_age_s: max_age.unwrap_or(DEFAULT_MAX_AGE_S),
    }
}

fn profile(
    view: &View<'_>,
    route: &ObjectId,
    reference: &LocalReference,
) -> Result<Arc<RouteFacts>, Fault> {
    let LocalReference { group, kind, name } = reference;
    if group != GROUP || kind != Kind::ApiRoute.as_str() {
        let what = format!("extensionRef names an ApiRoute of {GROUP} without parentRefs");
        return Err(fault(FindingReason::InvalidKind, what));
    }
    rules::profile(view, &route.namespace, name).map_err(|error| (error.reason.into(), error))
}
