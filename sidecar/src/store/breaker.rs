//! When a store is given up, and that it is tried again: three time-outs in a row, or one broken connection, open the
//! breaker; a successful probe closes it.

use std::cell::Cell;

const TIMEOUTS: u32 = 3;

/// The breaker of one store. It starts open: a store counts once it has answered.
#[derive(Debug)]
pub struct Breaker {
    open: Cell<bool>,
    timeouts: Cell<u32>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            open: Cell::new(true),
            timeouts: Cell::new(0),
        }
    }
}

impl Breaker {
    /// Whether the store is given up.
    pub fn is_open(&self) -> bool {
        self.open.get()
    }

    /// An answer came: the store lives.
    pub fn answered(&self) {
        self.timeouts.set(0);
    }

    /// No answer came in time. Returns whether that opened the breaker.
    pub fn timed_out(&self) -> bool {
        self.timeouts.set(self.timeouts.get() + 1);
        self.timeouts.get() >= TIMEOUTS && self.trip()
    }

    /// The connection broke. Returns whether that opened the breaker.
    pub fn trip(&self) -> bool {
        !self.open.replace(true)
    }

    /// A probe succeeded.
    pub fn close(&self) {
        self.answered();
        self.open.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_timeouts_in_a_row_open_it_and_an_answer_starts_over() {
        let breaker = Breaker::default();
        assert!(breaker.is_open(), "nothing is known yet");
        breaker.close();
        assert!(!breaker.timed_out() && !breaker.timed_out());
        breaker.answered();
        assert!(!breaker.timed_out() && !breaker.timed_out() && !breaker.is_open());
        assert!(breaker.timed_out() && breaker.is_open());
        assert!(!breaker.timed_out(), "it opens once");
        breaker.close();
        assert!(
            !breaker.timed_out() && !breaker.is_open(),
            "and counts from the start"
        );
    }
}
