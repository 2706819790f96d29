//! What the agent's tasks share, and the snapshot that is made from it.

use super::{
    eyes::{Eyes, Span},
    filters::Sample,
    keys::Keyring,
    peers::Peers,
    window::Window,
};
use crate::{
    clock,
    host::Cached,
    probe::{ProbeKeys, RunOptions},
    programmed::{account::Account, netns::Netns},
    report::snapshot::NODE_SCHEMA,
    supervisor::Health,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::{Notify, watch};
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::NodeIntent,
    names::{NodeName, UnixNs},
    probe::{IdSource, MtuHints, ProbeConfig, ProbeResult, low},
    programmed::{LinkKind, NodeState},
    verdict::{NodeReport, NodeSnapshot, Policy, RemoteEvidence},
};

/// What the other nodes saw, by node.
pub type Remote = BTreeMap<NodeName, Evidence<RemoteEvidence>>;

/// How long a fresh look at the kernel is waited for.
const REFRESH_PATIENCE: Duration = Duration::from_secs(2);

/// Names of the tasks, as they stand in logs, metrics and gaps.
pub mod task {
    /// Follows the manifests.
    pub const INTENT: &str = "intent";
    /// Keeps the programmed account.
    pub const ACCOUNT: &str = "account";
    /// Owns the kernel programs.
    pub const TAPS: &str = "taps";
    /// Looks for foreign programs on our devices.
    pub const HOOKS: &str = "hooks";
    /// Probes all the time.
    pub const PROBE: &str = "probe";
    /// Judges.
    pub const JUDGE: &str = "judge";
    /// Serves HTTP.
    pub const HTTP: &str = "http";
    /// Writes the verdict into the cluster's API.
    pub const RESULTS: &str = "results";
    /// Follows the key file.
    pub const KEYS: &str = "keys";
}

/// What was settled when the agent started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node.
    pub node: NodeName,
    /// Its namespace.
    pub netns: Arc<Netns>,
    /// When this agent started.
    pub started_at: UnixNs,
    /// Time between two rounds of continuous probes.
    pub probe_interval: Duration,
    /// Ports and identifiers of probes.
    pub probes: ProbeConfig,
    /// How the continuous verdict is made.
    pub policy: Policy,
    /// Whether kernel programs are used.
    pub ebpf: bool,
    /// The host account, where it is wanted.
    pub host: Option<Arc<Cached>>,
}

/// Keys in force.
#[derive(Clone, Debug)]
pub struct Keys {
    /// The key file.
    pub ring: Keyring,
    /// What of it probes are signed with.
    pub probes: ProbeKeys,
}

/// Everything the tasks share.
pub struct Shared {
    /// Settings.
    pub settings: Settings,
    /// Intent of this node, as it was read last.
    pub intent: watch::Sender<Evidence<Arc<NodeIntent>>>,
    /// What the kernel was told.
    pub account: Account,
    /// Taps, and everything else the kernel programs tell.
    pub eyes: Eyes,
    /// What the taps saw and how probes ended.
    pub window: Mutex<Window>,
    /// The other agents.
    pub peers: Peers,
    /// What the other nodes saw of the probes in the window.
    pub remote: Mutex<Remote>,
    /// Keys in force.
    pub keys: RwLock<Keys>,
    /// Ids of probes. Whoever holds it sends; so rounds follow one another.
    pub ids: tokio::sync::Mutex<IdSource>,
    /// The continuous report.
    pub report: watch::Sender<Evidence<NodeReport>>,
    /// Something new is to be judged.
    pub judge: Notify,
    /// A round of probes is wanted now.
    pub probe_now: Notify,
    /// A look for foreign programs is wanted now.
    pub hooks_now: Notify,
    /// Samples of filter counters of the last seconds, the oldest first: when, on the monotonic clock, and what.
    pub filter_samples: Mutex<VecDeque<(u64, super::filters::Sample)>>,
    /// Whether everything was looked at completely once.
    pub looked: std::sync::atomic::AtomicBool,
    /// How the tasks are doing.
    pub health: Health,
    /// What is counted for metrics.
    pub metrics: super::metrics::Metrics,
}

/// The gap that switching the kernel programs off makes.
pub fn no_ebpf() -> Gap {
    Gap::new(
        "observed",
        "switched off (--no-ebpf): where a packet is lost, drop reasons and the conformance of tunnel traffic are not known",
    )
}

impl Shared {
    /// The window.
    pub fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the other nodes saw.
    pub fn remote(&self) -> MutexGuard<'_, Remote> {
        self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys of probes.
    pub fn keys(&self) -> ProbeKeys {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).probes.clone()
    }

    /// The key file as it was read last.
    pub fn keyring(&self) -> Keyring {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// Intent, unless it cannot be had.
    pub fn intent_now(&self) -> Option<Arc<NodeIntent>> {
        self.intent.borrow().seen().cloned()
    }

    /// Looks at the kernel again, and waits until that is done.
    pub async fn refresh(&self) {
        let wanted_at = clock::unix_now();
        let mut changes = self.account.subscribe();
        self.account.resync();
        self.account.refresh_pods();
        self.hooks_now.notify_one();
        let fresh = changes.wait_for(|current| current.state.taken_at >= wanted_at);
        match tokio::time::timeout(REFRESH_PATIENCE, fresh).await {
            Ok(Ok(_)) => {}
            // The state says itself how old it is, and what of it is missing.
            Ok(Err(_)) | Err(_) => tracing::warn!("no fresh look at the kernel within {} s", REFRESH_PATIENCE.as_secs()),
        }
    }

    /// Filter rules with their counters, now.
    pub async fn sample_filters(&self) -> Sample {
        let found = crate::programmed::filters::look_async(&self.settings.netns).await;
        let current = self.account.current();
        // A state that says the same needs no new publication.
        if current.state.filters != found.rules || current.state.base_chains != found.base_chains {
            self.account.set_filters(found.rules.clone(), found.base_chains);
        }
        found.rules
    }

    /// How batches are sent.
    pub fn run_options(&self, deadline: Duration, late: Duration) -> RunOptions {
        RunOptions {
            config: self.settings.probes,
            deadline,
            late,
            ..RunOptions::default()
        }
    }

    /// The gap of the observed account when its task is down.
    pub fn taps_gap(&self) -> Option<Gap> {
        if !self.settings.ebpf {
            return Some(no_ebpf());
        }
        self.health.gap(task::TAPS, "observed")
    }

    /// The snapshot of this moment, with these probes and what the others saw of them.
    pub fn snapshot(&self, probes: Evidence<Vec<ProbeResult>>, remote: Remote, span: Span) -> NodeSnapshot {
        let ids = ids_of(probes.seen().map_or(&[], Vec::as_slice));
        let intent = self.intent.borrow().clone();
        let contacts = intent.seen().map(|intent| self.peers.contacts(intent));
        let current = self.account.current();
        let observed = self.eyes.observations(&self.window(), &ids, span, self.taps_gap());
        NodeSnapshot {
            schema: NODE_SCHEMA.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.settings.node.clone(),
            taken_at: clock::unix_now(),
            agent_started_at: self.settings.started_at,
            intent: intent.map(|intent| NodeIntent::clone(&intent)),
            programmed: Evidence::complete(current.state.clone()),
            observed: observed.map(|mut observed| {
                let netlink = current.stats.loss();
                observed.loss.netlink_overruns += netlink.netlink_overruns;
                observed.loss.decode_failures += netlink.decode_failures;
                observed
            }),
            probes,
            remote,
            contacts: contacts.unwrap_or_default(),
            host: self.settings.host.as_ref().map(|host| host.account()),
        }
    }
}

/// What hop records name these probes by.
pub fn ids_of(results: &[ProbeResult]) -> BTreeSet<u32> {
    results.iter().map(|result| low(result.probe.id)).collect()
}

/// When the first of these probes was sent, on the monotonic clock; now if there are none.
pub fn first_sent_ns(results: &[ProbeResult]) -> u64 {
    results
        .iter()
        .map(|result| result.sent_mono_ns)
        .min()
        .unwrap_or_else(clock::monotonic_ns)
}

/// MTUs that intent may not know.
pub fn mtu_hints(intent: &NodeIntent, state: &NodeState) -> MtuHints {
    let mut hints = MtuHints::default();
    for (pod, inside) in &state.pods {
        let links = inside.seen().and_then(|inside| inside.links.seen());
        let eth0 = links.and_then(|links| links.iter().find(|link| link.kind != LinkKind::Loopback));
        if let Some(link) = eth0 {
            hints.pods.insert(pod.clone(), link.mtu);
        }
    }
    let no_links = Vec::new();
    let links = state.links.seen().unwrap_or(&no_links);
    for tunnel in &intent.tunnels {
        if let Some(link) = links.iter().find(|link| link.name == tunnel.device) {
            hints.tunnels.insert(tunnel.device.clone(), link.mtu);
        }
    }
    let lower = underlay(intent, state).and_then(|index| links.iter().find(|link| link.index == index));
    hints.underlay_bytes = lower.map(|link| link.mtu);
    hints
}

/// Index of the link that carries the node's Calico address.
pub fn underlay(intent: &NodeIntent, state: &NodeState) -> Option<u32> {
    carrier(intent.host_ip?, state)
}

/// Indexes of the links that carry the node's Calico addresses: its first one, and that of IPv6 where pods have IPv6.
pub fn underlays(intent: &NodeIntent, state: &NodeState) -> BTreeSet<u32> {
    let of_ipv6 = intent.host_ip_of(true).filter(|_| intent.has_pool_of(true));
    let own = intent.host_ip.into_iter().chain(of_ipv6);
    own.filter_map(|ip| carrier(ip, state)).collect()
}

fn carrier(ip: IpAddr, state: &NodeState) -> Option<u32> {
    let addresses = state.addresses.seen()?;
    addresses
        .iter()
        .find(|address| address.ip.addr() == ip)
        .map(|address| address.index)
}
