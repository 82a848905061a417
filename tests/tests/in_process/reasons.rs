//! Point 10: every reason for which a request is refused is provoked by a real request, and its access log line names
//! the reason and the object and rule that decided. [`way`] has a case for each: a new reason does not compile without.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::Request;
use serde_json::Value;
use sluice_pipeline::RejectReason;
use sluice_snapshot::ConfigReason;
use sluice_tests::signature::{Signer, content_digest};
use sluice_tests::{With, World, eventually, get, isolated, post, seconds};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::place::{Place, Plan, Pod, config, documents, policy, route, secret, shard_set};

mod apart;

/// How a reason is provoked.
#[allow(clippy::large_enum_variant, reason = "a table of some forty rows")]
enum Way {
    /// By the last of these requests, with these manifests. All are for the host `REASON.example` and the path
    /// `/REASON`; `by` decides.
    Asked {
        manifests: String,
        requests: Vec<Request<Bytes>>,
        by: Option<String>,
    },
    /// By a request whose body never comes.
    Unfinished {
        manifests: String,
        request: Request<Bytes>,
        by: Option<String>,
    },
    /// By a test of its own, in `apart`.
    Apart,
    /// By nothing that can be done from outside, and why.
    Unreachable(&'static str),
}

const KEY: &str = "an-api-key-of-acme-0123456789";
const SIGNATURE_KEY: &str = "a-signature-key-of-acme-0123456789abcdef";

/// One case of the table.
struct Case(&'static str);

impl Case {
    /// A GET of the case.
    fn get(&self) -> Request<Bytes> {
        self.request(get(&self.path()))
    }

    /// Any request, made one of the case.
    fn request(&self, request: Request<Bytes>) -> Request<Bytes> {
        request.with("host", &format!("{}.example", self.0))
    }

    fn path(&self) -> String {
        format!("/{}", self.0)
    }

    /// `part` of the case's own object.
    fn own(&self, part: &str) -> Option<String> {
        Some(format!("shop/{}/{part}", self.0))
    }

    /// The case's own route, and one request that its rule `all` refuses.
    fn asked(&self, spec: &str, request: Request<Bytes>) -> Way {
        self.asked_by(spec, vec![request], "all")
    }

    fn asked_by(&self, spec: &str, requests: Vec<Request<Bytes>>, part: &str) -> Way {
        Way::Asked {
            manifests: route(self.0, spec),
            requests,
            by: self.own(part),
        }
    }

    /// The case's own route and policy.
    fn limited(&self, limit: &str, requests: Vec<Request<Bytes>>) -> Way {
        Way::Asked {
            manifests: documents(&[route(self.0, PLAIN), policy(self.0, limit)]),
            requests,
            by: self.own("only"),
        }
    }

    /// The case's own route, which wants signatures.
    fn signed(&self, nonce: &str, requests: Vec<Request<Bytes>>) -> Way {
        self.asked_by(&signatures(nonce), requests, "signed")
    }

    /// The case's own route, which leads to a ShardSet of its name.
    fn sharded(&self, placement: &str, request: Request<Bytes>, by: &str) -> Way {
        let placement = format!("  placement: [{placement}]\n");
        let set = shard_set(self.0, &[("s0", "member")], &placement);
        let spec = format!(
            "  rules: [{{name: all, backendRefs: [{{group: sluice.dev, kind: ShardSet, name: {}}}]}}]\n",
            self.0
        );
        Way::Asked {
            manifests: documents(&[route(self.0, &spec), set]),
            requests: vec![request],
            by: Some(by.to_owned()),
        }
    }
}

/// A route that gives everything to the own application.
const PLAIN: &str = "  rules: [{name: all}]\n";

fn forwarding(service: &str) -> String {
    format!(
        "  rules: [{{name: all, timeouts: {{backendRequest: 1s}}, backendRefs: [{{name: {service}, port: 80}}]}}]\n"
    )
}

fn keys_of(secret: &str) -> String {
    format!(
        "  auth:
    anyOf: [{{allOf: [keys]}}]
    providers: [{{name: keys, type: APIKey, apiKey: {{secretRef: {{name: {secret}}}}}}}]
{PLAIN}"
    )
}

fn signatures(nonce: &str) -> String {
    format!(
        "  auth:
    anyOf: [{{allOf: [signed]}}]
    providers:
    - name: signed
      type: HTTPMessageSignature
      httpMessageSignature:
        keys: {{secretRef: {{name: signature-key}}}}
        algorithms: [hmac-sha256]
        requiredComponents: [\"@method\", \"@target-uri\", \"content-digest\"]
        created: {{maxAge: 5m, skew: 30s}}
        nonce: {{required: true, {nonce}}}
        digest: Buffered
  rules: [{{name: all, timeouts: {{request: 500ms}}}}]
"
    )
}

fn signer() -> Signer {
    Signer::new("acme-1", SIGNATURE_KEY)
}

/// How each reason is provoked.
#[allow(clippy::too_many_lines)] // one list, one arm for each reason
fn way(reason: RejectReason) -> Way {
    use RejectReason as R;
    let case = Case(reason.describe().name);
    let tokens = "  auth:
    anyOf: [{allOf: [tokens]}]
    providers: [{name: tokens, type: JWT, jwt: {issuer: \"https://id.example\", audiences: [shop], keys: {secretRef: {name: token-key}}, algorithms: [HS256]}}]
  rules: [{name: all}]
";
    let bucket = |requests: u32| {
        format!(
            "    algorithm: {{type: TokenBucket, tokenBucket: {{requests: {requests}, per: 24h, burst: {requests}}}}}\n"
        )
    };
    match reason {
        R::BadRequest => Way::Asked {
            manifests: route(case.0, PLAIN),
            requests: vec![case.get().with("host", "another.example")],
            by: None,
        },
        R::BadTarget => Way::Asked {
            manifests: route(case.0, PLAIN),
            requests: vec![case.request(get("/bad-target/%00"))],
            by: None,
        },
        R::TargetTooLong => {
            let long = format!("/target-too-long/{}", "a".repeat(100));
            case.asked(
                &format!("  requestLimits: {{maxTargetLength: \"64\"}}\n{PLAIN}"),
                case.request(get(&long)),
            )
        }
        R::HeadersTooLarge => {
            let request = case.get().with("x-large", &"a".repeat(1000));
            case.asked(
                &format!("  requestLimits: {{maxHeadersSize: \"512\"}}\n{PLAIN}"),
                request,
            )
        }
        R::BodyTooLarge => {
            let request = case.request(post(&case.path(), vec![b'a'; 2000]));
            case.asked(
                &format!("  requestLimits: {{maxBodySize: 1Ki}}\n{PLAIN}"),
                request,
            )
        }
        R::NoRoute => Way::Asked {
            manifests: String::new(),
            requests: vec![case.get()],
            by: None,
        },
        R::Misdirected => Way::Apart,
        R::Unauthenticated => case.asked(&keys_of("api-key"), case.get()),
        R::BadCredentials => {
            let request = case
                .get()
                .with("x-api-key", "not-the-key-of-anybody-0123456789");
            case.asked_by(&keys_of("api-key"), vec![request], "keys")
        }
        R::BadSignature => {
            let stranger = Signer::new("acme-1", "another-key-than-acme-has-0123456789abcdef");
            case.signed("scope: Local", vec![stranger.sign(case.get())])
        }
        R::SignatureExpired => {
            let old = Signer {
                created: Some(sluice_tests::signature::unix_now() - 3600),
                ..signer()
            };
            case.signed("scope: Local", vec![old.sign(case.get())])
        }
        R::NonceMissing => {
            let without = Signer {
                send_nonce: false,
                ..signer()
            };
            case.signed("scope: Local", vec![without.sign(case.get())])
        }
        R::NonceReplayed => {
            let once = signer().sign(case.get());
            case.signed("scope: Local", vec![once.clone(), once])
        }
        R::NonceStoreUnavailable => {
            let nonce = "scope: Shared, storeRef: {name: gone}, onStoreFailure: Deny";
            case.signed(nonce, vec![signer().sign(case.get())])
        }
        R::BadToken => {
            let request = case.get().with("authorization", "Bearer e30.e30.e30");
            case.asked_by(tokens, vec![request], "tokens")
        }
        R::BadDigest => {
            let request = case.request(post(&case.path(), "what was sent"));
            let request = request.with("content-digest", &content_digest(b"what was signed"));
            case.signed("scope: Local", vec![signer().sign(request)])
        }
        R::LimitExceeded => case.limited(&bucket(1), vec![case.get(), case.get()]),
        R::LimitKeyMissing => {
            let limit = format!(
                "    key: [{{type: Header, header: {{name: X-Tenant}}}}]\n    onMissingKey: Deny\n{}",
                bucket(1)
            );
            case.limited(&limit, vec![case.get()])
        }
        R::LimitStoreUnavailable => {
            let limit = format!(
                "{}    scope: Global\n    global: {{storeRef: {{name: gone}}, onStoreFailure: Deny}}\n",
                bucket(1)
            );
            case.limited(&limit, vec![case.get()])
        }
        R::ShardKeyMissing => case.sharded(
            "{slots: \"0-16383\", shard: s0}",
            case.get(),
            "shop/shard-key-missing",
        ),
        R::ShardMoving => Way::Apart,
        R::Loop => case.asked(
            &forwarding("member"),
            case.get().with("via", "1.1 sluice-fwd-0123456789abcdef"),
        ),
        R::NoEndpoint => case.asked(&forwarding("empty"), case.get()),
        R::UpstreamConnect => case.asked(&forwarding("closed"), case.get()),
        R::UpstreamReset => case.asked(&forwarding("rude"), case.get()),
        R::UpstreamTimeout => {
            let spec = "  rules: [{name: all, timeouts: {backendRequest: 100ms}}]\n";
            case.asked(spec, case.request(get("/upstream-timeout?delay=5s")))
        }
        R::RequestTimeout => {
            let request =
                signer().sign(case.request(post(&case.path(), "a body that never comes")));
            Way::Unfinished {
                manifests: route(case.0, &signatures("scope: Local")),
                request,
                by: case.own("signed"),
            }
        }
        R::TooManyConnections => Way::Unreachable(
            "it is of a connection and no request: tests/in_process/connections.rs",
        ),
        R::Internal => Way::Unreachable("only a panic of the sidecar itself gives it"),
        R::Config(reason) => misconfigured(reason, &case),
    }
}

/// How each reason of configuration is provoked.
fn misconfigured(reason: ConfigReason, case: &Case) -> Way {
    use ConfigReason as C;
    match reason {
        C::Invalid => {
            let spec = "  rules: [{name: all, matches: [{path: {type: RegularExpression, value: \"/(\"}}]}]\n";
            Way::Asked {
                manifests: route(case.0, spec),
                requests: vec![case.get()],
                by: Some(format!("shop/{}", case.0)),
            }
        }
        C::BackendNotFound => case.asked(&forwarding("nowhere"), case.get()),
        C::TargetEnforces => case.asked(&forwarding("guarded"), case.get()),
        C::SecretNotFound => case.asked_by(&keys_of("nowhere"), vec![case.get()], "keys"),
        C::SecretNotUsable => case.asked_by(&keys_of("signature-key"), vec![case.get()], "keys"),
        C::StoreNotFound => {
            let limit = "    algorithm: {type: TokenBucket, tokenBucket: {requests: 1, per: 1s}}
    scope: Global
    global: {storeRef: {name: nowhere}}
";
            Way::Asked {
                manifests: documents(&[route(case.0, PLAIN), policy(case.0, limit)]),
                requests: vec![case.get()],
                by: case.own("all"),
            }
        }
        C::ReferenceNotFound => {
            let spec = "  rules: [{name: all, auth: {anyOf: [{allOf: [nobody]}]}}]\n";
            case.asked(spec, case.get())
        }
        C::SlotsUncovered => {
            let request = case.get().with("x-tenant", "acme");
            case.sharded(
                "{slots: \"0-8000\", shard: s0}",
                request,
                "shop/config-slots-uncovered",
            )
        }
        C::TooLarge => Way::Asked {
            manifests: route(case.0, &too_large()),
            requests: vec![case.get()],
            by: Some(format!("shop/{}", case.0)),
        },
        C::PolicyUnavailable | C::SidecarTooOld => Way::Apart,
    }
}

/// Rules of more than half a megabyte: the first matches everything, the others only weigh.
fn too_large() -> String {
    let value = "v".repeat(1000);
    let headers: String = (0..16)
        .map(|n| format!("{{name: X-Weight-{n}, value: {value}}}, "))
        .collect();
    let heavy = |n: usize| {
        format!(
            "  - {{name: heavy-{n}, matches: [{{path: {{value: /{n}}}}}], filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{set: [{headers}]}}}}]}}\n"
        )
    };
    format!(
        "  rules:\n  - {{name: all}}\n{}",
        (0..40).map(heavy).collect::<String>()
    )
}

fn every_reason() -> impl Iterator<Item = RejectReason> {
    let config = ConfigReason::ALL.map(RejectReason::Config);
    RejectReason::ALL.into_iter().chain(config)
}

/// The Services behind the cases; the listener is `rude`'s: it takes a request and hangs up.
async fn neighbours(
    world: &World,
    plan: &mut Plan<'_>,
) -> Result<(sluice_tests::App, TcpListener)> {
    plan.service("empty", &[])?;
    plan.service("closed", &[world.address()])?;
    plan.service("guarded", &[world.address()])?;
    let guard = route("guard", &keys_of("api-key")).replace("name: api}", "name: guarded}");
    plan.put("guard", &guard)?;
    let rude = world.address();
    plan.service("rude", &[rude])?;
    let secrets = [
        secret("api-key", "api-keys", "acme-1", KEY),
        secret("signature-key", "signature-keys", "acme-1", SIGNATURE_KEY),
        secret(
            "token-key",
            "jwt-keys",
            "issuer-1",
            "a-token-key-of-the-tests-0123456789abcdef",
        ),
    ];
    plan.put("secrets", &documents(&secrets))?;
    plan.put(
        "config",
        &config(&[("gone", (world.address(), 6379).into())]),
    )?;
    Ok((
        plan.member("member").await?,
        TcpListener::bind((rude, 8080)).await?,
    ))
}

/// Takes what is sent and closes without an answer, for as long as it is polled.
async fn be_rude(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
    }
}

/// The access log's line of a refused request.
async fn line(pod: &Pod, name: &str) -> Result<Value> {
    eventually(&format!("the line of {name}"), seconds(10), async || {
        let lines = pod.sidecar.access_log();
        let path = format!("/{name}");
        let is_of_case = |line: &&Value| {
            let asked = line["path"].as_str().unwrap_or_default();
            (asked == path || asked.starts_with(&format!("{path}/"))) && line["reason"].is_string()
        };
        lines
            .iter()
            .rfind(is_of_case)
            .cloned()
            .context("it is not there")
    })
    .await
}

/// What the line must say: the reason, who decided, and the same status as the client saw.
fn check(line: &Value, reason: RejectReason, by: Option<&str>, status: u16) -> Result<()> {
    let described = reason.describe();
    println!(
        "{:<28} {status} decided by {}",
        described.name,
        line["decided_by"].as_str().unwrap_or("-")
    );
    ensure!(line["reason"] == described.name, "{line}");
    ensure!(
        line["status"] == described.status && status == described.status,
        "the client saw {status}: {line}"
    );
    ensure!(
        line["decided_by"].as_str() == by,
        "not decided by {by:?}: {line}"
    );
    Ok(())
}

/// Sends the head of a request and never its body; the status of the answer.
async fn unfinished(pod: &Pod, request: &Request<Bytes>) -> Result<u16> {
    let mut head = format!(
        "{} {} HTTP/1.1\r\ncontent-length: {}\r\n",
        request.method(),
        request.uri(),
        request.body().len()
    );
    for (name, value) in request.headers() {
        head += &format!("{name}: {}\r\n", value.to_str()?);
    }
    let mut stream = TcpStream::connect(pod.sidecar.address).await?;
    stream.write_all((head + "\r\n").as_bytes()).await?;
    let mut answer = [0; 12];
    tokio::time::timeout(seconds(20), stream.read_exact(&mut answer)).await??;
    let text = std::str::from_utf8(&answer)?;
    text.rsplit(' ')
        .next()
        .context("a status line")?
        .parse()
        .context("a status")
}

async fn provoke(pod: &Pod, reason: RejectReason) -> Result<()> {
    let name = reason.describe().name;
    match way(reason) {
        Way::Asked { requests, by, .. } => {
            let client = pod.sidecar.client();
            let mut status = 0;
            for request in requests {
                status = client.send_fresh(request).await?.status.as_u16();
            }
            check(&line(pod, name).await?, reason, by.as_deref(), status)
        }
        Way::Unfinished { request, by, .. } => {
            let status = unfinished(pod, &request).await?;
            check(&line(pod, name).await?, reason, by.as_deref(), status)
        }
        Way::Apart | Way::Unreachable(_) => Ok(()),
    }
}

/// Everything each case needs, applied; both sidecars hold all of it.
async fn start<'w>(world: &'w World) -> Result<(Place<'w>, sluice_tests::App, TcpListener)> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    let (member, rude) = neighbours(world, &mut plan).await?;
    for reason in every_reason() {
        if let Way::Asked { manifests, .. } | Way::Unfinished { manifests, .. } = way(reason) {
            plan.put(reason.describe().name, &manifests)?;
        }
    }
    let place = plan.start().await?;
    place.live("ApiRoute", "limit-exceeded").await?;
    Ok((place, member, rude))
}

#[test]
fn the_access_log_names_reason_object_and_rule_of_every_refusal() {
    isolated!(async |world| {
        let (place, _member, rude) = start(world).await?;
        let rude = tokio::spawn(be_rude(rude));
        let mut wrong = Vec::new();
        // Half of the cases on one sidecar, half on the other.
        for (n, reason) in every_reason().enumerate() {
            if let Err(error) = provoke(&place.pods[n % 2], reason).await {
                wrong.push(format!("{}: {error:#}", reason.describe().name));
            }
        }
        rude.abort();
        ensure!(
            wrong.is_empty(),
            "{} reasons:\n{}",
            wrong.len(),
            wrong.join("\n")
        );
        Ok(())
    });
}

/// What no request can provoke is a short list, and it is this one.
#[test]
fn only_two_reasons_are_out_of_reach() {
    let out = every_reason().filter_map(|reason| match way(reason) {
        Way::Unreachable(why) => Some((reason, why)),
        _ => None,
    });
    let out: Vec<_> = out.collect();
    assert!(out.iter().all(|(_, why)| !why.is_empty()));
    let out: Vec<_> = out.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(
        out,
        [RejectReason::TooManyConnections, RejectReason::Internal]
    );
    let apart = every_reason().filter(|reason| matches!(way(*reason), Way::Apart));
    assert_eq!(apart.collect::<Vec<_>>(), apart::SHOWN);
}
