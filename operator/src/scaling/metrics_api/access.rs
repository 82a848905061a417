//! Whether a user may have an answer: the API server's own judgement, by SubjectAccessReview, remembered for a few seconds
//! because a HorizontalPodAutoscaler asks the same all the time.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, timeout};

use super::{
    super::{METRICS_GROUP, METRICS_VERSION},
    front_proxy::User,
};

/// How long a judgement is believed: a right that was taken away lasts as long.
const REMEMBERED: Duration = Duration::from_secs(10);
/// Judgements that are remembered; with more, all are forgotten.
const MAX_REMEMBERED: usize = 4_096;
const TIMEOUT: Duration = Duration::from_secs(3);

/// A metric of pods, which somebody wants to have: the verb `get` on the resource `pods/METRIC`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Access {
    /// The pods' namespace.
    pub namespace: String,
    /// The pod; `*`: all.
    pub pod: String,
    /// The metric.
    pub metric: String,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            pod,
            metric,
        } = self;
        write!(
            f,
            "get pods/{metric} {pod:?} of group {METRICS_GROUP} in namespace {namespace}"
        )
    }
}

/// There is no judgement.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The API server refused to judge.
    #[error("SubjectAccessReview: {0}; the operator needs the verb create on it")]
    Api(#[from] kube::Error),
    /// No answer.
    #[error("SubjectAccessReview: no answer in time")]
    Timeout,
}

/// Asks, and remembers.
pub struct Reviews {
    api: Api<SubjectAccessReview>,
    remembered: Mutex<HashMap<(User, Access), (bool, Instant)>>,
}

impl Reviews {
    /// Asks through `client`.
    pub fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
            remembered: Mutex::default(),
        }
    }

    /// Whether `user` may have `access`. Without a judgement nobody may have anything.
    pub async fn allow(&self, user: &User, access: &Access) -> Result<bool, ReviewError> {
        let key = (user.clone(), access.clone());
        let now = Instant::now();
        if let Some((allowed, until)) = self.remembered().get(&key)
            && now < *until
        {
            return Ok(*allowed);
        }
        let review = review(user, access);
        let judged = timeout(TIMEOUT, self.api.create(&PostParams::default(), &review))
            .await
            .map_err(|_| ReviewError::Timeout)??;
        let allowed = judged
            .status
            .is_some_and(|status| status.allowed && !status.denied.unwrap_or(false));
        let mut remembered = self.remembered();
        if remembered.len() >= MAX_REMEMBERED {
            remembered.clear();
        }
        remembered.insert(key, (allowed, now + REMEMBERED));
        Ok(allowed)
    }

    fn remembered(&self) -> std::sync::MutexGuard<'_, HashMap<(User, Access), (bool, Instant)>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn review(user: &User, access: &Access) -> SubjectAccessReview {
    let User {
        name,
        uid,
        groups,
        extra,
    } = user.clone();
    let Access {
        namespace,
        pod,
        metric,
    } = access.clone();
    let resource = ResourceAttributes {
        group: Some(METRICS_GROUP.into()),
        version: Some(METRICS_VERSION.into()),
        resource: Some("pods".into()),
        subresource: Some(metric),
        namespace: Some(namespace),
        name: Some(pod),
        verb: Some("get".into()),
        ..ResourceAttributes::default()
    };
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(name),
            uid,
            groups: Some(groups),
            extra: Some(extra),
            resource_attributes: Some(resource),
            non_resource_attributes: None,
        },
        ..SubjectAccessReview::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_question_is_the_one_a_role_answers() {
        let user = User {
            name: "hpa".into(),
            uid: None,
            groups: vec!["system:authenticated".into()],
            extra: [("a".to_owned(), vec!["b".to_owned()])].into(),
        };
        let metric = Access {
            namespace: "shop".into(),
            pod: "*".into(),
            metric: "sluice_in_flight".into(),
        };
        let spec =
            |access: &Access| serde_json::to_value(review(&user, access).spec).expect("JSON");
        assert_eq!(
            spec(&metric),
            json!({
                "user": "hpa", "groups": ["system:authenticated"], "extra": {"a": ["b"]},
                "resourceAttributes": {
                    "group": "custom.metrics.k8s.io", "version": "v1beta2", "resource": "pods", "subresource": "sluice_in_flight",
                    "namespace": "shop", "name": "*", "verb": "get",
                },
            })
        );
    }
}
