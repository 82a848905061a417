//! SluiceConfig: stores, shared auth providers, and what it says once for every sidecar.

use sluice_crds::{
    SluiceConfig,
    sluice_config::{ProxyProtocol, RedisMode, RedisStore, RedisTls, StoreUse, TrustedHops},
};
use sluice_snapshot::{
    ConfigError, ConfigReason, Unit, UnitName,
    unit::{Settings, Store, settings, store},
};

use super::{Resolved, api_route::auth, report::Report, seal, secrets};
use crate::{view::View, world::ObjectId};

pub(super) fn resolve(view: &View<'_>, config: &SluiceConfig) -> Resolved {
    let mut report = Report::of(&ObjectId::config());
    let mut resolved = Resolved::default();
    for (index, store) in config.stores.iter().enumerate() {
        let path = format!("stores[{index}]");
        let made = store.get().map_err(|error| invalid(&error));
        let made = made.and_then(|StoreUse::Redis(redis)| {
            redis_store(view, &store.name, redis, &mut |error| {
                report.error(&path, &error)
            })
        });
        match made {
            Ok(unit) => {
                let name = UnitName::store(&store.name);
                seal::other(name, Unit::Store(unit), &mut resolved, &mut report);
            }
            Err(error) => report.error(&path, &error),
        }
    }
    let owner = auth::Owner::config(view);
    for (index, provider) in config.auth_providers.iter().enumerate() {
        let made = auth::provider(view, &owner, provider);
        for (reason, what) in made.problems {
            let path = format!("authProviders[{index}]");
            report.add(
                reason,
                &path,
                &format!("provider {}: {what}", provider.name),
            );
        }
        if let Some((name, keys)) = made.keys {
            seal::other(name, Unit::Keys(keys), &mut resolved, &mut report);
        }
    }
    if let Some(hops) = &config.trusted_hops {
        let unit = Unit::Settings(trusted(hops));
        seal::other(UnitName::settings(), unit, &mut resolved, &mut report);
    }
    resolved.findings = report.into_findings();
    resolved
}

fn trusted(hops: &TrustedHops) -> Settings {
    Settings {
        proxy_protocol: match hops.effective_proxy_protocol() {
            ProxyProtocol::Disabled => settings::ProxyProtocol::Disabled,
            ProxyProtocol::Optional => settings::ProxyProtocol::Optional,
            ProxyProtocol::Required => settings::ProxyProtocol::Required,
        },
        forwarded_for: hops.effective_forwarded_for(),
    }
}

/// A store. Without its credentials it will refuse the sidecars, and each use has a named answer to that.
fn redis_store(
    view: &View<'_>,
    name: &str,
    redis: &RedisStore,
    fault: &mut impl FnMut(ConfigError),
) -> Result<Store, ConfigError> {
    let namespace = &view.settings().operator_namespace;
    let credentials = redis.secret_ref.as_ref().and_then(|secret| {
        secrets::credentials(view, namespace, &secret.name)
            .map_err(&mut *fault)
            .ok()
    });
    Ok(Store {
        name: name.to_owned(),
        mode: match (redis.effective_mode(), &redis.sentinel_master) {
            (RedisMode::Standalone, _) => store::RedisMode::Standalone,
            (RedisMode::Cluster, _) => store::RedisMode::Cluster,
            (RedisMode::Sentinel, Some(primary)) => store::RedisMode::Sentinel {
                primary: primary.to_string(),
            },
            (RedisMode::Sentinel, None) => {
                let what = "mode Sentinel needs sentinelMaster";
                return Err(ConfigError::new(ConfigReason::Invalid, what));
            }
        },
        addresses: redis.addresses.iter().map(ToString::to_string).collect(),
        tls: redis.tls.map(|RedisTls {}| store::StoreTls { ca: None }),
        credentials,
        key_prefix: redis.effective_key_prefix().to_owned(),
    })
}

fn invalid(error: &impl ToString) -> ConfigError {
    ConfigError::new(ConfigReason::Invalid, error.to_string())
}
