//! Instructions of a process, as callgrind counts them: user mode, all threads, the same on every machine.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

/// Two loads, of which the difference counts: what comes once does not.
const LOADS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];
/// No function has a larger share of its own.
const MOST: f64 = 0.8;
/// Functions that are listed.
const FUNCTIONS: usize = 25;
/// The parts that instructions are told apart by, as their functions are named, the first that fits.
const PARTS: [(&str, &str); 14] = [
    ("sluice_pipeline", "our phases (sluice_pipeline)"),
    ("sluice", "our data path (sluice_sidecar)"),
    ("hyper_util", "hyper-util"),
    ("hyper", "hyper"),
    ("httparse", "httparse"),
    ("http", "http: header map, URI"),
    ("tokio", "tokio"),
    ("mio", "tokio"),
    ("mem", "copying and comparing memory"),
    ("bytes", "bytes"),
    ("bcmp", "copying and comparing memory"),
    ("mi_", "allocator"),
    ("_mi_", "allocator"),
    ("", "the rest"),
];

/// The program, and its arguments, that runs another under callgrind.
pub fn command(dir: &Path) -> Vec<OsString> {
    let mut out = OsString::from("--callgrind-out-file=");
    out.push(dir.join("callgrind"));
    vec![
        "valgrind".into(),
        "-q".into(),
        "--tool=callgrind".into(),
        out,
    ]
}

/// A process that runs under callgrind.
pub struct Instrumented {
    pid: u32,
    out: PathBuf,
    dumps: Cell<u32>,
}

impl Instrumented {
    /// The process that [`command`] began.
    pub fn new(pid: u32, dir: &Path) -> Self {
        Self {
            pid,
            out: dir.join("callgrind"),
            dumps: Cell::new(0),
        }
    }

    /// Instructions for each of what `load` counts when it runs for a time.
    pub fn per_request(&self, load: impl Fn(Duration) -> Result<u64>) -> Result<f64> {
        load(LOADS[0])?;
        let mut seen = [(0.0, 0.0); 2];
        for (seen, time) in seen.iter_mut().zip(LOADS) {
            self.control("--zero")?;
            let requests = load(time)?;
            *seen = (self.dump()?, requests as f64);
        }
        let [(few_instructions, few), (instructions, many)] = seen;
        ensure!(many > few, "the longer load had no more requests");
        Ok((instructions - few_instructions) / (many - few))
    }

    /// Where the last load's instructions were spent.
    pub fn spent(&self) -> Result<Spent> {
        let listed = Command::new("callgrind_annotate")
            .args(["--threshold=100"])
            .arg(self.dumped())
            .output()
            .context("callgrind_annotate is not installed")?;
        Ok(Spent::of(&String::from_utf8_lossy(&listed.stdout)))
    }

    fn dumped(&self) -> PathBuf {
        let mut name = self.out.clone().into_os_string();
        name.push(format!(".{}", self.dumps.get()));
        name.into()
    }

    /// Instructions since the last dump or zero.
    fn dump(&self) -> Result<f64> {
        self.dumps.set(self.dumps.get() + 1);
        self.control("--dump")?;
        let text = fs::read_to_string(self.dumped()).context("callgrind wrote no dump")?;
        let total = text.lines().find_map(|line| {
            line.strip_prefix("totals:")
                .or_else(|| line.strip_prefix("summary:"))
        });
        total
            .and_then(|total| total.trim().parse().ok())
            .context("callgrind's dump has no total")
    }

    fn control(&self, what: &str) -> Result<()> {
        let told = Command::new("callgrind_control")
            .args([what, &self.pid.to_string()])
            .output()
            .context("callgrind_control is not installed (Debian: valgrind)")?;
        ensure!(
            told.status.success(),
            "callgrind_control {what} failed: {}",
            String::from_utf8_lossy(&told.stderr)
        );
        Ok(())
    }
}

/// Instructions in shares of 1, greatest first.
#[derive(Debug, Clone, Default)]
pub struct Spent {
    /// By part.
    pub parts: Vec<(String, f64)>,
    /// By function, the first few; a function has what was inlined into it.
    pub functions: Vec<(String, f64)>,
}

impl Spent {
    /// Of lines like `1,234 ( 5.6%)  file:function [program]`.
    fn of(annotated: &str) -> Self {
        let (mut functions, mut total) = (BTreeMap::<&str, f64>::new(), 0.0);
        for line in annotated.lines() {
            let count = line.split_whitespace().next();
            let count = count.and_then(|count| count.replace(',', "").parse::<f64>().ok());
            let (Some(count), Some((_, place))) = (count, line.split_once(")  ")) else {
                continue;
            };
            if place.starts_with("PROGRAM TOTALS") {
                total = count;
                continue;
            }
            let (_, function) = place.split_once(':').unwrap_or(("", place));
            let (function, _) = function.split_once(" [").unwrap_or((function, ""));
            *functions.entry(function).or_default() += count;
        }
        // What runs all the time is listed with all that it calls.
        functions.retain(|_, count| *count <= total * MOST);
        let whole: f64 = functions.values().sum();
        let mut parts = BTreeMap::<&str, f64>::new();
        for (function, count) in &functions {
            *parts.entry(part(function)).or_default() += count;
        }
        let listed = |shares: BTreeMap<&str, f64>, most: usize| {
            let shares = shares.into_iter();
            let mut shares: Vec<_> = shares
                .map(|(what, count)| (what.to_owned(), count / whole))
                .collect();
            shares.sort_by(|(_, a), (_, b)| b.total_cmp(a));
            shares.truncate(most);
            shares
        };
        Self {
            parts: listed(parts, usize::MAX),
            functions: listed(functions, FUNCTIONS),
        }
    }
}

/// The part of a function: by the first crate that its name begins with, `<` and `&` of implementations aside.
fn part(function: &str) -> &'static str {
    let name = function.trim_start_matches(['<', '&', '*', ' ']);
    let name = name.strip_prefix("dyn ").unwrap_or(name);
    PARTS
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map_or("the rest", |(_, part)| part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart_by_crate() {
        let annotated = "\
3,000 (100.0%)  PROGRAM TOTALS
2,900 (96.67%)  ???:start [sluice-sidecar]
1,500 (50.00%)  ???:<hyper::proto::h1::conn::Conn as X>::poll [sluice-sidecar]
  750 (25.00%)  ???:memcpy [sluice-sidecar]
  750 (25.00%)  x.rs:sluice_pipeline::route::find [sluice-sidecar]
";
        let Spent { parts, functions } = Spent::of(annotated);
        assert_eq!(parts[0], ("hyper".to_owned(), 0.5));
        assert_eq!((parts.len(), functions.len()), (3, 3));
        assert!(functions.contains(&("sluice_pipeline::route::find".to_owned(), 0.25)));
        assert_eq!(
            part("sluice_sidecar::data::x"),
            "our data path (sluice_sidecar)"
        );
        assert_eq!(part("&mut tokio"), "the rest");
    }
}
