//! The access log: one JSON line for each request. A data thread collects lines and hands them to one writer thread; when
//! the writer cannot keep up lines are dropped and counted, and no request waits.

mod line;
mod text;
mod time;

use std::{
    cell::RefCell,
    io::Write,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use tokio::sync::Notify;

pub use line::{Line, Sharded};
pub use text::{Endpoint, Trace};
pub use time::Rfc3339;

/// Batches that may wait for the writer.
const MAX_BATCHES: usize = 16;
/// A batch is handed over when it is this large, in bytes: the writer is woken for each.
const BATCH_BYTES: usize = 64 << 10;
/// Or when its first line is this old.
const BATCH_AGE: Duration = Duration::from_millis(50);

/// Lines on their way to the writer.
struct Batch {
    lines: u64,
    text: Vec<u8>,
}

/// The way to the writer thread. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    batches: Option<SyncSender<Batch>>,
    dropped: Arc<AtomicU64>,
}

/// Waits for the writer's end.
pub struct Writer(thread::JoinHandle<()>);

impl AccessLog {
    /// A log that writes nothing.
    pub fn off() -> Self {
        Self {
            batches: None,
            dropped: Arc::default(),
        }
    }

    /// Starts the writer thread. It ends when the last log that was made from this one is gone.
    pub fn start(out: impl Write + Send + 'static) -> std::io::Result<(Self, Writer)> {
        let (batches, queue) = sync_channel(MAX_BATCHES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let thread = thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(out, &queue, &counter))?;
        Ok((
            Self {
                batches: Some(batches),
                dropped,
            },
            Writer(thread),
        ))
    }

    /// Lines that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn hand_over(&self, batch: Batch) {
        let Some(batches) = &self.batches else { return };
        let lines = batch.lines;
        if batches.try_send(batch).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

impl Writer {
    /// Waits until everything is written, at most `longest`; to be called once all logs are dropped.
    pub fn finish(self, longest: Duration) {
        let begin = std::time::Instant::now();
        while !self.0.is_finished() && begin.elapsed() < longest {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn write(mut out: impl Write, queue: &Receiver<Batch>, dropped: &AtomicU64) {
    while let Ok(batch) = queue.recv() {
        if out
            .write_all(&batch.text)
            .and_then(|()| out.flush())
            .is_err()
        {
            dropped.fetch_add(batch.lines, Ordering::Relaxed);
        }
    }
}

/// The log of one data thread.
#[derive(Clone)]
pub struct ThreadLog(Rc<Inner>);

struct Inner {
    log: AccessLog,
    batch: RefCell<Batch>,
    begun: Notify,
}

impl ThreadLog {
    /// A log for this thread. Someone must [`ThreadLog::run`] it, or lines wait for a full batch.
    pub fn new(log: AccessLog) -> Self {
        let batch = RefCell::new(Batch {
            lines: 0,
            text: Vec::new(),
        });
        Self(Rc::new(Inner {
            log,
            batch,
            begun: Notify::new(),
        }))
    }

    /// Whether lines go anywhere: where not, none need be made.
    pub fn is_on(&self) -> bool {
        self.0.log.batches.is_some()
    }

    /// Adds a line.
    pub fn add(&self, line: &Line<'_>) {
        let mut batch = self.0.batch.borrow_mut();
        if batch.lines == 0 {
            self.0.begun.notify_one();
        }
        line.write(&mut batch.text);
        batch.text.push(b'\n');
        batch.lines += 1;
        let full = batch.text.len() >= BATCH_BYTES;
        drop(batch);
        if full {
            self.flush();
        }
    }

    /// Hands over what there is.
    pub fn flush(&self) {
        let batch = {
            let mut batch = self.0.batch.borrow_mut();
            if batch.lines == 0 {
                return;
            }
            let capacity = batch.text.len();
            std::mem::replace(
                &mut *batch,
                Batch {
                    lines: 0,
                    text: Vec::with_capacity(capacity),
                },
            )
        };
        self.0.log.hand_over(batch);
    }

    /// Hands over young batches too, for as long as the thread lives.
    pub async fn run(self) {
        loop {
            self.0.begun.notified().await;
            tokio::time::sleep(BATCH_AGE).await;
            self.flush();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let batch = std::mem::replace(
            self.batch.get_mut(),
            Batch {
                lines: 0,
                text: Vec::new(),
            },
        );
        if batch.lines > 0 {
            self.log.hand_over(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Out(Arc<Mutex<Vec<u8>>>);

    impl Write for Out {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_is_written_before_the_end() {
        let out = Out::default();
        let (log, writer) = AccessLog::start(out.clone()).expect("starts");
        let thread = ThreadLog::new(log);
        for status in 200..300 {
            thread.add(&Line {
                status,
                ..Line::default()
            });
        }
        drop(thread);
        writer.finish(Duration::from_secs(10));
        let text = String::from_utf8(out.0.lock().expect("no panic").clone()).expect("text");
        let statuses: Vec<_> = text
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["status"].as_u64()
            })
            .collect();
        assert_eq!(statuses, (200..300).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn a_writer_that_stands_costs_lines_and_no_wait() {
        struct Stuck(Arc<Mutex<()>>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                drop(self.0.lock());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let gate = Arc::new(Mutex::new(()));
        let held = gate.lock().expect("free");
        let (log, writer) = AccessLog::start(Stuck(Arc::clone(&gate))).expect("starts");
        let thread = ThreadLog::new(log.clone());
        for _ in 0..MAX_BATCHES + 10 {
            thread.add(&Line::default());
            thread.flush();
        }
        assert!((9..=10).contains(&log.dropped()), "{}", log.dropped());
        drop((thread, log));
        drop(held);
        writer.finish(Duration::from_secs(10));
    }
}
