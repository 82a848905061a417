//! What an answer should be. An expectation is data, so that what surprised can be said in words.

use std::collections::BTreeSet;

use crate::caller::Answer;

/// What one answer should look like; what is not named may be anything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expect {
    status: u16,
    headers: Vec<(&'static str, Option<String>)>,
    told: Vec<(&'static str, Option<&'static str>)>,
    served_by: Option<String>,
    cache_hit: Option<bool>,
    served: Option<u64>,
    not_served: BTreeSet<u64>,
}

impl Expect {
    /// This status.
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// A header, whatever its value.
    pub(crate) fn header(mut self, name: &'static str) -> Self {
        self.headers.push((name, None));
        self
    }

    /// A header whose value contains `part`.
    pub(crate) fn header_with(mut self, name: &'static str, part: &str) -> Self {
        self.headers.push((name, Some(part.to_owned())));
        self
    }

    /// The application saw this request header with this value, or (`None`) did not see it.
    pub(crate) fn app_saw(mut self, name: &'static str, value: Option<&'static str>) -> Self {
        self.told.push((name, value));
        self
    }

    /// Answered by a pod of this Service.
    pub(crate) fn by(mut self, service: &str) -> Self {
        self.served_by = Some(service.to_owned());
        self
    }

    /// Answered by a cache.
    pub(crate) fn hit(mut self) -> Self {
        self.cache_hit = Some(true);
        self
    }

    /// Answered by the origin, with the cache's word for it.
    pub(crate) fn miss(mut self) -> Self {
        self.cache_hit = Some(false);
        self
    }

    /// The very answer that the application once gave as its `served`-th.
    pub(crate) fn same_as(mut self, served: Option<u64>) -> Self {
        self.served = served;
        self
    }

    /// None of these answers of the application.
    pub(crate) fn none_of(mut self, served: &BTreeSet<u64>) -> Self {
        self.not_served.clone_from(served);
        self
    }

    /// What is not as expected, in words.
    pub(crate) fn surprises(&self, answer: &Answer) -> Vec<String> {
        let Self {
            status,
            headers,
            told,
            served_by,
            cache_hit,
            served,
            not_served,
        } = self;
        let mut found = Vec::new();
        if answer.status != *status {
            found.push(format!("status {status}"));
        }
        for (name, part) in headers {
            match (answer.header(name), part) {
                (None, _) => found.push(format!("a header {name}")),
                (Some(value), Some(part)) if !value.contains(part) => {
                    found.push(format!("{name} with {part:?}, not {value:?}"));
                }
                _ => {}
            }
        }
        let seen = &answer.json()["headers"];
        for (name, value) in told {
            if seen[name].as_str() != *value {
                found.push(format!("that the application sees {name} as {value:?}"));
            }
        }
        if let Some(service) = served_by
            && answer
                .served_by()
                .is_none_or(|pod| !is_pod_of(pod, service))
        {
            found.push(format!("an answer of {service}"));
        }
        if cache_hit.is_some() && answer.cache_hit() != *cache_hit {
            let word = if *cache_hit == Some(true) {
                "a hit"
            } else {
                "a miss"
            };
            found.push(format!("{word} by Cache-Status"));
        }
        if served.is_some() && answer.served() != *served {
            found.push("the answer that was stored before".to_owned());
        }
        if answer
            .served()
            .is_some_and(|served| not_served.contains(&served))
        {
            found.push("an answer of its own, not another caller's".to_owned());
        }
        found
    }
}

/// Whether a pod's name is `<service>-<ordinal>`.
fn is_pod_of(pod: &str, service: &str) -> bool {
    pod.rsplit_once('-')
        .is_some_and(|(owner, ordinal)| owner == service && ordinal.parse::<u8>().is_ok())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn answer() -> Answer {
        let mut answer = Answer {
            status: 200,
            body: r#"{"served": 3, "headers": {"x-platform": "sluice"}}"#.into(),
            ..Answer::default()
        };
        for (name, value) in [
            ("x-served-by", "orders-s0-0"),
            ("cache-status", "sluice; hit"),
        ] {
            answer.headers.insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    #[test]
    fn an_answer_as_expected_does_not_surprise() {
        let expect = Expect::status(200)
            .header("cache-status")
            .header_with("cache-status", "hit")
            .app_saw("x-platform", Some("sluice"))
            .app_saw("x-debug", None)
            .by("orders-s0")
            .hit()
            .same_as(Some(3))
            .none_of(&[1, 2].into());
        assert_eq!(expect.surprises(&answer()), Vec::<String>::new());
    }

    #[test]
    fn every_difference_is_a_surprise_of_its_own() {
        for expect in [
            Expect::status(401),
            Expect::status(200).header("retry-after"),
            Expect::status(200).header_with("cache-status", "miss"),
            Expect::status(200).app_saw("x-platform", None),
            Expect::status(200).app_saw("x-debug", Some("1")),
            Expect::status(200).by("orders-s1"),
            Expect::status(200).by("orders"),
            Expect::status(200).miss(),
            Expect::status(200).same_as(Some(4)),
            Expect::status(200).none_of(&[3].into()),
        ] {
            assert_eq!(expect.surprises(&answer()).len(), 1, "{expect:?}");
        }
    }
}
