//! Tasks that follow what changes from outside: intent's objects, the key file, foreign programs on our devices.

use super::{
    auth::Gate,
    keys::Keyring,
    shared::{Keys, Shared},
};
use crate::{
    clock,
    config::IntentSource,
    intent::FileSource,
    observed::foreign::foreign_hooks,
    probe::ProbeKeys,
    programmed::{WantedPod, netns::Netns},
    supervisor::{Shutdown, TaskResult},
};
use futures_util::StreamExt as _;
use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::MissedTickBehavior;
use verifier_core::{
    evidence::Evidence,
    intent::{Acquaintance, Cluster, NodeIntent, objects::Objects, toggles::Toggles},
    programmed::{ForeignHook, NodeState},
};

/// Time between two looks at the key file.
const KEYS_EVERY: Duration = Duration::from_secs(5);
/// Time between two looks for foreign programs; a round asks for one besides.
const HOOKS_EVERY: Duration = Duration::from_secs(5);
/// How far back counters are compared for the continuous verdict.
const FILTERS_BACK_NS: u64 = 5_000_000_000;

/// Follows manifests or the cluster's API: this node's intent changes with them, and with it the pods whose inside is looked at.
///
/// # Errors
/// None: objects that cannot be read are evidence that is unavailable.
pub async fn intent(shared: &Shared, source: IntentSource, mut shutdown: Shutdown) -> TaskResult {
    let mut objects = match source {
        IntentSource::Files(path) => FileSource::new(path).watch().boxed(),
        IntentSource::Kubernetes(source) => source.watch().boxed(),
    };
    let mut cluster: Option<Cluster> = None;
    let mut acquaintance = Acquaintance::default();
    let mut toggles = Toggles::default();
    loop {
        let next = tokio::select! {
            next = objects.next() => next,
            () = shutdown.requested() => return Ok(()),
        };
        let Some(next) = next else {
            anyhow::bail!("the source of objects ended");
        };
        let evidence = tokio::task::block_in_place(|| compute(shared, &mut cluster, &mut acquaintance, &mut toggles, next));
        if let Some(intent) = evidence.seen() {
            shared.account.set_pods(wanted_pods(intent));
        }
        for gap in evidence.gaps() {
            tracing::warn!(source = gap.source, why = gap.why, "intent is not complete");
        }
        shared.intent.send_if_modified(|known| {
            // Reading the same again is no change.
            let same = known.seen().zip(evidence.seen()).is_some_and(|(old, new)| same_intent(old, new)) && known.gaps() == evidence.gaps();
            if !same {
                *known = evidence;
            }
            !same
        });
    }
}

fn same_intent(old: &NodeIntent, new: &NodeIntent) -> bool {
    let normal = |intent: &NodeIntent| NodeIntent {
        generation: 0,
        read_at: verifier_core::names::UnixNs(0),
        ..intent.clone()
    };
    normal(old) == normal(new)
}

fn compute(
    shared: &Shared,
    cluster: &mut Option<Cluster>,
    acquaintance: &mut Acquaintance,
    toggles: &mut Toggles,
    objects: Evidence<Objects>,
) -> Evidence<Arc<NodeIntent>> {
    let missing = objects.gaps().to_vec();
    let objects = match objects {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => value,
        Evidence::Unavailable { gap } => return Evidence::Unavailable { gap },
    };
    match cluster {
        Some(cluster) => cluster.replace(objects),
        None => *cluster = Some(Cluster::compile(objects)),
    }
    let intent = cluster.as_ref().map(|cluster| cluster.node_intent(&shared.settings.node));
    match intent {
        Some(Ok(mut intent)) => {
            let now = clock::unix_now();
            acquaintance.stamp(&mut intent, now);
            intent.claim.ready_toggles = Some(toggles.note(intent.claim.ready, now));
            Evidence::partial(Arc::new(intent), missing)
        }
        Some(Err(error)) => Evidence::unavailable("intent/node", error.to_string()),
        None => Evidence::unavailable("intent/node", "no manifests"),
    }
}

/// Pods whose inside is looked at.
pub fn wanted_pods(intent: &NodeIntent) -> Vec<WantedPod> {
    let wanted = |workload: &verifier_core::intent::ExpectedWorkload| WantedPod {
        pod: workload.pod.clone(),
        device: workload.device.clone(),
        addresses: workload.addresses.clone(),
    };
    intent.workloads.values().map(wanted).collect()
}

/// Follows the key file, so that a rotation needs no restart. One that cannot be read leaves the keys in force.
///
/// # Errors
/// None.
pub async fn keys(shared: &Shared, gate: &Mutex<Gate>, path: &Path, mut shutdown: Shutdown) -> TaskResult {
    let mut ticker = tokio::time::interval(KEYS_EVERY);
    let mut complained = String::new();
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let read = Keyring::read(path).map_err(anyhow::Error::from).and_then(|ring| {
            let probes = ProbeKeys::from_keyring(&ring)?;
            Ok(Keys { ring, probes })
        });
        match read {
            Ok(keys) if keys.ring == shared.keyring() => complained.clear(),
            Ok(keys) => {
                tracing::info!("the key file changed: new keys are in force");
                gate.lock().unwrap_or_else(PoisonError::into_inner).set_keyring(keys.ring.clone());
                shared.peers.set_key(keys.ring.signing());
                *shared.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != complained {
                    tracing::warn!(error = text, "the key file cannot be read: the keys in force stay");
                    complained = text;
                }
            }
        }
    }
}

/// Looks for programs of others on our devices and in our pods.
///
/// # Errors
/// None: a look that failed is a gap in the state.
pub async fn hooks(shared: &Shared, mut shutdown: Shutdown) -> TaskResult {
    let mut ticker = tokio::time::interval(HOOKS_EVERY);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known = None;
    loop {
        tokio::select! {
            _ = ticker.tick() => {}
            () = shared.hooks_now.notified() => {}
            () = shutdown.requested() => return Ok(()),
        }
        let current = shared.account.current();
        let found = tokio::task::block_in_place(|| all_hooks(&shared.settings.netns, &current.state));
        if known.as_ref() != Some(&found) {
            shared.account.set_hooks(found.clone());
            known = Some(found);
        }
        filters(shared).await;
        let stats = crate::programmed::conntrack::look_async(&shared.settings.netns).await;
        if shared.account.current().state.conntrack != stats {
            shared.account.set_conntrack(stats);
        }
    }
}

/// Samples the filters' counters, and keeps the sample for a while.
async fn filters(shared: &Shared) {
    let sample = shared.sample_filters().await;
    let now_ns = crate::clock::monotonic_ns();
    let mut samples = shared.filter_samples.lock().unwrap_or_else(PoisonError::into_inner);
    samples.push_back((now_ns, sample));
    // One that is older than the window stays, so that there is always something to compare with.
    while samples.get(1).is_some_and(|(at, _)| now_ns.saturating_sub(*at) > FILTERS_BACK_NS) {
        samples.pop_front();
    }
}

/// Foreign programs in the node's namespace and in its pods'.
pub fn all_hooks(netns: &Netns, state: &NodeState) -> Evidence<Vec<ForeignHook>> {
    let links = match &state.links {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => value,
        Evidence::Unavailable { gap } => return Evidence::Unavailable { gap: gap.clone() },
    };
    let mut looks = vec![foreign_hooks(netns, None, links)];
    for (pod, inside) in &state.pods {
        let Some(inside) = inside.seen() else { continue };
        // A pod that went away meanwhile has no devices to look at.
        if let (Some(links), Ok(netns)) = (inside.links.seen(), Netns::reopen(&inside.netns_path, inside.netns_inum)) {
            looks.push(foreign_hooks(&netns, Some(pod), links));
        }
    }
    let missing = looks.iter().flat_map(Evidence::gaps).cloned().collect();
    let hooks = looks
        .into_iter()
        .filter_map(|look| look.seen().cloned())
        .flat_map(Vec::into_iter)
        .collect();
    Evidence::partial(hooks, missing)
}
