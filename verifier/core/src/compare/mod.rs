//! Two nodes side by side, or one against all others: what differs, and how likely it is to matter.
//!
//! A node becomes a [`Profile`]: facts by key, each as text from which everything that *must* differ between nodes is gone (addresses, names,
//! blocks, indexes). What is left is the same on all nodes of a healthy cluster, so whatever differs is worth a look, and no rule has to
//! know beforehand what is wrong. A fact that could not be read is no difference: it is listed as not comparable.

mod facts;

pub use facts::profile;

use crate::{evidence::Gap, names::NodeName};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// How likely a difference is to matter to pod traffic, 0 to 100. An order, not a measure.
pub type Weight = u8;

/// One fact of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fact {
    /// Its value, normalised.
    pub value: String,
    /// How likely a difference in it is to matter.
    pub weight: Weight,
}

/// A node as facts that can be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Facts by key: `host/kernel`, `programmed/tunnel/vxlan.calico/mtu`.
    pub facts: BTreeMap<String, Fact>,
    /// What could not be read. Facts whose key begins with one of these are not known, rather than absent.
    pub unknown: BTreeMap<String, Vec<Gap>>,
}

impl Profile {
    /// Whether nothing can be said of a key.
    fn is_unknown(&self, key: &str) -> bool {
        !self.facts.contains_key(key) && self.unknown.keys().any(|prefix| key.starts_with(prefix.as_str()))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.facts.get(key).map(|fact| fact.value.as_str())
    }
}

/// A fact in which nodes differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// The fact.
    pub key: String,
    /// How likely it is to matter.
    pub weight: Weight,
    /// What the others have: the other node, or most nodes. None: nothing of the kind.
    pub usual: Option<String>,
    /// How many nodes have that.
    pub usual_nodes: usize,
    /// What differs: value to nodes. None: nothing of the kind.
    pub odd: Vec<(Option<String>, Vec<NodeName>)>,
}

/// What a comparison says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// Differences, the likeliest to matter first.
    pub differences: Vec<Difference>,
    /// Facts in which no value has a majority: every node may be the odd one.
    pub undecided: Vec<Difference>,
    /// What could not be compared, by node.
    pub unknown: BTreeMap<NodeName, Vec<Gap>>,
    /// Facts compared.
    pub compared: usize,
}

/// Two nodes: what the second has that the first has not, and the reverse.
pub fn pair(first: (&NodeName, &Profile), second: (&NodeName, &Profile)) -> Comparison {
    let mut out = Comparison {
        unknown: unknown([first, second].into_iter()),
        ..Comparison::default()
    };
    let keys: BTreeSet<&String> = first.1.facts.keys().chain(second.1.facts.keys()).collect();
    for key in keys {
        if first.1.is_unknown(key) || second.1.is_unknown(key) {
            continue;
        }
        out.compared += 1;
        let (a, b) = (first.1.value(key), second.1.value(key));
        if a != b {
            out.differences.push(Difference {
                key: key.clone(),
                weight: weight([first.1, second.1].into_iter(), key),
                usual: a.map(String::from),
                usual_nodes: 1,
                odd: alloc::vec![(b.map(String::from), alloc::vec![second.0.clone()])],
            });
        }
    }
    sort(&mut out.differences);
    out
}

/// All nodes: for each fact, who differs from most. Needs no rule about what is right.
pub fn majority(profiles: &BTreeMap<NodeName, Profile>) -> Comparison {
    let mut out = Comparison {
        unknown: unknown(profiles.iter()),
        ..Comparison::default()
    };
    let keys: BTreeSet<&String> = profiles.values().flat_map(|p| p.facts.keys()).collect();
    for key in keys {
        let mut by_value: BTreeMap<Option<&str>, Vec<NodeName>> = BTreeMap::new();
        for (name, profile) in profiles.iter().filter(|(_, p)| !p.is_unknown(key)) {
            by_value.entry(profile.value(key)).or_default().push(name.clone());
        }
        let known: usize = by_value.values().map(Vec::len).sum();
        if known < 2 {
            continue;
        }
        out.compared += 1;
        if by_value.len() < 2 {
            continue;
        }
        let usual = by_value
            .iter()
            .find(|(_, nodes)| nodes.len() * 2 > known)
            .map(|(value, nodes)| (*value, nodes.len()));
        let difference = Difference {
            key: key.clone(),
            weight: weight(profiles.values(), key),
            usual: usual.and_then(|(value, _)| value.map(String::from)),
            usual_nodes: usual.map_or(0, |(_, nodes)| nodes),
            odd: by_value
                .into_iter()
                .filter(|(value, _)| usual.is_none_or(|(u, _)| u != *value))
                .map(|(value, nodes)| (value.map(String::from), nodes))
                .collect(),
        };
        match usual {
            Some(_) => out.differences.push(difference),
            None => out.undecided.push(difference),
        }
    }
    sort(&mut out.differences);
    sort(&mut out.undecided);
    out
}

fn unknown<'a>(profiles: impl Iterator<Item = (&'a NodeName, &'a Profile)>) -> BTreeMap<NodeName, Vec<Gap>> {
    profiles
        .filter(|(_, p)| !p.unknown.is_empty())
        .map(|(name, p)| (name.clone(), p.unknown.values().flatten().cloned().collect()))
        .collect()
}

fn weight<'a>(profiles: impl Iterator<Item = &'a Profile>, key: &str) -> Weight {
    profiles.filter_map(|p| p.facts.get(key)).map(|fact| fact.weight).max().unwrap_or(0)
}

/// The likeliest to matter first; of equal ones, those in which the fewest nodes differ, because one odd node says more than five.
fn sort(differences: &mut [Difference]) {
    differences.sort_by(|a, b| {
        let odd = |d: &Difference| d.odd.iter().map(|(_, nodes)| nodes.len()).sum::<usize>();
        (b.weight, odd(a), &a.key).cmp(&(a.weight, odd(b), &b.key))
    });
}

#[cfg(test)]
mod tests;
