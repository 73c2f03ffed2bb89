//! The clock of processor time, and the share of those that use much of it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Processor time, in nanoseconds, from which on an attempt shares the processors of those that compute much.
const HEAVY: u64 = 4_000_000;

/// The stretch of time over which a plugin's processor time is added up.
const WINDOW: Duration = Duration::from_millis(100);
/// Processor time of one plugin in such a stretch, in nanoseconds, from which on its attempts share those processors from
/// their beginning: many short ones are as heavy as a few long ones.
const HEAVY_TOGETHER: u64 = 40_000_000;

/// What all attempts of one plugin use together, of late.
#[derive(Default)]
pub(super) struct Load {
    window: AtomicU64,
    used: AtomicU64,
    before: AtomicU64,
}

impl Load {
    /// Begins a new stretch where the last one is over. Two at once may lose a little: it is an estimate.
    fn roll(&self) {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        let since = BEGAN.get_or_init(Instant::now).elapsed().as_millis() / WINDOW.as_millis();
        let now = u64::try_from(since).unwrap_or(u64::MAX);
        let last = self.window.swap(now, Ordering::Relaxed);
        if last != now {
            let used = self.used.swap(0, Ordering::Relaxed);
            self.before.store(if last + 1 == now { used } else { 0 }, Ordering::Relaxed);
        }
    }

    pub(super) fn add(&self, meter: &Meter) {
        self.roll();
        self.used.fetch_add(meter.used.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn is_high(&self) -> bool {
        self.roll();
        self.used.load(Ordering::Relaxed).max(self.before.load(Ordering::Relaxed)) > HEAVY_TOGETHER
    }
}

/// Counts an attempt's processor time, in nanoseconds.
pub(super) struct Meter {
    limit: u64,
    /// Its plugin uses much.
    heavy: bool,
    used: AtomicU64,
    /// The thread's clock when the present stretch began.
    since: AtomicU64,
    /// How long it waited for its turn.
    waited: AtomicU64,
    /// Whether it waits for its turn now.
    waits: AtomicBool,
}

impl Meter {
    pub(super) fn new(limit: Duration, heavy: bool) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Self {
            limit,
            heavy,
            used: AtomicU64::new(0),
            since: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            waits: AtomicBool::new(false),
        }
    }

    pub(super) fn limit_millis(&self) -> u64 {
        self.limit / 1_000_000
    }

    fn begin(&self) {
        self.since.store(thread_time(), Ordering::Relaxed);
    }

    fn end(&self) {
        let stretch = thread_time().saturating_sub(self.since.load(Ordering::Relaxed));
        self.used.fetch_add(stretch, Ordering::Relaxed);
    }

    /// Called from within a stretch.
    pub(super) fn is_used_up(&self) -> bool {
        let stretch = thread_time().saturating_sub(self.since.load(Ordering::Relaxed));
        self.used.load(Ordering::Relaxed).saturating_add(stretch) > self.limit
    }

    pub(super) fn used_micros(&self) -> u64 {
        self.used.load(Ordering::Relaxed) / 1_000
    }

    /// How long the attempt waited because others compute much: the host's doing, not the plugin's.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Whether it waits for its turn now.
    pub(super) fn waits(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    fn is_heavy(&self) -> bool {
        self.heavy || self.used.load(Ordering::Relaxed) > HEAVY
    }
}

fn thread_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

type Turn = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// A future whose time on the processor is counted. Once it has used much, it waits for its turn before each stretch.
pub(super) struct Metered<'a, F> {
    inner: Pin<Box<F>>,
    meter: &'a Meter,
    heavy: Arc<Semaphore>,
    turn: Option<(Instant, Turn)>,
}

impl<'a, F: Future> Metered<'a, F> {
    pub(super) fn new(inner: F, meter: &'a Meter, heavy: Arc<Semaphore>) -> Self {
        Self { inner: Box::pin(inner), meter, heavy, turn: None }
    }
}

impl<F: Future> Future for Metered<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let mut permit = None;
        if this.meter.is_heavy() {
            let heavy = &this.heavy;
            let (since, turn) =
                this.turn.get_or_insert_with(|| (Instant::now(), Box::pin(Arc::clone(heavy).acquire_owned())));
            let Poll::Ready(granted) = turn.as_mut().poll(context) else {
                this.meter.waits.store(true, Ordering::Relaxed);
                return Poll::Pending;
            };
            this.meter.waits.store(false, Ordering::Relaxed);
            let waited = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            this.meter.waited.fetch_add(waited, Ordering::Relaxed);
            this.turn = None;
            // The semaphore is never closed.
            permit = granted.ok();
        }
        this.meter.begin();
        let result = this.inner.as_mut().poll(context);
        this.meter.end();
        drop(permit);
        result
    }
}
