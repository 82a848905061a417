//! `docs/performance.md`: the tables, how to read them, and what is not in them.

use std::fmt;

use crate::{
    machine::Machine,
    micro::Figure,
    proxied::{
        Compared, Row, Size, System,
        gate::{Gate, Gates},
    },
    stats::{Spread, time},
};

/// Everything that was measured.
#[derive(Debug, Clone)]
pub struct Report {
    /// Where and when.
    pub machine: Machine,
    /// Operations by themselves.
    pub figures: Vec<Figure>,
    /// Processes, or why there is nothing about them.
    pub compared: Result<Compared, String>,
    /// What no neighbour disturbs, or why it was not measured.
    pub gates: Result<Gates, String>,
    /// Rounds of the comparison.
    pub rounds: u32,
    /// Seconds of each measurement.
    pub seconds: u64,
}

/// What is told where watching costs more than [`WATCHING`]; may be empty.
const WATCHING_NOTE: &str = "";

const HEADING: &str = "\
# Performance

Written by `make bench`; do not edit. The figures hold for the machine and the moment of the next line; only ratios of one
run carry over to another.
";

const NOT_MEASURED: &str = "\
## What was not measured

- Forwards to shards, limits and nonces through a Redis, signatures *as proxied requests* (their verification is in the first
  table).
- Latency: processor time says what a request costs, not how long it waits.
- Other machines, and any network but loopback.
";

/// The most that metrics and the access log may add.
const WATCHING: f64 = 1.05;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            figures,
            compared,
            gates,
            rounds,
            seconds,
        } = self;
        writeln!(f, "{HEADING}\n{machine}\n")?;
        operations(f, figures)?;
        writeln!(f, "## Processor time per proxied request\n")?;
        match compared {
            Ok(compared) => processes(f, compared, *rounds, *seconds)?,
            Err(why) => writeln!(f, "Not measured: {why}.\n")?,
        }
        writeln!(f, "## Instructions, system calls, memory\n")?;
        match gates {
            Ok(gates) => self::gates(f, gates)?,
            Err(why) => writeln!(f, "Not measured: {why}.\n")?,
        }
        f.write_str(NOT_MEASURED)
    }
}

fn operations(f: &mut fmt::Formatter<'_>, figures: &[Figure]) -> fmt::Result {
    writeln!(f, "## Operations by themselves\n")?;
    writeln!(
        f,
        "One thread, the release profile's optimisation, everything in memory. Median of 21 samples of at least 20 ms, with the \
         least and the greatest. An operation whose result was once wrong has no figure.\n"
    )?;
    writeln!(
        f,
        "| operation | median | least | greatest | what is done |"
    )?;
    writeln!(f, "|---|---|---|---|---|")?;
    for Figure { name, what, spread } in figures {
        match spread {
            Some(Spread { median, min, max }) => {
                writeln!(
                    f,
                    "| {name} | {} | {} | {} | {what} |",
                    time(*median),
                    time(*min),
                    time(*max)
                )?;
            }
            None => writeln!(f, "| {name} | wrong result | | | {what} |")?,
        }
    }
    writeln!(f)
}

fn processes(
    f: &mut fmt::Formatter<'_>,
    compared: &Compared,
    rounds: u32,
    seconds: u64,
) -> fmt::Result {
    let Compared {
        rows,
        versions,
        watching,
        sizes,
    } = compared;
    writeln!(
        f,
        "Microseconds that all threads of the process ran, per request (`/proc/PID/task/*/schedstat`): median of {rounds} rounds \
         of {seconds} s, least to greatest. A ratio is the median of the rounds' ratios; below 5 % it says nothing. *must*: the \
         most that the sidecar may cost beside that system.\n"
    )?;
    let names = System::ALL.map(|system| {
        let version = versions.iter().find(|(of, _)| *of == system);
        version.map_or(system.name().to_owned(), |(_, version)| {
            format!("{} {version}", system.name())
        })
    });
    writeln!(
        f,
        "| workload, 16 connections where it says no other | {} | sluice : floor | sluice : peer, and must |",
        names.join(" | ")
    )?;
    writeln!(f, "|{}", "---|".repeat(names.len() + 3))?;
    for row in rows {
        line(f, row)?;
    }
    let missed = rows.iter().filter(|row| !is_met(row));
    notes(f, missed.map(|row| (row.name, row.note)))?;
    writeln!(
        f,
        "\nThe proxy runs on core 0 with one data thread; load generator and upstream share core 1. Loopback, kept-alive \
         HTTP/1.1 where it says nothing else, GET with 8 typical headers, answers with 7. TLS and HTTP/2 are h2load's, and making \
         their connections is counted; all show the same P-256 certificate, and the sidecar is an edge there. The systems take turns in each round, every other round in \
         reverse. *Floor* is a relay of bytes on epoll that reads nothing. The sidecar is the binary that its image holds (musl, mimalloc), configured by the \
         real operator with 100 routes, the one that is asked with 11 rules; every peer has one worker or thread. A system that gave another status than 200, lost a \
         connection, or answered from elsewhere than the workload says (the upstream counts) has no figure. Access logs go to \
         `/dev/null` where they are on. nginx keeps its cache in files, the others in memory. \
         A token is never seen where 9,000 take turns: more than any remembers. `-`: the system has no such \
         thing.\n"
    )?;
    self::watching(f, watching)?;
    if !sizes.is_empty() {
        writeln!(
            f,
            "| process, before the load | anonymous memory | resident memory | program file |"
        )?;
        writeln!(f, "|---|---|---|---|")?;
        for Size {
            name,
            anonymous_kib,
            resident_kib,
            binary,
        } in sizes
        {
            let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
            let binary = binary.map_or("-".into(), mib);
            writeln!(
                f,
                "| {name} | {} | {} | {binary} |",
                mib(anonymous_kib << 10),
                mib(resident_kib << 10)
            )?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn watching(f: &mut fmt::Formatter<'_>, watching: &Result<Vec<(f64, f64)>, String>) -> fmt::Result {
    let rounds = match watching {
        Ok(rounds) => rounds,
        Err(why) => {
            return writeln!(
                f,
                "Metrics and access log on and off: not measured: {why}.\n"
            );
        }
    };
    let of = |figures: &mut dyn Iterator<Item = f64>| {
        Spread::of(figures).map_or(f64::NAN, |spread| spread.median)
    };
    let ratio = of(&mut rounds.iter().map(|(with, without)| with / without));
    let verdict = if ratio <= WATCHING {
        "met"
    } else {
        "**missed**"
    };
    writeln!(
        f,
        "Metrics and access log, the same binary in turn, plain 128 B: {:.1} with both, {:.1} with neither; ratio {ratio:.2} (must \
         {WATCHING:.2}: {verdict}).\n",
        of(&mut rounds.iter().map(|(with, _)| *with)),
        of(&mut rounds.iter().map(|(_, without)| *without)),
    )?;
    if ratio > WATCHING && !WATCHING_NOTE.is_empty() {
        writeln!(f, "{WATCHING_NOTE}\n")?;
    }
    Ok(())
}

/// What was tried for what is missed, and where the cost is; nothing where none of it says anything.
fn notes<'n>(
    f: &mut fmt::Formatter<'_>,
    missed: impl Iterator<Item = (&'n str, &'n str)>,
) -> fmt::Result {
    let mut told = missed.filter(|(_, note)| !note.is_empty()).peekable();
    if told.peek().is_some() {
        writeln!(
            f,
            "\nWhat was missed, what was tried, and where the cost is:\n"
        )?;
    }
    for (name, note) in told {
        writeln!(f, "- **{name}**: {note}")?;
    }
    Ok(())
}

/// Whether a line costs no more than it must, beside every peer that was measured.
fn is_met(row: &Row) -> bool {
    row.must.iter().all(|(peer, must)| {
        let ratio = row.ratio(System::Sluice, *peer);
        ratio.is_none_or(|ratio| ratio <= *must)
    })
}

fn gates(f: &mut fmt::Formatter<'_>, gates: &Gates) -> fmt::Result {
    let Gates { gates, spent } = gates;
    writeln!(
        f,
        "What `make bench-gate` holds the sidecar to. Instructions are those of user mode (callgrind, whose processor has no \
         instructions for SHA-256), the difference of two loads; system calls are strace's.\n"
    )?;
    writeln!(f, "| what | figure | at most | |")?;
    writeln!(f, "|---|---|---|---|")?;
    for gate in gates {
        let Gate {
            name,
            figure,
            limit,
            unit,
        } = gate;
        let verdict = if gate.holds() { "met" } else { "**missed**" };
        writeln!(
            f,
            "| {name} | {figure:.2} {unit} | {limit:.2} | {verdict} |"
        )?;
    }
    let noted = gates
        .iter()
        .filter_map(|gate| Some((gate.name, gate.note()?)));
    notes(f, noted)?;
    writeln!(
        f,
        "\nWhere the instructions of a plain request are spent:\n"
    )?;
    for (what, list) in [("part", &spent.parts), ("function", &spent.functions)] {
        writeln!(f, "| {what} | share |\n|---|---|")?;
        for (name, share) in list {
            writeln!(f, "| `{name}` | {:.1} % |", share * 100.0)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn line(f: &mut fmt::Formatter<'_>, row: &Row) -> fmt::Result {
    let micros = |system| match row.micros(system) {
        Ok(Spread { median, min, max }) => format!("{median:.1} ({min:.1} to {max:.1})"),
        Err(why) if why.is_empty() => "-".into(),
        Err(why) => format!("not measured: {why}"),
    };
    let floor = row.ratio(System::Sluice, System::Floor);
    writeln!(
        f,
        "| {} | {} | {} | {} |",
        row.name,
        System::ALL.map(micros).join(" | "),
        floor.map_or("-".into(), |ratio| format!("{ratio:.2}")),
        beside(row),
    )
}

/// The ratio to each peer, with what it must be.
fn beside(row: &Row) -> String {
    let told = System::PEERS.into_iter().filter_map(|peer| {
        let ratio = row.ratio(System::Sluice, peer)?;
        let must = row.must.iter().find(|(system, _)| *system == peer);
        let must = must.map(|(_, must)| {
            let verdict = if ratio <= *must { "met" } else { "**missed**" };
            format!(" (must {must:.2}: {verdict})")
        });
        Some(format!(
            "{} {ratio:.2}{}",
            peer.name(),
            must.unwrap_or_default()
        ))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        "-".into()
    } else {
        told.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(compared: Result<Compared, String>) -> String {
        let spread = Some(Spread {
            median: 1500.0,
            min: 1000.0,
            max: 2000.0,
        });
        let figures = vec![
            Figure {
                name: "good",
                what: "works".into(),
                spread,
            },
            Figure {
                name: "bad",
                what: "fails".into(),
                spread: None,
            },
        ];
        Report {
            machine: Machine::look(),
            figures,
            compared,
            gates: Err("valgrind is not installed".into()),
            rounds: 5,
            seconds: 2,
        }
        .to_string()
    }

    #[test]
    fn what_is_missing_is_said_where_its_figure_would_be() {
        let absent = || Err(String::new());
        let rounds = [
            Ok(vec![10.0]),
            Err("not installed".into()),
            Ok(vec![15.0]),
            Ok(vec![20.0]),
            absent(),
            Ok(vec![15.0]),
        ];
        let rows = vec![Row {
            name: "plain",
            rounds,
            must: &[(System::Haproxy, 0.85), (System::Envoy, 0.80)],
            note: "it copies",
        }];
        let text = report(Ok(Compared {
            rows,
            versions: vec![(System::Envoy, "1.40.0".into())],
            watching: Ok(vec![(10.2, 10.0), (10.9, 10.0), (10.1, 10.0)]),
            sizes: Vec::new(),
        }));
        assert!(text.contains("| Envoy 1.40.0 |"), "{text}");
        let line = "| plain | 10.0 (10.0 to 10.0) | not measured: not installed | 15.0 (15.0 to 15.0) | 20.0 (20.0 to 20.0) | - | \
                    15.0 (15.0 to 15.0) | 1.50 | HAProxy 1.00 (must 0.85: **missed**); Envoy 0.75 (must 0.80: met) |";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("\n- **plain**: it copies\n"), "{text}");
        assert!(text.contains("ratio 1.02 (must 1.05: met)"), "{text}");
        assert!(
            text.contains("Not measured: valgrind is not installed."),
            "{text}"
        );
        assert!(
            text.contains("| good | 1.50 µs | 1.00 µs | 2.00 µs | works |"),
            "{text}"
        );
        assert!(
            text.contains("| bad | wrong result | | | fails |"),
            "{text}"
        );
        let text = report(Err("two cores are needed".into()));
        assert!(
            text.contains("Not measured: two cores are needed."),
            "{text}"
        );
    }

    #[test]
    fn a_note_is_told_where_its_row_is_missed_only() {
        let row = |name, must| Row {
            name,
            rounds: System::ALL.map(|_| Ok(vec![10.0])),
            must,
            note: "it copies",
        };
        let rows = vec![
            row("met", &[(System::Envoy, 1.0)]),
            row("missed", &[(System::Nginx, 1.0), (System::Envoy, 0.9)]),
            row("free", &[]),
        ];
        let text = report(Ok(Compared {
            rows,
            versions: Vec::new(),
            watching: Err("not now".into()),
            sizes: Vec::new(),
        }));
        assert_eq!(text.matches("it copies").count(), 1, "{text}");
        assert!(text.contains("- **missed**: it copies"), "{text}");
    }
}
