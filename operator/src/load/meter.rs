//! From the counters of one sidecar's reports to its load. Pure: times are arguments, and every report is hostile.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// What a load is averaged over: the reports of the last five seconds. A sidecar reports once a second, and whoever
/// scales looks every fifteen, so one second's accident moves nothing and a real change shows at the next look.
pub const WINDOW: Duration = Duration::from_secs(5);
/// Reports that follow sooner say nothing about a rate and are passed over.
const SHORTEST: Duration = Duration::from_millis(100);
/// Samples that are kept: a window of the shortest intervals.
const MAX_SAMPLES: usize = 51;
/// The most that is believed, of requests per second, requests in flight, and microseconds of latency.
const MAX_RATE: f64 = 1e7;
const MAX_IN_FLIGHT: u64 = 10_000_000;
const MAX_LATENCY_US: u64 = 3_600_000_000;

/// What one report said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// When it came.
    pub at: Instant,
    /// Requests that have ended since the stream began.
    pub requests: u64,
    /// Requests that run.
    pub in_flight: u64,
    /// The 95th percentile of the durations of those that ended since the report before, microseconds; 0: none did.
    pub latency_p95_us: u64,
}

/// The load of one sidecar over the window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Load {
    /// Requests that ended, per second.
    pub requests_per_second: f64,
    /// Requests that ran, on average.
    pub in_flight: f64,
    /// The worst 95th percentile of the window's intervals, microseconds.
    pub latency_p95_us: u64,
    /// When the last report came.
    pub at: Instant,
}

/// The reports of one sidecar.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    samples: VecDeque<Sample>,
    load: Option<Load>,
}

impl Meter {
    /// Takes a report in. A counter that has gone back was reset: what it counted before says nothing about now, and the
    /// load stays what it was until the next report.
    pub fn take(&mut self, sample: Sample) {
        let sample = Sample {
            in_flight: sample.in_flight.min(MAX_IN_FLIGHT),
            latency_p95_us: sample.latency_p95_us.min(MAX_LATENCY_US),
            ..sample
        };
        if let Some(last) = self.samples.back() {
            if sample.requests < last.requests {
                self.samples.clear();
            } else if sample.at.saturating_duration_since(last.at) < SHORTEST {
                return;
            }
        }
        self.samples.push_back(sample);
        // The last sample before the window is what its first one is compared with.
        while self.samples.len() > MAX_SAMPLES
            || self
                .samples
                .get(1)
                .is_some_and(|second| sample.at.duration_since(second.at) >= WINDOW)
        {
            self.samples.pop_front();
        }
        self.load = self.measured().or(self.load);
    }

    /// The sidecar has a new stream, whose counters begin anew.
    pub fn new_stream(&mut self) {
        self.samples.clear();
    }

    /// The load as of the last report that said something. Whether that is too old is the reader's to judge.
    pub fn load(&self) -> Option<Load> {
        self.load
    }

    fn measured(&self) -> Option<Load> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        if seconds == 0.0 {
            return None;
        }
        let within = || self.samples.iter().skip(1);
        let running: u64 = within().map(|sample| sample.in_flight).sum();
        Some(Load {
            requests_per_second: ((last.requests - first.requests) as f64 / seconds).min(MAX_RATE),
            in_flight: running as f64 / within().count() as f64,
            latency_p95_us: within()
                .map(|sample| sample.latency_p95_us)
                .max()
                .unwrap_or_default(),
            at: last.at,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(start: Instant, ms: u64, requests: u64) -> Sample {
        Sample {
            at: start + Duration::from_millis(ms),
            requests,
            in_flight: 4,
            latency_p95_us: 1000,
        }
    }

    fn rate(meter: &Meter) -> Option<f64> {
        meter.load().map(|load| load.requests_per_second)
    }

    #[test]
    fn a_rate_needs_two_reports_and_is_over_the_window() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.take(sample(start, 0, 1_000_000));
        assert_eq!(
            rate(&meter),
            None,
            "what was counted before is nobody's load"
        );
        meter.take(sample(start, 1000, 1_000_100));
        assert_eq!(rate(&meter), Some(100.0));
        for second in 2..=20 {
            meter.take(sample(start, second * 1000, 1_000_100));
        }
        assert_eq!(rate(&meter), Some(0.0), "the burst has left the window");
        meter.take(sample(start, 21_000, 1_000_600));
        assert_eq!(rate(&meter), Some(100.0), "500 in five seconds");
    }

    #[test]
    fn a_counter_that_goes_back_begins_anew() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.take(sample(start, 0, 0));
        meter.take(sample(start, 1000, 50));
        meter.take(sample(start, 2000, 3));
        assert_eq!(rate(&meter), Some(50.0), "until the next report");
        assert_eq!(
            meter.load().map(|load| load.at),
            Some(start + Duration::from_secs(1)),
            "and it is as old as it is"
        );
        meter.take(sample(start, 3000, 13));
        assert_eq!(rate(&meter), Some(10.0));
    }

    #[test]
    fn a_new_stream_is_never_compared_with_the_former_one() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        meter.take(sample(start, 0, 0));
        meter.take(sample(start, 1000, 10));
        meter.new_stream();
        meter.take(sample(start, 2000, 5000));
        assert_eq!(rate(&meter), Some(10.0));
        meter.take(sample(start, 3000, 5020));
        assert_eq!(rate(&meter), Some(20.0));
    }

    #[test]
    fn in_flight_is_the_mean_and_latency_the_worst() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        for (second, in_flight, latency_p95_us) in
            [(0, 90, 1), (1, 2, 500), (2, 4, 9000), (3, 6, 0)]
        {
            meter.take(Sample {
                in_flight,
                latency_p95_us,
                ..sample(start, second * 1000, 0)
            });
        }
        let load = meter.load().expect("measured");
        assert_eq!((load.in_flight, load.latency_p95_us), (4.0, 9000));
    }

    #[test]
    fn a_flood_of_reports_and_absurd_numbers_are_bounded() {
        let (start, mut meter) = (Instant::now(), Meter::default());
        for ms in 0..10_000 {
            meter.take(Sample {
                in_flight: u64::MAX,
                latency_p95_us: u64::MAX,
                ..sample(start, ms, ms << 40)
            });
        }
        assert!(meter.samples.len() <= MAX_SAMPLES);
        let load = meter.load().expect("measured");
        assert_eq!(load.requests_per_second, MAX_RATE);
        assert_eq!(load.in_flight, MAX_IN_FLIGHT as f64);
        assert_eq!(load.latency_p95_us, MAX_LATENCY_US);
    }
}
