//! Probing all the time, and judging whenever there is something new.
//!
//! Rounds are numbered by the wall clock, so that all nodes mean the same round without talking to each other. A kind of probe whose newest
//! result differs from what its last samples said is sent again at once: two samples make a change of state, in both directions.

use super::{
    probing::{failed, send},
    round::one_of_each,
    shared::{Remote, Shared, first_sent_ns, ids_of, mtu_hints, task},
    steady::Steady,
    watching::span_since,
};
use crate::{
    clock,
    supervisor::{Shutdown, TaskResult},
};
use std::{collections::BTreeSet, sync::PoisonError, time::Duration};
use tokio::time::{Instant, MissedTickBehavior};
use verifier_core::{
    evidence::Evidence,
    intent::NodeIntent,
    names::NodeName,
    probe::{Endpoint, PlanOptions, Probe, ProbeResult, low, plan_confirm, plan_round},
    verdict::{RemoteEvidence, judge_node},
};

/// Without an answer after this long a continuous probe is lost.
const DEADLINE: Duration = Duration::from_millis(600);
/// Probes that are sent again in one round.
const AGAIN_MAX: usize = 64;
/// How often each is.
const AGAIN_ATTEMPTS: u32 = 2;
/// How long a peer may take to tell what it saw.
const EVIDENCE_PATIENCE: Duration = Duration::from_millis(1500);
/// Peers that are asked for evidence in one round.
const ASKED_MAX: usize = 16;
/// Shortest time between two rounds, whatever asks for one.
const ROUND_GAP: Duration = Duration::from_millis(250);
/// Shortest time between two judgements: the first change is judged at once, a storm of them now and then.
const JUDGE_GAP: Duration = Duration::from_millis(20);
/// Conformance and refusals of the continuous verdict are counted over this time.
const COUNTS_NS: u64 = 5_000_000_000;
/// When nothing late can come any more, after a probe.
const LATE_NS: u64 = 4_600_000_000;

/// Probes until asked to stop.
///
/// # Errors
/// None: what fails stands in the evidence.
pub async fn probe(shared: &Shared, mut shutdown: Shutdown) -> TaskResult {
    let mut ticker = tokio::time::interval(shared.settings.probe_interval);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shared.probe_now.notified() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let began = Instant::now();
        tokio::select! {
            () = round(shared) => {}
            () = shutdown.requested() => return Ok(()),
        }
        tokio::time::sleep_until(began + ROUND_GAP).await;
    }
}

async fn round(shared: &Shared) {
    // While a full round is under way, this one is left out: the full one says more.
    let Ok(mut ids) = shared.ids.try_lock() else { return };
    let Some(intent) = shared.intent_now() else { return };
    let current = shared.account.current();
    let state = &current.state;
    let interval_ns = clock::duration_ns(shared.settings.probe_interval).max(1);
    let number = clock::unix_now().0 / interval_ns;
    let options = PlanOptions {
        config: shared.settings.probes,
        mtus: mtu_hints(&intent, state),
        ..PlanOptions::default()
    };
    let mut plan = plan_round(&intent, number, &options, &mut ids);
    let failing = {
        let mut window = shared.window();
        window.retain_results(|probe| exists(&intent, &probe.from) && exists(&intent, &probe.to));
        window.still_failing(&plan.probes, failed)
    };
    plan.probes
        .extend(plan_confirm(&failing, 1, AGAIN_MAX, &shared.settings.probes, &mut ids));
    let keys = shared.keys();
    let run = shared.run_options(DEADLINE, Duration::ZERO);
    let mut sent = send(plan.probes, &shared.settings.netns, state, &keys, &run).await;
    let doubtful: Vec<Probe> = {
        let window = shared.window();
        sent.results
            .iter()
            .filter(|result| window.contradicts(result, failed))
            .map(|result| result.probe.clone())
            .collect()
    };
    if !doubtful.is_empty() {
        // Whose counter moves meanwhile, and who has attached what, is evidence.
        shared.hooks_now.notify_one();
        let again = plan_confirm(&one_of_each(doubtful), AGAIN_ATTEMPTS, AGAIN_MAX, &shared.settings.probes, &mut ids);
        sent.merge(send(again, &shared.settings.netns, state, &keys, &run).await);
    }
    drop(ids);
    shared.metrics.unused_replies(&sent.counters);
    {
        let mut window = shared.window();
        for result in &sent.results {
            shared.metrics.probe(result);
            window.result(result.clone());
        }
        window.prune(clock::monotonic_ns(), clock::unix_now());
    }
    gather(shared, &intent, &sent.results).await;
    shared.judge.notify_one();
}

/// Whether an end still is what it was when it was probed.
fn exists(intent: &NodeIntent, end: &Endpoint) -> bool {
    let Some(pod) = &end.pod else {
        return end.node == intent.node || intent.peers.contains_key(&end.node);
    };
    if end.node == intent.node {
        let workload = intent.workloads.get(pod);
        return workload.is_some_and(|workload| !workload.terminating && workload.addresses.contains(&end.ip));
    }
    let peer = intent.peers.get(&end.node);
    peer.is_some_and(|peer| {
        peer.pods
            .iter()
            .any(|known| known.pod == *pod && known.addresses().any(|ip| ip == end.ip))
    })
}

/// Asks the peers what they saw: the far ends, and while something fails and the peers are few, all of them, since a packet may have gone
/// astray.
async fn gather(shared: &Shared, intent: &NodeIntent, results: &[ProbeResult]) {
    let far = |result: &&ProbeResult| result.probe.to.node != intent.node;
    let failing = results.iter().any(failed);
    let mut whom: BTreeSet<NodeName> = results.iter().filter(far).map(|result| result.probe.to.node.clone()).collect();
    if failing {
        whom.extend(intent.peers.keys().take(ASKED_MAX.saturating_sub(whom.len())).cloned());
    }
    let ids = ids_of(results);
    let answers = shared.peers.evidence(intent, &whom, &ids, EVIDENCE_PATIENCE).await;
    let alive: BTreeSet<u32> = shared.window().results().iter().map(|result| low(result.probe.id)).collect();
    let mut remote = shared.remote();
    remote.retain(|node, _| intent.peers.contains_key(node));
    for (node, answer) in answers {
        let known = remote.remove(&node);
        remote.insert(node, follow(known, answer, &alive));
    }
}

/// What a peer told before and now, of the probes that are still in the window.
fn follow(known: Option<Evidence<RemoteEvidence>>, answer: Evidence<RemoteEvidence>, alive: &BTreeSet<u32>) -> Evidence<RemoteEvidence> {
    let earlier = match known {
        Some(Evidence::Complete { value } | Evidence::Partial { value, .. }) => value,
        Some(Evidence::Unavailable { .. }) | None => return answer,
    };
    answer.map(|now| RemoteEvidence {
        hops: joined(earlier.hops, now.hops, |hop| hop.probe, alive),
        drops: joined(earlier.drops, now.drops, |drop| drop.probe, alive),
        ..now
    })
}

/// Records of both, the later ones in place of the earlier of the same probe; as complete as the later answer.
fn joined<T>(earlier: Evidence<Vec<T>>, now: Evidence<Vec<T>>, probe: impl Fn(&T) -> u32, alive: &BTreeSet<u32>) -> Evidence<Vec<T>> {
    let old = match earlier {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => value,
        Evidence::Unavailable { .. } => Vec::new(),
    };
    now.map(|mut all| {
        let told: BTreeSet<u32> = all.iter().map(&probe).collect();
        all.extend(old.into_iter().filter(|record| {
            let id = probe(record);
            alive.contains(&id) && !told.contains(&id)
        }));
        all
    })
}

/// Judges until asked to stop.
///
/// # Errors
/// None: what cannot be looked at stands in the evidence.
pub async fn judge(shared: &Shared, mut shutdown: Shutdown) -> TaskResult {
    let mut intent = shared.intent.subscribe();
    let mut programmed = shared.account.subscribe();
    let mut steady = Steady::default();
    loop {
        let began = Instant::now();
        once(shared, &mut steady);
        tokio::time::sleep_until(began + JUDGE_GAP).await;
        tokio::select! {
            changed = intent.changed() => changed?,
            changed = programmed.changed() => {
                changed?;
                // What the kernel was told has changed: see at once what packets do.
                shared.probe_now.notify_one();
            }
            () = shared.judge.notified() => {}
            () = shutdown.requested() => return Ok(()),
        }
    }
}

fn once(shared: &Shared, steady: &mut Steady) {
    let mut results = {
        let mut window = shared.window();
        if let Some(intent) = shared.intent_now() {
            window.retain_results(|probe| exists(&intent, &probe.from) && exists(&intent, &probe.to));
        }
        window.results()
    };
    let now_ns = clock::monotonic_ns();
    for result in &mut results {
        result.provisional &= now_ns.saturating_sub(result.sent_mono_ns) < LATE_NS;
    }
    let probes = match shared.health.gap(task::PROBE, "probe/continuous") {
        None => Evidence::complete(results),
        Some(gap) => Evidence::partial(results, vec![gap]),
    };
    let remote: Remote = shared.remote().clone();
    let first_ns = probes.seen().map_or(now_ns, |results| first_sent_ns(results));
    let span = span_since(first_ns, now_ns.saturating_sub(COUNTS_NS));
    let mut snapshot = shared.snapshot(probes, remote, span);
    let earlier = shared
        .filter_samples
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .front()
        .cloned();
    if let Some((_, earlier)) = earlier {
        super::filters::moved_since(&mut snapshot.programmed, &earlier);
    }
    let mut report = judge_node(&snapshot, &shared.settings.policy);
    steady.settle(&mut report, snapshot.taken_at);
    shared.metrics.judged();
    shared.report.send_replace(Evidence::complete(report));
}
