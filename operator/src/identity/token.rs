//! The token, a sidecar's first proof: [`Tokens`] is the border at which cluster mode (TokenReview, below) and file mode
//! (`join`) differ. Tokens are never logged and never part of an error.

use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use sluice_snapshot::TOKEN_AUDIENCE;
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::Semaphore;

use super::Principal;

/// The longest token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Reviews that run at a time; whoever comes later waits.
const MAX_REVIEWS: usize = 32;
/// How long a review may take, the wait for its turn included.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(5);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Why a token yields no Principal.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The token proves nothing. The text is for the operator's log and for the sidecar.
    #[error("token refused: {0}")]
    Refused(String),
    /// Nobody could say; the sidecar should try again.
    #[error("token cannot be reviewed now: {0}")]
    Unavailable(String),
}

/// Turns a token into the pod it proves.
pub trait Tokens: Send + Sync + 'static {
    /// The Principal of `token`.
    fn principal<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, TokenError>>;
}

/// Projected service-account tokens, judged by the API server.
pub struct TokenReviews {
    reviews: Api<TokenReview>,
    turns: Semaphore,
}

impl TokenReviews {
    /// Asks through `client`, which needs `create` on `tokenreviews.authentication.k8s.io`.
    pub fn new(client: Client) -> Self {
        Self {
            reviews: Api::all(client),
            turns: Semaphore::new(MAX_REVIEWS),
        }
    }

    async fn review(&self, token: &str) -> Result<TokenReviewStatus, TokenError> {
        let review = TokenReview {
            metadata: ObjectMeta::default(),
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: token.to_owned(),
            },
            status: None,
        };
        let unavailable = |why: String| TokenError::Unavailable(why);
        let answer = tokio::time::timeout(REVIEW_TIMEOUT, async {
            let _turn = self.turns.acquire().await;
            self.reviews.create(&PostParams::default(), &review).await
        })
        .await
        .map_err(|_| unavailable("the API server did not answer in time".into()))?
        .map_err(|error| unavailable(format!("the API server refused to review it: {error}")))?;
        answer
            .status
            .ok_or_else(|| unavailable("the API server answered without a status".into()))
    }
}

impl Tokens for TokenReviews {
    fn principal<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, TokenError>> {
        Box::pin(async move { principal_of(self.review(token).await?) })
    }
}

/// The pod that a review names. Kubernetes puts it into the extra fields of a token that is bound to a pod.
fn principal_of(status: TokenReviewStatus) -> Result<Principal, TokenError> {
    let refused = |why: &str| TokenError::Refused(why.to_owned());
    if status.authenticated != Some(true) {
        return Err(refused(
            "the API server does not authenticate it (expired, wrong audience, or not its own)",
        ));
    }
    // An API server that does not know audiences answers without them, and has then not checked ours.
    if !status
        .audiences
        .is_some_and(|audiences| audiences.iter().any(|audience| audience == TOKEN_AUDIENCE))
    {
        return Err(refused("it was not issued for the audience `sluice`"));
    }
    let user = status.user.unwrap_or_default();
    let (namespace, service_account) = user
        .username
        .as_deref()
        .and_then(|name| name.strip_prefix("system:serviceaccount:"))
        .and_then(|rest| rest.split_once(':'))
        .ok_or_else(|| refused("it is not a service account's"))?;
    let extra: BTreeMap<_, _> = user.extra.unwrap_or_default();
    let bound = |key: &str| match extra.get(key).map(Vec::as_slice) {
        Some([value]) if !value.is_empty() => Ok(value.clone()),
        _ => Err(refused(
            "it is not bound to a pod; project it into the pod (serviceAccountToken volume) or request it with a boundObjectRef",
        )),
    };
    Ok(Principal {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: bound(POD_NAME)?,
        uid: bound(POD_UID)?,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::authentication::v1::UserInfo;

    use super::*;

    fn good() -> TokenReviewStatus {
        TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            user: Some(UserInfo {
                username: Some("system:serviceaccount:shop:orders".into()),
                extra: Some(BTreeMap::from([
                    (POD_NAME.to_owned(), vec!["orders-0".to_owned()]),
                    (POD_UID.to_owned(), vec!["u-1".to_owned()]),
                ])),
                ..UserInfo::default()
            }),
            error: None,
        }
    }

    #[test]
    fn a_review_names_the_pod() {
        assert_eq!(
            principal_of(good()).expect("accepted"),
            Principal {
                namespace: "shop".into(),
                service_account: "orders".into(),
                pod: "orders-0".into(),
                uid: "u-1".into(),
            }
        );
    }

    #[test]
    fn whatever_is_missing_refuses() {
        type Spoil = fn(&mut TokenReviewStatus);
        let spoils: [(&str, Spoil); 6] = [
            ("unauthenticated", |status| {
                status.authenticated = Some(false)
            }),
            ("no verdict", |status| status.authenticated = None),
            ("audiences unknown", |status| status.audiences = None),
            ("another audience", |status| {
                status.audiences = Some(vec!["api".into()]);
            }),
            ("a person", |status| {
                status.user.as_mut().expect("set").username = Some("alice".into());
            }),
            ("not bound to a pod", |status| {
                status
                    .user
                    .as_mut()
                    .and_then(|user| user.extra.as_mut())
                    .expect("set")
                    .remove(POD_UID);
            }),
        ];
        for (what, spoil) in spoils {
            let mut status = good();
            spoil(&mut status);
            assert!(
                matches!(principal_of(status), Err(TokenError::Refused(_))),
                "{what}"
            );
        }
    }
}
