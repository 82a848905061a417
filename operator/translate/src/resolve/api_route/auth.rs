//! Providers and requirements: where a name leads, and what the sidecar is to check.

use std::sync::Arc;

use sluice_crds::{
    ApiRouteSpec, SluiceConfig,
    api_route::{
        AuthRequirement, RouteRule,
        auth::{
            Anonymous, ApiKey, AuthMethod, AuthMode, AuthProvider, Hop, HttpMessageSignature, Jwt,
            jwt::{JwtAlgorithm, JwtKeySource},
            signature::{DigestMode, NonceMemory, NonceStoreFailure, SignatureAlgorithm},
        },
    },
    common::SecretKeys,
};
use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::{Keys, auth, secret::Purpose},
};

use crate::{
    resolve::secrets::{self, Problem},
    view::View,
    world::RouteFacts,
};

/// Where providers are declared, as units name it: a route, or `-` for SluiceConfig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Where their Secrets are.
    pub(crate) secrets: String,
    /// The namespace of their keys units.
    pub(crate) namespace: String,
    /// The route of their keys units.
    pub(crate) route: String,
}

impl Owner {
    pub(crate) fn route(namespace: &str, name: &str) -> Self {
        Self {
            secrets: namespace.into(),
            namespace: namespace.into(),
            route: name.into(),
        }
    }

    pub(crate) fn config(view: &View<'_>) -> Self {
        Self {
            secrets: view.settings().operator_namespace.clone(),
            namespace: "-".into(),
            route: "-".into(),
        }
    }
}

/// A provider as the sidecar gets it.
pub(crate) struct Made {
    /// How it proves an identity.
    pub(crate) method: auth::Method,
    /// The keys it accepts.
    pub(crate) keys: Option<(UnitName, Keys)>,
    /// What is wrong with it.
    pub(crate) problems: Vec<Problem>,
}

/// Makes a provider. One that cannot serve is Broken: whoever asks for it is refused.
pub(crate) fn provider(view: &View<'_>, owner: &Owner, provider: &AuthProvider) -> Made {
    let made = match provider.get() {
        Ok(AuthMethod::ApiKey(spec)) => api_key(view, owner, &provider.name, spec),
        Ok(AuthMethod::HttpMessageSignature(spec)) => signature(view, owner, &provider.name, spec),
        Ok(AuthMethod::Jwt(spec)) => jwt(view, owner, &provider.name, spec),
        Ok(AuthMethod::Hop(spec)) => Ok(hop(spec)),
        Err(error) => Err(invalid(&error)),
    };
    made.unwrap_or_else(|error| Made {
        problems: vec![(error.reason.into(), error.message.clone())],
        method: auth::Method::Broken(error),
        keys: None,
    })
}

/// The keys unit of a provider, and the method that takes them.
fn with_keys(
    view: &View<'_>,
    owner: &Owner,
    name: &str,
    (source, purpose): (SecretKeys<'_>, Purpose),
    method: impl FnOnce(UnitName) -> auth::Method,
) -> Made {
    let (keys, problems) = secrets::keys(view, &owner.secrets, source, purpose);
    let unit = UnitName::keys(&owner.namespace, &owner.route, name);
    match keys {
        Ok(keys) => Made {
            method: method(unit.clone()),
            keys: Some((unit, keys)),
            problems,
        },
        Err(error) => Made {
            method: auth::Method::Broken(error),
            keys: None,
            problems,
        },
    }
}

fn api_key(view: &View<'_>, owner: &Owner, name: &str, spec: &ApiKey) -> Result<Made, ConfigError> {
    let source = (
        spec.keys().map_err(|error| invalid(&error))?,
        Purpose::ApiKeys,
    );
    let header = spec.effective_header().to_ascii_lowercase();
    Ok(with_keys(view, owner, name, source, |keys| {
        auth::Method::ApiKey(auth::ApiKey { header, keys })
    }))
}

fn signature(
    view: &View<'_>,
    owner: &Owner,
    name: &str,
    spec: &HttpMessageSignature,
) -> Result<Made, ConfigError> {
    let source = (
        spec.keys.source().map_err(|error| invalid(&error))?,
        Purpose::SignatureKeys,
    );
    let nonce = spec.nonce.as_ref().map(|nonce| {
        let memory = nonce.memory().map_err(|error| invalid(&error))?;
        Ok(auth::Nonce {
            required: nonce.effective_required(),
            scope: nonce_scope(view, memory)?,
        })
    });
    let nonce = nonce.transpose()?;
    let method = |keys| {
        auth::Method::Signature(auth::Signature {
            keys,
            algorithms: spec.algorithms.iter().map(signature_algorithm).collect(),
            required_components: spec
                .effective_components()
                .into_iter()
                .map(str::to_owned)
                .collect(),
            max_age_ms: millis(spec.effective_max_age()),
            skew_ms: millis(spec.effective_skew()),
            nonce,
            digest: match spec.effective_digest() {
                DigestMode::Buffered => auth::Digest::Buffered,
                DigestMode::None => auth::Digest::None,
            },
            max_buffered: spec.effective_max_buffered(),
        })
    };
    Ok(with_keys(view, owner, name, source, method))
}

fn nonce_scope(view: &View<'_>, memory: NonceMemory<'_>) -> Result<auth::NonceScope, ConfigError> {
    match memory {
        NonceMemory::Local => Ok(auth::NonceScope::Local),
        NonceMemory::Shared { store, on_failure } => Ok(auth::NonceScope::Shared {
            store: store_unit(view, &store.name)?,
            on_store_failure: match on_failure {
                NonceStoreFailure::Local => auth::NonceFallback::Local,
                NonceStoreFailure::Deny => auth::NonceFallback::Deny,
            },
        }),
    }
}

/// The unit of a store that SluiceConfig declares.
pub(crate) fn store_unit(view: &View<'_>, name: &str) -> Result<UnitName, ConfigError> {
    let declared = view
        .config()
        .is_some_and(|config| config.stores.iter().any(|store| store.name == name));
    declared.then(|| UnitName::store(name)).ok_or_else(|| {
        let what = format!("SluiceConfig has no store {name}");
        ConfigError::new(ConfigReason::StoreNotFound, what)
    })
}

fn jwt(view: &View<'_>, owner: &Owner, name: &str, spec: &Jwt) -> Result<Made, ConfigError> {
    let method = |keys| {
        auth::Method::Jwt(auth::Jwt {
            issuer: Some(spec.issuer.to_string()),
            audiences: spec.audiences.iter().map(ToString::to_string).collect(),
            algorithms: spec.algorithms.iter().map(jwt_algorithm).collect(),
            keys,
            attributes: spec
                .attributes
                .iter()
                .map(|mapping| auth::ClaimAttribute {
                    name: mapping.name.to_string(),
                    claim: mapping.claim.to_string(),
                })
                .collect(),
            scopes_claim: spec.effective_scopes_claim().to_owned(),
            leeway_ms: millis(spec.effective_leeway()),
        })
    };
    match spec.keys.source().map_err(|error| invalid(&error))? {
        JwtKeySource::Jwks(set) => Ok(Made {
            method: method(auth::JwtKeys::Inline(set.to_owned())),
            keys: None,
            problems: Vec::new(),
        }),
        JwtKeySource::Secrets(source) => {
            let source = (source, Purpose::JwtKeys);
            Ok(with_keys(view, owner, name, source, |keys| {
                method(auth::JwtKeys::Keys(keys))
            }))
        }
    }
}

fn hop(spec: &Hop) -> Made {
    let from = spec.from.iter().map(ToString::to_string).collect();
    Made {
        method: auth::Method::Hop(auth::Hop { from }),
        keys: None,
        problems: Vec::new(),
    }
}

fn signature_algorithm(algorithm: &SignatureAlgorithm) -> auth::SignatureAlgorithm {
    match algorithm {
        SignatureAlgorithm::HmacSha256 => auth::SignatureAlgorithm::HmacSha256,
    }
}

fn jwt_algorithm(algorithm: &JwtAlgorithm) -> auth::JwtAlgorithm {
    match algorithm {
        JwtAlgorithm::Hs256 => auth::JwtAlgorithm::HS256,
        JwtAlgorithm::Rs256 => auth::JwtAlgorithm::RS256,
        JwtAlgorithm::Es256 => auth::JwtAlgorithm::ES256,
    }
}

fn invalid(error: &impl ToString) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, error.to_string())
}

/// Milliseconds of a duration whose bounds are far below what fits.
pub(crate) fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The requirement of a rule: the nearest one, whole.
pub(super) fn nearest<'a>(
    spec: &'a ApiRouteSpec,
    rule: &'a RouteRule,
    profiles: &'a [Arc<RouteFacts>],
) -> Option<AuthRequirement<'a>> {
    let own = rule.auth.as_ref().map(|auth| auth.requirement());
    let route = || spec.auth.as_ref().and_then(|auth| auth.requirement());
    own.or_else(route).or_else(|| of_profiles(profiles))
}

/// The requirement of the first profile that has one.
pub(crate) fn of_profiles(profiles: &[Arc<RouteFacts>]) -> Option<AuthRequirement<'_>> {
    let specs = profiles.iter().filter_map(|profile| profile.sound());
    specs
        .filter_map(|spec| spec.auth.as_ref())
        .find_map(|auth| auth.requirement())
}

/// The providers of one route unit, gathered while its rules are resolved.
pub(crate) struct Providers<'a> {
    view: &'a View<'a>,
    /// The ApiRoute whose own providers count; none for a route of the Gateway API, which has none.
    route: Option<&'a RouteFacts>,
    config: Option<Arc<SluiceConfig>>,
    taken: Vec<Taken>,
}

/// A provider that a rule asked for.
struct Taken {
    owner: Owner,
    declared: String,
    unit: auth::Provider,
}

impl<'a> Providers<'a> {
    pub(crate) fn new(view: &'a View<'a>, route: &'a RouteFacts) -> Self {
        Self {
            route: Some(route),
            ..Self::of_profiles(view)
        }
    }

    /// Of a route that declares none itself.
    pub(crate) fn of_profiles(view: &'a View<'a>) -> Self {
        Self {
            view,
            route: None,
            config: view.config(),
            taken: Vec::new(),
        }
    }

    /// A requirement with the names under which the unit has its providers. Nothing where it asks for nothing.
    pub(crate) fn requirement(
        &mut self,
        wanted: AuthRequirement<'_>,
        profiles: &[Arc<RouteFacts>],
    ) -> Result<Option<auth::Requirement>, ConfigError> {
        let AuthRequirement {
            mode: AuthMode::Enforce,
            anonymous,
            any_of,
        } = wanted;
        let anonymous = match (anonymous, any_of.is_empty()) {
            (Anonymous::Allow, true) => return Ok(None),
            (Anonymous::Deny, true) => {
                let what = "the requirement names no provider and would let nobody in";
                return Err(ConfigError::new(ConfigReason::Invalid, what));
            }
            (Anonymous::Allow, false) => auth::Anonymous::Allow,
            (Anonymous::Deny, false) => auth::Anonymous::Deny,
        };
        let any_of = any_of.iter().map(|combination| {
            let names = combination
                .all_of
                .iter()
                .map(|name| self.take(name, profiles));
            Ok(auth::AllOf {
                all_of: names.collect::<Result<_, ConfigError>>()?,
            })
        });
        Ok(Some(auth::Requirement {
            any_of: any_of.collect::<Result<_, ConfigError>>()?,
            anonymous,
        }))
    }

    /// Looks a name up outward (route, profiles, SluiceConfig) and says what the unit calls that provider.
    fn take(&mut self, name: &str, profiles: &[Arc<RouteFacts>]) -> Result<String, ConfigError> {
        let Some((owner, provider)) = self.find(name, profiles) else {
            let what = format!("no provider {name} in the route, its profile or SluiceConfig");
            return Err(ConfigError::new(ConfigReason::ReferenceNotFound, what));
        };
        let known = self
            .taken
            .iter()
            .find(|taken| taken.owner == owner && taken.declared == name);
        if let Some(known) = known {
            return Ok(known.unit.name.clone());
        }
        // Two profiles may declare the same name: the second is told apart by its profile's.
        let clashes = self.taken.iter().any(|taken| taken.unit.name == name);
        let called = match clashes {
            true => format!("{}/{name}", owner.route),
            false => name.to_owned(),
        };
        let made = self::provider(self.view, &owner, &provider);
        self.taken.push(Taken {
            owner,
            declared: name.to_owned(),
            unit: auth::Provider {
                name: called.clone(),
                method: made.method,
            },
        });
        Ok(called)
    }

    fn find(&self, name: &str, profiles: &[Arc<RouteFacts>]) -> Option<(Owner, AuthProvider)> {
        let declared = |list: &[AuthProvider]| list.iter().find(|one| one.name == name).cloned();
        let of_route = |route: &RouteFacts| {
            let list = &route.sound()?.auth.as_ref()?.providers;
            let owner = Owner::route(&route.id.namespace, &route.id.name);
            Some((owner, declared(list)?))
        };
        self.route
            .and_then(of_route)
            .or_else(|| profiles.iter().find_map(|profile| of_route(profile)))
            .or_else(|| {
                let provider = declared(&self.config.as_ref()?.auth_providers)?;
                Some((Owner::config(self.view), provider))
            })
    }

    /// Providers of others that cannot serve: the route cannot mend them, but should say why it refuses.
    pub(crate) fn broken_elsewhere(&self) -> impl Iterator<Item = &ConfigError> {
        let own = self
            .route
            .map(|route| Owner::route(&route.id.namespace, &route.id.name));
        self.taken
            .iter()
            .filter(move |taken| own.as_ref() != Some(&taken.owner))
            .filter_map(|taken| match &taken.unit.method {
                auth::Method::Broken(error) => Some(error),
                _ => None,
            })
    }

    /// Sorted by name.
    pub(crate) fn into_units(self) -> Vec<auth::Provider> {
        let mut units: Vec<_> = self.taken.into_iter().map(|taken| taken.unit).collect();
        units.sort_by(|a, b| a.name.cmp(&b.name));
        units
    }
}
