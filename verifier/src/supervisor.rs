//! Every long-running task has a name, an owner and an observed result.
//!
//! A task that ends before it was asked to (an error, a panic, or simply returning) is recorded as down, so that whoever assembles
//! evidence from its source says Unavailable, and is started again after a bounded, growing pause. On SIGTERM or SIGINT all tasks are
//! asked to stop and get until a deadline; those that do not make it are named.
//!
//! The retry policy is here and nowhere else: loops in tasks are one level deep, and a task that meets an error returns it.

use crate::clock;
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinSet},
};
use verifier_core::{evidence::Gap, names::UnixNs};

/// First pause before a task is started again; it doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A task that ran this long starts again with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What a supervised task returns: nothing when it was asked to stop, else why it cannot go on.
pub type TaskResult = anyhow::Result<()>;

/// The request to stop, as every task holds it.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// Resolves when the task is to stop, also when the supervisor is gone.
    pub async fn requested(&mut self) {
        // An error means that the sender was dropped: there is nobody left to run for.
        if self.0.wait_for(|stop| *stop).await.is_err() {
            tracing::debug!("supervisor gone");
        }
    }

    /// Whether it is to stop.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// How a task is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskState {
    /// It runs.
    Running {
        /// Since when.
        since: UnixNs,
    },
    /// It ended when nobody asked it to, and will be started again.
    Down {
        /// When.
        since: UnixNs,
        /// Why.
        why: String,
    },
    /// It ended as asked.
    Stopped,
}

/// Health of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskHealth {
    /// How it is doing.
    pub state: TaskState,
    /// How often it was started again.
    pub restarts: u64,
}

/// How all tasks are doing, readable from anywhere.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, TaskHealth>>>);

impl Health {
    /// All tasks by name.
    pub fn all(&self) -> BTreeMap<&'static str, TaskHealth> {
        self.lock().clone()
    }

    /// The gap that a source has because its task is down; none while it runs.
    pub fn gap(&self, task: &str, source: &str) -> Option<Gap> {
        match self.lock().get(task).map(|health| health.state.clone()) {
            Some(TaskState::Running { .. }) => None,
            Some(TaskState::Down { why, .. }) => Some(Gap::new(source, format!("task {task} is down and will be restarted: {why}"))),
            Some(TaskState::Stopped) => Some(Gap::new(source, format!("task {task} was stopped"))),
            None => Some(Gap::new(source, format!("task {task} was never started"))),
        }
    }

    fn set(&self, name: &'static str, state: TaskState) {
        let mut all = self.lock();
        let restarted = u64::from(matches!(state, TaskState::Running { .. }) && all.contains_key(name));
        let health = all.entry(name).or_insert(TaskHealth {
            state: state.clone(),
            restarts: 0,
        });
        health.state = state;
        health.restarts += restarted;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, TaskHealth>> {
        // The map is consistent after every statement above, so a panic elsewhere while it was held costs nothing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// SIGTERM and SIGINT. Made before anything is attached to the kernel, so that no signal can act by default in between.
#[derive(Debug)]
pub struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Registers the handlers.
    ///
    /// # Errors
    /// The kernel refuses a handler.
    pub fn register() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}

/// Tasks that did not stop in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("did not stop within {} ms: {}", deadline.as_millis(), tasks.join(", "))]
pub struct Hung {
    /// Their names.
    pub tasks: Vec<&'static str>,
    /// The deadline.
    pub deadline: Duration,
}

/// Owner of all tasks.
#[derive(Debug)]
pub struct Supervisor {
    stop: watch::Sender<bool>,
    tasks: JoinSet<&'static str>,
    health: Health,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// A supervisor without tasks.
    pub fn new() -> Self {
        Self {
            stop: watch::Sender::new(false),
            tasks: JoinSet::new(),
            health: Health::default(),
        }
    }

    /// How the tasks are doing.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The request to stop, for what is not a task.
    pub fn shutdown(&self) -> Shutdown {
        Shutdown(self.stop.subscribe())
    }

    /// Starts a task, and starts it again whenever it ends unasked.
    pub fn spawn<F, Fut>(&mut self, name: &'static str, start: F)
    where
        F: FnMut(Shutdown) -> Fut + Send + 'static,
        Fut: Future<Output = TaskResult> + Send + 'static,
    {
        let shutdown = self.shutdown();
        let health = self.health.clone();
        self.health.set(name, TaskState::Running { since: clock::unix_now() });
        self.tasks.spawn(keep_running(name, start, shutdown, health));
    }

    /// Waits for a signal, then stops everything within `deadline`.
    ///
    /// # Errors
    /// The tasks that hung.
    pub async fn run(self, mut signals: Signals, deadline: Duration) -> Result<(), Hung> {
        let signal = signals.next().await;
        tracing::info!(signal, "stopping");
        self.drain(deadline).await
    }

    /// Asks all tasks to stop and waits until `deadline`.
    ///
    /// # Errors
    /// The tasks that hung.
    pub async fn drain(mut self, deadline: Duration) -> Result<(), Hung> {
        self.stop.send_replace(true);
        let all_ended = async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok(task) => tracing::debug!(task, "stopped"),
                    // The wrapper itself does not panic: it catches its task's panic as a JoinError.
                    Err(error) => tracing::error!(%error, "a supervising task failed"),
                }
            }
        };
        if tokio::time::timeout(deadline, all_ended).await.is_ok() {
            return Ok(());
        }
        let hung = |(name, health): (&'static str, TaskHealth)| (health.state != TaskState::Stopped).then_some(name);
        Err(Hung {
            tasks: self.health.all().into_iter().filter_map(hung).collect(),
            deadline,
        })
    }
}

/// Runs one task for ever, as long as it is not asked to stop.
async fn keep_running<F, Fut>(name: &'static str, mut start: F, mut shutdown: Shutdown, health: Health) -> &'static str
where
    F: FnMut(Shutdown) -> Fut + Send + 'static,
    Fut: Future<Output = TaskResult> + Send + 'static,
{
    let mut pause = BACKOFF_MIN;
    loop {
        let started_ns = clock::monotonic_ns();
        // A task of its own, so that a panic arrives here as a value.
        let mut task = JoinSet::new();
        task.spawn(start(shutdown.clone()));
        let ended = task.join_next().await;
        if shutdown.is_requested() {
            if let Some(why) = ended.and_then(failure) {
                tracing::warn!(task = name, why, "failed while stopping");
            }
            health.set(name, TaskState::Stopped);
            return name;
        }
        let why = ended
            .and_then(failure)
            .unwrap_or_else(|| "it returned although nobody asked it to stop".to_owned());
        tracing::warn!(
            task = name,
            why,
            pause_ms = pause.as_millis(),
            "task down, restarting after a pause"
        );
        health.set(
            name,
            TaskState::Down {
                since: clock::unix_now(),
                why,
            },
        );
        if Duration::from_nanos(clock::monotonic_ns().saturating_sub(started_ns)) >= HEALTHY_AFTER {
            pause = BACKOFF_MIN;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.requested() => {
                health.set(name, TaskState::Stopped);
                return name;
            }
        }
        pause = (pause * 2).min(BACKOFF_MAX);
        health.set(name, TaskState::Running { since: clock::unix_now() });
    }
}

/// Why a task ended, unless it ended well.
fn failure(ended: Result<TaskResult, JoinError>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{error:#}")),
        Err(error) => Some(format!("it panicked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    async fn until(mut holds: impl FnMut() -> bool) {
        for _ in 0..500 {
            if holds() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("did not come true in 5 s");
    }

    #[tokio::test]
    async fn a_task_that_fails_is_down_and_then_started_again() {
        let mut supervisor = Supervisor::new();
        let health = supervisor.health();
        let starts = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&starts);
        supervisor.spawn("source", move |mut shutdown| {
            let nth = seen.fetch_add(1, Ordering::SeqCst);
            async move {
                if nth == 0 {
                    anyhow::bail!("connection lost");
                }
                shutdown.requested().await;
                Ok(())
            }
        });
        until(|| health.gap("source", "programmed/links").is_some()).await;
        let gap = health.gap("source", "programmed/links").unwrap();
        assert!(gap.why.contains("connection lost"), "{}", gap.why);
        until(|| health.gap("source", "programmed/links").is_none()).await;
        assert_eq!(starts.load(Ordering::SeqCst), 2);
        assert_eq!(health.all()["source"].restarts, 1);
        supervisor.drain(Duration::from_secs(1)).await.unwrap();
        assert_eq!(health.all()["source"].state, TaskState::Stopped);
    }

    #[tokio::test]
    async fn a_panic_is_a_death_like_any_other() {
        let mut supervisor = Supervisor::new();
        let health = supervisor.health();
        supervisor.spawn("fragile", |_| async { panic!("broken invariant") });
        until(|| matches!(&health.all()["fragile"].state, TaskState::Down { why, .. } if why.contains("panicked"))).await;
        supervisor.drain(Duration::from_secs(1)).await.unwrap();
    }

    #[tokio::test]
    async fn the_one_that_hangs_is_named() {
        let mut supervisor = Supervisor::new();
        supervisor.spawn("good", |mut shutdown| async move {
            shutdown.requested().await;
            Ok(())
        });
        supervisor.spawn("hangs", |_| std::future::pending());
        let error = supervisor.drain(Duration::from_millis(100)).await.unwrap_err();
        assert_eq!(error.tasks, ["hangs"]);
        assert_eq!(error.to_string(), "did not stop within 100 ms: hangs");
    }

    #[tokio::test]
    async fn a_task_that_was_never_started_is_a_gap() {
        assert!(Health::default().gap("taps", "observed/taps").is_some());
    }
}
