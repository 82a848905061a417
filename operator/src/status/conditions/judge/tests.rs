//! What the conditions say, side by side, and when their times change.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use sluice_translate::{Kind as ObjectKind, ObjectId};

use super::*;
use crate::status::conditions::stamped;

fn finding(reason: FindingReason, what: &str) -> Finding {
    let id = ObjectId::new(ObjectKind::ApiRoute, "shop", "orders");
    Finding::new(&id, reason, Some("spec.rules[0]"), what)
}

fn live(pods: usize, missing: &[(&str, Why)]) -> Live {
    Live {
        pods,
        of: pods + missing.len(),
        slowest_ms: Some(7),
        outdated: 0,
        missing: missing
            .iter()
            .map(|(pod, why)| Missing {
                namespace: "shop".into(),
                pod: (*pod).into(),
                why: why.clone(),
            })
            .collect(),
        ..Live::default()
    }
}

fn moving(phase: MovePhase, message: &str) -> MoveStatus {
    MoveStatus {
        phase,
        epoch: 3,
        slots: vec!["0-100".into(), "7".into()],
        placement: Vec::new(),
        since: Time(Timestamp::UNIX_EPOCH),
        attempts: 2,
        message: message.into(),
    }
}

fn text(facts: &Facts<'_>) -> String {
    let line = |verdict: &Verdict| {
        let Verdict {
            kind,
            holds,
            reason,
            message,
        } = verdict;
        format!(
            "{:<12} {:<5} {:<14} {message}",
            kind.as_str(),
            holds,
            reason.as_str()
        )
        .trim_end()
        .to_owned()
    };
    judge(facts).iter().map(line).collect::<Vec<_>>().join("\n")
}

fn facts<'a>(findings: &'a [Finding], live: &'a Live) -> Facts<'a> {
    Facts {
        findings,
        live,
        moving: None,
        scaling: None,
        unresolved_for: Duration::ZERO,
    }
}

/// Everything that a status can say, side by side: a change of words or of logic shows here.
#[test]
fn what_conditions_say() {
    let gone = |seconds| Why::NotConnected(Some(Duration::from_secs(seconds)));
    let old = Why::TooOld {
        lacks: vec!["cache"],
    };
    let refused = Why::Refused {
        unit: "route/shop/orders".into(),
        reason: "regex".into(),
    };
    let many: Vec<_> = (0..9).map(|_| ("p", Why::Pending)).collect();
    let (all, none) = (live(2, &[]), live(0, &[]));
    let invalid = [finding(
        FindingReason::Invalid,
        "the regular expression does not compile",
    )];
    let missing = [finding(
        FindingReason::BackendNotFound,
        "no Service shop/stock",
    )];
    let warned = [finding(
        FindingReason::DuplicateKeyId,
        "key k1 stands in two Secrets",
    )];
    let taken = [finding(
        FindingReason::TargetTaken,
        "HorizontalPodAutoscaler shop/mine scales it already",
    )];
    let patient = REFS_PATIENCE;
    let cases: Vec<(&str, Facts<'_>)> = vec![
        ("good", facts(&[], &all)),
        ("no pods", facts(&[], &none)),
        (
            "pending",
            facts(
                &[],
                live_ref(live(
                    118,
                    &[("a", gone(41)), ("b", old.clone()), ("c", gone(2))],
                )),
            ),
        ),
        ("many pending", facts(&[], live_ref(live(1, &many)))),
        ("too old only", facts(&[], live_ref(live(1, &[("b", old)])))),
        ("refused", facts(&[], live_ref(live(1, &[("b", refused)])))),
        ("invalid, its denial is live", facts(&invalid, &all)),
        ("invalid, given to nobody", facts(&invalid, &none)),
        ("reference missing, just now", facts(&missing, &all)),
        (
            "reference missing, still",
            Facts {
                unresolved_for: patient,
                ..facts(&missing, &all)
            },
        ),
        ("warned", facts(&warned, &all)),
        (
            "move waits",
            Facts {
                moving: Some(move_ref(MovePhase::Waiting, "waits for b")),
                ..facts(&[], &all)
            },
        ),
        (
            "move holds",
            Facts {
                moving: Some(move_ref(MovePhase::Holding, "")),
                ..facts(&[], &all)
            },
        ),
        (
            "move given up",
            Facts {
                moving: Some(move_ref(MovePhase::BackingOff, "b froze")),
                ..facts(&[], &all)
            },
        ),
        (
            "scaled",
            Facts {
                scaling: Some(&Scaling::Applied),
                ..facts(&[], &all)
            },
        ),
        (
            "target taken",
            Facts {
                scaling: Some(&Scaling::Pending),
                ..facts(&taken, &all)
            },
        ),
    ];
    let text: String = cases
        .iter()
        .map(|(name, facts)| format!("# {name}\n{}\n\n", text(facts)))
        .collect();
    insta::assert_snapshot!(text);
}

fn live_ref(live: Live) -> &'static Live {
    Box::leak(Box::new(live))
}

fn move_ref(phase: MovePhase, message: &str) -> &'static MoveStatus {
    Box::leak(Box::new(moving(phase, message)))
}

#[test]
fn a_condition_that_says_the_same_keeps_its_time_and_every_one_names_its_generation() {
    let at = |second| Time(Timestamp::from_second(second).expect("a time"));
    let all = live(2, &[]);
    let first = stamped(&judge(&facts(&[], &all)), &[], Some(1), &at(10));
    let again = stamped(&judge(&facts(&[], &all)), &first, Some(2), &at(20));
    assert!(
        again
            .iter()
            .all(|condition| condition.last_transition_time == at(10))
    );
    assert!(
        again
            .iter()
            .all(|condition| condition.observed_generation == Some(2))
    );

    let invalid = [finding(FindingReason::Invalid, "x")];
    let broken = stamped(&judge(&facts(&invalid, &all)), &again, Some(3), &at(30));
    let time = |kind: Kind| {
        let found = broken
            .iter()
            .find(|condition| condition.type_ == kind.as_str());
        found.expect("written").last_transition_time.clone()
    };
    assert_eq!(
        (time(Kind::Accepted), time(Kind::Programmed)),
        (at(30), at(10))
    );
}

#[test]
fn a_pod_without_sidecar_is_named_and_waiting_does_not_mend_it() {
    let bare = live(1, &[("web-1", Why::Bare)]);
    let verdicts = judge(&facts(&[], &bare));
    let of = |kind: Kind| {
        let found = verdicts.iter().find(|verdict| verdict.kind == kind);
        found.expect("every condition is there")
    };
    let programmed = of(Kind::Programmed);
    assert!(
        !programmed.holds
            && programmed
                .message
                .starts_with("live on 1 of 2 pods; web-1 has no sidecar")
    );
    let stalled = of(Kind::Stalled);
    assert_eq!(
        (stalled.holds, stalled.reason.as_str()),
        (true, "SidecarMissing")
    );
    assert!(
        stalled.message.contains("restart its workload"),
        "{}",
        stalled.message
    );
    assert!(!of(Kind::Reconciling).holds, "nothing is on its way");
}
