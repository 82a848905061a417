//! The gates: what a request and a connection cost in figures that no neighbour on the machine disturbs (instructions,
//! system calls, memory), against stated limits. Processor time is not among them: it is compared in the report.

mod callgrind;
mod strace;

use std::{fmt, fs, net::SocketAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{
    CORES, Server,
    cells::PLAIN,
    cpu, http,
    load::Load,
    origin::Origin,
    sluice::{Programs, Sluice},
    tls,
};
use crate::{Args, credentials::Keys, world::gateway::CLIENT_HEADER};
use callgrind::Instrumented;
pub use callgrind::Spent;

/// Idle connections that memory is measured with: enough for pages not to matter, few enough for any descriptor limit.
const IDLE: usize = 400;
/// Starts of which the least time counts.
const STARTS: usize = 7;
/// Load while system calls are counted.
const COUNTED: Duration = Duration::from_secs(2);

/// Something that is measured, and how much of it there may be.
#[derive(Debug, Clone)]
pub struct Gate {
    /// What.
    pub name: &'static str,
    /// How many, in `unit`.
    pub figure: f64,
    /// The most there may be.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
}

/// What was tried and where the cost is, by the name of a gate: told where the gate is shut.
const NOTES: [(&str, &str); 2] = [
    (
        "a limit by header, over plain",
        "tried: a keyed SipHash in place of SHA-256, header fields that are ready but for two numbers, own buckets without a \
         future or an allocation, counters found by a hash that is ready (14.3 k before). Hash, look-up, decision, verdict and \
         counting are about 1.5 k by callgrind. The rest is fields: the request's one more is read, checked, kept and passed \
         on, and two of the answer are made values of a header map and written.",
    ),
    (
        "a JWT seen before, over plain",
        "tried: the token found by a keyed hash of its last 32 bytes and compared whole, its identity shared and not copied \
         (38.6 k before, most of it SHA-256). Look-ups, hash and comparison are about 2 k by callgrind. The rest is the field \
         itself: the token's bytes are scanned, checked, copied and written once more than those of a plain request.",
    ),
];

impl Gate {
    /// Whether the figure is within its limit.
    pub fn holds(&self) -> bool {
        self.figure <= self.limit
    }

    /// What is told where it is shut; none: nothing is known.
    pub fn note(&self) -> Option<&'static str> {
        let mut notes = NOTES.iter().filter(|(name, _)| *name == self.name);
        notes.find(|_| !self.holds()).map(|(_, note)| *note)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            figure,
            limit,
            unit,
        } = self;
        let verdict = if self.holds() { "holds" } else { "FAILS" };
        write!(
            f,
            "{name:<44} {figure:>10.2} {unit:<12} limit {limit:>10.2}  {verdict}"
        )
    }
}

/// All gates.
#[derive(Debug, Clone)]
pub struct Gates {
    /// With their figures.
    pub gates: Vec<Gate>,
    /// Where the instructions of a plain request are spent.
    pub spent: Spent,
}

/// Measures all. `scale` multiplies each limit: a gate that stays open at 0.5 shows nothing.
pub fn measure(args: &Args, scale: f64) -> Result<Gates> {
    std::thread::scope(|scope| {
        let pinned = || {
            cpu::pin(CORES[1])
                .context("two cores are needed: one for the proxy, one for the load")?;
            on_core_one(args)
        };
        let measured = scope.spawn(pinned).join();
        let mut gates = measured.unwrap_or_else(|_| anyhow::bail!("the measurement panicked"))?;
        for gate in &mut gates.gates {
            gate.limit *= scale;
        }
        Ok(gates)
    })
}

fn on_core_one(args: &Args) -> Result<Gates> {
    let keys = Keys::generate()?;
    let origin = Origin::start(Some(CORES[1]))?;
    let programs = Programs::find(args.sidecar.as_deref(), args.operator.as_deref())?;
    let dir = || tempfile::Builder::new().prefix("sluice-gate-").tempdir();
    let mut gates = Vec::new();
    {
        let dir = dir()?;
        gates.push(size(&programs.sidecar, dir.path())?);
        let sluice = programs.start(CORES, dir.path(), &keys, origin.address)?;
        gates.extend(memory(&sluice, &keys)?);
        gates.extend(system_calls(&sluice, dir.path())?);
        gates.push(start(sluice, dir.path())?);
    }
    let dir = dir()?;
    let (more, spent) = instructions(&programs, dir.path(), &keys, &origin)?;
    gates.extend(more);
    Ok(Gates { gates, spent })
}

/// The program as the image holds it: without symbols.
fn size(sidecar: &Path, dir: &Path) -> Result<Gate> {
    let stripped = dir.join("stripped");
    let done = Command::new("strip")
        .arg("-o")
        .args([&stripped, sidecar])
        .status();
    ensure!(
        done.context("strip is not installed (Debian: binutils)")?
            .success(),
        "strip failed"
    );
    let bytes = fs::metadata(&stripped)?.len();
    Ok(Gate {
        name: "program file, stripped",
        figure: bytes as f64 / f64::from(1 << 20),
        limit: 14.0,
        unit: "MiB",
    })
}

fn memory(sluice: &Sluice, keys: &Keys) -> Result<[Gate; 3]> {
    let request = http::get(PLAIN, &[]);
    let idle = anonymous(&sluice.quiet)?;
    let plain = per_connection(&sluice.quiet, |address| http::keep(address, &request))?;
    let client = tls::Client::new(keys)?;
    let secure = per_connection(&sluice.edge, |address| client.keep(address, &request))?;
    let gate = |name, figure, limit, unit| Gate {
        name,
        figure,
        limit,
        unit,
    };
    Ok([
        gate(
            "anonymous memory, idle, 100 routes",
            idle / 1024.0,
            4.0,
            "MiB",
        ),
        gate("memory per idle connection, plain", plain, 20.0, "KiB"),
        gate("memory per idle connection, TLS", secure, 28.0, "KiB"),
    ])
}

/// Anonymous memory, in KiB.
fn anonymous(server: &Server) -> Result<f64> {
    let (anonymous, _) = cpu::memory_of(server.running.pid()).context("the sidecar has ended")?;
    Ok(anonymous as f64)
}

/// What each connection that has been used once adds, in KiB.
fn per_connection<C>(server: &Server, connect: impl Fn(SocketAddr) -> Result<C>) -> Result<f64> {
    let connections = |count| (0..count).map(|_| connect(server.address));
    // The first find what others have left: they are not those that are counted.
    let first: Vec<C> = connections(IDLE / 4).collect::<Result<_>>()?;
    let before = anonymous(server)?;
    let held: Vec<C> = connections(IDLE).collect::<Result<_>>()?;
    let after = anonymous(server)?;
    drop((first, held));
    Ok((after - before) / IDLE as f64)
}

/// The least of some: what else runs on the machine only adds.
fn start(sluice: Sluice, dir: &Path) -> Result<Gate> {
    let starts = sluice.starts(dir, STARTS)?;
    let least = starts.into_iter().min().context("it was not started")?;
    Ok(Gate {
        name: "start to first answer, last-known-good",
        figure: least.as_secs_f64() * 1e3,
        limit: 20.0,
        unit: "ms",
    })
}

fn system_calls(sluice: &Sluice, dir: &Path) -> Result<[Gate; 2]> {
    let pid = sluice.quiet.running.pid();
    let per_request = |connections| {
        let requests = [http::get(PLAIN, &[])];
        let load = Load {
            address: sluice.quiet.address,
            requests: &requests,
            connections,
            warm_up: Duration::ZERO,
            time: COUNTED,
        };
        strace::per(pid, dir, || Ok(load.run(|| Ok(()))?.answers))
    };
    Ok([
        Gate {
            name: "system calls per request, 16 connections",
            figure: per_request(16)?,
            limit: 4.25,
            unit: "calls",
        },
        Gate {
            name: "system calls per request, 1 connection",
            figure: per_request(1)?,
            limit: 6.1,
            unit: "calls",
        },
    ])
}

fn instructions(
    programs: &Programs,
    dir: &Path,
    keys: &Keys,
    origin: &Origin,
) -> Result<(Vec<Gate>, Spent)> {
    let programs = Programs {
        under: callgrind::command(dir),
        ..programs.clone()
    };
    let sluice = programs.start(CORES, dir, keys, origin.address)?;
    let instrumented = Instrumented::new(sluice.quiet.running.pid(), dir);
    let of = |requests: &[Vec<u8>]| {
        instrumented.per_request(|time| {
            let load = Load {
                address: sluice.quiet.address,
                requests,
                connections: 16,
                warm_up: Duration::ZERO,
                time,
            };
            Ok(load.run(|| Ok(()))?.answers)
        })
    };
    let plain = of(&[http::get(PLAIN, &[])])?;
    let spent = instrumented.spent()?;
    let limited = of(&[http::get("/limited/128", &[(CLIENT_HEADER, "one")])])?;
    let token = format!("Bearer {}", keys.rs256.token("caller-0")?);
    let proven = of(&[http::get("/rs256/128", &[("authorization", &token)])])?;
    let gate = |name, figure: f64, limit| Gate {
        name,
        figure,
        limit,
        unit: "instructions",
    };
    let gates = vec![
        gate("plain request", plain, 36_000.0),
        gate("a limit by header, over plain", limited - plain, 1_000.0),
        gate("a JWT seen before, over plain", proven - plain, 2_000.0),
    ];
    Ok((gates, spent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_is_shut_above_its_limit() {
        let gate = |figure| Gate {
            name: "",
            figure,
            limit: 4.25,
            unit: "calls",
        };
        assert!(gate(4.25).holds() && !gate(4.26).holds());
        assert!(gate(5.0).to_string().contains("FAILS"));
        assert!(
            !gate(f64::NAN).holds(),
            "what was not measured holds nothing"
        );
    }
}
