//! The fields of HTTP message signatures and digests (RFC 9421, 9530): `Signature-Input`, `Signature` and `Content-Digest`
//! on a line each, shown to a rule that demands a signature.
#![no_main]

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use libfuzzer_sys::fuzz_target;
use sluice_pipeline::{
    Program, UnitSet,
    auth::{self, NoMemory, Outcome},
    facts::StaticFacts,
    program::{Content, Held},
    route, target,
};
use sluice_snapshot::{
    Hash, SecretBytes, Unit, UnitName,
    unit::{Keys, Secret, secret::Purpose},
};

/// Unix seconds of every request, and of the corpus's signatures.
const NOW: i64 = 1_763_800_000;
/// The port of the route.
const PORT: u16 = 80;

/// A route of which every rule demands a signature with a nonce and a digest.
const ROUTE: &str = r#"{"object":{"kind":"ApiRoute","namespace":"shop","name":"orders"},"requestLimits":{"maxBody":1000,"maxHeaders":60000,"maxTarget":1000},"providers":[{"name":"partners","method":{"type":"Signature","value":{"keys":"keys/shop/orders/partners","algorithms":["hmac-sha256"],"requiredComponents":["@method"],"maxAgeMs":300000,"skewMs":30000,"nonce":{"required":false,"scope":{"type":"Local"}},"digest":"Buffered","maxBuffered":1024}}}],"rules":[{"name":"all","matches":[{"path":{"type":"Prefix","value":"/"}}],"auth":{"anyOf":[{"allOf":["partners"]}],"anonymous":"Deny"},"policies":[],"requestHeaders":{},"responseHeaders":{},"timeouts":{"requestMs":1000,"backendRequestMs":1000},"action":{"type":"Backends","value":[{"weight":1,"target":{"type":"App"}}]}}]}"#;
const INBOUND: &str = r#"{"namespace":"shop","services":["orders"],"trustDomain":"shop.example","ports":[{"port":80,"routes":[{"unit":"route/shop/orders","hostnames":[]}]}]}"#;

static PROGRAM: LazyLock<Program> = LazyLock::new(|| {
    let decoded = |name: UnitName, body: &str| {
        let unit = Unit::decode(&name, body.as_bytes()).expect("a unit");
        (name, unit)
    };
    let secret = Secret {
        purpose: Purpose::SignatureKeys,
        subject: "partner".into(),
        attributes: BTreeMap::new(),
        entries: BTreeMap::from([(
            "k1".into(),
            SecretBytes::new(b"a secret that has thirty-two byte".to_vec()),
        )]),
        salt: None,
    };
    let secret_name = UnitName::secret("shop", "partner", "00");
    let keys = Keys {
        secrets: vec![secret_name.clone()],
        entry: None,
    };
    let units = [
        decoded(UnitName::inbound("shop", "orders"), INBOUND),
        decoded(UnitName::route("shop", "orders"), ROUTE),
        (
            UnitName::keys("shop", "orders", "partners"),
            Unit::Keys(keys),
        ),
        (secret_name, Unit::Secret(secret)),
    ];
    let held = |unit: Unit| Held {
        hash: Hash::of(&unit.encode()),
        content: Content::Unit(Arc::new(unit)),
    };
    let set = UnitSet {
        units: units.map(|(name, unit)| (name, held(unit))).into(),
    };
    Program::compile(&set, None).expect("compiles")
});

fuzz_target!(|bytes: &[u8]| {
    let mut facts = StaticFacts::new("POST", "orders.shop", "/v1/orders?x=1");
    let names = ["signature-input", "signature", "content-digest"];
    for (name, value) in names.into_iter().zip(bytes.split(|byte| *byte == b'\n')) {
        facts.headers.push((name.into(), value.to_vec()));
    }
    let table = PROGRAM.table(PORT).expect("the port has a route");
    let target = target::normalise(&facts).expect("a sound target");
    let matched = route::find(table, &facts, &target).expect("a rule for everything");
    let outcome = auth::authenticate(matched.rule, &facts, &target, &mut NoMemory, NOW);
    match outcome {
        Ok(Outcome::Anonymous) => panic!("nobody is anonymous here"),
        Ok(Outcome::Identified(known)) => assert_eq!(known.identity.provider, "partners"),
        Err(reject) => {
            let status = reject.reason.describe().status;
            assert!((400..500).contains(&status), "{reject:?}");
            #[cfg(feature = "planted-panic")]
            if reject.detail.as_deref() == Some("an unknown signature parameter") {
                panic!("planted");
            }
        }
    }
});
