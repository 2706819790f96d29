//! The account: a [`NodeState`] kept current.
//!
//! ```text
//! kernel ── multicast ──► hints ──► which tables ──► dump ──► difference ──► journal
//!                                                      │                       │
//!                               resync every 10 s ─────┘        watch channel ◄┘ ──► judge, taps, metrics
//! ```
//!
//! - Subscribe first, then list: what happens in between is heard.
//! - A hint never changes the state; it causes a dump ([`hints`]). Hints within a few ms cause one dump.
//! - An overrun of the subscription is counted and answered by dumping everything.
//! - When the watching thread ends, whatever the reason, every table becomes Unavailable: a state is never stale and complete at once. The
//!   supervisor starts [`Account::run`] again.
//!
//! Two plain threads do the work ([`watcher`] for the node, [`pods`] for the inside of its pods, whose visits may take longer): netlink
//! answers in microseconds, and a thread that blocks in `poll` has the shortest way from event to state.

pub mod hints;
mod pods;
mod watcher;

use super::{
    netns::{Netns, NetnsError},
    pods::WantedPod,
};
use crate::{clock, supervisor::Shutdown};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::sync::{oneshot, watch};
use verifier_core::{
    evidence::Evidence,
    names::{PodRef, UnixNs},
    observed::Loss,
    programmed::{BaseChain, ConntrackStats, FilterRule, ForeignHook, NodeState, PodState},
};

/// How the account is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything is dumped again this often, whatever was heard.
    pub resync: Duration,
    /// The inside of every pod is read again this often, whatever was heard.
    pub pod_resync: Duration,
    /// Hints that arrive within this time of the first cause one dump.
    pub settle: Duration,
    /// Changes that the journal holds.
    pub journal_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            resync: Duration::from_secs(10),
            pod_resync: Duration::from_secs(10),
            settle: Duration::from_millis(2),
            journal_limit: 4096,
        }
    }
}

/// What keeping the account has cost and lost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Multicast messages heard.
    pub hints: u64,
    /// Times the subscription overran. Each led to a resync.
    pub overruns: u64,
    /// Rounds of dumps.
    pub refreshes: u64,
    /// Rounds that dumped everything.
    pub resyncs: u64,
    /// Changes that only a resync found: no event had led to them.
    pub unannounced: u64,
    /// Dumps taken again because the table changed under them.
    pub retries: u64,
    /// Messages of dumps that could not be decoded.
    pub undecodable: u64,
    /// Changes that fell out of the journal.
    pub forgotten: u64,
}

impl Stats {
    /// The part of it that weakens evidence.
    pub fn loss(&self) -> Loss {
        Loss {
            netlink_overruns: self.overruns,
            decode_failures: self.undecodable,
            ..Loss::default()
        }
    }
}

/// The account at one moment.
#[derive(Clone, Debug)]
pub struct Current {
    /// Rises with every publication.
    pub generation: u64,
    /// The state.
    pub state: NodeState,
    /// What it cost.
    pub stats: Stats,
}

/// Something for the watching thread to put into the state.
enum Command {
    Pods(BTreeMap<PodRef, Evidence<PodState>>),
    Hooks(Evidence<Vec<ForeignHook>>),
    Filters(Evidence<Vec<FilterRule>>, Evidence<Vec<BaseChain>>),
    Conntrack(Evidence<ConntrackStats>),
    Resync,
}

/// Something for the thread that visits pods.
#[derive(Default)]
struct PodOrders {
    /// A new list of pods.
    wanted: Option<Vec<WantedPod>>,
    /// All are to be found and read again.
    all: bool,
}

/// Messages to a thread, with a descriptor to wake it from `poll`.
struct Inbox<T> {
    messages: Mutex<T>,
    wake: EventFd,
}

impl<T: Default> Inbox<T> {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            messages: Mutex::default(),
            wake: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?,
        })
    }

    fn post(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
        self.wake();
    }

    fn wake(&self) {
        if let Err(error) = self.wake.write(1) {
            // The counter is at its limit: the thread is awake already.
            tracing::trace!(%error, "wake");
        }
    }

    fn take(&self) -> T {
        if let Err(error) = self.wake.read() {
            tracing::trace!(%error, "nothing had woken");
        }
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        // A thread that panicked in between left a whole message or none.
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Shared {
    ns: Netns,
    options: Options,
    published: watch::Sender<Arc<Current>>,
    inbox: Inbox<Vec<Command>>,
    pods: Inbox<PodOrders>,
    /// The pods wanted last, for a run that starts again.
    wanted: Mutex<Vec<WantedPod>>,
    /// Number of the run in force. A thread whose run is over stops, and publishes nothing any more.
    run: AtomicU64,
}

/// A handle of the account. Clones are handles of the same.
#[derive(Clone)]
pub struct Account(Arc<Shared>);

/// Why an account could not be opened or kept.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The namespace cannot be entered, or a socket not be opened in it.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A system call failed.
    #[error("keeping the programmed account: {0}")]
    Io(#[from] std::io::Error),
    /// A thread panicked.
    #[error("internal fault in the thread that keeps the programmed account")]
    Panicked,
}

impl Account {
    /// An account of the node whose namespace is `ns`. It is empty (Unavailable) until [`run`](Self::run) runs.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(ns: Netns, options: Options) -> Result<Self, AccountError> {
        let current = Current {
            generation: 0,
            state: unavailable("not looked at yet", UnixNs(0), Vec::new()),
            stats: Stats::default(),
        };
        Ok(Self(Arc::new(Shared {
            ns,
            options,
            published: watch::Sender::new(Arc::new(current)),
            inbox: Inbox::new()?,
            pods: Inbox::new()?,
            wanted: Mutex::default(),
            run: AtomicU64::new(0),
        })))
    }

    /// Keep it, until asked to stop. Every look below this call is done by threads of its own.
    ///
    /// # Errors
    /// Why it cannot go on. All evidence is Unavailable then, and the call may be made again.
    pub async fn run(self, mut shutdown: Shutdown) -> Result<(), AccountError> {
        let run = self.0.run.fetch_add(1, Ordering::AcqRel) + 1;
        let guard = EndGuard(Arc::clone(&self.0));
        let mut node = self.spawn("account", run, watcher::watch)?;
        let mut pods = self.spawn("account-pods", run, pods::visit)?;
        let ended = tokio::select! {
            () = shutdown.requested() => None,
            ended = &mut node => Some(ended),
            ended = &mut pods => Some(ended),
        };
        drop(guard);
        match ended {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(AccountError::Panicked),
        }
    }

    fn spawn(
        &self,
        name: &str,
        run: u64,
        body: fn(&Shared, u64) -> Result<(), AccountError>,
    ) -> Result<oneshot::Receiver<Result<(), AccountError>>, AccountError> {
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(&self.0);
        thread::Builder::new().name(name.into()).spawn(move || {
            let result = body(&shared, run);
            if sender.send(result).is_err() {
                tracing::debug!("nobody waits for the end of the account any more");
            }
        })?;
        Ok(receiver)
    }

    /// The account now.
    pub fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.published.borrow())
    }

    /// To be told of every change.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Current>> {
        self.0.published.subscribe()
    }

    /// The node's namespace.
    pub fn netns(&self) -> &Netns {
        &self.0.ns
    }

    /// Keep the inside of these pods current from now on.
    pub fn set_pods(&self, wanted: Vec<WantedPod>) {
        *self.0.wanted.lock().unwrap_or_else(PoisonError::into_inner) = wanted.clone();
        self.0.pods.post(|orders| {
            orders.wanted = Some(wanted);
            orders.all = true;
        });
    }

    /// Find and read all pods again, now.
    pub fn refresh_pods(&self) {
        self.0.pods.post(|orders| orders.all = true);
    }

    /// Dump everything again, now.
    pub fn resync(&self) {
        self.post(Command::Resync);
    }

    /// Put the list of foreign programs, which the observed stage keeps, into the state.
    pub fn set_hooks(&self, hooks: Evidence<Vec<ForeignHook>>) {
        self.post(Command::Hooks(hooks));
    }

    /// Put what a look at the packet filters gave into the state.
    pub fn set_filters(&self, rules: Evidence<Vec<FilterRule>>, base_chains: Evidence<Vec<BaseChain>>) {
        self.post(Command::Filters(rules, base_chains));
    }

    /// Put what a look at connection tracking gave into the state.
    pub fn set_conntrack(&self, stats: Evidence<ConntrackStats>) {
        self.post(Command::Conntrack(stats));
    }

    fn post(&self, command: Command) {
        self.0.inbox.post(|commands| commands.push(command));
    }
}

/// Stops the threads and withdraws the evidence, however `run` ends; a future can be dropped at any await.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        let shared = &self.0;
        let run = shared.run.fetch_add(1, Ordering::AcqRel) + 1;
        let current = Arc::clone(&shared.published.borrow());
        let withdrawn = Current {
            generation: current.generation + 1,
            state: unavailable(
                "nobody watches the kernel at the moment: the account was stopped or is being restarted",
                clock::unix_now(),
                current.state.journal.clone(),
            ),
            stats: current.stats,
        };
        shared.publish(run, Arc::new(withdrawn));
        shared.inbox.wake();
        shared.pods.wake();
    }
}

impl Shared {
    fn wanted_pods(&self) -> Vec<WantedPod> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_over(&self, run: u64) -> bool {
        self.run.load(Ordering::Acquire) != run
    }

    /// Publish, unless the run is over. The check is made under the channel's lock, so nothing stale follows a withdrawal.
    fn publish(&self, run: u64, next: Arc<Current>) {
        self.published.send_if_modified(|current| {
            let in_force = !self.is_over(run);
            if in_force {
                *current = next;
            }
            in_force
        });
    }
}

/// A state of which nothing is known.
fn unavailable(why: &str, taken_at: UnixNs, journal: Vec<verifier_core::programmed::Change>) -> NodeState {
    fn gone<T>(table: &str, why: &str) -> Evidence<T> {
        Evidence::unavailable(format!("programmed/{table}"), why)
    }
    NodeState {
        taken_at,
        links: gone("links", why),
        addresses: gone("addresses", why),
        routes: gone("routes", why),
        rules: gone("rules", why),
        neighbors: gone("neighbors", why),
        fdb: gone("fdb", why),
        netconf: gone("netconf", why),
        conntrack: gone("conntrack", why),
        filters: gone("filters", why),
        base_chains: gone("base-chains", why),
        hooks: gone("hooks", why),
        offloads: None,
        pods: BTreeMap::new(),
        journal,
        journal_from: taken_at,
    }
}

#[cfg(test)]
mod tests;
