//! What is stored, for whom, and for how long.

use proptest::prelude::*;

use super::*;
use crate::{facts::StaticFacts, target::Target};

/// 2025-11-22 08:26:40 GMT.
const NOW: i64 = 1_763_800_000;
const RULE: [&str; 3] = ["shop", "orders", "read"];
const DATE: &str = "Sat, 22 Nov 2025 08:26:40 GMT";

fn rule(scope: CacheScope) -> CacheRule {
    CacheRule {
        scope,
        default_ttl_ms: 0,
        ignored_query: vec!["utm_source".into()],
        key_headers: vec!["accept-language".into()],
        max_bytes: 1 << 20,
    }
}

fn hashes() -> Hashes {
    Hashes::new([1, 2])
}

fn asked<'r>(
    hashes: &'r Hashes,
    rules: &'r CacheRule,
    facts: &'r StaticFacts,
    identity: Option<&'r Identity>,
) -> Asked<'r, StaticFacts> {
    Asked {
        hashes,
        rules,
        facts,
        identity,
    }
}

fn get() -> StaticFacts {
    StaticFacts::new("GET", "shop.example", "/v1/orders?view=full")
}

fn alice() -> Identity {
    Identity {
        provider: "keys".into(),
        subject: "alice".into(),
        ..Identity::default()
    }
}

fn bob() -> Identity {
    Identity {
        subject: "bob".into(),
        ..alice()
    }
}

fn store_with(
    rule: &CacheRule,
    facts: &StaticFacts,
    identity: Option<&Identity>,
    status: u16,
    headers: &[(&str, &str)],
) -> Result<Stored, NotStorable> {
    let headers = headers
        .iter()
        .map(|(name, value)| (*name, value.as_bytes()));
    let hashes = hashes();
    let asked = asked(&hashes, rule, facts, identity);
    storable(&asked, status, headers, NOW, 1000)
}

fn store(headers: &[(&str, &str)]) -> Result<Stored, NotStorable> {
    store_with(&rule(CacheScope::Standard), &get(), None, 200, headers)
}

fn look(facts: &StaticFacts, stored: &Stored, now_ms: u64) -> Lookup {
    look_among(facts, &[stored], now_ms)
}

fn look_among(facts: &StaticFacts, variants: &[&Stored], now_ms: u64) -> Lookup {
    let (hashes, rule) = (hashes(), rule(CacheScope::Standard));
    let asked = asked(&hashes, &rule, facts, None);
    lookup(&asked, variants.iter().copied(), now_ms)
}

fn is_hit(lookup: Lookup) -> bool {
    matches!(lookup, Lookup::Hit { .. })
}

#[test]
fn lifetimes_come_from_the_most_specific_source() {
    let lifetime = |headers: &[(&str, &str)]| store(headers).map(|stored| stored.lifetime_s);
    assert_eq!(
        lifetime(&[("cache-control", "max-age=60, s-maxage=7")]),
        Ok(7)
    );
    assert_eq!(
        lifetime(&[
            ("cache-control", "max-age=60"),
            ("expires", "Sat, 22 Nov 2025 08:26:50 GMT")
        ]),
        Ok(60)
    );
    assert_eq!(
        lifetime(&[("date", DATE), ("expires", "Sat, 22 Nov 2025 08:26:50 GMT")]),
        Ok(10)
    );
    for nothing in [
        &[][..],
        &[("cache-control", "public")],
        &[("cache-control", "max-age=0")],
        &[("cache-control", "s-maxage=0, max-age=60")],
        &[("expires", "0")],
        &[("date", DATE), ("expires", DATE)],
        &[
            ("expires", "Sat, 22 Nov 2025 08:30:00 GMT"),
            ("expires", "0"),
        ],
        &[("cache-control", "max-age=60"), ("age", "60")],
        &[("cache-control", "max-age=60"), ("age", "soon")],
        &[
            ("cache-control", "max-age=60"),
            ("date", "Sat, 22 Nov 2025 08:25:40 GMT"),
        ],
    ] {
        assert_eq!(lifetime(nothing), Err(NotStorable::NotFresh), "{nothing:?}");
    }
}

#[test]
fn the_default_applies_to_successes_without_a_word() {
    let rule = CacheRule {
        default_ttl_ms: 5000,
        ..rule(CacheScope::Standard)
    };
    let store = |status, headers: &[(&str, &str)]| store_with(&rule, &get(), None, status, headers);
    assert_eq!(store(200, &[]).map(|stored| stored.lifetime_s), Ok(5));
    assert_eq!(store(200, &[("expires", "0")]), Err(NotStorable::NotFresh));
    assert_eq!(store(404, &[]), Err(NotStorable::NotFresh));
    assert!(store(404, &[("cache-control", "max-age=5")]).is_ok());
}

#[test]
fn what_must_not_be_stored_is_not() {
    let fresh = ("cache-control", "max-age=60");
    let with = |name, value| store(&[fresh, (name, value)]).expect_err(value);
    assert_eq!(with("cache-control", "no-store"), NotStorable::NoStore);
    assert_eq!(with("cache-control", "no-cache"), NotStorable::NoCache);
    assert_eq!(with("cache-control", "private"), NotStorable::Private);
    assert_eq!(with("set-cookie", "a=b"), NotStorable::SetCookie);
    assert_eq!(with("vary", "accept, *"), NotStorable::Vary);
    let standard = rule(CacheScope::Standard);
    for status in [206, 304, 500, 503, 199] {
        assert_eq!(
            store_with(&standard, &get(), None, status, &[fresh]),
            Err(NotStorable::Status),
            "{status}"
        );
    }
    for facts in [
        StaticFacts::new("POST", "shop.example", "/"),
        StaticFacts::new("HEAD", "shop.example", "/"),
        get().with("cache-control", "no-store"),
        get().with("range", "bytes=0-1"),
    ] {
        assert_eq!(
            store_with(&standard, &facts, None, 200, &[fresh]),
            Err(NotStorable::Request),
            "{facts:?}"
        );
    }
}

/// RFC 9111 section 3.5, for `Authorization` and for an identity that some other field proved.
#[test]
fn an_authenticated_answer_is_shared_only_where_it_says_so() {
    let standard = rule(CacheScope::Standard);
    let (identity, token) = (alice(), get().with("authorization", "Bearer x"));
    for (facts, identity) in [(&get(), Some(&identity)), (&token, None)] {
        let store = |control: &str| {
            store_with(
                &standard,
                facts,
                identity,
                200,
                &[("cache-control", control)],
            )
        };
        assert_eq!(store("max-age=60"), Err(NotStorable::Authorization));
        for shared in [
            "max-age=60, public",
            "max-age=60, must-revalidate",
            "s-maxage=60",
        ] {
            assert!(store(shared).expect(shared).for_authorized, "{shared}");
        }
        // Nor is what was stored for nobody given to somebody.
        let anonymous = store_with(
            &standard,
            &get(),
            None,
            200,
            &[("cache-control", "max-age=60")],
        )
        .expect("stored");
        let hashes = hashes();
        let asked = asked(&hashes, &standard, facts, identity);
        let found = |stored: &Stored| lookup(&asked, std::iter::once(stored), 1000);
        assert_eq!(found(&anonymous), Lookup::Miss(Miss::Vary));
        assert!(is_hit(found(&store("max-age=60, public").expect("stored"))));
    }
}

#[test]
fn with_scope_identity_each_caller_has_answers_of_its_own() {
    let own = rule(CacheScope::Identity);
    let target = Target {
        raw_path: "/v1/orders".into(),
        path: "/v1/orders".into(),
        query: None,
    };
    let key = |identity: Option<&Identity>, facts: &StaticFacts| {
        let hashes = hashes();
        key(&asked(&hashes, &own, facts, identity), RULE, &target)
    };
    let (alice, bob) = (alice(), bob());
    assert_eq!(key(Some(&alice), &get()), key(Some(&alice), &get()));
    assert_ne!(key(Some(&alice), &get()), key(Some(&bob), &get()));
    assert_ne!(key(Some(&alice), &get()), key(None, &get()));
    let other_provider = Identity {
        provider: "tokens".into(),
        ..alice.clone()
    };
    assert_ne!(
        key(Some(&alice), &get()),
        key(Some(&other_provider), &get())
    );
    // An app behind an API key may tell its users apart by `Authorization`; a token already is the identity.
    let (one, other) = (
        get().with("authorization", "Bearer 1"),
        get().with("authorization", "Bearer 2"),
    );
    assert_ne!(key(Some(&alice), &one), key(Some(&alice), &other));
    let by_token = Identity {
        claims: Some(serde_json::Map::new()),
        ..alice.clone()
    };
    assert_eq!(key(Some(&by_token), &one), key(Some(&by_token), &other));
    // Private answers are for one caller, so they may be stored here, but not for nobody.
    let private = [("cache-control", "private, max-age=60")];
    assert!(store_with(&own, &get(), Some(&alice), 200, &private).is_ok());
    assert_eq!(
        store_with(&own, &get(), None, 200, &private),
        Err(NotStorable::Private)
    );
    assert_eq!(
        store_with(&own, &one, None, 200, &[("cache-control", "max-age=60")]),
        Err(NotStorable::Authorization)
    );
}

#[test]
fn a_key_is_method_blind_but_tells_everything_else_apart() {
    let standard = rule(CacheScope::Standard);
    let key_of = |rule_id: &str, facts: &StaticFacts| {
        let target = Target {
            raw_path: facts.path.clone(),
            path: facts.path.clone(),
            query: facts.query.clone(),
        };
        let hashes = hashes();
        let asked = asked(&hashes, &standard, facts, None);
        key(&asked, ["shop", "orders", rule_id], &target)
    };
    let one = key_of("r", &get());
    assert_eq!(
        one,
        key_of(
            "r",
            &StaticFacts {
                method: "HEAD".into(),
                ..get()
            }
        )
    );
    assert_eq!(
        one,
        key_of(
            "r",
            &StaticFacts {
                authority: Some("SHOP.example".into()),
                ..get()
            }
        )
    );
    assert_eq!(
        one,
        key_of(
            "r",
            &StaticFacts {
                query: Some("utm_source=x&view=full".into()),
                ..get()
            }
        )
    );
    for other in [
        key_of("s", &get()),
        key_of(
            "r",
            &StaticFacts {
                authority: Some("other.example".into()),
                ..get()
            },
        ),
        key_of(
            "r",
            &StaticFacts {
                query: Some("view=less".into()),
                ..get()
            },
        ),
        key_of(
            "r",
            &StaticFacts {
                query: None,
                ..get()
            },
        ),
        key_of(
            "r",
            &StaticFacts {
                query: Some("utm_sourcex=1&view=full".into()),
                ..get()
            },
        ),
        key_of(
            "r",
            &StaticFacts {
                path: "/v1/other".into(),
                ..get()
            },
        ),
        key_of("r", &get().with("accept-language", "de")),
        key_of("r", &get().with("accept-language", "")),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn age_grows_until_it_is_stale() {
    let stored = store(&[("cache-control", "max-age=10"), ("age", "3")]).expect("stored");
    assert_eq!(
        look(&get(), &stored, 1000),
        Lookup::Hit {
            index: 0,
            age_s: 3,
            not_modified: false
        }
    );
    assert_eq!(
        look(&get(), &stored, 7999),
        Lookup::Hit {
            index: 0,
            age_s: 9,
            not_modified: false
        }
    );
    assert_eq!(look(&get(), &stored, 8000), Lookup::Stale { index: 0 });
    assert_eq!((stored.ttl_s(1000), stored.ttl_s(18_000)), (7, -10));
}

#[test]
fn requests_say_what_they_accept() {
    let stored = store(&[("cache-control", "max-age=10")]).expect("stored");
    let at = |control: &str, now_ms| look(&get().with("cache-control", control), &stored, now_ms);
    assert_eq!(at("no-cache", 1000), Lookup::Miss(Miss::Request));
    assert_eq!(at("no-store", 1000), Lookup::Bypass(Bypass::RequestNoStore));
    assert!(is_hit(at("max-age=5", 6000)) && !is_hit(at("max-age=4", 6000)));
    assert!(is_hit(at("min-fresh=5", 5000)) && !is_hit(at("min-fresh=5", 6000)));
    assert!(
        is_hit(at("max-stale=5", 16_000))
            && !is_hit(at("max-stale=4", 16_000))
            && is_hit(at("max-stale", 99_000))
    );
    assert_eq!(at("only-if-cached", 99_000), Lookup::OnlyIfCached);
    assert!(is_hit(at("only-if-cached", 1000)));
    let nothing = look_among(&get().with("cache-control", "only-if-cached"), &[], 0);
    assert_eq!(nothing, Lookup::OnlyIfCached);
    for strict in [
        "max-age=10, must-revalidate",
        "max-age=10, proxy-revalidate",
        "s-maxage=10",
    ] {
        let stored = store(&[("cache-control", strict)]).expect("stored");
        assert!(
            !is_hit(look(
                &get().with("cache-control", "max-stale"),
                &stored,
                99_000
            )),
            "{strict}"
        );
    }
}

#[test]
fn only_what_the_cache_can_judge_is_looked_up() {
    let stored = store(&[("cache-control", "max-age=10")]).expect("stored");
    assert_eq!(
        look(
            &StaticFacts::new("POST", "shop.example", "/"),
            &stored,
            1000
        ),
        Lookup::Bypass(Bypass::Method)
    );
    assert_eq!(
        look(&get().with("range", "bytes=0-1"), &stored, 1000),
        Lookup::Bypass(Bypass::Range)
    );
    assert_eq!(
        look(&get().with("if-match", "\"a\""), &stored, 1000),
        Lookup::Bypass(Bypass::Condition)
    );
    for condition in ["if-unmodified-since", "if-range"] {
        let asked = get().with(condition, "Sat, 22 Nov 2025 08:00:00 GMT");
        let looked = look(&asked, &stored, 1000);
        assert_eq!(looked, Lookup::Bypass(Bypass::Condition), "{condition}");
    }
    for control in ["cache-control", "pragma"] {
        let looked = look(&get().with(control, "no-cache"), &stored, 1000);
        assert_eq!(looked, Lookup::Miss(Miss::Request), "{control}");
    }
    assert!(is_hit(look(
        &StaticFacts {
            method: "HEAD".into(),
            ..get()
        },
        &stored,
        1000
    )));
}

#[test]
fn vary_chooses_among_the_variants() {
    let standard = rule(CacheScope::Standard);
    let (json, html) = (get().with("accept", "json"), get().with("accept", "html"));
    let headers = [
        ("cache-control", "max-age=10"),
        ("vary", "Accept, accept-encoding"),
    ];
    let variants = [
        store_with(&standard, &json, None, 200, &headers).expect("stored"),
        store_with(&standard, &html, None, 200, &headers).expect("stored"),
    ];
    let [first, second] = &variants;
    let index = |facts: &StaticFacts| look_among(facts, &[first, second], 1000);
    assert!(matches!(index(&json), Lookup::Hit { index: 0, .. }));
    assert!(matches!(index(&html), Lookup::Hit { index: 1, .. }));
    assert_eq!(index(&get()), Lookup::Miss(Miss::Vary));
    assert_eq!(
        index(&html.clone().with("accept-encoding", "br")),
        Lookup::Miss(Miss::Vary)
    );
    assert_eq!(
        index(&get().with("accept", "json").with("accept", "html")),
        Lookup::Miss(Miss::Vary)
    );
    let shown = format!("{variants:?}");
    assert!(
        !shown.contains("json"),
        "request values are kept as hashes: {shown}"
    );
}

#[test]
fn the_newest_variant_is_given() {
    let stored = store(&[("cache-control", "max-age=10")]).expect("stored");
    let newer = Stored {
        stored_ms: 2000,
        ..stored.clone()
    };
    let found = look_among(&get(), &[&newer, &stored], 3000);
    assert!(matches!(found, Lookup::Hit { index: 0, .. }));
}

#[test]
fn a_client_that_has_it_gets_304() {
    let headers = [
        ("cache-control", "max-age=10"),
        ("etag", "W/\"v1\""),
        ("last-modified", "Sat, 22 Nov 2025 08:00:00 GMT"),
    ];
    let stored = store(&headers).expect("stored");
    let not_modified = |facts: StaticFacts| {
        matches!(
            look(&facts, &stored, 1000),
            Lookup::Hit {
                not_modified: true,
                ..
            }
        )
    };
    for tags in ["\"v1\"", "W/\"v1\"", "\"v0\", \"v1\"", "*"] {
        assert!(not_modified(get().with("if-none-match", tags)), "{tags}");
    }
    for tags in ["\"v2\"", "v1", "\"v1", "", "\"a\"v1\"b\""] {
        assert!(!not_modified(get().with("if-none-match", tags)), "{tags}");
    }
    assert!(not_modified(
        get().with("if-modified-since", "Sat, 22 Nov 2025 08:00:00 GMT")
    ));
    assert!(!not_modified(
        get().with("if-modified-since", "Sat, 22 Nov 2025 07:59:59 GMT")
    ));
    let both = get()
        .with("if-none-match", "\"v2\"")
        .with("if-modified-since", "Sat, 22 Nov 2025 09:00:00 GMT");
    assert!(!not_modified(both), "If-None-Match alone counts");
}

#[test]
fn fields_of_the_connection_are_not_kept() {
    let stored = store(&[
        ("cache-control", "max-age=10"),
        ("connection", "close, X-Hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("age", "1"),
        ("x-kept", "1"),
    ])
    .expect("stored");
    let names: Vec<&str> = stored
        .headers
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(names, ["cache-control", "x-kept"]);
}

#[test]
fn unsafe_methods_that_succeed_invalidate_their_uri() {
    assert!(invalidates("POST", 201) && invalidates("DELETE", 204) && invalidates("PATCH", 303));
    assert!(
        !invalidates("GET", 200)
            && !invalidates("POST", 404)
            && !invalidates("POST", 500)
            && !invalidates("OPTIONS", 200)
    );
    let post = StaticFacts::new("POST", "shop.example", "/v1/orders?x=1");
    let target = Target {
        raw_path: "/v1/orders".into(),
        path: "/v1/orders".into(),
        query: Some("x=1".into()),
    };
    let locations = [
        "/v1/orders/7?a=b",
        "http://SHOP.example/v1/totals",
        "http://evil.example/v1/x",
        "//evil.example/y",
    ];
    let keys = key::invalidated(
        &hashes(),
        &post,
        &target,
        locations.iter().map(|location| location.as_bytes()),
    );
    let of = |path: &str| hashes().uri("shop.example", path);
    assert_eq!(
        keys,
        [of("/v1/orders"), of("/v1/orders/7"), of("/v1/totals")]
    );
    let (hashes, rule, get, alice) = (hashes(), rule(CacheScope::Identity), get(), alice());
    let read = key(&asked(&hashes, &rule, &get, Some(&alice)), RULE, &target);
    assert_eq!(read.uri, of("/v1/orders"));
}

#[test]
fn the_status_says_what_happened() {
    let hit = Lookup::Hit {
        index: 0,
        age_s: 3,
        not_modified: false,
    };
    assert_eq!(status::render(&hit, Some(7), None), "sluice; hit; ttl=7");
    assert_eq!(
        status::render(&Lookup::Miss(Miss::Uri), None, Some(Ok(()))),
        "sluice; fwd=uri-miss; stored"
    );
    let refused = status::render(
        &Lookup::Stale { index: 0 },
        None,
        Some(Err(NotStorable::SetCookie)),
    );
    assert_eq!(refused, "sluice; fwd=stale; detail=set-cookie");
    assert_eq!(
        status::render(&Lookup::Bypass(Bypass::Method), None, None),
        "sluice; fwd=method"
    );
}

proptest! {
    #[test]
    fn no_header_bytes_make_it_panic(
        control in proptest::collection::vec(any::<u8>(), 0..60), other in proptest::collection::vec(any::<u8>(), 0..60),
        name in proptest::sample::select(vec!["vary", "age", "expires", "date", "etag", "last-modified", "connection"]),
        request in proptest::sample::select(vec!["cache-control", "if-none-match", "if-modified-since", "pragma"]),
    ) {
        let headers = [("cache-control", control.as_slice()), (name, other.as_slice()), ("cache-control", b"max-age=9")];
        let mut facts = get();
        if let Ok(stored) = {
            let (hashes, rule) = (hashes(), rule(CacheScope::Standard));
            storable(&asked(&hashes, &rule, &facts, None), 200, headers.into_iter(), NOW, 0)
        } {
            facts.headers.push((request.into(), other));
            let _ = look(&facts, &stored, 5000);
        }
    }
}
