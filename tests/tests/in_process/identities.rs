//! Point 1, its last sentence: two identities that ask for one private URL each get their own answer, whatever proves
//! them. The application echoes `x-who`, so that an answer says for whom it was made.

use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Request;
use sluice_tests::jwt::{TokenKey, claims};
use sluice_tests::signature::Signer;
use sluice_tests::{Answer, Client, With, get, isolated};

use crate::place::{Plan, documents, route, secret};

const ROUTE: &str = r#"  auth:
    anyOf: [{allOf: [keys]}, {allOf: [signatures]}, {allOf: [tokens]}]
    providers:
    - {name: keys, type: APIKey, apiKey: {secretSelector: {matchLabels: {sluice.dev/use: api-keys}}}}
    - name: signatures
      type: HTTPMessageSignature
      httpMessageSignature:
        keys: {secretSelector: {matchLabels: {sluice.dev/use: signature-keys}}}
        algorithms: [hmac-sha256]
        requiredComponents: ["@method", "@target-uri"]
    - name: tokens
      type: JWT
      jwt: {issuer: "https://id.example", audiences: [shop], keys: {secretSelector: {matchLabels: {sluice.dev/use: jwt-keys}}}, algorithms: [HS256]}
  rules:
  - name: private
    matches: [{path: {type: PathPrefix, value: /private}}]
    cache: {mode: Enabled, scope: Identity, levels: {memory: {maxBytes: 1Mi}}}
  - name: standard
    matches: [{path: {type: PathPrefix, value: /standard}}]
    cache: {mode: Enabled, scope: Standard, levels: {memory: {maxBytes: 1Mi}}}
"#;

const TOKEN_SECRET: &str = "a-token-key-of-the-tests-0123456789abcdef";

/// What one caller shows.
enum Caller {
    Key(String),
    Signature(Signer),
    Token(String),
}

impl Caller {
    /// One of each sort for `who`.
    fn all(who: &str) -> Result<[Self; 3]> {
        let token = TokenKey::hs256("issuer-1", TOKEN_SECRET.as_bytes());
        Ok([
            Self::Key(api_key(who)),
            Self::Signature(Signer::new(format!("{who}-hmac"), hmac_key(who))),
            Self::Token(token.sign(&claims("https://id.example", who, "shop"))?),
        ])
    }

    fn present(&self, request: Request<Bytes>) -> Request<Bytes> {
        match self {
            Self::Key(key) => request.with("x-api-key", key),
            Self::Signature(signer) => signer.sign(request),
            Self::Token(token) => request.with("authorization", &format!("Bearer {token}")),
        }
    }

    async fn ask(&self, client: &Client, who: &str, path: &str) -> Result<Answer> {
        let request = get(path).with("host", "orders.example").with("x-who", who);
        client.send(self.present(request)).await?.expect(200)
    }
}

fn api_key(who: &str) -> String {
    format!("an-api-key-of-{who}-0123456789")
}

fn hmac_key(who: &str) -> String {
    format!("a-signature-key-of-{who}-0123456789abcdef")
}

/// For whom the application made an answer.
fn made_for(answer: &Answer) -> Result<String> {
    Ok(answer.json()?["headers"]["x-who"]
        .as_str()
        .unwrap_or("nobody")
        .to_owned())
}

fn is_hit(answer: &Answer) -> bool {
    answer
        .header("cache-status")
        .is_some_and(|status| status.contains("; hit"))
}

#[test]
fn two_identities_never_share_a_private_answer() {
    isolated!(async |world| {
        let mut plan = Plan::new(world)?;
        plan.group("api")?;
        plan.put("route", &route("orders", ROUTE))?;
        let people = ["alice", "bob"];
        let secrets = people.iter().flat_map(|who| {
            [
                secret(
                    &format!("{who}-key"),
                    "api-keys",
                    &format!("{who}-1"),
                    &api_key(who),
                ),
                secret(
                    &format!("{who}-signature"),
                    "signature-keys",
                    &format!("{who}-hmac"),
                    &hmac_key(who),
                ),
            ]
        });
        let issuer = secret("issuer", "jwt-keys", "issuer-1", TOKEN_SECRET);
        plan.put(
            "secrets",
            &documents(&secrets.chain([issuer]).collect::<Vec<_>>()),
        )?;
        let place = plan.start().await?;
        place.live("ApiRoute", "orders").await?;

        let (alice, bob) = (Caller::all("alice")?, Caller::all("bob")?);
        for pod in &place.pods {
            let client = pod.sidecar.client();
            for (n, (alice, bob)) in alice.iter().zip(&bob).enumerate() {
                // One URL for each sort of proof, so that every pair begins with an empty cache.
                let url = format!("/private/{n}?cache=max-age%3D300");
                let first = alice.ask(&client, "alice", &url).await?;
                ensure!(made_for(&first)? == "alice" && !is_hit(&first), "{first:?}");
                let second = bob.ask(&client, "bob", &url).await?;
                ensure!(
                    made_for(&second)? == "bob",
                    "bob was given alice's answer: {second:?}"
                );
                for (caller, who) in [(alice, "alice"), (bob, "bob")] {
                    let again = caller.ask(&client, who, &url).await?;
                    ensure!(made_for(&again)? == who, "{who}: {again:?}");
                    ensure!(
                        is_hit(&again),
                        "the cache was not in play for {who}: {again:?}"
                    );
                }

                // RFC 9111: with an identity only what the origin calls public is shared.
                let own = format!("/standard/{n}?cache=max-age%3D300");
                alice.ask(&client, "alice", &own).await?;
                let other = bob.ask(&client, "bob", &own).await?;
                ensure!(made_for(&other)? == "bob" && !is_hit(&other), "{other:?}");
                let public = format!("/standard/public/{n}?cache=public%2C%20max-age%3D300");
                alice.ask(&client, "alice", &public).await?;
                let shared = bob.ask(&client, "bob", &public).await?;
                ensure!(
                    made_for(&shared)? == "alice" && is_hit(&shared),
                    "{shared:?}"
                );
            }
        }
        Ok(())
    });
}
