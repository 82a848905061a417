//! Who gets which configuration: streams opened by hand, with every proof that a stranger may come by.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::authentication::v1::TokenReview;
use kube::Api;
use kube::api::PostParams;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use sluice_snapshot::Feature;
use sluice_snapshot::stream::config_client::ConfigClient;
use sluice_snapshot::stream::{Csr, Down, Hello, Up, down, up};
use sluice_tests::product::{AUDIENCE, OPERATOR_NAME};
use sluice_tests::signature::unix_now;
use sluice_tests::{StandInPod, World, eventually, isolated, seconds};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};

use super::install;
use super::shop::{NAMESPACE, Shop};

/// What a client shows.
enum Proof<'a> {
    Nothing,
    Token(&'a str),
    Certificate(&'a Certificate),
}

/// A certificate from the operator, with its key.
struct Certificate {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A stream that was let in.
struct Session {
    outgoing: mpsc::Sender<Up>,
    incoming: Streaming<Down>,
}

/// Opens a stream as a sidecar does; `held` is what its Hello claims to hold.
async fn open(
    operator: SocketAddr,
    roots: &str,
    proof: Proof<'_>,
    held: &BTreeSet<String>,
) -> Result<Result<Session, Status>> {
    let tls = TlsConnector::from(Arc::new(tls(roots, &proof)?));
    let connect = tower::service_fn(move |_| {
        let tls = tls.clone();
        async move {
            let name = ServerName::try_from(OPERATOR_NAME).map_err(std::io::Error::other)?;
            let tcp = TcpStream::connect(operator).await?;
            Ok::<_, std::io::Error>(TokioIo::new(tls.connect(name, tcp).await?))
        }
    });
    let channel = Endpoint::try_from(format!("http://{OPERATOR_NAME}"))?
        .timeout(seconds(10))
        .connect_with_connector(connect)
        .await?;
    let (outgoing, receiver) = mpsc::channel(4);
    let hello = Hello {
        build: "a stranger".into(),
        features: Feature::ALL.map(|feature| feature.name().to_owned()).into(),
        held: held
            .iter()
            .map(|name| (name.clone(), "0".repeat(64)))
            .collect::<HashMap<_, _>>(),
        instance: String::new(),
    };
    outgoing
        .send(Up {
            kind: Some(up::Kind::Hello(hello)),
        })
        .await?;
    let mut request = Request::new(ReceiverStream::new(receiver));
    if let Proof::Token(token) = proof {
        request
            .metadata_mut()
            .insert("authorization", format!("Bearer {token}").parse()?);
    }
    let answer = ConfigClient::new(channel).stream(request).await;
    Ok(answer.map(|answer| Session {
        outgoing,
        incoming: answer.into_inner(),
    }))
}

fn tls(roots: &str, proof: &Proof<'_>) -> Result<ClientConfig> {
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
        store.add(root?)?;
    }
    let builder = ClientConfig::builder().with_root_certificates(store);
    let mut config = match proof {
        Proof::Certificate(Certificate { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key())?
        }
        Proof::Nothing | Proof::Token(_) => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

impl Session {
    async fn next(&mut self) -> Result<down::Kind> {
        let message = tokio::time::timeout(seconds(20), self.incoming.message())
            .await
            .context("nothing came")??;
        message
            .and_then(|message| message.kind)
            .context("the stream ended")
    }

    /// The names of all units of the first update, to its end, and what it removes.
    async fn config(&mut self) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
        let (mut units, mut removed) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let down::Kind::Update(update) = self.next().await? else {
                continue;
            };
            units.extend(update.upserts.into_iter().map(|unit| unit.name));
            removed.extend(update.removes);
            if update.last {
                return Ok((units, removed));
            }
        }
    }

    /// Asks for a certificate in the name of `named`.
    async fn certificate(&mut self, named: &StandInPod) -> Result<Certificate> {
        let key = KeyPair::generate()?;
        let mut wish = CertificateParams::default();
        wish.distinguished_name
            .push(DnType::CommonName, named.name.as_str());
        wish.distinguished_name
            .push(DnType::CustomDnType(vec![2, 5, 4, 5]), named.uid.as_str());
        let der = wish.serialize_request(&key)?.der().to_vec();
        self.outgoing
            .send(Up {
                kind: Some(up::Kind::Csr(Csr { der })),
            })
            .await?;
        loop {
            let down::Kind::Certificate(given) = self.next().await? else {
                continue;
            };
            let chain =
                CertificateDer::pem_slice_iter(given.chain.as_bytes()).collect::<Result<_, _>>()?;
            let key = PrivateKeyDer::try_from(key.serialize_der())
                .map_err(|error| anyhow::anyhow!(error))?;
            return Ok(Certificate { chain, key });
        }
    }
}

/// Opens a stream that must be let in, and gives what it is sent.
async fn units(shop: &Shop<'_>, proof: Proof<'_>) -> Result<BTreeSet<String>> {
    let mut session = open(shop.operator.stream, &shop.roots, proof, &BTreeSet::new()).await??;
    Ok(session.config().await?.0)
}

/// Opens a stream that must be refused, and gives the refusal.
async fn refusal(shop: &Shop<'_>, proof: Proof<'_>) -> Result<Status> {
    match open(shop.operator.stream, &shop.roots, proof, &BTreeSet::new()).await? {
        Ok(_) => bail!("it was let in"),
        Err(status) => Ok(status),
    }
}

/// The config of Service `own`'s group, whole, and nothing of `other`.
fn only(own: &str, other: &str, units: &BTreeSet<String>) -> Result<()> {
    let expected = [
        format!("route/{NAMESPACE}/{own}"),
        format!("inbound/{NAMESPACE}/{own}"),
    ];
    ensure!(
        expected.iter().all(|name| units.contains(name)),
        "{units:?}"
    );
    ensure!(!units.iter().any(|name| name.contains(other)), "{units:?}");
    Ok(())
}

/// Two Services with a route each, and two pods of each.
async fn two_groups(world: &World, shop: &Shop<'_>) -> Result<[[StandInPod; 2]; 2]> {
    let mut groups = Vec::new();
    for service in ["alpha", "beta"] {
        shop.cluster
            .apply_yaml(&install::service_and_route(service))
            .await?;
        let labels = json!({"app": service});
        let pod = |n| StandInPod::create(world, &shop.cluster, NAMESPACE, n, labels.clone());
        groups.push([
            pod(&*format!("{service}-0")).await?,
            pod(&*format!("{service}-1")).await?,
        ]);
    }
    for (service, pods) in ["alpha", "beta"].into_iter().zip(&groups) {
        for pod in pods {
            known(shop, pod, service).await?;
        }
    }
    groups.try_into().ok().context("two groups")
}

/// Waits until the operator has seen a pod, and the route of its Service.
async fn known(shop: &Shop<'_>, pod: &StandInPod, service: &str) -> Result<()> {
    let token = pod.token(AUDIENCE).await?;
    eventually(
        &format!("the operator knows {}", pod.name),
        seconds(20),
        async || {
            let units = units(shop, Proof::Token(&token)).await?;
            let route = format!("route/{NAMESPACE}/{service}");
            ensure!(units.contains(&route), "{units:?}");
            Ok(())
        },
    )
    .await
}

#[test]
fn a_token_yields_the_config_of_its_pod_and_no_other() {
    isolated!(async |world| {
        let shop = Shop::start(world).await?;
        let [alpha, beta] = two_groups(world, &shop).await?;
        let mut of_alpha = BTreeSet::new();
        for pod in &alpha {
            of_alpha = units(&shop, Proof::Token(&pod.token(AUDIENCE).await?)).await?;
            only("alpha", "beta", &of_alpha)?;
        }
        // One that says it holds alpha's config and shows beta's token is beta, and is told to drop the rest.
        for pod in &beta {
            let token = pod.token(AUDIENCE).await?;
            let mut session = open(
                shop.operator.stream,
                &shop.roots,
                Proof::Token(&token),
                &of_alpha,
            )
            .await??;
            let (units, removed) = session.config().await?;
            only("beta", "alpha", &units)?;
            ensure!(
                removed.is_superset(&of_alpha.difference(&units).cloned().collect()),
                "{removed:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn what_proves_nothing_is_refused() {
    isolated!(async |world| {
        let shop = Shop::start(world).await?;
        let [[pod, _], _] = two_groups(world, &shop).await?;
        let now = unix_now();
        // The test's own signature is as good as the API server's: only what is wrong about the others differs.
        let good = pod
            .forged_token(&shop.cluster, AUDIENCE, now - 60, now + 600)
            .await?;
        units(&shop, Proof::Token(&good)).await?;

        let expired = pod
            .forged_token(&shop.cluster, AUDIENCE, now - 900, now - 300)
            .await?;
        let elsewhere = pod.token("other").await?;
        let api_server = pod
            .token("https://kubernetes.default.svc.cluster.local")
            .await?;
        let unsigned = format!("{}.AAAA", good.rsplit_once('.').context("a JWT")?.0);
        for (what, token) in [
            ("expired", &expired),
            ("of another audience", &elsewhere),
            ("of the API server", &api_server),
            ("with another signature", &unsigned),
            ("empty", &String::new()),
        ] {
            let status = refusal(&shop, Proof::Token(token)).await.context(what)?;
            ensure!(status.code() == Code::Unauthenticated, "{what}: {status:?}");
            ensure!(
                !status.message().contains(token.as_str()) || token.is_empty(),
                "{what}: the refusal repeats the token"
            );
        }
        let status = refusal(&shop, Proof::Nothing).await?;
        ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        Ok(())
    });
}

/// The API server believes the token of a deleted pod for ten seconds more; the operator's own store does not.
#[test]
fn a_deleted_pod_is_refused_at_once() {
    isolated!(async |world| {
        let shop = Shop::start(world).await?;
        let [[pod, other], _] = two_groups(world, &shop).await?;
        let token = pod.token(AUDIENCE).await?;
        let mut session = open(
            shop.operator.stream,
            &shop.roots,
            Proof::Token(&token),
            &BTreeSet::new(),
        )
        .await??;
        session.config().await?;
        let certificate = session.certificate(&pod).await?;
        units(&shop, Proof::Certificate(&certificate)).await?;

        let deleted = Instant::now();
        pod.delete().await?;
        let status = eventually("the deleted pod is refused", seconds(8), async || {
            refusal(&shop, Proof::Token(&token)).await
        })
        .await?;
        let after = deleted.elapsed();
        let still = believed(&shop, &token).await?;
        println!(
            "refused {after:.1?} after the deletion; TokenReview believes the token then: {still}"
        );
        ensure!(
            status.code() == Code::PermissionDenied && status.message().contains("not known here"),
            "{status:?}"
        );
        ensure!(
            still,
            "TokenReview refused it first: the test shows nothing"
        );
        let status = refusal(&shop, Proof::Certificate(&certificate)).await?;
        ensure!(status.code() == Code::PermissionDenied, "{status:?}");
        // A session that was open is over, too.
        let token = other.token(AUDIENCE).await?;
        let mut session = open(
            shop.operator.stream,
            &shop.roots,
            Proof::Token(&token),
            &BTreeSet::new(),
        )
        .await??;
        session.config().await?;
        other.delete().await?;
        let end = eventually("its session ends", seconds(10), async || {
            match session.next().await {
                Ok(message) => bail!("still sent: {message:?}"),
                Err(error) => Ok(format!("{error:#}")),
            }
        })
        .await?;
        ensure!(
            end.contains("not known here") || end.contains("gone"),
            "{end}"
        );

        // A pod of the same name is another pod.
        let labels = json!({"app": "alpha"});
        let heir = StandInPod::create(world, &shop.cluster, NAMESPACE, &pod.name, labels).await?;
        known(&shop, &heir, "alpha").await?;
        let status = refusal(&shop, Proof::Certificate(&certificate)).await?;
        ensure!(
            status.message().contains("another of the same name"),
            "{status:?}"
        );
        Ok(())
    });
}

/// What the API server says about a token at this moment.
async fn believed(shop: &Shop<'_>, token: &str) -> Result<bool> {
    let request: TokenReview = serde_json::from_value(
        json!({"metadata": {}, "spec": {"token": token, "audiences": [AUDIENCE]}}),
    )?;
    let review = Api::<TokenReview>::all(shop.cluster.client())
        .create(&PostParams::default(), &request)
        .await?;
    Ok(review
        .status
        .and_then(|status| status.authenticated)
        .unwrap_or_default())
}

fn deployment(name: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec: {{serviceAccountName: workers, containers: [{{name: app, image: localhost/none:1}}]}}
"
    )
}

/// The certificate names the service account for peers and the pod for the operator.
#[test]
fn one_service_account_in_two_deployments_is_two_groups() {
    isolated!(async |world| {
        let shop = Shop::start(world).await?;
        shop.kubectl(["create", "serviceaccount", "workers"])
            .await?;
        let mut groups = Vec::new();
        for name in ["alpha", "beta"] {
            shop.cluster
                .apply_yaml(&install::service_and_route(name))
                .await?;
            shop.cluster.apply_yaml(&deployment(name)).await?;
            let pods =
                StandInPod::adopt_all(world, &shop.cluster, NAMESPACE, &format!("app={name}"), 2)
                    .await?;
            for pod in &pods {
                ensure!(pod.service_account == "workers");
                known(&shop, pod, name).await?;
            }
            groups.push(pods);
        }
        for (own, other, n) in [("alpha", "beta", 0), ("beta", "alpha", 1)] {
            for pod in &groups[n] {
                let token = pod.token(AUDIENCE).await?;
                let mut session = open(
                    shop.operator.stream,
                    &shop.roots,
                    Proof::Token(&token),
                    &BTreeSet::new(),
                )
                .await??;
                only(own, other, &session.config().await?.0)?;
                // Whom the request names is ignored.
                let certificate = session.certificate(&groups[1 - n][0]).await?;
                drop(session);
                only(
                    own,
                    other,
                    &units(&shop, Proof::Certificate(&certificate)).await?,
                )?;
            }
        }
        Ok(())
    });
}
