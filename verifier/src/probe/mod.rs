//! Effects of the probe stage: sends probes from inside a namespace and hears what comes back. What is decided about it stands in
//! `verifier_core::probe`.
//!
//! | file | does |
//! |---|---|
//! | [`keys`] | the keys that sign and verify the header of a probe |
//! | `packet` | builds requests and reads replies, with pnet where they are raw |
//! | `socket` | opens and reads the sockets: UDP, ICMP (datagram or raw), raw TCP |
//! | `filter` | which packets a raw socket is given |
//! | `errno` | what a system call that failed says of the dataplane |
//! | `visit` | one thread in one namespace: sends, polls, feeds the core's session |
//! | [`search`] | the largest packet that passes, by repeated visits |
//!
//! [`run`] sends a batch from one namespace. [`by_source`] splits a plan into such batches.
//!
//! Sockets are open only while one of their probes is under way, so that a raw socket does not cost a busy pod a copy of each of its
//! packets, and so that a deleted pod's namespace is not kept alive. Two visits of this process to one namespace follow one another,
//! because both want the pinned ports; another process is waited for briefly ([`RunOptions::port_wait`]).

mod errno;
mod filter;
pub mod keys;
pub(crate) mod packet;
pub mod search;
mod socket;
mod visit;

use crate::{
    clock,
    programmed::netns::{self, Netns},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc::UnboundedSender;
use verifier_core::{
    evidence::Gap,
    names::PodRef,
    probe::{Outcome, Probe, ProbeConfig, ProbeResult, SessionCounters, SessionOptions},
};

pub use keys::{KeyClash, ProbeKeys};

/// How a batch is sent.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Ports and identifiers.
    pub config: ProbeConfig,
    /// Without an answer after this long a probe is lost.
    pub deadline: Duration,
    /// For how long after that late neighbour failures are waited for. With zero the visit ends at the deadline, and what is lost stays
    /// provisional.
    pub late: Duration,
    /// Probes a second at most.
    pub per_second: u32,
    /// How long a pinned port that somebody else holds is waited for.
    pub port_wait: Duration,
    /// Results as they become known; one that changes is sent again. At most three for a probe.
    pub updates: Option<UnboundedSender<ProbeResult>>,
}

impl Default for RunOptions {
    fn default() -> Self {
        let session = SessionOptions::default();
        Self {
            config: ProbeConfig::default(),
            deadline: Duration::from_nanos(session.deadline_ns),
            late: Duration::from_nanos(session.late_ns),
            per_second: 1_000,
            port_wait: Duration::from_secs(3),
            updates: None,
        }
    }
}

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct ProbeRun {
    /// A result for every probe, in order of id.
    pub results: Vec<ProbeResult>,
    /// What could not be done, and why.
    pub gaps: Vec<Gap>,
    /// What was heard and could not be used.
    pub counters: SessionCounters,
}

impl ProbeRun {
    /// Adds another batch's.
    pub fn merge(&mut self, other: Self) {
        self.results.extend(other.results);
        self.results.sort_by_key(|result| result.probe.id);
        self.gaps.extend(other.gaps);
        self.gaps.sort();
        self.gaps.dedup();
        self.counters = self.counters.plus(other.counters);
    }
}

/// The probes of each source: of a pod, or of the host (none).
pub fn by_source(probes: impl IntoIterator<Item = Probe>) -> BTreeMap<Option<PodRef>, Vec<Probe>> {
    let mut batches: BTreeMap<Option<PodRef>, Vec<Probe>> = BTreeMap::new();
    for probe in probes {
        batches.entry(probe.from.pod.clone()).or_default().push(probe);
    }
    batches
}

/// Stops a visit when the future that waits for it is dropped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends `batch` from inside `namespace` and waits for its results. It cannot fail: what could not be done stands in the results and gaps.
///
/// A namespace that vanished, before or meanwhile, says nothing about forwarding: whatever did not pass is then `NotSent` and inconclusive.
pub async fn run(batch: Vec<Probe>, namespace: &Netns, keys: &ProbeKeys, options: &RunOptions) -> ProbeRun {
    if batch.is_empty() {
        return ProbeRun::default();
    }
    let turn = turn_of(namespace.inum());
    let _turn = turn.lock().await;
    let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
    let visited = {
        let (batch, keys, options, stop) = (batch.clone(), keys.clone(), options.clone(), Arc::clone(&stop.0));
        netns::run_in_async(namespace, move || visit::visit(batch, &keys, &options, &stop)).await
    };
    let mut run = match visited {
        Ok(run) => run,
        Err(error) => return not_visited(batch, &chain(&error), error.errno()),
    };
    if let Err(error) = Netns::reopen(namespace.path(), namespace.inum())
        && error.vanished()
    {
        // The handle kept the namespace itself alive, not its devices: what failed in it failed for that reason.
        let why = format!("{error}: it went away during the visit");
        for result in run.results.iter_mut().filter(|result| !result.outcome.passed()) {
            result.outcome = Outcome::NotSent {
                errno: None,
                why: why.clone(),
                of_dataplane: false,
            };
            result.provisional = false;
        }
        run.gaps.push(Gap::new(SOURCE, why));
    }
    run
}

const SOURCE: &str = "probe/namespace";

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

fn not_visited(batch: Vec<Probe>, why: &str, errno: Option<i32>) -> ProbeRun {
    let (sent_at, sent_mono_ns) = (clock::unix_now(), clock::monotonic_ns());
    let mut results: Vec<ProbeResult> = batch
        .into_iter()
        .map(|probe| ProbeResult {
            probe,
            sent_at,
            sent_mono_ns,
            outcome: Outcome::NotSent {
                errno,
                why: why.to_owned(),
                of_dataplane: false,
            },
            provisional: false,
        })
        .collect();
    results.sort_by_key(|result| result.probe.id);
    ProbeRun {
        results,
        gaps: vec![Gap::new(SOURCE, why)],
        counters: SessionCounters::default(),
    }
}

/// The lock of a namespace: its visits follow one another. Locks of namespaces that nobody visits are forgotten.
fn turn_of(inum: u64) -> Arc<tokio::sync::Mutex<()>> {
    static TURNS: Mutex<BTreeMap<u64, Weak<tokio::sync::Mutex<()>>>> = Mutex::new(BTreeMap::new());
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    turns.retain(|_, turn| turn.strong_count() > 0);
    if let Some(turn) = turns.get(&inum).and_then(Weak::upgrade) {
        return turn;
    }
    let turn = Arc::default();
    turns.insert(inum, Arc::downgrade(&turn));
    turn
}

#[cfg(test)]
mod tests;
