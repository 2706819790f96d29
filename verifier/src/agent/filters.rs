//! Which filter counters moved while probes were lost.
//!
//! A full round samples before and after. The continuous verdict compares with the sample of a few seconds ago.

use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    programmed::{FilterBackend, FilterRule, NodeState},
};

/// Rules of packet filters at one moment.
pub type Sample = Evidence<Vec<FilterRule>>;

/// What makes two rules of two samples the same. A rule that was replaced meanwhile has another handle, and its movement is not known.
type Key = (FilterBackend, String, String, String, Option<u64>);

fn key(rule: &FilterRule) -> Key {
    (
        rule.backend,
        rule.family.clone(),
        rule.table.clone(),
        rule.chain.clone(),
        rule.handle,
    )
}

/// Puts the later sample into the state, with how far each counter rose since the earlier one.
pub fn fill(state: &mut Evidence<NodeState>, before: Sample, after: Sample) {
    let (Evidence::Complete { value } | Evidence::Partial { value, .. }) = state else {
        return;
    };
    let mut earlier: BTreeMap<Key, u64> = BTreeMap::new();
    for rule in before.seen().map_or(&[] as &[FilterRule], Vec::as_slice) {
        if let Some(packets) = rule.packets {
            // Rules of x_tables without position would share a key: then none of them is judged by it.
            earlier.entry(key(rule)).and_modify(|_| {}).or_insert(packets);
        }
    }
    value.filters = after.map(|mut rules| {
        for rule in &mut rules {
            rule.moved = rule
                .packets
                .zip(earlier.get(&key(rule)))
                .map(|(now, then)| now.saturating_sub(*then));
        }
        rules
    });
}

/// Puts how far each counter rose since an earlier sample into the rules of a state.
pub fn moved_since(state: &mut Evidence<NodeState>, earlier: &Sample) {
    let (Evidence::Complete { value } | Evidence::Partial { value, .. }) = state else {
        return;
    };
    let now = value.filters.clone();
    fill(state, earlier.clone(), now);
}
