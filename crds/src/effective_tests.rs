//! What consumers see: defaults applied, and unions and scopes without a wrong state.

use serde_json::{Value, json};

use crate::{
    ApiRouteSpec, RateLimitPolicySpec, ShardSetSpec,
    api_route::{
        BackendRef, BackendTarget, RouteAuth, RuleAuth, Timeouts,
        auth::{
            Anonymous, AuthMethod, AuthMode, AuthProvider,
            jwt::{JwtKeySource, JwtKeys},
            signature::{HttpMessageSignature, Nonce, NonceMemory, NonceStoreFailure},
        },
        cache::{Cache, CacheMode, CacheScope},
        matches::{HeaderMatch, PathMatch, PathMatchType, ValueMatchType},
    },
    common::WrongMember,
    rate_limit_policy::{
        ClientAddressKey, Consistency, GlobalLimit, KeyPart, KeyPartUse, Limit, LimitHeaders,
        LimitMode, LimitReach, OnMissingKey, StoreFailure, TokenBucket,
    },
    sluice_config::{
        CaptureMode, Injection, LogLevel, ProxyProtocol, RedisMode, RedisStore, TrustedHops,
    },
};

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("decodes")
}

#[test]
fn a_union_yields_the_member_its_type_names() {
    let get = |value: Value| {
        read::<KeyPart>(value).get().map(|part| match part {
            KeyPartUse::ClientAddress(key) => {
                format!(
                    "{}/{}",
                    key.effective_prefix_v4(),
                    key.effective_prefix_v6()
                )
            }
            KeyPartUse::Header(key) => key.name.to_string(),
            KeyPartUse::Identity => "identity".into(),
            KeyPartUse::IdentityAttribute(key) => key.name.to_string(),
            KeyPartUse::Claim(key) => key.name.to_string(),
        })
    };
    assert_eq!(
        get(json!({"type": "Header", "header": {"name": "X-A"}})),
        Ok("X-A".into())
    );
    assert_eq!(get(json!({"type": "Identity"})), Ok("identity".into()));
    assert_eq!(
        get(json!({"type": "ClientAddress"})),
        Ok("32/64".into()),
        "the member may be left out"
    );
    assert_eq!(
        get(json!({"type": "ClientAddress", "clientAddress": {"prefixV4": 24}})),
        Ok("24/64".into())
    );
    assert_eq!(
        get(json!({"type": "Header"})),
        Err(WrongMember::Missing {
            kind: "Header",
            member: "header"
        })
    );
    assert_eq!(
        get(json!({"type": "Identity", "claim": {"name": "a"}})),
        Err(WrongMember::Foreign {
            kind: "Identity",
            member: "claim"
        })
    );
    assert_eq!(
        get(json!({"type": "Header", "header": {"name": "a"}, "claim": {"name": "a"}})),
        Err(WrongMember::Foreign {
            kind: "Header",
            member: "claim"
        })
    );
}

#[test]
fn a_provider_keeps_its_name_and_its_method() {
    let provider: AuthProvider =
        read(json!({"name": "a", "type": "APIKey", "apiKey": {"secretRef": {"name": "s"}}}));
    let Ok(AuthMethod::ApiKey(key)) = provider.get() else {
        panic!("an API key: {:?}", provider.get());
    };
    assert_eq!(
        (provider.name.as_str(), key.effective_header()),
        ("a", "X-Api-Key")
    );
}

#[test]
fn a_requirement_is_never_weaker_than_written() {
    let rule = read::<RuleAuth>(json!({}));
    let requirement = rule.requirement();
    assert_eq!(
        (
            requirement.mode,
            requirement.anonymous,
            requirement.any_of.len()
        ),
        (AuthMode::Enforce, Anonymous::Deny, 0),
        "an empty block lets nobody in"
    );
    let only_providers: RouteAuth =
        read(json!({"providers": [{"name": "a", "type": "APIKey", "apiKey": {}}]}));
    assert_eq!(only_providers.requirement(), None);
    let open: RouteAuth = read(json!({"anonymous": "Allow"}));
    assert_eq!(
        open.requirement().map(|requirement| requirement.anonymous),
        Some(Anonymous::Allow)
    );
    let closed: RouteAuth = read(json!({"anyOf": [{"allOf": ["a"]}]}));
    assert_eq!(
        closed
            .requirement()
            .map(|requirement| requirement.anonymous),
        Some(Anonymous::Deny)
    );
}

#[test]
fn a_backend_is_a_service_with_a_port_or_a_shard_set_without() {
    let target = |value: Value| read::<BackendRef>(value);
    let service = target(json!({"name": "a", "port": 80}));
    assert_eq!(
        service.target(),
        Ok(BackendTarget::Service {
            name: &"a".into(),
            port: 80
        })
    );
    assert_eq!(service.effective_weight(), 1);
    let shards =
        target(json!({"group": "sluice.dev", "kind": "ShardSet", "name": "a", "weight": 0}));
    assert_eq!(
        shards.target(),
        Ok(BackendTarget::ShardSet { name: &"a".into() })
    );
    assert_eq!(shards.effective_weight(), 0);
    assert!(target(json!({"name": "a"})).target().is_err());
    assert!(
        target(json!({"kind": "ShardSet", "name": "a", "port": 80}))
            .target()
            .is_err()
    );
}

#[test]
fn zero_switches_a_timeout_off() {
    let timeouts: Timeouts = read(json!({"request": "0s", "backendRequest": "800ms"}));
    assert_eq!(timeouts.effective_request(), None);
    assert_eq!(
        timeouts
            .effective_backend_request()
            .map(|time| time.as_millis()),
        Some(800)
    );
}

#[test]
fn matches_default_to_prefix_and_exact() {
    assert_eq!(
        read::<PathMatch>(json!({"value": "/"})).effective_kind(),
        PathMatchType::PathPrefix
    );
    let header: HeaderMatch = read(json!({"name": "a", "value": "b"}));
    assert_eq!(header.effective_kind(), ValueMatchType::Exact);
}

#[test]
fn a_cache_stores_nothing_without_freshness_unless_told() {
    let cache = Cache::default();
    assert_eq!(
        (cache.effective_mode(), cache.effective_scope()),
        (CacheMode::Enabled, CacheScope::Standard)
    );
    assert!(cache.effective_default_ttl().is_zero());
    assert_eq!(cache.effective_max_bytes(), 64 << 20);
    let small: Cache = read(json!({"levels": {"memory": {"maxBytes": "1Ki"}}}));
    assert_eq!(small.effective_max_bytes(), 1024);
}

#[test]
fn signatures_are_checked_strictly_by_default() {
    let signature: HttpMessageSignature = read(json!({"keys": {}, "algorithms": ["hmac-sha256"]}));
    assert_eq!(signature.effective_components(), ["@method", "@target-uri"]);
    assert_eq!(
        (
            signature.effective_max_age().as_secs(),
            signature.effective_skew().as_secs()
        ),
        (300, 30)
    );
    assert_eq!(signature.effective_max_buffered(), 256 << 10);
    assert_eq!(signature.effective_digest().as_str(), "Buffered");
    assert!(signature.keys.source().is_err(), "keys from nowhere");
}

#[test]
fn a_shared_nonce_needs_its_store_and_denies_without_it() {
    let nonce: Nonce = read(json!({"scope": "Shared", "storeRef": {"name": "default"}}));
    assert!(nonce.effective_required());
    let store = read(json!({"name": "default"}));
    assert_eq!(
        nonce.memory(),
        Ok(NonceMemory::Shared {
            store: &store,
            on_failure: NonceStoreFailure::Deny
        })
    );
    assert_eq!(Nonce::default().memory(), Ok(NonceMemory::Local));
    assert!(read::<Nonce>(json!({"scope": "Shared"})).memory().is_err());
    assert!(
        read::<Nonce>(json!({"storeRef": {"name": "a"}}))
            .memory()
            .is_err()
    );
}

#[test]
fn jwt_keys_have_one_source() {
    let keys = |value: Value| read::<JwtKeys>(value);
    assert_eq!(
        keys(json!({"jwks": {"inline": "{}"}})).source(),
        Ok(JwtKeySource::Jwks("{}"))
    );
    assert!(matches!(
        keys(json!({"secretRef": {"name": "a"}})).source(),
        Ok(JwtKeySource::Secrets(_))
    ));
    assert!(keys(json!({})).source().is_err());
    assert!(
        keys(json!({"jwks": {"inline": "{}"}, "secretRef": {"name": "a"}}))
            .source()
            .is_err()
    );
}

#[test]
fn a_limit_denies_what_it_cannot_count_by_default() {
    let policy = RateLimitPolicySpec::default();
    assert_eq!(
        (policy.effective_mode(), policy.effective_headers()),
        (LimitMode::Enforce, LimitHeaders::Standard)
    );
    let bucket = json!({"type": "TokenBucket", "tokenBucket": {"requests": 5, "per": "1s"}});
    let local: Limit = read(json!({"name": "a", "algorithm": bucket}));
    assert_eq!(local.effective_on_missing_key(), OnMissingKey::Deny);
    assert_eq!(local.reach(), Ok(LimitReach::Local));
    assert!(
        read::<Limit>(json!({"name": "a", "algorithm": bucket, "scope": "Global"}))
            .reach()
            .is_err()
    );
    let bucket: TokenBucket = read(json!({"requests": 5, "per": "1s"}));
    assert_eq!(bucket.effective_burst(), 5);
    assert_eq!(
        read::<TokenBucket>(json!({"requests": 5, "per": "1s", "burst": 9})).effective_burst(),
        9
    );
    assert_eq!(ClientAddressKey::default().effective_prefix_v6(), 64);
}

#[test]
fn a_global_limit_leases_within_one_percent_by_default() {
    let global: GlobalLimit = read(json!({"storeRef": {"name": "default"}}));
    assert_eq!(global.effective_consistency(), Consistency::Leased);
    assert_eq!(global.effective_max_overshoot().ratio(), 0.01);
    assert_eq!(global.effective_max_wait().as_millis(), 10);
    assert_eq!(
        global.effective_on_store_failure(),
        StoreFailure::LocalShare
    );
}

#[test]
fn a_shard_set_pauses_half_a_second_by_default() {
    let document = include_str!("../testdata/complete.yaml")
        .split("\n---\n")
        .nth(2)
        .expect("the ShardSet");
    let mut spec: ShardSetSpec = serde_saphyr::from_str::<Value>(document)
        .map(|mut value| read(value["spec"].take()))
        .expect("YAML");
    spec.change = None;
    assert_eq!(spec.effective_max_pause().as_millis(), 500);
    assert_eq!(
        spec.shards[0].primary().map(|member| member.name.as_str()),
        Some("a")
    );
    assert_eq!(
        spec.shards[0]
            .replicas()
            .map(|member| member.name.as_str())
            .collect::<Vec<_>>(),
        ["b"]
    );
}

#[test]
fn the_platform_file_has_safe_defaults() {
    let redis: RedisStore = read(json!({"addresses": ["a:1"]}));
    assert_eq!(
        (redis.effective_mode(), redis.effective_key_prefix()),
        (RedisMode::Standalone, "sluice")
    );
    let injection = Injection::default();
    assert_eq!(
        (
            injection.effective_capture(),
            injection.effective_log_level(),
            injection.effective_app_stop_delay_s(),
        ),
        (CaptureMode::Redirect, LogLevel::Info, 5)
    );
    let delay =
        |text: &str| read::<Injection>(json!({"appStopDelay": text})).effective_app_stop_delay_s();
    assert_eq!(["0s", "1500ms", "2h"].map(delay), [0, 2, 600]);
    assert!(ApiRouteSpec::default().is_profile());
}

#[test]
fn nothing_in_front_is_believed_unless_it_is_said() {
    let hops = |value: Value| {
        let hops: TrustedHops = read(value);
        (
            hops.effective_proxy_protocol(),
            hops.effective_forwarded_for(),
        )
    };
    assert_eq!(hops(json!({})), (ProxyProtocol::Disabled, 0));
    assert_eq!(
        hops(json!({"proxyProtocol": "Required", "forwardedFor": 2})),
        (ProxyProtocol::Required, 2)
    );
}
