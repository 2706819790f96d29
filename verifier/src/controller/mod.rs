//! The controller: one in the cluster leads, judges all nodes from their agents' verdicts, and writes what no agent can write of itself.
//!
//! | file | does |
//! |---|---|
//! | this one | puts the tasks together; who leads |
//! | [`judge`] | asks the agents, judges, writes |
//! | [`serve`] | health, readiness, metrics |

pub mod judge;
pub mod serve;

use crate::{
    agent::{client::Client, keys::Keyring},
    clock,
    kubernetes::{KubeSource, lease, results::Results},
    supervisor::{Health, Hung, Shutdown, Signals, Supervisor, TaskResult},
};
use futures_util::StreamExt as _;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use verifier_core::{
    evidence::Evidence,
    intent::Cluster,
    lease::{Election, RENEW_DEADLINE_MS, RETRY_MS},
    names::UnixNs,
};

/// Time between two looks at the key file.
const KEYS_EVERY: Duration = Duration::from_secs(5);

/// With what a controller starts. Everything in it was read and checked.
pub struct Start {
    /// Objects of the cluster.
    pub source: KubeSource,
    /// Writes verdicts.
    pub results: Results,
    /// Asks agents.
    pub agents: Client,
    /// Key file, followed.
    pub key_file: PathBuf,
    /// Port the agents serve on.
    pub agent_port: u16,
    /// Where health and metrics are served, open already.
    pub listener: std::net::TcpListener,
    /// Time between two judgements.
    pub interval: Duration,
    /// Heartbeat of the agents.
    pub heartbeat: Duration,
    /// The Lease.
    pub lease: lease::Name,
    /// Whether nodes are tainted.
    pub taint: bool,
    /// How long stopping may take.
    pub drain_timeout: Duration,
}

/// What the tasks share.
pub struct Shared {
    source: KubeSource,
    results: Results,
    agents: Mutex<Client>,
    agent_port: u16,
    interval: Duration,
    heartbeat: Duration,
    taint: bool,
    cluster: Mutex<Known>,
    leading_since: Mutex<Option<UnixNs>>,
    health: Health,
    metrics: serve::Metrics,
}

/// The cluster's objects, as they were read last.
#[derive(Default)]
struct Known {
    cluster: Option<Cluster>,
    /// Why there is no cluster, or what is missing of it.
    gaps: Vec<String>,
}

impl Shared {
    fn cluster(&self) -> MutexGuard<'_, Known> {
        self.cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agents(&self) -> Client {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Since when this controller leads; none if it does not.
    pub fn leading_since(&self) -> Option<UnixNs> {
        *self.leading_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_leading(&self, leads: bool) {
        let mut since = self.leading_since.lock().unwrap_or_else(PoisonError::into_inner);
        match (leads, *since) {
            (true, None) => {
                tracing::info!("this controller leads");
                *since = Some(clock::unix_now());
            }
            (false, Some(_)) => {
                tracing::info!("this controller leads no longer");
                *since = None;
            }
            _ => {}
        }
    }
}

/// Runs until a signal comes. The Lease is given up then.
///
/// # Errors
/// A task does not stop in time.
pub async fn run(start: Start, signals: Signals) -> Result<(), Hung> {
    let mut supervisor = Supervisor::new();
    let client = start.source.client().clone();
    let shared = Arc::new(Shared {
        source: start.source,
        results: start.results,
        agents: Mutex::new(start.agents),
        agent_port: start.agent_port,
        interval: start.interval,
        heartbeat: start.heartbeat,
        taint: start.taint,
        cluster: Mutex::default(),
        leading_since: Mutex::default(),
        health: supervisor.health(),
        metrics: serve::Metrics::default(),
    });
    let of = Arc::clone(&shared);
    supervisor.spawn("intent", move |shutdown| intent(Arc::clone(&of), shutdown));
    let (of, lease) = (Arc::clone(&shared), start.lease.clone());
    supervisor.spawn("lease", move |shutdown| lead(Arc::clone(&of), lease.clone(), shutdown));
    let of = Arc::clone(&shared);
    supervisor.spawn("judge", move |shutdown| judge::run(Arc::clone(&of), shutdown));
    let (of, path) = (Arc::clone(&shared), start.key_file);
    supervisor.spawn("keys", move |shutdown| keys(Arc::clone(&of), path.clone(), shutdown));
    let (of, listener) = (Arc::clone(&shared), Arc::new(start.listener));
    supervisor.spawn("http", move |shutdown| {
        let (shared, listener) = (Arc::clone(&of), Arc::clone(&listener));
        async move { serve::serve(&listener, shared, shutdown).await }
    });
    let stopped = supervisor.run(signals, start.drain_timeout).await;
    if shared.leading_since().is_some() {
        let released = lease::release(&client, &start.lease, clock::unix_now());
        match tokio::time::timeout(Duration::from_secs(2), released).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Lease was not given up; it runs out"),
            Err(_) => tracing::warn!("the Lease was not given up in time; it runs out"),
        }
    }
    stopped
}

/// Follows the cluster's objects.
async fn intent(shared: Arc<Shared>, mut shutdown: Shutdown) -> TaskResult {
    let mut objects = shared.source.clone().watch().boxed();
    loop {
        let next = tokio::select! {
            next = objects.next() => next,
            () = shutdown.requested() => return Ok(()),
        };
        let Some(next) = next else {
            anyhow::bail!("the source of objects ended");
        };
        let gaps: Vec<String> = next.gaps().iter().map(|gap| format!("{}: {}", gap.source, gap.why)).collect();
        for gap in &gaps {
            tracing::warn!(gap, "intent is not complete");
        }
        tokio::task::block_in_place(|| {
            let mut known = shared.cluster();
            known.gaps = gaps;
            // What is known stays in force while the server is away.
            if let Evidence::Complete { value } | Evidence::Partial { value, .. } = next {
                match &mut known.cluster {
                    Some(cluster) => cluster.replace(value),
                    None => known.cluster = Some(Cluster::compile(value)),
                }
            }
        });
    }
}

/// Takes the Lease and keeps it.
async fn lead(shared: Arc<Shared>, of: lease::Name, mut shutdown: Shutdown) -> TaskResult {
    let mut election = Election::new(&of.identity);
    let mut ticker = tokio::time::interval(Duration::from_millis(RETRY_MS));
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut complained = String::new();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let now_ms = clock::monotonic_ns() / 1_000_000;
        // Never longer than the deadline after which this one must not lead any more.
        let patience = Duration::from_millis(RENEW_DEADLINE_MS / 2);
        let attempt = lease::attempt(shared.source.client(), &of, &mut election, clock::unix_now(), now_ms);
        let failed = match tokio::time::timeout(patience, attempt).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("the API server did not answer within {} s", patience.as_secs()),
        };
        if !failed.is_empty() && failed != complained {
            tracing::warn!(error = failed, "the Lease could be neither taken nor kept; it is tried again");
        }
        complained = failed;
        shared.set_leading(election.leads(clock::monotonic_ns() / 1_000_000));
    }
}

/// Follows the key file, so that a rotation needs no restart.
async fn keys(shared: Arc<Shared>, path: PathBuf, mut shutdown: Shutdown) -> TaskResult {
    let mut ticker = tokio::time::interval(KEYS_EVERY);
    let mut complained = String::new();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        match Keyring::read(&path) {
            Ok(keyring) => {
                complained.clear();
                let mut agents = shared.agents.lock().unwrap_or_else(PoisonError::into_inner);
                agents.set_key(keyring.signing());
            }
            Err(error) => {
                let words = error.to_string();
                if words != complained {
                    tracing::warn!(%error, "the key file cannot be read; the key in force stays");
                    complained = words;
                }
            }
        }
    }
}
