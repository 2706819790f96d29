//! Sending a plan: every probe from the namespace of its source, all sources at once, within bounds.

use crate::{
    probe::{self, ProbeKeys, ProbeRun, RunOptions},
    programmed::netns::{Netns, NetnsError},
};
use futures_util::{StreamExt as _, stream};
use std::sync::Arc;
use verifier_core::{
    evidence::{Evidence, Gap},
    names::PodRef,
    probe::{Outcome, Probe, ProbeResult},
    programmed::NodeState,
};

/// Namespaces visited at one time: each visit is a thread.
const VISITS_AT_ONCE: usize = 8;

/// Sends `probes` and waits for their results. What could not be sent stands in the results.
pub async fn send(probes: Vec<Probe>, node: &Arc<Netns>, state: &NodeState, keys: &ProbeKeys, options: &RunOptions) -> ProbeRun {
    let visits = probe::by_source(probes).into_iter().map(|(source, batch)| async move {
        match namespace(source.as_ref(), node, state) {
            Ok(namespace) => probe::run(batch, &namespace, keys, options).await,
            Err(why) => unsent(batch, &why),
        }
    });
    let mut runs = stream::iter(visits).buffer_unordered(VISITS_AT_ONCE);
    let mut all = ProbeRun::default();
    while let Some(run) = runs.next().await {
        all.merge(run);
    }
    all
}

/// The namespace of a source. A pod's is opened for the visit only: a handle that is kept would keep the namespace of a deleted pod alive.
pub fn namespace(source: Option<&PodRef>, node: &Arc<Netns>, state: &NodeState) -> Result<Arc<Netns>, String> {
    let Some(pod) = source else {
        return Ok(Arc::clone(node));
    };
    match state.pods.get(pod) {
        Some(Evidence::Complete { value } | Evidence::Partial { value, .. }) => Netns::reopen(&value.netns_path, value.netns_inum)
            .map(Arc::new)
            .map_err(|error: NetnsError| super::peers::one_line(&error)),
        Some(Evidence::Unavailable { gap }) => Err(gap.why.clone()),
        None => Err(format!("the namespace of {pod} is not known yet")),
    }
}

/// Results of probes that could not be sent for a reason that says nothing about the dataplane.
fn unsent(batch: Vec<Probe>, why: &str) -> ProbeRun {
    let (sent_at, sent_mono_ns) = (crate::clock::unix_now(), crate::clock::monotonic_ns());
    let result = |probe| ProbeResult {
        probe,
        sent_at,
        sent_mono_ns,
        outcome: Outcome::NotSent {
            errno: None,
            why: why.to_owned(),
            of_dataplane: false,
        },
        provisional: false,
    };
    ProbeRun {
        results: batch.into_iter().map(result).collect(),
        gaps: vec![Gap::new("probe/namespace", why)],
        ..ProbeRun::default()
    }
}

/// Whether a result is a failure that says something about forwarding.
pub const fn failed(result: &ProbeResult) -> bool {
    !result.outcome.passed() && !result.outcome.inconclusive()
}
