//! The order of the phases: order is security, so it stands in one list. The data path walks it with [`Progress`]; the
//! access log names the phase that decided.

/// One step of a request's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Framing, method, authority, field lines.
    Admit,
    /// The target is normalised.
    Target,
    /// The rule is found.
    Route,
    /// Preflights are answered, and who may read the answer is known: of refusals too.
    Cors,
    /// The sizes that the route allows.
    Sizes,
    /// Limits whose key needs no identity.
    LimitByAddress,
    /// Who asks.
    Authenticate,
    /// Limits by identity.
    LimitByIdentity,
    /// The body is held back until its digest is verified.
    VerifyBody,
    /// A stored answer.
    CacheLookup,
    /// Edits of the request.
    EditRequest,
    /// Exactly one place that answers.
    Dispatch,
    /// The answer of that place.
    Upstream,
    /// The answer is stored.
    CacheStore,
    /// Edits of the answer; for rejections too.
    EditResponse,
    /// What was taken and not used is given back; for rejections and clients that went away too.
    Settle,
    /// One line.
    AccessLog,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 17] = [
        Self::Admit,
        Self::Target,
        Self::Route,
        Self::Cors,
        Self::Sizes,
        Self::LimitByAddress,
        Self::Authenticate,
        Self::LimitByIdentity,
        Self::VerifyBody,
        Self::CacheLookup,
        Self::EditRequest,
        Self::Dispatch,
        Self::Upstream,
        Self::CacheStore,
        Self::EditResponse,
        Self::Settle,
        Self::AccessLog,
    ];

    /// Field of the access log and label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Target => "target",
            Self::Route => "route",
            Self::Cors => "cors",
            Self::Sizes => "sizes",
            Self::LimitByAddress => "limit-by-address",
            Self::Authenticate => "authenticate",
            Self::LimitByIdentity => "limit-by-identity",
            Self::VerifyBody => "verify-body",
            Self::CacheLookup => "cache-lookup",
            Self::EditRequest => "edit-request",
            Self::Dispatch => "dispatch",
            Self::Upstream => "upstream",
            Self::CacheStore => "cache-store",
            Self::EditResponse => "edit-response",
            Self::Settle => "settle",
            Self::AccessLog => "access-log",
        }
    }
}

/// How far a request has come. Phases may be skipped (a rejection skips to the answer), never run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress(Phase);

impl Progress {
    /// A request that has just arrived.
    pub fn start() -> Self {
        Self(Phase::Admit)
    }

    /// Enters a later phase. In builds with debug assertions a step backwards panics, so that every test of the data
    /// path tests its order.
    pub fn enter(&mut self, phase: Phase) {
        debug_assert!(
            phase > self.0,
            "phase {} after {}",
            phase.name(),
            self.0.name()
        );
        self.0 = phase;
    }

    /// Where it is.
    pub fn phase(self) -> Phase {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_the_one_security_rests_on() {
        assert!(Phase::ALL.is_sorted());
        let names: std::collections::BTreeSet<_> = Phase::ALL.map(Phase::name).into();
        assert_eq!(names.len(), Phase::ALL.len());
        for (first, then) in [
            (Phase::Target, Phase::Route),
            (Phase::Route, Phase::Authenticate),
            (Phase::Cors, Phase::LimitByAddress),
            (Phase::Cors, Phase::Authenticate),
            (Phase::LimitByAddress, Phase::Authenticate),
            (Phase::Authenticate, Phase::LimitByIdentity),
            (Phase::Authenticate, Phase::CacheLookup),
            (Phase::LimitByIdentity, Phase::CacheLookup),
            (Phase::VerifyBody, Phase::Dispatch),
            (Phase::CacheLookup, Phase::Dispatch),
        ] {
            assert!(first < then, "{first:?} before {then:?}");
        }
    }

    #[test]
    fn phases_may_be_skipped() {
        let mut progress = Progress::start();
        progress.enter(Phase::Route);
        progress.enter(Phase::EditResponse);
        assert_eq!(progress.phase(), Phase::EditResponse);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "phase authenticate after cache-lookup")]
    fn a_step_backwards_is_seen() {
        let mut progress = Progress::start();
        progress.enter(Phase::CacheLookup);
        progress.enter(Phase::Authenticate);
    }
}
