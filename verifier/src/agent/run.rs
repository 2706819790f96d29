//! Puts the agent's tasks together and lets them run until a signal comes.

use super::{
    api::{Backend, Declined, ReportAnswer, RoundRequest, TraceAnswer, TraceRequest},
    auth::Gate,
    client::Client,
    continuous,
    eyes::{Eyes, Stage},
    following,
    keys::{Keyring, random},
    metrics,
    peers::Peers,
    results, round, server,
    shared::{Keys, Settings, Shared, no_ebpf, task},
    trace, watching,
    window::{Bounds, Window},
};
use crate::{
    clock,
    config::IntentSource,
    probe::ProbeKeys,
    programmed::{
        account::{Account, Options},
        netns::Netns,
    },
    supervisor::{Hung, Shutdown, Signals, Supervisor, TaskResult},
};
use anyhow::Context as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::{Notify, watch};
use verifier_core::{
    evidence::Evidence,
    intent::NodeIntent,
    names::NodeName,
    probe::{IdSource, ProbeConfig},
    programmed::NodeState,
    report::standing::{Forwarding, Standing},
    verdict::{NodeSnapshot, Policy, RemoteEvidence},
};

/// How far back another node may ask, on the monotonic clock: the longest round.
const ASKED_BACK_NS: u64 = 30_000_000_000;

/// With what an agent starts. Everything in it was read and checked.
pub struct Start {
    /// The node.
    pub node: NodeName,
    /// Its namespace.
    pub netns: Arc<Netns>,
    /// Where it serves: the node's address.
    pub address: SocketAddr,
    /// Where intent comes from.
    pub intent: IntentSource,
    /// Key file.
    pub key_file: PathBuf,
    /// What stood in it.
    pub keyring: Keyring,
    /// Time between two rounds of continuous probes.
    pub probe_interval: Duration,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// Below which directory the host's file system is; none if its account is not wanted.
    pub host_root: Option<PathBuf>,
    /// Whether kernel programs are used.
    pub ebpf: bool,
    /// What is written into the cluster's API; none for nothing.
    pub results: Option<results::Options>,
}

/// How an agent ended badly.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It could not start.
    #[error("cannot start")]
    NotStarted(#[source] anyhow::Error),
    /// It could not stop.
    #[error(transparent)]
    Hung(#[from] Hung),
}

/// Runs until a signal comes. `signals` were registered before anything is attached.
///
/// # Errors
/// It cannot start, or a task does not stop in time.
pub async fn run(start: Start, signals: Signals) -> Result<(), Ended> {
    let mut supervisor = Supervisor::new();
    let drain = start.drain_timeout;
    assemble(start, &mut supervisor).map_err(Ended::NotStarted)?;
    supervisor.run(signals, drain).await?;
    Ok(())
}

fn assemble(start: Start, supervisor: &mut Supervisor) -> anyhow::Result<Arc<Shared>> {
    let started_at = clock::unix_now();
    let listener = Arc::new(server::listen(&start.netns, start.address)?);
    let probes = ProbeKeys::from_keyring(&start.keyring)?;
    let account = Account::new(start.netns.try_clone()?, Options::default())?;
    let incarnation = u32::from_be_bytes(random().context("no randomness")?);
    let client = Client::new(start.keyring.signing(), Arc::clone(&start.netns));
    let gate = Arc::new(Mutex::new(Gate::new(start.keyring.clone(), started_at)));
    let shared = Arc::new(Shared {
        intent: watch::Sender::new(Evidence::unavailable("intent", "it is being read")),
        account,
        eyes: Eyes::default(),
        window: Mutex::new(Window::new(Bounds::default())),
        peers: Peers::new(client, start.address.port()),
        remote: Mutex::new(BTreeMap::new()),
        keys: RwLock::new(Keys {
            ring: start.keyring,
            probes,
        }),
        ids: tokio::sync::Mutex::new(IdSource::new(&start.node, incarnation)),
        report: watch::Sender::new(Evidence::unavailable("agent/report", "none has been made yet")),
        judge: Notify::new(),
        probe_now: Notify::new(),
        hooks_now: Notify::new(),
        filter_samples: Mutex::default(),
        looked: AtomicBool::new(false),
        health: supervisor.health(),
        metrics: metrics::Metrics::default(),
        settings: Settings {
            node: start.node,
            netns: start.netns,
            started_at,
            probe_interval: start.probe_interval,
            ebpf: start.ebpf,
            host: start.host_root.map(|root| Arc::new(crate::host::Cached::new(root))),
            probes: ProbeConfig::default(),
            policy: Policy {
                report_transients: false,
                ..Policy::default()
            },
        },
    });
    let account = shared.account.clone();
    supervisor.spawn(task::ACCOUNT, move |shutdown| {
        let account = account.clone();
        async move { Ok(account.run(shutdown).await?) }
    });
    let source = start.intent;
    each(supervisor, task::INTENT, &shared, move |shared, shutdown| {
        let source = source.clone();
        async move { following::intent(&shared, source, shutdown).await }
    });
    if start.ebpf {
        each(supervisor, task::TAPS, &shared, |shared, shutdown| async move {
            watching::watch(&shared, shutdown).await
        });
    } else {
        shared.eyes.lost(no_ebpf());
    }
    if let Some(options) = start.results {
        each(supervisor, task::RESULTS, &shared, move |shared, shutdown| {
            let options = options.clone();
            async move { results::write(&shared, &options, shutdown).await }
        });
    }
    each(supervisor, task::HOOKS, &shared, |shared, shutdown| async move {
        following::hooks(&shared, shutdown).await
    });
    each(supervisor, task::PROBE, &shared, |shared, shutdown| async move {
        continuous::probe(&shared, shutdown).await
    });
    each(supervisor, task::JUDGE, &shared, |shared, shutdown| async move {
        continuous::judge(&shared, shutdown).await
    });
    let (path, key_gate) = (start.key_file, Arc::clone(&gate));
    each(supervisor, task::KEYS, &shared, move |shared, shutdown| {
        let (path, gate) = (path.clone(), Arc::clone(&key_gate));
        async move { following::keys(&shared, &gate, &path, shutdown).await }
    });
    let made = Arc::clone(&shared);
    each(supervisor, task::HTTP, &shared, move |shared, shutdown| {
        let (listener, gate) = (Arc::clone(&listener), Arc::clone(&gate));
        async move { server::serve(&listener, Arc::new(Agent(shared)), gate, shutdown).await }
    });
    tracing::info!(address = %start.address, "agent started");
    Ok(made)
}

/// An agent for one round, where none is installed: it starts, looks, probes, and stops, and nothing of it stays.
///
/// # Errors
/// It cannot start, is not ready within `patience`, cannot run a round, or a task does not stop in time.
pub async fn alone(start: Start, request: &RoundRequest, patience: Duration) -> Result<NodeSnapshot, Ended> {
    let mut supervisor = Supervisor::new();
    let drain = start.drain_timeout;
    let assembled = assemble(start, &mut supervisor);
    let round = async {
        let agent = Agent(assembled?);
        let began_ns = clock::monotonic_ns();
        while let Err(declined) = agent.ready() {
            if Duration::from_nanos(clock::monotonic_ns().saturating_sub(began_ns)) >= patience {
                return Err(declined.into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(round::run(&agent.0, request).await?)
    };
    let snapshot = round.await;
    supervisor.drain(drain).await?;
    snapshot.map_err(Ended::NotStarted)
}

/// Starts a task that shares everything.
fn each<F, Fut>(supervisor: &mut Supervisor, name: &'static str, shared: &Arc<Shared>, start: F)
where
    F: Fn(Arc<Shared>, Shutdown) -> Fut + Send + 'static,
    Fut: Future<Output = TaskResult> + Send + 'static,
{
    let shared = Arc::clone(shared);
    supervisor.spawn(name, move |shutdown| start(Arc::clone(&shared), shutdown));
}

/// What the server asks.
struct Agent(Arc<Shared>);

impl Backend for Agent {
    fn missing(&self) -> Vec<String> {
        let shared = &self.0;
        let mut missing = Vec::new();
        let intent = shared.intent.borrow().clone();
        if let Evidence::Unavailable { gap } = &intent {
            missing.push(format!("intent: {}", gap.why));
        }
        // What was complete once may lack something later: that stands in the evidence and does not make an agent unready.
        if !shared.looked.load(Ordering::Relaxed) {
            let first = first_looks(intent.seen(), &shared.account.current().state);
            shared.looked.store(first.is_empty() && intent.seen().is_some(), Ordering::Relaxed);
            missing.extend(first);
        }
        match shared.eyes.stage() {
            Stage::Up => {}
            Stage::Starting => missing.push("taps: the kernel programs are being loaded".to_owned()),
            // What was switched off is not missed.
            Stage::Unavailable(_) if !shared.settings.ebpf => {}
            Stage::Unavailable(gap) => missing.push(format!("taps: {}", gap.why)),
        }
        missing
    }

    fn forwarding(&self) -> Result<(), String> {
        let report = self.0.report.borrow();
        match &*report {
            Evidence::Complete { value } | Evidence::Partial { value, .. } => {
                let standing = Standing::of_report(value, 0);
                match standing.forwarding {
                    Forwarding::True => Ok(()),
                    other => Err(format!("{other}: {}: {}", standing.reason(), standing.condition_message())),
                }
            }
            Evidence::Unavailable { gap } => Err(format!("Unknown: {}: {}", gap.source, gap.why)),
        }
    }

    fn metrics(&self) -> String {
        metrics::text(&self.0)
    }

    fn report(&self) -> ReportAnswer {
        ReportAnswer {
            agent_started_at: self.0.settings.started_at,
            report: self.0.report.borrow().clone(),
        }
    }

    async fn evidence(&self, probes: &BTreeSet<u32>) -> RemoteEvidence {
        let shared = &self.0;
        // What the kernel wrote before the question belongs into the answer.
        shared.eyes.settle().await;
        // Whoever asks knows since when this agent runs; what it could have lost it can have lost since then only.
        let since_ns = clock::monotonic_ns().saturating_sub(ASKED_BACK_NS).max(shared.eyes.since_ns());
        let evidence = shared.eyes.remote_evidence(&shared.window(), probes, since_ns, shared.taps_gap());
        RemoteEvidence {
            agent_started_at: shared.settings.started_at,
            ..evidence
        }
    }

    async fn round(&self, request: RoundRequest) -> Result<NodeSnapshot, Declined> {
        self.ready()?;
        round::run(&self.0, &request).await
    }

    async fn trace(&self, request: TraceRequest) -> Result<TraceAnswer, Declined> {
        self.ready()?;
        trace::run(&self.0, &request).await
    }

    fn heard_from(&self, version: &str) {
        self.0.metrics.request();
        if version != env!("CARGO_PKG_VERSION") {
            tracing::debug!(version, "a program of another version asks");
        }
    }
}

/// What has not been looked at completely yet.
fn first_looks(intent: Option<&Arc<NodeIntent>>, state: &NodeState) -> Vec<String> {
    let tables = [
        ("links", state.links.is_complete()),
        ("addresses", state.addresses.is_complete()),
        ("routes", state.routes.is_complete()),
        ("neighbours", state.neighbors.is_complete()),
        ("forwarding entries", state.fdb.is_complete()),
    ];
    let incomplete = tables.iter().filter(|(_, complete)| !complete);
    let mut missing: Vec<String> = incomplete.map(|(table, _)| format!("a first complete dump of {table}")).collect();
    if intent.is_some_and(|intent| !intent.workloads.keys().all(|pod| state.pods.contains_key(pod))) {
        missing.push("a first look into the pods".to_owned());
    }
    missing
}

impl Agent {
    /// An agent that is starting does not answer for what it has not seen yet. One that cannot use its kernel programs does: that it cannot
    /// is part of its answer.
    fn ready(&self) -> Result<(), Declined> {
        let starting = self.0.eyes.stage() == Stage::Starting;
        let missing = self.missing();
        let waits = starting || missing.iter().any(|what| !what.starts_with("taps:"));
        if waits {
            return Err(Declined::NotReady { why: missing.join("; ") });
        }
        Ok(())
    }
}
