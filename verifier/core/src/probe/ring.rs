//! Which peers a node tests in a round, chosen by all nodes from the same list without talking to each other.
//!
//! The nodes, sorted by name, stand on a ring. In a round every node tests the peers at the same k offsets from itself, so every node
//! is tested by exactly k others too. The offsets move on from round to round through all of them: with n nodes every ordered pair is
//! tested once in `ceil((n - 1) / k)` consecutive rounds, beginning with any round. Successive offsets are a large stride apart rather
//! than neighbours, so that the pairs of one round form a well connected graph (an expander in all but name) and a fault between two
//! halves of a cluster shows in the first rounds.
//!
//! Nodes agree on the round if they take it from the wall clock; if they do not agree, coverage stands all the same and only the
//! number of testers of a node may differ from k in a round.

use crate::names::NodeName;
use alloc::vec::Vec;

/// The peers that `me` tests in `round`: `per_round` of them, or all if there are not more than `all_up_to`.
///
/// `others` are all other nodes, in order of name and without `me`.
pub fn peers_of_round<'a>(me: &NodeName, others: &[&'a NodeName], round: u64, per_round: u32, all_up_to: u32) -> Vec<&'a NodeName> {
    let offsets = others.len() as u64;
    let per_round = u64::from(per_round.max(1));
    if offsets <= per_round.max(u64::from(all_up_to)) {
        return others.to_vec();
    }
    let own_place = others.partition_point(|other| *other < me) as u64;
    let nodes = offsets + 1;
    let stride = stride(offsets);
    (0..per_round)
        .map(|turn| {
            // `round` is reduced first: the products stay far below 2^64 for any cluster that fits into memory.
            let step = ((round % offsets) * per_round + turn) % offsets;
            let offset = 1 + (step * stride) % offsets;
            let place = (own_place + offset) % nodes;
            // `others` lacks this node: places after it are one less.
            let index = if place > own_place { place - 1 } else { place };
            others[index as usize]
        })
        .collect()
}

/// After how many rounds every ordered pair of `nodes` nodes was tested.
pub const fn rounds_to_cover(nodes: usize, per_round: u32, all_up_to: u32) -> u64 {
    let peers = nodes.saturating_sub(1) as u64;
    let per_round = if per_round == 0 { 1 } else { per_round as u64 };
    if peers <= per_round || peers <= all_up_to as u64 {
        1
    } else {
        peers.div_ceil(per_round)
    }
}

/// A number without a common divisor with `modulus`, near its golden section: its multiples visit every residue, far apart.
fn stride(modulus: u64) -> u64 {
    let golden = modulus * 618 / 1_000;
    (0..modulus)
        .map(|away| golden + away)
        .find(|candidate| *candidate > 0 && common_divisor(*candidate, modulus) == 1)
        .unwrap_or(1)
}

const fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{
        collections::{BTreeMap, BTreeSet},
        format,
    };
    use proptest::prelude::*;

    fn names(count: usize) -> Vec<NodeName> {
        let mut names: Vec<NodeName> = (0..count).map(|i| format!("node-{i}").into()).collect();
        names.sort();
        names
    }

    fn tested(all: &[NodeName], me: usize, round: u64, k: u32, all_up_to: u32) -> Vec<NodeName> {
        let others: Vec<&NodeName> = all.iter().filter(|n| **n != all[me]).collect();
        peers_of_round(&all[me], &others, round, k, all_up_to)
            .into_iter()
            .cloned()
            .collect()
    }

    proptest! {
        #[test]
        fn every_ordered_pair_is_tested_in_the_stated_rounds(
            nodes in 2_usize..40, k in 1_u32..6, all_up_to in 0_u32..8, first in any::<u64>(),
        ) {
            let all = names(nodes);
            let first = first >> 1;
            for me in 0..nodes {
                let mut seen = BTreeSet::new();
                for round in first..first + rounds_to_cover(nodes, k, all_up_to) {
                    seen.extend(tested(&all, me, round, k, all_up_to));
                }
                prop_assert_eq!(seen.len(), nodes - 1);
                prop_assert!(!seen.contains(&all[me]));
            }
        }

        #[test]
        fn every_node_is_tested_as_often_as_it_tests(nodes in 2_usize..40, k in 1_u32..6, round in any::<u64>()) {
            let all = names(nodes);
            let mut testers: BTreeMap<NodeName, usize> = BTreeMap::new();
            for me in 0..nodes {
                let peers = tested(&all, me, round, k, 0);
                prop_assert_eq!(peers.len(), (nodes - 1).min(k as usize));
                prop_assert_eq!(peers.iter().collect::<BTreeSet<_>>().len(), peers.len());
                for peer in peers {
                    *testers.entry(peer).or_default() += 1;
                }
            }
            prop_assert!(testers.values().all(|n| *n == (nodes - 1).min(k as usize)));
        }
    }

    #[test]
    fn a_small_cluster_is_tested_whole_in_every_round() {
        let all = names(6);
        assert_eq!(tested(&all, 2, 99, 3, 6).len(), 5);
        assert_eq!(rounds_to_cover(6, 3, 6), 1);
        assert_eq!(rounds_to_cover(100, 3, 6), 33);
    }

    #[test]
    fn alone_there_is_nobody_to_test() {
        assert!(tested(&names(1), 0, 0, 3, 6).is_empty());
    }
}
