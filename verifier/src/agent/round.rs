//! A full round, as `validate` orders it: every peer, every local pod, several attempts, and for what fails all that helps to say why.
//!
//! A healthy node is done as soon as the last answer is in. Only if something failed the round takes its time: it samples filter counters
//! around another attempt, searches for the largest size that passes, and waits for what the kernel tells late (a neighbour that cannot be
//! resolved fails three seconds after the packet).

use super::{
    api::{Declined, RoundRequest},
    probing::{failed, send},
    shared::{Remote, Shared, ids_of, mtu_hints},
    watching::span_since,
};
use crate::{
    clock,
    probe::{ProbeRun, RunOptions, search::largest_passing},
    programmed::netns::Netns,
    programmed::offload,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use verifier_core::{
    evidence::Evidence,
    intent::NodeIntent,
    names::{NodeName, PodRef},
    probe::{Endpoint, IdSource, PairKind, PlanOptions, Probe, ProbeResult, Size, Transport, plan_confirm, plan_full},
    programmed::NodeState,
    verdict::{NodeSnapshot, ask_again},
};

/// Without an answer after this long a probe of a full round is lost. Far above any round trip within a cluster, and longer than a machine
/// that shares its processors stands still. A healthy round ends with the last answer, and one that is not waits for [`LATE`] anyway: it costs a
/// second only where the largest size that passes is searched.
const DEADLINE: Duration = Duration::from_millis(2000);
/// The same for probes that are sent again, where each attempt waits for the one before it.
const DEADLINE_AGAIN: Duration = Duration::from_millis(1000);
/// How long a peer may take to tell what it saw.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(3);
/// For how long a round that finds another one under way waits for its end.
const BUSY_PATIENCE: Duration = Duration::from_secs(8);
/// Probes that are sent again for filter counters to move.
const AGAIN_MAX: usize = 48;
/// Pairs of ends of which the largest passing size is searched.
const SEARCHES_MAX: usize = 2;
/// Peers that are asked for evidence. Beyond it only the ends of probes are, first those of failing ones.
const ASKED_MAX: usize = 128;
/// Failures that are told late are late by this much at most, counted from the packet (kernel.md: about 3 s).
const LATE: Duration = Duration::from_millis(3500);

/// Runs a round and takes a snapshot of it.
///
/// # Errors
/// The agent is not ready, or busy.
pub async fn run(shared: &Shared, request: &RoundRequest) -> Result<NodeSnapshot, Declined> {
    let Ok(mut ids) = tokio::time::timeout(BUSY_PATIENCE, shared.ids.lock()).await else {
        return Err(Declined::Busy);
    };
    shared.refresh().await;
    let began_ns = clock::monotonic_ns();
    let Some(intent) = shared.intent_now() else {
        // A snapshot all the same: that a source is unavailable is what the judge has to know.
        let probes = Evidence::unavailable("probe/plan", "there is no intent to plan from");
        return Ok(shared.snapshot(probes, Remote::new(), span_since(began_ns, began_ns)));
    };
    let before = Arc::new(shared.account.current().state.clone());
    let options = PlanOptions {
        config: shared.settings.probes,
        only_peers: (!request.targets.is_empty()).then(|| request.targets.clone()),
        mtus: mtu_hints(&intent, &before),
        ..PlanOptions::default()
    };
    let plan = plan_full(&intent, &options, &mut ids);
    let mut gaps = plan.gaps;
    let filters_before = shared.sample_filters().await;
    shared.eyes.settle().await;
    let began_ns = clock::monotonic_ns();
    let first = shared.run_options(DEADLINE, Duration::ZERO);
    let quick = shared.run_options(DEADLINE_AGAIN, Duration::ZERO);
    let mut all = send(plan.probes, &shared.settings.netns, &before, &shared.keys(), &first).await;
    if all.results.iter().any(failed) {
        look_closer(shared, &intent, &before, &mut all, &quick, &mut ids).await;
        let spent = Duration::from_nanos(clock::monotonic_ns().saturating_sub(began_ns));
        tokio::time::sleep(LATE.saturating_sub(spent)).await;
        for result in &mut all.results {
            // Whatever the kernel tells late has been told by now.
            result.provisional = false;
        }
        shared.refresh().await;
    }
    slow_twice(shared, &before, &mut all, &quick, &mut ids).await;
    let filters_after = shared.sample_filters().await;
    gaps.append(&mut all.gaps);
    let ids_sent = ids_of(&all.results);
    let whom = whom(&intent, &all.results);
    let remote = shared.peers.evidence(&intent, &whom, &ids_sent, EVIDENCE_PATIENCE).await;
    shared.eyes.settle().await;
    for result in &all.results {
        shared.metrics.probe(result);
    }
    shared.metrics.unused_replies(&all.counters);
    shared.metrics.round();
    let mut snapshot = shared.snapshot(Evidence::partial(all.results, gaps), remote, span_since(began_ns, began_ns));
    super::filters::fill(&mut snapshot.programmed, filters_before, filters_after);
    offloads(shared, &mut snapshot).await;
    Ok(snapshot)
}

/// Offloads change without a message: they are asked for with each round.
async fn offloads(shared: &Shared, snapshot: &mut NodeSnapshot) {
    if let Evidence::Complete { value } | Evidence::Partial { value, .. } = &mut snapshot.programmed {
        let (links, netns) = (value.links.clone(), Arc::clone(&shared.settings.netns));
        let look = tokio::task::spawn_blocking(move || offload::look(&netns, &links)).await;
        value.offloads = Some(look.unwrap_or_else(|error| Evidence::unavailable("programmed/offloads", error.to_string())));
    }
}

/// For what failed: the largest size that passes, and another attempt.
async fn look_closer(
    shared: &Shared,
    intent: &NodeIntent,
    state: &Arc<NodeState>,
    all: &mut ProbeRun,
    options: &RunOptions,
    ids: &mut IdSource,
) {
    let keys = shared.keys();
    for (small, large) in size_suspects(&all.results) {
        let Some(namespace) = source_namespace(shared, state, small.from.pod.as_ref()) else {
            continue;
        };
        let found = largest_passing(&small, &large, &namespace, &keys, options, ids).await;
        tracing::info!(node = %intent.node, to = %large.to.ip, largest = ?found.largest_bytes, "searched for the largest size that passes");
        all.merge(found.run);
    }
    let again: Vec<Probe> = all
        .results
        .iter()
        .filter(|result| failed(result))
        .map(|result| result.probe.clone())
        .collect();
    let again = plan_confirm(&one_of_each(again), 1, AGAIN_MAX, &shared.settings.probes, ids);
    all.merge(send(again, &shared.settings.netns, state, &keys, options).await);
}

/// Where answers came late, a part of the probes is sent again: a machine may have stood still for a moment.
async fn slow_twice(shared: &Shared, state: &Arc<NodeState>, all: &mut ProbeRun, options: &RunOptions, ids: &mut IdSource) {
    let again: Vec<Probe> = ask_again(&shared.settings.node, &all.results, &shared.settings.policy)
        .into_iter()
        .cloned()
        .collect();
    if !again.is_empty() {
        tracing::info!(probes = again.len(), "answers came late: asking once more");
        let again = plan_confirm(&again, 1, again.len(), &shared.settings.probes, ids);
        all.merge(send(again, &shared.settings.netns, state, &shared.keys(), options).await);
    }
}

fn source_namespace(shared: &Shared, state: &NodeState, pod: Option<&PodRef>) -> Option<Arc<Netns>> {
    match super::probing::namespace(pod, &shared.settings.netns, state) {
        Ok(namespace) => Some(namespace),
        Err(why) => {
            tracing::debug!(why, "no search for the largest size");
            None
        }
    }
}

/// One probe of each kind.
pub(super) fn one_of_each(probes: Vec<Probe>) -> Vec<Probe> {
    let mut kinds = BTreeSet::new();
    let mut one = Vec::new();
    for probe in probes {
        let port = if probe.transport == Transport::Tcp { 0 } else { probe.src_port };
        if kinds.insert((probe.from.clone(), probe.to.clone(), probe.transport, probe.size, port)) {
            one.push(probe);
        }
    }
    one
}

/// Ends between which small probes of a transport pass and the largest ones do not, first those between pods, at most one for a node.
fn size_suspects(results: &[ProbeResult]) -> Vec<(Probe, Probe)> {
    type Key = (PairKind, Endpoint, Endpoint, Transport);
    let mut sizes: BTreeMap<Key, (Option<Probe>, Option<Probe>, bool)> = BTreeMap::new();
    for result in results {
        let probe = &result.probe;
        let key = (probe.pair, probe.from.clone(), probe.to.clone(), probe.transport);
        let entry = sizes.entry(key).or_default();
        match probe.size {
            Size::Small if result.outcome.passed() => entry.0 = Some(probe.clone()),
            Size::Mtu if result.outcome.passed() => entry.2 = true,
            Size::Mtu if failed(result) => entry.1 = Some(probe.clone()),
            _ => {}
        }
    }
    let mut nodes = BTreeSet::new();
    sizes
        .into_values()
        .filter_map(|(small, large, passed)| if passed { None } else { Some((small?, large?)) })
        .filter(|(_, large)| nodes.insert(large.to.node.clone()))
        .take(SEARCHES_MAX)
        .collect()
}

/// Whom to ask for evidence: all peers while they are few, since a third one may have seen what went astray; else the ends of what failed
/// first, then the others.
fn whom(intent: &NodeIntent, results: &[ProbeResult]) -> BTreeSet<NodeName> {
    if intent.peers.len() <= ASKED_MAX {
        return intent.peers.keys().cloned().collect();
    }
    let far_end = |result: &ProbeResult| (result.probe.to.node != intent.node).then(|| result.probe.to.node.clone());
    let failing = results.iter().filter(|result| failed(result)).filter_map(far_end);
    let others = results.iter().filter_map(far_end);
    let mut whom = BTreeSet::new();
    for node in failing.chain(others) {
        if whom.len() < ASKED_MAX {
            whom.insert(node);
        }
    }
    whom
}
