//! The largest packet that passes between two ends, by repeated visits. What to try next is decided by `verifier_core`.

use super::{ProbeKeys, ProbeRun, RunOptions, run};
use crate::programmed::netns::Netns;
use std::collections::BTreeMap;
use verifier_core::probe::{IdSource, Probe, ProbeResult, Size, SizeSearch, plan::resized};

/// How often each size is sent: one loss for another reason must not look like a limit.
const ATTEMPTS: u32 = 2;

/// What a search found.
#[derive(Clone, Debug)]
pub struct SizeFound {
    /// The largest size that passes, an inner IP packet's length in bytes; none if larger ones passed where smaller ones failed.
    pub largest_bytes: Option<u32>,
    /// Whether it is known to the byte.
    pub exact: bool,
    /// All that was sent for it.
    pub run: ProbeRun,
}

/// Searches between a probe that passed and a larger one, of the same ends and transport, that did not.
///
/// The steps follow one another, each as long as a deadline: about six. Late evidence is not waited for.
pub async fn largest_passing(
    passed: &Probe,
    failed: &Probe,
    namespace: &Netns,
    keys: &ProbeKeys,
    options: &RunOptions,
    ids: &mut IdSource,
) -> SizeFound {
    let mut all = ProbeRun::default();
    let Some(mut search) = SizeSearch::new(passed.length_bytes, failed.length_bytes) else {
        return SizeFound {
            largest_bytes: None,
            exact: false,
            run: all,
        };
    };
    let options = RunOptions {
        late: std::time::Duration::ZERO,
        ..options.clone()
    };
    while !search.finished() {
        let sizes = search.next_sizes();
        let batch = (0..ATTEMPTS)
            .flat_map(|attempt| sizes.iter().map(move |bytes| (attempt, *bytes)))
            .map(|(attempt, bytes)| resized(failed, bytes, attempt, &options.config, ids))
            .collect();
        let step = run(batch, namespace, keys, &options).await;
        search.record(&verdicts(&step.results));
        all.merge(step);
    }
    SizeFound {
        largest_bytes: search.largest_passing(),
        exact: search.exact(),
        run: all,
    }
}

/// Sizes with whether any attempt passed; sizes of which nothing can be said are left out.
fn verdicts(results: &[ProbeResult]) -> Vec<(u32, bool)> {
    let mut sizes = BTreeMap::new();
    for result in results.iter().filter(|result| !result.outcome.inconclusive()) {
        if let Size::Bytes(bytes) = result.probe.size {
            *sizes.entry(bytes).or_insert(false) |= result.outcome.passed();
        }
    }
    sizes.into_iter().collect()
}
