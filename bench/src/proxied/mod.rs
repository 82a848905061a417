//! Whole processes: processor time per proxied request, of all threads of the process, beside other proxies and beside a
//! relay that reads nothing. The proxy has core 0; load generator and upstream share core 1.

mod cells;
mod cpu;
pub mod gate;
mod h2load;
mod http;
mod load;
mod origin;
mod peers;
mod poll;
pub mod relay;
mod running;
mod sluice;
mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Args, credentials::Keys, stats::Spread};
pub use cells::System;
use cells::{Cell, Over};
use h2load::H2load;
use load::{Counted, Load};
use origin::Origin;
use peers::Peer;
use running::Running;
use sluice::{Programs, Sluice};

/// Where proxies run, and where all else does.
const CORES: [usize; 2] = [0, 1];
/// Load before each measurement.
const WARM_UP: Duration = Duration::from_millis(300);

/// A system that serves.
struct Server {
    running: Running,
    address: SocketAddr,
    /// Where it speaks TLS.
    secure: Option<SocketAddr>,
    /// Where it speaks HTTP/2 in the clear.
    http2: Option<SocketAddr>,
}

impl Server {
    /// One that speaks HTTP/1.1 in the clear only.
    fn plain(running: Running, address: SocketAddr) -> Self {
        Self {
            running,
            address,
            secure: None,
            http2: None,
        }
    }

    fn at(&self, over: Over) -> Result<SocketAddr> {
        match over {
            Over::Plain => Some(self.address),
            Over::Tls => self.secure,
            Over::Http2 => self.http2,
        }
        .context("it does not speak that")
    }
}

/// What was compared.
#[derive(Debug, Clone)]
pub struct Compared {
    /// One for each workload.
    pub rows: Vec<Row>,
    /// Versions of the peers that were found.
    pub versions: Vec<(System, String)>,
    /// What metrics and the access log cost: microseconds per request with both and with neither, round by round.
    pub watching: Result<Vec<(f64, f64)>, String>,
    /// What each process takes before the first request of the load.
    pub sizes: Vec<Size>,
}

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// The workload.
    pub name: &'static str,
    /// For each of [`System::ALL`]: microseconds per request, round by round.
    pub rounds: [Result<Vec<f64>, String>; System::ALL.len()],
    /// The most that the sidecar may cost, as a ratio to that system.
    pub must: &'static [(System, f64)],
    /// What is told where it costs more; may be empty.
    pub note: &'static str,
}

/// What a process takes.
#[derive(Debug, Clone)]
pub struct Size {
    /// Which.
    pub name: &'static str,
    /// Anonymous memory, in KiB.
    pub anonymous_kib: u64,
    /// All resident memory, in KiB.
    pub resident_kib: u64,
    /// The program's file, in bytes, where it is ours.
    pub binary: Option<u64>,
}

impl Row {
    /// Microseconds of one system.
    pub fn micros(&self, system: System) -> Result<Spread, String> {
        let rounds = self.rounds[system as usize]
            .as_ref()
            .map_err(Clone::clone)?;
        Spread::of(rounds.iter().copied()).ok_or_else(|| "no round".into())
    }

    /// The ratio of two systems: the median of the ratios round by round.
    pub fn ratio(&self, of: System, to: System) -> Option<f64> {
        let [of, to] = [of, to].map(|system| self.rounds[system as usize].as_ref().ok());
        let ratios = of?.iter().zip(to?).map(|(of, to)| of / to);
        Spread::of(ratios).map(|spread| spread.median)
    }
}

/// Measures everything. The error says why nothing could be.
pub fn compare(args: &Args) -> Result<Compared, String> {
    let pinned = || {
        cpu::pin(CORES[1]).context("two cores are needed: one for the proxy, one for the load")?;
        on_core_one(args)
    };
    let result = std::thread::scope(|scope| scope.spawn(pinned).join());
    match result {
        Ok(Ok(compared)) => Ok(compared),
        Ok(Err(error)) => Err(told(&error)),
        Err(_) => Err("the comparison panicked".into()),
    }
}

fn on_core_one(args: &Args) -> Result<Compared> {
    let keys = Keys::generate()?;
    let origin = Origin::start(Some(CORES[1]))?;
    let dir = tempfile::Builder::new()
        .prefix("sluice-bench-")
        .tempdir()
        .context("no temporary folder")?;
    let dir = dir.path();
    let floor = start_relay(dir, origin.address);
    let found = System::PEERS.map(|system| (system, Peer::find(system)));
    let versions = found.iter().filter_map(|(system, peer)| {
        let peer = peer.as_ref().ok()?;
        Some((*system, peer.version.clone()))
    });
    let versions = versions.collect();
    let peers = found.map(|(_, peer)| {
        peer.and_then(|peer| peer.start(CORES[0], dir, origin.address, &keys))
            .map_err(|error| told(&error))
    });
    let programs = Programs::find(args.sidecar.as_deref(), args.operator.as_deref());
    let binary = programs
        .as_ref()
        .ok()
        .and_then(|programs| programs.sidecar.metadata().ok())
        .map(|file| file.len());
    let sluice = programs.and_then(|programs| programs.start(CORES, dir, &keys, origin.address));
    let servers = Servers {
        floor: floor.map_err(|error| told(&error)),
        peers,
        sluice: sluice.map_err(|error| told(&error)),
    };
    let sizes = servers.sizes(binary);
    let time = Duration::from_secs(args.seconds);
    let rows = cells::all(&keys)?
        .iter()
        .filter(|cell| cell.name.contains(&args.only))
        .map(|cell| servers.row(cell, &origin, args.rounds, time))
        .collect();
    let watching = servers.watching(&keys, &origin, args.rounds, time);
    Ok(Compared {
        rows,
        versions,
        watching,
        sizes,
    })
}

/// A relay in a process of its own.
fn start_relay(dir: &std::path::Path, origin: SocketAddr) -> Result<Server> {
    let address = free()?;
    let mut command =
        Command::new(std::env::current_exe().context("this program does not know where it is")?);
    command.args([
        "relay",
        "--listen",
        &address.to_string(),
        "--to",
        &origin.to_string(),
    ]);
    let mut running = Running::start("relay", CORES[0], dir, &mut command)?;
    poll::until(Duration::from_secs(10), || {
        running.check()?;
        ensure!(
            http::exchange(address, &http::get("/plain/128", &[]))?.status() == 200,
            "the relay does not relay"
        );
        Ok(())
    })?;
    Ok(Server::plain(running, address))
}

/// The systems, or why they are not there.
struct Servers {
    floor: Result<Server, String>,
    /// In the order of [`System::PEERS`].
    peers: [Result<Server, String>; System::PEERS.len()],
    sluice: Result<Sluice, String>,
}

impl Servers {
    fn of(&self, system: System, cell: &Cell) -> Result<&Server, String> {
        if !cell.has(system) {
            return Err(String::new());
        }
        let server = match system {
            System::Floor => self.floor.as_ref(),
            System::Nginx => self.peers[0].as_ref(),
            System::Haproxy => self.peers[1].as_ref(),
            System::Envoy => self.peers[2].as_ref(),
            System::Varnish => self.peers[3].as_ref(),
            System::Sluice => self.sluice.as_ref().map(|sluice| match cell.over {
                Over::Tls => &sluice.edge,
                _ if cell.logged => &sluice.logged,
                _ => &sluice.quiet,
            }),
        };
        server.map_err(Clone::clone)
    }

    /// All rounds of a workload. A system that fails once has no figure.
    fn row(&self, cell: &Cell, origin: &Origin, rounds: u32, time: Duration) -> Row {
        let mut row = Row {
            name: cell.name,
            rounds: System::ALL.map(|system| self.of(system, cell).map(|_| Vec::new())),
            must: cell.must,
            note: cell.note,
        };
        for round in 0..rounds {
            let mut order = System::ALL;
            if round % 2 == 1 {
                order.reverse();
            }
            for system in order {
                let (Ok(server), Ok(figures)) =
                    (self.of(system, cell), &mut row.rounds[system as usize])
                else {
                    continue;
                };
                match once(server, cell, origin, time) {
                    Ok(micros) => figures.push(micros),
                    Err(error) => row.rounds[system as usize] = Err(told(&error)),
                }
            }
            eprintln!("{}: round {} of {rounds}", cell.name, round + 1);
        }
        row
    }

    /// The sidecar that counts and logs each request beside the one that does neither, in turn.
    fn watching(
        &self,
        keys: &Keys,
        origin: &Origin,
        rounds: u32,
        time: Duration,
    ) -> Result<Vec<(f64, f64)>, String> {
        let sluice = self.sluice.as_ref().map_err(Clone::clone)?;
        let cells = cells::all(keys).map_err(|error| told(&error))?;
        let plain = cells.first().ok_or("no workload")?;
        let mut figures = Vec::new();
        for round in 0..rounds {
            let of = |server| once(server, plain, origin, time).map_err(|error| told(&error));
            figures.push(if round % 2 == 0 {
                let with = of(&sluice.logged)?;
                (with, of(&sluice.bare)?)
            } else {
                let without = of(&sluice.bare)?;
                (of(&sluice.logged)?, without)
            });
        }
        Ok(figures)
    }

    fn sizes(&self, binary: Option<u64>) -> Vec<Size> {
        let size = |name, server: &Server, binary| {
            let (anonymous_kib, resident_kib) = cpu::memory_of(server.running.pid())?;
            Some(Size {
                name,
                anonymous_kib,
                resident_kib,
                binary,
            })
        };
        let peers = System::PEERS.iter().zip(&self.peers);
        let peers = peers.filter_map(|(system, server)| {
            let server = server.as_ref().ok()?;
            size(system.name(), server, None)
        });
        let sluice = self
            .sluice
            .as_ref()
            .ok()
            .and_then(|sluice| size("sluice-sidecar", &sluice.quiet, binary));
        peers.chain(sluice).collect()
    }
}

/// One measurement: microseconds of the process per request.
fn once(server: &Server, cell: &Cell, origin: &Origin, time: Duration) -> Result<f64> {
    let Cell {
        connections,
        over,
        streams,
        requests,
        ..
    } = cell;
    let address = server.at(*over)?;
    let look = || Ok((cpu::time_of(server.running.pid())?, origin.served()));
    let counted = match over {
        Over::Plain => Load {
            address,
            requests,
            connections: *connections,
            warm_up: WARM_UP,
            time,
        }
        .run(look)?,
        // Making the connections is counted too.
        Over::Tls | Over::Http2 => {
            let load = H2load {
                address,
                over: *over,
                connections: *connections,
                streams: *streams,
                time,
            };
            let before = look()?;
            let answers = load.run()?;
            let after = look()?;
            Counted {
                answers,
                before,
                after,
            }
        }
    };
    let Counted {
        answers,
        before,
        after,
    } = counted;
    let served = after.1 - before.1;
    let expected = if cell.from_cache { 0 } else { answers };
    // At either look every connection may have requests under way, and so may those of the load before.
    let slack = 2 * (*connections * *streams) as u64;
    ensure!(
        served.abs_diff(expected) <= slack,
        "{served} requests reached the upstream for {answers} answers"
    );
    Ok((after.0.saturating_sub(before.0)).as_secs_f64() * 1e6 / answers as f64)
}

/// An error for the report: what went wrong, without the details, which may name this machine; they are shown here.
fn told(error: &anyhow::Error) -> String {
    eprintln!("not measured: {error:#}");
    error.to_string()
}

/// A free port of loopback.
fn free() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_rounds_and_not_the_ratio_of_medians() {
        let absent = || Err("not installed".into());
        let row = Row {
            name: "",
            rounds: [
                Ok(vec![1.0, 10.0, 2.0]),
                absent(),
                absent(),
                absent(),
                absent(),
                Ok(vec![3.0, 20.0, 1.0]),
            ],
            must: &[],
            note: "",
        };
        assert_eq!(row.ratio(System::Sluice, System::Floor), Some(2.0));
        assert_eq!(row.ratio(System::Sluice, System::Nginx), None);
        assert_eq!(
            row.micros(System::Floor).map(|spread| spread.median),
            Ok(2.0)
        );
        assert_eq!(row.micros(System::Nginx), Err("not installed".into()));
    }

    #[test]
    fn a_system_that_is_not_there_is_told_in_its_cell_and_stops_nothing() {
        let absent = || "not installed".to_owned();
        let servers = Servers {
            floor: Err(absent()),
            peers: System::PEERS.map(|_| Err(absent())),
            sluice: Err(absent()),
        };
        let origin = Origin::start(None).expect("a free port");
        let keys = Keys::generate().expect("keys");
        for cell in cells::all(&keys).expect("cells") {
            let row = servers.row(&cell, &origin, 5, Duration::ZERO);
            for system in System::ALL {
                let told = row.micros(system).expect_err("nobody was measured");
                assert_eq!(told.is_empty(), !cell.has(system), "{}", cell.name);
            }
        }
    }
}
