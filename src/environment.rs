//! The parts of the outside world that readyd uses: time, tasks and chance.
//!
//! All three are passed in, so that a simulation can replace them: with tokio's paused clock, a
//! spawner of its own and a fixed seed, a run repeats itself exactly.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// A time that is as good as never. Longer times are cut to this one, which overflows no clock.
const FAR: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The instant after this time, however long the time is.
pub(crate) fn after(from: Instant, time: Duration) -> Instant {
    from + time.min(FAR)
}

/// How much of the time that is left to a call is kept back for what has to come after the reply: 5 %,
/// at least 50 ms, at most 1 s, and never more than half.
pub(crate) fn margin(left: Duration) -> Duration {
    let share = (left / 20).clamp(Duration::from_millis(50), Duration::from_secs(1));
    share.min(left / 2)
}

/// Returns a factor within a tenth of one, so that many pollers do not march in step.
pub(crate) fn jitter(random: &mut fastrand::Rng) -> f64 {
    0.9 + 0.2 * random.f64()
}

/// A future that a [`Spawner`] runs.
pub type TaskFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// The current time, for measuring.
    fn now(&self) -> Instant;
    /// The current time, for people.
    fn wall(&self) -> SystemTime;
    /// Completes at the deadline.
    fn sleep_until(&self, deadline: Instant) -> TaskFuture;
}

/// Runs tasks.
pub trait Spawner: Send + Sync + 'static {
    /// Starts the future. The future ends early when the task is dropped.
    fn spawn(&self, future: TaskFuture) -> Task;
}

/// A running task. Dropping this value ends the task, so that no task outlives its owner.
#[must_use = "a task ends when this is dropped"]
pub struct Task(Option<Box<dyn FnOnce() + Send + Sync>>);

impl Task {
    /// Makes a task that `abort` ends.
    pub fn new(abort: impl FnOnce() + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(abort)))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(abort) = self.0.take() {
            abort();
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

/// Time, tasks and chance. A clone shares them.
#[derive(Clone)]
pub struct Environment {
    clock: Arc<dyn Clock>,
    spawner: Arc<dyn Spawner>,
    random: Arc<Mutex<fastrand::Rng>>,
    tasks: Arc<AtomicUsize>,
}

impl Environment {
    /// Makes an environment of these parts. The seed decides every choice that is left to chance.
    pub fn new(clock: impl Clock, spawner: impl Spawner, seed: u64) -> Self {
        Self {
            clock: Arc::new(clock),
            spawner: Arc::new(spawner),
            random: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
            tasks: Arc::default(),
        }
    }

    /// Makes an environment of tokio's clock and tasks, and a random seed. Tasks can only be
    /// started in a tokio runtime.
    #[must_use]
    pub fn tokio() -> Self {
        Self::new(TokioClock, TokioSpawner, fastrand::u64(..))
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) fn wall(&self) -> SystemTime {
        self.clock.wall()
    }

    pub(crate) async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    pub(crate) async fn sleep_until(&self, deadline: Instant) {
        self.clock.sleep_until(deadline).await;
    }

    /// A seed for something that makes choices of its own.
    pub(crate) fn seed(&self) -> u64 {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        random.u64(..)
    }

    /// The duration, changed by up to a tenth, so that many pollers do not run in step.
    pub(crate) fn jitter(&self, duration: Duration) -> Duration {
        let duration = duration.min(FAR);
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        duration.mul_f64(jitter(&mut random))
    }

    /// A word that nobody can guess without seeing it.
    pub(crate) fn nonce(&self) -> String {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{:032x}", random.u128(..))
    }

    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) -> Task {
        let counted = Counted::new(Arc::clone(&self.tasks));
        // A block that awaits what it has captured has room for it twice, so it captures a pointer.
        let future = Box::pin(future);
        self.spawner.spawn(Box::pin(async move {
            let _counted = counted;
            future.await;
        }))
    }

    /// How many tasks run in this environment at this moment.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment")
            .field("tasks", &self.tasks())
            .finish_non_exhaustive()
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tokio's clock, and the system's wall clock.
#[derive(Debug)]
struct TokioClock;

impl Clock for TokioClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }

    fn sleep_until(&self, deadline: Instant) -> TaskFuture {
        Box::pin(tokio::time::sleep_until(deadline))
    }
}

#[derive(Debug)]
struct TokioSpawner;

impl Spawner for TokioSpawner {
    fn spawn(&self, future: TaskFuture) -> Task {
        let handle = tokio::spawn(future).abort_handle();
        Task::new(move || handle.abort())
    }
}
