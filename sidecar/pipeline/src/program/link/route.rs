//! Links a route: each rule gets its providers, policies and targets, or the reason why it has none.

use std::{collections::BTreeMap, sync::Arc};

use sluice_snapshot::{
    ConfigError, ConfigReason, UnitName,
    unit::{
        self,
        auth::{Method, NonceScope},
    },
};

use super::{
    super::{
        Action, Extras, Match, Mirror, Requirement, Route, Rule, StreamRoute, Target, TargetEdits,
        WeightedTarget,
    },
    Linker,
};
use crate::{auth::Provider, stable_id::StableId};

impl Linker<'_> {
    pub(super) fn build_route(&self, name: &UnitName, route: &unit::Route) -> Route {
        let unit::Route {
            object,
            request_limits,
            providers,
            rules,
            broken,
        } = route;
        // The same unit with other needs, for instance new endpoints: its expressions are kept.
        let elder = self.previous.filter(|previous| {
            let then = previous.units.get(name).map(|held| &held.hash);
            then == self.set.units.get(name).map(|held| &held.hash)
        });
        let elder = elder.and_then(|previous| previous.parts.routes.get(name));
        let providers: BTreeMap<&str, Arc<Provider>> = providers
            .iter()
            .map(|provider| (provider.name.as_str(), Arc::new(self.provider(provider))))
            .collect();
        let rules = rules.iter().enumerate().map(|(index, rule)| {
            let kept = elder
                .and_then(|elder| elder.rules.get(index))
                .map(|rule| rule.matches.clone());
            self.rule(object, index, rule, kept, &providers)
                .map(Arc::new)
        });
        let (rules, broken) = match rules.collect::<Result<_, _>>() {
            Ok(rules) => (rules, broken.clone()),
            // `compile_unit` has admitted the route; this is here so that nothing can ever be skipped.
            Err(error) => (
                Vec::new(),
                Some(ConfigError::new(ConfigReason::Invalid, error)),
            ),
        };
        Route {
            object: object.clone(),
            limits: *request_limits,
            rules,
            broken,
        }
    }

    fn rule(
        &self,
        object: &unit::ObjectRef,
        index: usize,
        rule: &unit::route::Rule,
        kept: Option<Arc<[Match]>>,
        providers: &BTreeMap<&str, Arc<Provider>>,
    ) -> Result<Rule, String> {
        let unit::route::Rule {
            name,
            matches,
            auth,
            policies,
            cache,
            request_headers,
            response_headers,
            rewrite,
            mirrors,
            cors,
            timeouts,
            action,
            broken,
        } = rule;
        let matches = match kept {
            Some(kept) => kept,
            None => matches
                .iter()
                .map(Match::compile)
                .collect::<Result<_, _>>()?,
        };
        let auth = auth
            .as_ref()
            .map(|requirement| requirement_of(requirement, providers))
            .transpose()?;
        Ok(Rule {
            id: StableId::new(object, name),
            index,
            name: name.clone(),
            object: object.clone(),
            matches,
            auth,
            policies: policies.iter().map(|policy| self.policy(policy)).collect(),
            cache: cache.clone(),
            request_headers: request_headers.clone(),
            response_headers: response_headers.clone(),
            extras: self.extras(rewrite.as_ref(), mirrors, cors.as_ref()),
            timeouts: *timeouts,
            action: self.action(action),
            broken: broken.clone(),
        })
    }

    /// None where the rule asks for nothing of the kind.
    fn extras(
        &self,
        rewrite: Option<&unit::route::Rewrite>,
        mirrors: &[unit::route::Mirror],
        cors: Option<&unit::route::Cors>,
    ) -> Option<Box<Extras>> {
        if rewrite.is_none() && mirrors.is_empty() && cors.is_none() {
            return None;
        }
        Some(Box::new(Extras {
            rewrite: rewrite.cloned(),
            mirrors: mirrors.iter().map(|mirror| self.mirror(mirror)).collect(),
            cors: cors.cloned(),
        }))
    }

    fn mirror(&self, mirror: &unit::route::Mirror) -> Mirror {
        let unit::route::Mirror {
            target,
            numerator,
            denominator,
        } = mirror;
        let backend = self.target(target).and_then(|target| match target {
            Target::Backend(backend) => Ok(backend),
            Target::App | Target::Shards(_) => {
                let what = "requests are mirrored to Services only";
                Err(ConfigError::new(ConfigReason::Invalid, what))
            }
        });
        Mirror {
            backend,
            numerator: *numerator,
            denominator: *denominator,
        }
    }

    pub(super) fn build_stream_route(&self, route: &unit::StreamRoute) -> StreamRoute {
        let unit::StreamRoute {
            object,
            targets,
            broken,
        } = route;
        let (targets, total) = self.weighted(targets);
        StreamRoute {
            object: object.clone(),
            targets,
            total,
            broken: broken.clone(),
        }
    }

    /// A provider whose keys or nonce store are missing is broken: what asks for it is refused.
    fn provider(&self, provider: &unit::auth::Provider) -> Provider {
        let ring = |name: &UnitName| {
            let ring = self.parts.keyrings.get(name).cloned();
            ring.unwrap_or_else(|| Err(self.missing(name, ConfigReason::SecretNotFound)))
        };
        let problem = match &provider.method {
            Method::ApiKey(method) => ring(&method.keys).err(),
            Method::Signature(method) => {
                let store = method.nonce.as_ref().and_then(|nonce| match &nonce.scope {
                    NonceScope::Local => None,
                    NonceScope::Shared { store, .. } => self.store(store).err(),
                });
                ring(&method.keys).err().or(store)
            }
            Method::Jwt(method) => method.keys.unit().and_then(|keys| ring(keys).err()),
            Method::Hop(_) | Method::Broken(_) => None,
        };
        let lookup = |name: &UnitName| ring(name).ok();
        match problem {
            None => Provider::compile(provider, &lookup),
            Some(error) => {
                let broken = unit::auth::Provider {
                    name: provider.name.clone(),
                    method: Method::Broken(error),
                };
                Provider::compile(&broken, &lookup)
            }
        }
    }

    fn action(&self, action: &unit::route::Action) -> Action {
        match action {
            unit::route::Action::Redirect(redirect) => Action::Redirect(redirect.clone()),
            unit::route::Action::Backends(targets) => {
                let (targets, total) = self.weighted(targets);
                Action::Backends { targets, total }
            }
        }
    }

    /// Targets, and the sum of their weights.
    fn weighted(&self, targets: &[unit::route::WeightedTarget]) -> (Vec<WeightedTarget>, u64) {
        let linked = targets.iter().map(|weighted| {
            let unit::route::WeightedTarget {
                weight,
                target,
                request_headers,
                response_headers,
            } = weighted;
            let edited = !request_headers.is_empty() || !response_headers.is_empty();
            WeightedTarget {
                weight: *weight,
                target: self.target(target),
                edits: edited.then(|| {
                    Arc::new(TargetEdits {
                        request: request_headers.clone(),
                        response: response_headers.clone(),
                    })
                }),
            }
        });
        let weights = targets.iter().map(|weighted| u64::from(weighted.weight));
        (linked.collect(), weights.sum())
    }

    fn target(&self, target: &unit::route::Target) -> Result<Target, ConfigError> {
        match target {
            unit::route::Target::App => Ok(Target::App),
            unit::route::Target::Backend(name) => self.backend(name).map(Target::Backend),
            unit::route::Target::Shards(name) => {
                let map = self.parts.shard_maps.get(name).cloned();
                map.map(Target::Shards)
                    .ok_or_else(|| self.missing(name, ConfigReason::BackendNotFound))
            }
            unit::route::Target::Broken(error) => Err(error.clone()),
        }
    }
}

/// The providers that a requirement names.
fn requirement_of(
    requirement: &unit::auth::Requirement,
    providers: &BTreeMap<&str, Arc<Provider>>,
) -> Result<Requirement, String> {
    let unit::auth::Requirement { any_of, anonymous } = requirement;
    let all_of = |names: &[String]| {
        if names.is_empty() {
            return Err("an alternative without providers would admit everyone".to_owned());
        }
        let found = names.iter().map(|name| {
            providers
                .get(name.as_str())
                .cloned()
                .ok_or_else(|| format!("the route has no provider {name:?}"))
        });
        found.collect::<Result<Vec<_>, _>>()
    };
    let any_of = any_of
        .iter()
        .map(|alternative| all_of(&alternative.all_of))
        .collect::<Result<_, _>>()?;
    Ok(Requirement {
        any_of,
        anonymous: *anonymous,
    })
}
