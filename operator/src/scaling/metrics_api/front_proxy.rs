//! Who calls, by the rules of the aggregation layer: the API server proves itself with a client certificate of the
//! front-proxy CA, and says in headers for whom it asks. CA, allowed names and headers are those of the cluster, read from
//! the ConfigMap `kube-system/extension-apiserver-authentication`. Nobody else is believed a word.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use percent_encoding::percent_decode_str;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sluice_process::Shutdown;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
/// How often the ConfigMap is looked at; its CA is replaced once in years.
const INTERVAL: Duration = Duration::from_secs(60);
/// The same as long as it could not be read.
const RETRY: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);
/// Groups of one user, and values of his extra attributes, that are passed on; more is refused.
const MAX_VALUES: usize = 1_000;

/// Who the API server is, and how it says for whom it asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrontProxy {
    /// Its certificates are signed by one of these.
    pub roots: Vec<CertificateDer<'static>>,
    /// Common names of its certificates; empty: any.
    allowed_names: BTreeSet<String>,
    user: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    groups: Vec<HeaderName>,
    /// Lower case.
    extra_prefixes: Vec<String>,
}

/// A ConfigMap that cannot be used. Nobody is let in then.
#[derive(Debug, thiserror::Error)]
pub enum FrontProxyError {
    /// It was not read.
    #[error(
        "ConfigMap {NAMESPACE}/{NAME} cannot be read ({0}): bind the Role extension-apiserver-authentication-reader of kube-system to the operator"
    )]
    Read(#[from] kube::Error),
    /// No answer.
    #[error("ConfigMap {NAMESPACE}/{NAME}: no answer in time")]
    Timeout,
    /// An entry is missing.
    #[error(
        "ConfigMap {NAMESPACE}/{NAME} has no {0}: start the API server with its --requestheader flags, or the metrics API cannot know it"
    )]
    Missing(&'static str),
    /// An entry is no list of header names, or no certificates.
    #[error("ConfigMap {NAMESPACE}/{NAME}: {0} cannot be read")]
    Malformed(&'static str),
}

/// For whom the API server asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// The uid, where the authenticator gives one.
    pub uid: Option<String>,
    /// The groups.
    pub groups: Vec<String>,
    /// What else the authenticator says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// Why a caller is not believed to be the API server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTheApiServer {
    /// It showed no certificate.
    #[error("no certificate of the cluster's front-proxy CA was shown")]
    NoCertificate,
    /// Its certificate names somebody else.
    #[error("the certificate names somebody who is no front proxy")]
    WrongName,
    /// It says not for whom it asks.
    #[error("the headers name no user")]
    NoUser,
    /// It says too much.
    #[error("the headers name too many groups or attributes")]
    TooMuch,
}

impl FrontProxy {
    /// What the ConfigMap says.
    pub fn of(data: &BTreeMap<String, String>) -> Result<Self, FrontProxyError> {
        let pem = data
            .get("requestheader-client-ca-file")
            .ok_or(FrontProxyError::Missing("requestheader-client-ca-file"))?;
        let roots: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| FrontProxyError::Malformed("requestheader-client-ca-file"))?;
        if roots.is_empty() {
            return Err(FrontProxyError::Malformed("requestheader-client-ca-file"));
        }
        let headers = |key| header_names(list(data, key)?, key);
        let user = headers("requestheader-username-headers")?;
        if user.is_empty() {
            return Err(FrontProxyError::Missing("requestheader-username-headers"));
        }
        Ok(Self {
            roots,
            allowed_names: list(data, "requestheader-allowed-names")?
                .into_iter()
                .collect(),
            user,
            uid: headers("requestheader-uid-headers")?,
            groups: headers("requestheader-group-headers")?,
            extra_prefixes: list(data, "requestheader-extra-headers-prefix")?
                .into_iter()
                .map(|prefix| prefix.to_ascii_lowercase())
                .collect(),
        })
    }

    /// For whom the holder of `certificate`, which the handshake has verified, asks.
    pub fn user(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        headers: &HeaderMap,
    ) -> Result<User, NotTheApiServer> {
        let certificate = certificate.ok_or(NotTheApiServer::NoCertificate)?;
        if !self.allows(certificate) {
            return Err(NotTheApiServer::WrongName);
        }
        let first = |names: &[HeaderName]| {
            let found = names.iter().find_map(|name| headers.get(name))?;
            let text = found.to_str().ok()?.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        let groups = self
            .groups
            .iter()
            .flat_map(|name| headers.get_all(name))
            .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
            .collect::<Vec<_>>();
        let extra = self.extra(headers);
        let values = extra.values().map(Vec::len).sum::<usize>();
        if groups.len() > MAX_VALUES || values > MAX_VALUES {
            return Err(NotTheApiServer::TooMuch);
        }
        Ok(User {
            name: first(&self.user).ok_or(NotTheApiServer::NoUser)?,
            uid: first(&self.uid),
            groups,
            extra,
        })
    }

    fn allows(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
            return false;
        };
        let mut names = parsed.subject().iter_common_name();
        self.allowed_names.is_empty()
            || names.any(|name| {
                name.as_str()
                    .is_ok_and(|name| self.allowed_names.contains(name))
            })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            let key = self
                .extra_prefixes
                .iter()
                .find_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
            if let (Some(key), Ok(value)) = (key.and_then(decoded), value.to_str()) {
                extra.entry(key).or_default().push(value.to_owned());
            }
        }
        extra
    }
}

/// A text without percent signs; `None`: it is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Lists are JSON in there; an absent one is empty.
fn list(
    data: &BTreeMap<String, String>,
    key: &'static str,
) -> Result<Vec<String>, FrontProxyError> {
    match data.get(key) {
        Some(text) => serde_json::from_str(text).map_err(|_| FrontProxyError::Malformed(key)),
        None => Ok(Vec::new()),
    }
}

fn header_names(names: Vec<String>, key: &'static str) -> Result<Vec<HeaderName>, FrontProxyError> {
    names
        .iter()
        .map(|name| HeaderName::try_from(name).map_err(|_| FrontProxyError::Malformed(key)))
        .collect()
}

/// Keeps `known` at what the ConfigMap says, until shutdown. What was last good stays in force while it cannot be read.
pub async fn follow(
    client: Client,
    known: watch::Sender<Option<Arc<FrontProxy>>>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client, NAMESPACE);
    loop {
        let read = async { timeout(TIMEOUT, maps.get(NAME)).await };
        let read = tokio::select! {
            () = shutdown.begun() => return Ok(()),
            read = read => match read {
                Ok(map) => map.map_err(FrontProxyError::from),
                Err(_) => Err(FrontProxyError::Timeout),
            },
        };
        let found = read.and_then(|map| FrontProxy::of(&map.data.unwrap_or_default()));
        let wait = match found {
            Ok(found) => {
                known.send_if_modified(|known| {
                    let differs = known.as_deref() != Some(&found);
                    if differs {
                        *known = Some(Arc::new(found));
                    }
                    differs
                });
                INTERVAL
            }
            Err(error) => {
                tracing::warn!(%error, "the API server cannot be told from others: the metrics API answers nobody new");
                RETRY
            }
        };
        tokio::select! {
            () = shutdown.begun() => return Ok(()),
            () = sleep(wait) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(name: &str) -> (CertificateDer<'static>, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.der().clone(), certificate.pem())
    }

    fn data(allowed: &str) -> BTreeMap<String, String> {
        [
            (
                "requestheader-client-ca-file",
                certificate("front-proxy-ca").1.as_str(),
            ),
            ("requestheader-allowed-names", allowed),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
            ("requestheader-group-headers", r#"["X-Remote-Group"]"#),
            (
                "requestheader-extra-headers-prefix",
                r#"["X-Remote-Extra-"]"#,
            ),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_front_proxy_says_for_whom_it_asks() {
        let proxy = FrontProxy::of(&data(r#"["front-proxy"]"#)).expect("readable");
        let certificate = certificate("front-proxy").0;
        let headers = headers(&[
            ("x-remote-user", "system:serviceaccount:kube-system:hpa"),
            ("x-remote-group", "system:serviceaccounts"),
            ("x-remote-group", "system:authenticated"),
            (
                "x-remote-extra-authentication.kubernetes.io%2fpod-name",
                "a",
            ),
        ]);
        let user = proxy.user(Some(&certificate), &headers).expect("believed");
        assert_eq!(user.name, "system:serviceaccount:kube-system:hpa");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:authenticated"]
        );
        assert_eq!(user.extra["authentication.kubernetes.io/pod-name"], ["a"]);
    }

    #[test]
    fn nobody_else_is_believed() {
        let proxy = FrontProxy::of(&data(r#"["front-proxy"]"#)).expect("readable");
        let admin = headers(&[
            ("x-remote-user", "admin"),
            ("x-remote-group", "system:masters"),
        ]);
        let (front, other) = (certificate("front-proxy").0, certificate("somebody").0);
        assert_eq!(
            proxy.user(None, &admin),
            Err(NotTheApiServer::NoCertificate)
        );
        assert_eq!(
            proxy.user(Some(&other), &admin),
            Err(NotTheApiServer::WrongName)
        );
        assert_eq!(
            proxy.user(Some(&front), &HeaderMap::new()),
            Err(NotTheApiServer::NoUser)
        );
        assert_eq!(
            proxy.user(Some(&front), &headers(&[("x-remote-user", " ")])),
            Err(NotTheApiServer::NoUser)
        );
        // An empty list allows whoever the CA signed.
        let any = FrontProxy::of(&data("[]")).expect("readable");
        any.user(Some(&other), &admin).expect("believed");
    }

    #[test]
    fn what_the_cluster_does_not_say_lets_nobody_in() {
        for key in [
            "requestheader-client-ca-file",
            "requestheader-username-headers",
        ] {
            let mut data = data("[]");
            data.remove(key);
            let error = FrontProxy::of(&data).expect_err("refused").to_string();
            assert!(error.contains(key), "{error}");
        }
        let mut broken = data("[]");
        broken.insert("requestheader-client-ca-file".into(), "nonsense".into());
        FrontProxy::of(&broken).expect_err("no certificate in it");
        FrontProxy::of(&data("front-proxy")).expect_err("no list");
    }
}
