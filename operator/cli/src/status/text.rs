//! The report for people: a table for each kind, then what is wrong, object by object.

use k8s_openapi::jiff::Timestamp;
use sluice_crds::{common::LiveStatus, shard_set::MoveStatus};

use super::{
    age,
    kind::Kind,
    report::{BrokenFile, Note, Ready, Report, Row},
};

/// The report as text; `wide` adds columns.
pub fn render(report: &Report, wide: bool, now: Timestamp) -> String {
    let Report {
        objects,
        missing,
        files,
    } = report;
    let mut parts: Vec<String> = Kind::ALL
        .into_iter()
        .filter_map(|kind| table(kind, objects, wide, now))
        .collect();
    parts.extend(objects.iter().filter_map(|row| findings(row, now)));
    parts.extend(files.iter().map(file));
    parts.extend(missing.iter().map(|what| format!("{what}: not found\n")));
    parts.push(summary(report));
    parts.join("\n")
}

fn table(kind: Kind, objects: &[Row], wide: bool, now: Timestamp) -> Option<String> {
    let mut columns = vec!["NAMESPACE", "NAME", "READY", "LIVE", "AGE"];
    if wide {
        columns.extend(["REASON", "VERSION", "SLOWEST", "EPOCH"]);
    }
    let rows: Vec<Vec<String>> = objects
        .iter()
        .filter(|row| row.kind == kind)
        .map(|row| cells(row, wide, now))
        .collect();
    if rows.is_empty() {
        return None;
    }
    let header = columns.into_iter().map(str::to_owned).collect();
    let lines: Vec<Vec<String>> = [header].into_iter().chain(rows).collect();
    Some(format!("{}\n{}", kind.title(), aligned(&lines)))
}

fn cells(row: &Row, wide: bool, now: Timestamp) -> Vec<String> {
    let known = |text: Option<String>| {
        text.filter(|text| !text.is_empty())
            .unwrap_or_else(|| "-".to_owned())
    };
    let live = |field: fn(&LiveStatus) -> Option<String>| known(row.live.as_ref().and_then(field));
    let ready = match row.ready {
        Ready::True => "True",
        Ready::False => "False",
        Ready::Unknown => "Unknown",
    };
    let mut cells = vec![
        row.namespace.clone(),
        row.name.clone(),
        ready.to_owned(),
        live(|live| Some(live.summary.clone())),
        known(
            row.created
                .as_ref()
                .map(|created| age::since(created.0, now)),
        ),
    ];
    if wide {
        cells.extend([
            known(Some(row.reason.clone())),
            live(|live| Some(live.version.clone())),
            live(|live| live.slowest_ms.map(|slowest| format!("{slowest}ms"))),
            known(row.epoch.map(|epoch| epoch.to_string())),
        ]);
    }
    cells
}

/// Columns as wide as their widest cell, three blanks apart, nothing after the last.
pub(crate) fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths);
        let text: String = padded
            .map(|(cell, width)| format!("{cell:<width$}   "))
            .collect();
        format!("{}\n", text.trim_end())
    };
    lines.iter().map(line).collect()
}

fn findings(row: &Row, now: Timestamp) -> Option<String> {
    let mut lines: Vec<String> = Vec::new();
    for note in &row.notes {
        lines.push(format!("  {}", headline(note, now)));
        lines.extend(note.lines.iter().map(|line| format!("    {line}")));
    }
    if let Some(moving) = &row.moving {
        lines.extend(movement(moving, now));
    }
    if row.stalled {
        lines.push("  Stalled: waiting does not mend this".to_owned());
    }
    let epoch = row.epoch.map(|epoch| format!(", epoch {epoch}"));
    let head = format!("{} {}/{}", row.kind.as_str(), row.namespace, row.name);
    (!lines.is_empty()).then(|| {
        format!(
            "{head}{}\n{}\n",
            epoch.unwrap_or_default(),
            lines.join("\n")
        )
    })
}

fn headline(note: &Note, now: Timestamp) -> String {
    let Note {
        about,
        status,
        reason,
        lines: _,
        since,
    } = note;
    let since = since
        .as_ref()
        .map(|since| format!(" for {}", age::since(since.0, now)));
    let status = status.as_ref().map(|status| format!(" {status}, {reason}"));
    let aside = match about.as_str() {
        "Scaling" => " (does not count for Ready)",
        _ => "",
    };
    format!(
        "{about}{}{}{aside}",
        status.unwrap_or_default(),
        since.unwrap_or_default()
    )
}

fn movement(moving: &MoveStatus, now: Timestamp) -> [String; 2] {
    let MoveStatus {
        phase,
        epoch,
        slots,
        placement: _,
        since,
        attempts,
        message,
    } = moving;
    let slots: Vec<&str> = slots.iter().map(|range| range.as_str()).collect();
    let given_up = match attempts {
        0 => String::new(),
        1 => ", given up once".to_owned(),
        times => format!(", given up {times} times"),
    };
    [
        format!(
            "  Move from epoch {epoch}: {phase:?} for {}{given_up}",
            age::since(since.0, now)
        ),
        format!("    slots {}{}", slots.join(", "), prefixed(": ", message)),
    ]
}

fn prefixed(prefix: &str, text: &str) -> String {
    match text.is_empty() {
        true => String::new(),
        false => format!("{prefix}{text}"),
    }
}

fn file(file: &BrokenFile) -> String {
    let BrokenFile { path, findings } = file;
    let lines: Vec<String> = findings.iter().map(|line| format!("  {line}")).collect();
    format!("File {path}\n{}\n", lines.join("\n"))
}

fn summary(report: &Report) -> String {
    let all = report.objects.len();
    let ready = report.objects.iter().filter(|row| row.ready == Ready::True);
    match (all, ready.count()) {
        (0, _) => "There are no objects.\n".to_owned(),
        (1, 1) => "The object is Ready.\n".to_owned(),
        (_, ready) if ready == all => format!("All {all} objects are Ready.\n"),
        (_, ready) => format!("{ready} of {all} objects are Ready.\n"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::status::{files::StateDir, kind::Selector};

    /// The report of `tests/state`, as if it were 01:00 on the first of January 2026.
    fn report() -> Report {
        let state = StateDir {
            root: Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/state"),
            namespace: None,
        };
        let read = |kind| state.read(&Selector::all(kind)).expect("reads");
        let seen = Kind::ALL.into_iter().flat_map(read).collect();
        let files = state.broken_files().expect("reads");
        Report::of(seen, vec!["ShardSet gone".into()], files)
    }

    #[test]
    fn what_people_read() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().expect("a time");
        insta::assert_snapshot!("status", render(&report(), false, now));
        let wide = render(&report(), true, now);
        let tables = wide.split("\n\nApiRoute shop").next();
        insta::assert_snapshot!("status_wide", tables.expect("tables"));
    }
}
