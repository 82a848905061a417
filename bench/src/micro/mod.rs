//! Operations by themselves: time per operation on one thread. Each operation says whether its result was the one it is
//! measured for; a wrong one spoils the figure.

mod auth;
mod cache;
mod limits;
mod route;
mod translate;

use std::{
    fmt,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    credentials::Keys,
    stats::{Spread, time},
    world::{self, gateway::Gateway},
};

/// Samples of each figure.
const SAMPLES: usize = 21;
/// How long a sample takes at least; a single operation may take longer.
const SAMPLE: Duration = Duration::from_millis(20);

/// How large the world is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// ApiRoutes.
    pub routes: usize,
    /// Groups they are spread over.
    pub groups: usize,
}

impl Size {
    /// What is measured.
    pub const FULL: Self = Self {
        routes: 1000,
        groups: 100,
    };
    /// What is only checked.
    pub const QUICK: Self = Self {
        routes: 20,
        groups: 4,
    };
}

/// Every operation, made ready. Fails where one could not be measured for what it is called.
pub fn all(size: Size) -> Result<Vec<Bench>> {
    let keys = Keys::generate()?;
    let gateway = Gateway::unreachable();
    let program = Arc::new(world::program(&gateway.documents(&keys)?)?);
    let mut benches = translate::benches(size)?;
    benches.extend(route::benches(size)?);
    benches.extend(auth::benches(&program, gateway.port, &keys)?);
    benches.extend(limits::benches(&program, gateway.port)?);
    benches.push(cache::bench(&program, gateway.port)?);
    Ok(benches)
}

/// One operation.
pub struct Bench {
    /// Its name in the table.
    pub name: &'static str,
    /// What exactly it does.
    pub what: String,
    /// Runs it so often, and tells how often the result was right.
    batch: Box<dyn FnMut(u64) -> u64>,
}

/// What was measured.
#[derive(Debug, Clone)]
pub struct Figure {
    /// See [`Bench::name`].
    pub name: &'static str,
    /// See [`Bench::what`].
    pub what: String,
    /// Nanoseconds per operation; none where a result was wrong.
    pub spread: Option<Spread>,
}

impl Bench {
    /// An operation that tells whether its result is right.
    fn new(
        name: &'static str,
        what: impl Into<String>,
        mut operation: impl FnMut() -> bool + 'static,
    ) -> Self {
        let batch = move |times| (0..times).map(|_| u64::from(black_box(operation()))).sum();
        Self {
            name,
            what: what.into(),
            batch: Box::new(batch),
        }
    }

    /// Runs it so often. Fails where a result is wrong.
    pub fn check(&mut self, times: u64) -> Result<()> {
        let right = (self.batch)(times);
        ensure!(
            right == times,
            "{}: {} of {times} results are wrong",
            self.name,
            times - right
        );
        Ok(())
    }

    /// Measures it: batches of one length, after a batch that only warms up.
    pub fn measure(&mut self) -> Figure {
        let Self { name, what, batch } = self;
        let mut times = 1;
        let mut wrong = 0;
        let mut timed = |times: u64| {
            let begun = Instant::now();
            let right = batch(times);
            let took = begun.elapsed();
            wrong += times - right;
            took
        };
        while timed(times) < SAMPLE {
            times *= 2;
        }
        let samples: Vec<f64> = (0..SAMPLES)
            .map(|_| timed(times).as_secs_f64() * 1e9 / times as f64)
            .collect();
        Figure {
            name,
            what: what.clone(),
            spread: Spread::of(samples).filter(|_| wrong == 0),
        }
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spread {
            Some(Spread { median, min, max }) => {
                write!(
                    f,
                    "{:<44} {:>10} ({} to {})",
                    self.name,
                    time(median),
                    time(min),
                    time(max)
                )
            }
            None => write!(f, "{:<44} wrong result", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_result_fails_the_check_and_spoils_the_figure() {
        let mut turn = 0;
        let mut bench = Bench::new("sometimes", "", move || {
            turn += 1;
            turn % 3 != 0
        });
        bench.check(2).expect("both are right");
        let error = bench.check(3).expect_err("one is wrong").to_string();
        assert!(error.contains("1 of 3"), "{error}");
        assert_eq!(bench.measure().spread, None);
        let figure = Bench::new("always", "", || true).measure();
        assert!(
            figure
                .spread
                .is_some_and(|spread| spread.min > 0.0 && spread.min <= spread.median)
        );
    }
}
