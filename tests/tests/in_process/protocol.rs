//! The protocol and attack table: requests and answers as RFC 9110, 9112 and 9113 allow and forbid them, over real sockets,
//! through two sidecars with two data threads each, with a strict origin behind. What is accepted reaches the origin once
//! and as it was meant; what is refused reaches it not at all, is answered, and stands in the access log. The rows are in
//! `protocol/`, one file for each RFC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_tests::{World, eventually, isolated, seconds};
use tokio::task::JoinSet;

use crate::place::{Place, Plan, route};
use answers::{AnswerCase, Meant};
use case::Case;
use client::Client;
use origin::{Origin, Seen};
use rfc9113::FrameCase;

mod answers;
mod case;
mod client;
mod frames;
mod naive;
mod origin;
mod rfc9110;
mod rfc9112;
mod rfc9113;

/// How long the sidecar may take for anything.
const PATIENCE: Duration = seconds(10);
/// How long the naive proxy is waited for: where it is wrong, it often waits for ever.
const NAIVE_PATIENCE: Duration = Duration::from_millis(1_500);
/// Cases that the naive proxy is tried with at once.
const NAIVE_AT_ONCE: usize = 24;

fn requests() -> Vec<Case> {
    [rfc9112::cases(), rfc9110::cases()].concat()
}

/// Two sidecars whose route leads to the origin.
async fn start(world: &World) -> Result<(Place<'_>, Origin)> {
    let mut plan = Plan::new(world)?;
    plan.group("api")?;
    let ip = world.address();
    plan.service("origin", &[ip])?;
    plan.put(
        "route",
        &route(
            "a",
            "  requestLimits: {maxHeadersSize: 60Ki}\n  rules: [{name: all, backendRefs: [{name: origin, port: 80}]}]\n",
        ),
    )?;
    let origin = Origin::start((ip, 8080).into()).await?;
    let place = plan.start().await?;
    place.live("ApiRoute", "a").await?;
    Ok((place, origin))
}

/// One row, sent in these pieces.
async fn judge(
    case: &Case,
    pieces: &[&[u8]],
    proxy: SocketAddr,
    origin: &Origin,
    patience: Duration,
) -> Result<()> {
    let mut client = Client::connect(proxy, patience).await?;
    client.send(pieces).await;
    for line in &case.reaches {
        let method = line.split(' ').next().unwrap_or_default();
        let answer = client.answer(method).await?;
        let answer = answer.with_context(|| format!("no answer to {line}: {:?}", client.rest()))?;
        ensure!(
            answer.status == 200 && (answer.body == b"ok" || method == "HEAD"),
            "{line} was answered {answer:?}"
        );
    }
    if let Some(status) = case.then {
        let answer = client.answer("GET").await?;
        let answer = answer.with_context(|| format!("no answer: {:?}", client.rest()))?;
        ensure!(answer.status == status, "{status} is meant: {answer:?}");
        ensure!(
            answer.field("content-type") == Some("application/problem+json"),
            "no problem details: {answer:?}"
        );
        ensure!(
            !case.closes || answer.field("connection") == Some("close"),
            "the end is not announced: {answer:?}"
        );
    }
    if case.closes {
        client.ended().await?;
    }
    arrived(&case.reaches, &case.shows, &case.hides, &origin.take()?)
}

/// Whether what the origin saw is what was meant.
fn arrived(reaches: &[String], shows: &[&str], hides: &[&str], seen: &[Seen]) -> Result<()> {
    let lines: Vec<_> = seen.iter().map(Seen::line).collect();
    ensure!(
        lines == reaches,
        "the origin saw {lines:?}, not {reaches:?}"
    );
    let Some(last) = seen.last() else {
        return Ok(());
    };
    let fields: Vec<_> = last
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    for line in shows {
        ensure!(
            fields.iter().any(|field| field == line),
            "no {line:?} in {fields:?}"
        );
    }
    for name in hides {
        ensure!(
            last.fields.iter().all(|(known, _)| known != name),
            "{name} in {fields:?}"
        );
    }
    Ok(())
}

/// One row of answers: the connection of the client asks once more after an answer that leaves it open.
async fn judge_answer(
    case: &AnswerCase,
    number: usize,
    proxy: SocketAddr,
    origin: &Origin,
    patience: Duration,
) -> Result<()> {
    let ask =
        |method: &str| format!("{method} /answer{number} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let mut client = Client::connect(proxy, patience).await?;
    origin.script(case.scripted.clone());
    client.send(&[ask(case.method).as_bytes()]).await;
    let answer = client.answer(case.method).await?;
    let spoilt = |answer: &Option<client::Answer>| {
        answer.as_ref().is_some_and(|answer| answer.status == 502)
    };
    let cut = |answer: &Option<client::Answer>| {
        answer.is_none() && client.rest().starts_with("HTTP/1.1 200")
    };
    let as_meant = match case.meant {
        Meant::Passes(status, body) => {
            let meant = answer.as_ref().filter(|answer| answer.status == status);
            meant.is_some_and(|answer| answer.body == body.as_bytes())
        }
        Meant::BadGateway => spoilt(&answer),
        Meant::BadOrAgain => {
            let again = answer.as_ref().filter(|answer| answer.status == 200);
            spoilt(&answer) || again.is_some_and(|answer| answer.body == b"ok")
        }
        Meant::Incomplete => cut(&answer),
        Meant::Spoilt => spoilt(&answer) || cut(&answer),
    };
    ensure!(
        as_meant,
        "{:?} is meant: {answer:?} {:?}",
        case.meant,
        client.rest()
    );
    if answer.is_some() {
        client.send(&[ask("GET").as_bytes()]).await;
        let next = client.answer("GET").await?;
        ensure!(
            next.as_ref()
                .is_some_and(|next| next.status == 200 && next.body == b"ok"),
            "and then {next:?}"
        );
    }
    let seen = origin.take()?;
    // A safe request may be sent again where a connection broke off before any answer.
    let [first, .., last] = &seen[..] else {
        ensure!(
            answer.is_none() && seen.len() == 1,
            "the origin saw {seen:?}"
        );
        return Ok(());
    };
    ensure!(
        !case.fresh || first.connection != last.connection,
        "the connection of that answer was used again: {seen:?}"
    );
    Ok(())
}

/// One row of HTTP/2.
async fn judge_frames(
    case: &FrameCase,
    number: usize,
    proxy: SocketAddr,
    origin: &Origin,
) -> Result<()> {
    let outcome = frames::exchange(proxy, &case.frames(number), PATIENCE).await?;
    ensure!(
        case.allows(outcome),
        "{:?} is meant: {outcome:?}",
        case.meant
    );
    let reaches = match case.meant {
        rfc9113::Meant::Forwarded(line) => vec![line.replace("/N", &format!("/case{number}"))],
        rfc9113::Meant::Refused => Vec::new(),
    };
    arrived(&reaches, &case.shows, &case.hides, &origin.take()?)
}

/// What failed, to be shown at the end: one look at the whole table.
#[derive(Debug, Default)]
struct Failed(Vec<String>);

impl Failed {
    fn note(&mut self, section: &str, what: &str, result: Result<()>, origin: &Origin) {
        if let Err(error) = result {
            // What it left there is not the next row's.
            let _ = origin.take();
            self.0.push(format!("RFC {section}: {what}: {error:#}"));
        }
    }

    fn none(self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        bail!("{} rows:\n{}", self.0.len(), self.0.join("\n"))
    }
}

#[test]
fn the_table_of_requests_holds() {
    isolated!(async |world| {
        let (place, origin) = start(world).await?;
        let began = Instant::now();
        let mut failed = Failed::default();
        let mut refusals = BTreeMap::<u16, usize>::new();
        let (cases, mut numbers) = (requests(), 1..);
        for case in &cases {
            // Whole, to one sidecar; cut in two, to the other: how bytes arrive decides nothing.
            for (pod, halves) in place.pods.iter().zip([false, true]) {
                let case = case.numbered(numbers.next().context("numbers end")?);
                let (first, second) = case.sent.split_at(case.sent.len() / 2);
                let pieces = if halves {
                    vec![first, second]
                } else {
                    vec![case.sent.as_slice()]
                };
                let result = judge(&case, &pieces, pod.sidecar.address, &origin, PATIENCE).await;
                failed.note(case.section, case.what, result, &origin);
                if let Some(status) = case.then {
                    *refusals.entry(status).or_default() += 1;
                }
            }
        }
        let refused = cases.iter().filter(|case| case.then.is_some()).count();
        println!(
            "RFC 9110 and 9112: {} rows, {refused} refused, {} accepted, each whole and in two pieces, {:.1?}",
            cases.len(),
            cases.len() - refused,
            began.elapsed()
        );
        failed.none()?;
        every_refusal_is_logged(&place, &refusals).await?;
        let late = origin.take()?;
        ensure!(late.is_empty(), "late at the origin: {late:?}");
        Ok(())
    });
}

/// As many lines of each status as there were refusals, each with its reason.
async fn every_refusal_is_logged(place: &Place<'_>, refusals: &BTreeMap<u16, usize>) -> Result<()> {
    eventually("a line for each refusal", seconds(10), async || {
        let mut lines = BTreeMap::<u16, usize>::new();
        for line in place.pods.iter().flat_map(|pod| pod.sidecar.access_log()) {
            let status = line["status"].as_u64().unwrap_or_default() as u16;
            if status >= 400 {
                ensure!(line["reason"].is_string(), "no reason: {line}");
                ensure!(
                    status == 404 || line["detail"].is_string(),
                    "no detail: {line}"
                );
                *lines.entry(status).or_default() += 1;
            }
        }
        ensure!(lines == *refusals, "refused {refusals:?}, logged {lines:?}");
        Ok(())
    })
    .await
}

#[test]
fn the_table_of_answers_holds() {
    isolated!(async |world| {
        let (place, origin) = start(world).await?;
        let cases = answers::cases();
        let mut failed = Failed::default();
        for (number, case) in cases.iter().enumerate() {
            let proxy = place.pods[number % 2].sidecar.address;
            let result = judge_answer(case, number, proxy, &origin, PATIENCE).await;
            failed.note(case.section, case.what, result, &origin);
        }
        let passed = cases
            .iter()
            .filter(|case| matches!(case.meant, Meant::Passes(..)))
            .count();
        println!(
            "answers: {} rows, {passed} passed on, {} 502 or cut",
            cases.len(),
            cases.len() - passed
        );
        failed.none()
    });
}

#[test]
fn the_table_of_frames_holds() {
    isolated!(async |world| {
        let (place, origin) = start(world).await?;
        let cases = rfc9113::cases();
        let mut failed = Failed::default();
        for (number, case) in cases.iter().enumerate() {
            let proxy = place.pods[number % 2].sidecar.address;
            let result = judge_frames(case, number, proxy, &origin).await;
            failed.note(case.section, case.what, result, &origin);
        }
        let refused = cases
            .iter()
            .filter(|case| case.meant == rfc9113::Meant::Refused)
            .count();
        println!(
            "RFC 9113: {} rows, {refused} refused, {} accepted",
            cases.len(),
            cases.len() - refused
        );
        failed.none()
    });
}

/// The table can fail: a proxy that trusts both ends fails it often.
#[test]
fn a_naive_proxy_fails_the_table() {
    isolated!(async |_world| {
        let mut tasks = JoinSet::new();
        let mut outcomes = Vec::new();
        let requests = requests().into_iter().map(Row::Request);
        let rows = requests.chain(answers::cases().into_iter().map(Row::Answer));
        for (number, row) in rows.enumerate() {
            tasks.spawn(naively(number, row));
            if tasks.len() >= NAIVE_AT_ONCE {
                outcomes.extend(tasks.join_next().await.transpose()?);
            }
        }
        outcomes.extend(tasks.join_all().await);
        let count = |outcome: Naive| outcomes.iter().filter(|one| **one == outcome).count();
        let (fails, harms) = (count(Naive::Fails), count(Naive::Harms));
        println!(
            "the naive proxy: {} rows, {} failures; in {harms} of them the origin saw what it must not",
            outcomes.len(),
            fails + harms
        );
        ensure!(fails + harms >= 30 && harms >= 30, "{fails} and {harms}");
        Ok(())
    });
}

/// A row that the naive proxy is tried with.
enum Row {
    Request(Case),
    Answer(AnswerCase),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naive {
    Holds,
    Fails,
    /// The origin saw what it must not.
    Harms,
}

/// One row, with a proxy and an origin of its own.
async fn naively(number: usize, row: Row) -> Naive {
    let begin = async {
        let origin = Origin::start(([127, 0, 0, 1], 0).into()).await?;
        let proxy = naive::start(origin.address).await?;
        anyhow::Ok((origin, proxy))
    };
    let Ok((origin, proxy)) = begin.await else {
        return Naive::Holds;
    };
    match row {
        Row::Request(case) => {
            let case = case.numbered(number);
            if judge(&case, &[&case.sent], proxy, &origin, NAIVE_PATIENCE)
                .await
                .is_ok()
            {
                return Naive::Holds;
            }
            let as_meant =
                |seen: &[Seen]| seen.iter().map(Seen::line).eq(case.reaches.iter().cloned());
            match origin.all() {
                Ok(seen) if as_meant(&seen) => Naive::Fails,
                _ => Naive::Harms,
            }
        }
        Row::Answer(case) => {
            match judge_answer(&case, number, proxy, &origin, NAIVE_PATIENCE).await {
                Ok(()) => Naive::Holds,
                Err(_) => Naive::Fails,
            }
        }
    }
}

/// The issue asks for 200 rows; each says where it is written from.
#[test]
fn there_are_two_hundred_rows_and_each_names_its_section() {
    let requests = requests().into_iter().map(|case| (case.section, case.what));
    let answers = answers::cases()
        .into_iter()
        .map(|case| (case.section, case.what));
    let frames = rfc9113::cases()
        .into_iter()
        .map(|case| (case.section, case.what));
    let rows: Vec<_> = requests.chain(answers).chain(frames).collect();
    println!("{} rows", rows.len());
    assert!(rows.len() >= 200, "{}", rows.len());
    for (section, what) in rows {
        let (rfc, part) = section.split_once(' ').expect("RFC and section");
        assert!(
            rfc.parse::<u16>().is_ok() && part.starts_with(|digit: char| digit.is_ascii_digit()),
            "{what}: {section}"
        );
    }
}
