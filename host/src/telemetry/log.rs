//! Where log lines go: through a bounded queue, to a thread that writes them to standard error.
//!
//! - **Nobody who logs waits or fails.** A pipe that nobody reads, a closed one, a full disk: lines are lost and counted, and
//!   the work goes on. When lines get through again, the next says how many are missing.
//! - Lines come out whole and in order.
//! - What waits is written before the process ends, for as long as [`LAST`] allows.
//! - No line holds a secret of the configuration, and none a character that moves a cursor, whoever it comes from.
//!
//! Not here: what is logged (`telemetry`).

use std::collections::VecDeque;
use std::io::{Error, ErrorKind, Write};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use super::metrics;
use crate::secret::Scrubber;
use crate::text;

/// Bytes of lines that wait at most; more are lost.
const MOST_BYTES: usize = 4 << 20;
/// Bytes that one look at the queue takes along.
const TOGETHER: usize = 64 << 10;
/// How long the end of the process waits for what is not yet written.
const LAST: Duration = Duration::from_secs(1);
/// The pause before a descriptor that is not ready (`O_NONBLOCK`) is asked again.
const NOT_READY: Duration = Duration::from_millis(20);

/// A door to the log. Cheap to clone.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    scrubber: Scrubber,
    queue: Mutex<Queue>,
    /// Rung when lines came, and when they are written.
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread holds lines that are not written yet.
    writing: bool,
    /// Lines that were lost since the last one that got through.
    lost: u64,
}

impl Log {
    /// A log that writes to `to`, by a thread of its own; `missed` is called by it after lines were lost, once some got
    /// through again.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub(super) fn start(to: impl Write + Send + 'static, scrubber: Scrubber, missed: fn(u64)) -> Result<Self, Error> {
        let shared = Arc::new(Shared { scrubber, ..Shared::default() });
        let log = Self { shared: Arc::clone(&shared) };
        let (mut to, run) = (to, move |to: &mut _| shared.run(to, missed));
        std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            // What fails costs the lines at hand.
            while std::panic::catch_unwind(AssertUnwindSafe(|| run(&mut to))).is_err() {}
        })?;
        Ok(log)
    }

    /// Hands in whole lines.
    pub fn say(&self, lines: &str) {
        self.shared.push(&text::visible(&self.shared.scrubber.scrub(lines)));
    }

    /// Hands in lines as they are: of a build tool that the author ran, whose colours are wanted, or with what the author has
    /// to know.
    pub fn say_as_it_is(&self, lines: &str) {
        self.shared.push(lines);
    }

    /// Waits until everything is written, or for [`LAST`].
    pub fn flush(&self) {
        let (until, mut queue) = (Instant::now() + LAST, self.shared.locked());
        while queue.writing || !queue.lines.is_empty() {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            let waited = self.shared.changed.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn locked(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &str) {
        let mut queue = self.locked();
        // Whatever its size, one line fits into an empty queue.
        if queue.bytes > 0 && queue.bytes + line.len() > MOST_BYTES {
            queue.lost += 1;
            drop(queue);
            return metrics::log_lines_lost(1);
        }
        queue.bytes += line.len();
        queue.lines.push_back(line.as_bytes().to_vec());
        drop(queue);
        self.changed.notify_all();
    }

    fn run(&self, to: &mut impl Write, missed: fn(u64)) {
        loop {
            let (lines, count) = self.next();
            let written = write(to, &lines);
            let mut queue = self.locked();
            queue.writing = false;
            let lost = match written {
                Ok(()) => std::mem::take(&mut queue.lost),
                Err(_) => {
                    queue.lost += count;
                    0
                }
            };
            drop(queue);
            self.changed.notify_all();
            if written.is_err() {
                metrics::log_lines_lost(count);
            }
            if lost > 0 {
                missed(lost);
            }
        }
    }

    /// Some lines and their number, as soon as there are any.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut queue = self.locked();
        while queue.lines.is_empty() {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut lines, mut count) = (Vec::new(), 0);
        while lines.len() < TOGETHER
            && let Some(line) = queue.lines.pop_front()
        {
            lines.extend_from_slice(&line);
            count += 1;
        }
        queue.bytes = queue.bytes.saturating_sub(lines.len());
        queue.writing = true;
        (lines, count)
    }
}

fn write(to: &mut impl Write, mut bytes: &[u8]) -> Result<(), Error> {
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(NOT_READY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What the log library writes one entry to.
pub struct Entry(Log);

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        // The library hands in one whole entry: an end of a line within it comes from outside.
        let entry = String::from_utf8_lossy(bytes);
        let entry = self.0.shared.scrubber.scrub(entry.strip_suffix('\n').unwrap_or(&entry));
        self.0.shared.push(&format!("{}\n", text::visible_line(&entry)));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry(self.clone())
    }
}

/// Standard error, without the library's lock: a thread that stands still in a write must not hold up another's last words.
pub(super) struct StandardError;

impl Write for StandardError {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
        Ok(rustix::io::write(std::io::stderr(), bytes)?)
    }

    fn flush(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    /// Takes what the test lets through: a length each, 0 for an error.
    struct Slow {
        lets: Receiver<bool>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Error> {
            match self.lets.recv() {
                Ok(false) => Err(ErrorKind::BrokenPipe.into()),
                // Everything from then on.
                _ => {
                    self.written.lock().unwrap().extend_from_slice(bytes);
                    Ok(bytes.len())
                }
            }
        }

        fn flush(&mut self) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_neither_time_nor_memory_and_the_rest_is_in_order() {
        static MISSED: AtomicU64 = AtomicU64::new(0);
        let (lets, written) = (sync_channel(0), Arc::new(Mutex::new(Vec::new())));
        let slow = Slow { lets: lets.1, written: Arc::clone(&written) };
        let log = Log::start(slow, Scrubber::default(), |lost| {
            MISSED.fetch_add(lost, Ordering::SeqCst);
        })
        .unwrap();
        let began = Instant::now();
        for number in 0..40_000 {
            log.say(&format!("{number:>8} {}\n", "x".repeat(240)));
        }
        assert!(began.elapsed() < Duration::from_secs(20), "logging waits for nobody");
        let held = log.shared.locked().bytes;
        assert!(held <= MOST_BYTES, "{held}");
        // Somebody reads again, and for ever.
        drop(lets.0);
        log.flush();
        let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
        let numbers: Vec<u32> =
            text.lines().map(|line| line.split_whitespace().next().unwrap().parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers[0] == 0 && numbers.len() > 10_000, "{}", numbers.len());
        let lost = u64::try_from(40_000 - numbers.len()).unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while MISSED.load(Ordering::SeqCst) < lost && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(MISSED.load(Ordering::SeqCst), lost);
    }

    #[test]
    fn lines_that_can_not_be_written_are_counted_and_those_after_them_come() {
        static MISSED: AtomicU64 = AtomicU64::new(0);
        let (lets, written) = (sync_channel(1), Arc::new(Mutex::new(Vec::new())));
        let slow = Slow { lets: lets.1, written: Arc::clone(&written) };
        let log = Log::start(slow, Scrubber::default(), |lost| {
            MISSED.fetch_add(lost, Ordering::SeqCst);
        })
        .unwrap();
        lets.0.send(false).unwrap();
        log.say("lost\n");
        log.flush();
        drop(lets.0);
        log.say("kept\n");
        log.flush();
        assert_eq!(written.lock().unwrap().as_slice(), b"kept\n");
        let until = Instant::now() + Duration::from_secs(10);
        while MISSED.load(Ordering::SeqCst) == 0 && Instant::now() < until {
            std::thread::yield_now();
        }
        assert_eq!(MISSED.load(Ordering::SeqCst), 1);
    }
}
