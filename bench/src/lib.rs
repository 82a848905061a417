//! What `make bench` runs: Sluice's own operations by themselves, the shipped sidecar beside nginx, and the report.
//!
//! | folder | holds |
//! |---|---|
//! | [`world`] | the manifests that both kinds of bench are made from |
//! | [`micro`] | operations by themselves: time per operation |
//! | [`proxied`] | whole processes: CPU time per proxied request |
//! | [`report`] | `docs/performance.md` |
//!
//! Nothing here decides about a request: every bench calls the product's own code, and checks what it says.

pub mod args;
pub mod credentials;
pub mod machine;
pub mod micro;
pub mod proxied;
pub mod report;
pub mod stats;
pub mod world;

use anyhow::{Context as _, Result, ensure};

pub use args::Args;
use args::Command;
use micro::Size;
use proxied::gate::Gates;
use report::Report;

/// How often `--quick` runs each operation.
const QUICK_TIMES: u64 = 5;

/// Does what the command line says.
pub fn run(args: &Args) -> Result<()> {
    match &args.command {
        Some(Command::Relay { listen, to }) => proxied::relay::run(*listen, *to),
        Some(Command::Gate { scale }) => gate(args, *scale),
        None if args.quick => quick(),
        None => measure(args),
    }
}

/// Runs every operation a few times on a small world. Fails where one does not give the result it is measured for.
pub fn quick() -> Result<()> {
    for mut bench in micro::all(Size::QUICK)? {
        bench.check(QUICK_TIMES)?;
        println!("{:<44} gives the right result", bench.name);
    }
    Ok(())
}

/// Prints every gate; fails where one is shut.
fn gate(args: &Args, scale: f64) -> Result<()> {
    let Gates { gates, spent } = proxied::gate::measure(args, scale)?;
    for gate in &gates {
        println!("{gate}");
    }
    println!("\nWhere the instructions of a plain request are spent:");
    for (what, share) in spent.parts.iter().chain(&spent.functions) {
        println!("{:>5.1} %  {what}", share * 100.0);
    }
    let shut = gates.iter().filter(|gate| !gate.holds()).count();
    ensure!(shut == 0, "{shut} of {} gates are shut", gates.len());
    Ok(())
}

fn measure(args: &Args) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "figures of a dev build mean nothing: use `make bench`, or --quick to check only"
    );
    let machine = machine::Machine::look();
    let mut figures = Vec::new();
    for mut bench in micro::all(Size::FULL)? {
        let figure = bench.measure();
        println!("{figure}");
        figures.push(figure);
    }
    let compared = proxied::compare(args);
    let gates = proxied::gate::measure(args, 1.0).map_err(|error| {
        eprintln!("not measured: {error:#}");
        error.to_string()
    });
    let report = Report {
        machine,
        figures,
        compared,
        gates,
        rounds: args.rounds,
        seconds: args.seconds,
    };
    let text = report.to_string();
    std::fs::write(&args.out, &text)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    println!("{text}");
    Ok(())
}
