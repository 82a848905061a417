//! Why this sidecar ended a connection, or refused one: a closed list, counted for each thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // told by `name`
pub enum Closing {
    Idle,
    Aged,
    Lingering,
    HeadTimeout,
    BodyStalled,
    AnswerStalled,
    Flood,
    TooMany,
    ProxyHeaderMissing,
    ProxyHeaderMalformed,
}

impl Closing {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Aged,
        Self::Lingering,
        Self::HeadTimeout,
        Self::BodyStalled,
        Self::AnswerStalled,
        Self::Flood,
        Self::TooMany,
        Self::ProxyHeaderMissing,
        Self::ProxyHeaderMalformed,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Aged => "aged",
            Self::Lingering => "lingering",
            Self::HeadTimeout => "head-timeout",
            Self::BodyStalled => "body-stalled",
            Self::AnswerStalled => "answer-stalled",
            Self::Flood => "flood",
            Self::TooMany => "too-many",
            Self::ProxyHeaderMissing => "proxy-header-missing",
            Self::ProxyHeaderMalformed => "proxy-header-malformed",
        }
    }

    /// Whether a client of HTTP/2 is told by GOAWAY and may let its requests end.
    pub const fn lets_requests_end(self) -> bool {
        matches!(self, Self::Idle | Self::Aged)
    }
}

/// How often, by reason.
#[derive(Debug, Default)]
pub struct Closings([AtomicU64; Closing::ALL.len()]);

impl Closings {
    /// One more.
    pub fn count(&self, closing: Closing) {
        self.0[closing as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self, closing: Closing) -> u64 {
        self.0[closing as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_as_listed_and_have_names_of_their_own() {
        let mut names = std::collections::BTreeSet::new();
        for (number, closing) in Closing::ALL.into_iter().enumerate() {
            assert_eq!(closing as usize, number, "{}", closing.name());
            assert!(names.insert(closing.name()));
        }
    }
}
