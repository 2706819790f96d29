//! What the affected nodes have that the healthy have not, or the reverse.
//!
//! Every trait of the nodes gives predicates: *is this value*, *is not this value*, and for numbers *below* and *from* each value at which
//! the nodes can be parted. With `tp` affected nodes that satisfy a predicate, `fp` healthy ones that do, and `fn` affected ones that do not,
//! its score is
//!
//! ```text
//! F1 = 2 tp / (2 tp + fp + fn)
//! ```
//!
//! and its chance is the probability that as many nodes drawn blindly would contain at least `tp` affected ones (the upper tail of the
//! hypergeometric distribution, Fisher's exact test), times the number of ways to part the nodes that were tried (Bonferroni's correction).
//! Predicates are ranked by score, then by chance; those that are true of the very same nodes cannot be told apart, and stand together. One
//! whose chance exceeds a twentieth is shown as what chance may have made.

use crate::names::NodeName;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// A value of a trait.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trait {
    /// One of several values.
    Text(String),
    /// Seconds before the cluster was read: an age.
    Age(u64),
}

/// Traits of the nodes, by what they are. A node that lacks a trait is not known to have any value of it.
pub type Traits = BTreeMap<NodeName, BTreeMap<String, Trait>>;

/// The value of a trait whose absence may follow from what is wrong: it parts nothing.
pub(super) const NOT_NOW: &str = "not now";
/// How many are listed of those that may be chance, if no other is there.
const CHANCES_MAX: usize = 3;
/// Chance of one in a million, the unit of [`Separator::chance_ppm`].
const MILLION: u32 = 1_000_000;
/// What may still be chance: one in twenty.
pub const CHANCE_PPM_MAX: u32 = MILLION / 20;
/// How many are listed.
const LISTED_MAX: usize = 8;
/// How many predicates of the same nodes are listed.
const SAME_MAX: usize = 12;
/// Less than this says nothing.
const SCORE_PERMILLE_MIN: u32 = 500;

/// A way to part the affected nodes from the healthy ones.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Separator {
    /// In words: `kernelVersion is 6.8.0-45-generic`.
    pub says: String,
    /// What else is true of the very same nodes.
    pub same: Vec<String>,
    /// Affected nodes of which it is true.
    pub affected_with: u32,
    /// Affected nodes of which it is not.
    pub affected_without: u32,
    /// Healthy nodes of which it is true.
    pub healthy_with: u32,
    /// Healthy nodes of which it is not.
    pub healthy_without: u32,
    /// F1, in thousandths.
    pub score_permille: u32,
    /// How likely chance parts the nodes as well, corrected for the number of ways tried, in millionths.
    pub chance_ppm: u32,
}

impl Separator {
    /// Whether it is more than chance.
    pub const fn is_claimed(&self) -> bool {
        self.chance_ppm <= CHANCE_PPM_MAX
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subset {
    /// The best ways, best first.
    pub separators: Vec<Separator>,
    /// How many different ways were tried.
    pub tried: u32,
}

/// The four fields of a contingency table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Table {
    tp: u32,
    missed: u32,
    fp: u32,
    tn: u32,
}

/// Finds what parts `affected` from the other nodes of `traits`.
pub fn discover(traits: &Traits, affected: &BTreeSet<NodeName>) -> Subset {
    let nodes: Vec<(&NodeName, &BTreeMap<String, Trait>)> = traits.iter().collect();
    let ailing: Vec<bool> = nodes.iter().map(|(name, _)| affected.contains(*name)).collect();
    let ailing_count = ailing.iter().filter(|a| **a).count();
    if ailing_count == 0 || ailing_count == nodes.len() {
        return Subset::default();
    }
    // By the answers that it gives for each node: yes, no, or not known.
    let mut ways: BTreeMap<Vec<Option<bool>>, Vec<String>> = BTreeMap::new();
    let keys: BTreeSet<&String> = nodes.iter().flat_map(|(_, traits)| traits.keys()).collect();
    for key in keys {
        let values: Vec<Option<&Trait>> = nodes.iter().map(|(_, traits)| traits.get(key)).collect();
        for (says, answers) in predicates(key, &values) {
            ways.entry(answers).or_default().push(says);
        }
    }
    let tried = u32::try_from(ways.len()).unwrap_or(u32::MAX);
    let mut found: Vec<Separator> = ways
        .into_iter()
        .filter_map(|(answers, says)| separator(&table(&answers, &ailing)?, says, tried))
        .collect();
    found.sort_by(|a, b| {
        (b.score_permille, a.chance_ppm, rank(&a.says), &a.says).cmp(&(a.score_permille, b.chance_ppm, rank(&b.says), &b.says))
    });
    // What may be chance is of interest only where nothing else is.
    if found.first().is_some_and(Separator::is_claimed) {
        found.retain(Separator::is_claimed);
        found.truncate(LISTED_MAX);
    } else {
        found.truncate(CHANCES_MAX);
    }
    Subset { separators: found, tried }
}

/// Every predicate of one trait with its answer for each node. Answers that all nodes share part nothing.
fn predicates(key: &str, values: &[Option<&Trait>]) -> Vec<(String, Vec<Option<bool>>)> {
    let distinct: BTreeSet<&Trait> = values.iter().filter_map(|value| *value).collect();
    let known = values.iter().filter(|value| value.is_some()).count();
    let mut out = Vec::new();
    if distinct.len() < 2 {
        return out;
    }
    let mut add = |says: String, test: &dyn Fn(&Trait) -> bool| {
        out.push((says, values.iter().map(|value| value.map(test)).collect()));
    };
    // A value of its own on every node is a name.
    let names = distinct.len() == known && known > 3;
    for value in &distinct {
        match value {
            Trait::Text(text) if names || text == NOT_NOW => {}
            Trait::Text(text) => {
                add(format!("{key} is {text}"), &|other| other == *value);
                if distinct.len() > 2 {
                    add(format!("{key} is not {text}"), &|other| other != *value);
                }
            }
            Trait::Age(seconds) if distinct.first() != Some(value) => {
                let at = span(*seconds);
                add(format!("{key} is less than {at}"), &|other| other < *value);
                add(format!("{key} is {at} or more"), &|other| other >= *value);
            }
            Trait::Age(_) => {}
        }
    }
    out
}

/// An age in words, coarse but never rounded up past the next node.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds % 86_400 / 3600, seconds % 3600 / 60);
    match (days, hours) {
        (0, 0) => format!("{minutes} min {} s", seconds % 60),
        (0, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// Counts. None where so little is known that nothing can be said: of less than half of the affected or of the healthy nodes.
fn table(answers: &[Option<bool>], ailing: &[bool]) -> Option<Table> {
    let mut t = Table {
        tp: 0,
        missed: 0,
        fp: 0,
        tn: 0,
    };
    let (mut affected, mut healthy) = (0, 0);
    for (answer, ails) in answers.iter().zip(ailing) {
        *(if *ails { &mut affected } else { &mut healthy }) += 1;
        match (answer, ails) {
            (Some(true), true) => t.tp += 1,
            (Some(false), true) => t.missed += 1,
            (Some(true), false) => t.fp += 1,
            (Some(false), false) => t.tn += 1,
            (None, _) => {}
        }
    }
    let enough = (t.tp + t.missed) * 2 >= affected && (t.fp + t.tn) * 2 >= healthy;
    (enough && t.tp > 0).then_some(t)
}

fn separator(t: &Table, mut says: Vec<String>, tried: u32) -> Option<Separator> {
    let score_permille = 2000 * t.tp / (2 * t.tp + t.fp + t.missed);
    if score_permille < SCORE_PERMILLE_MIN {
        return None;
    }
    says.sort_by(|a, b| (rank(a), a).cmp(&(rank(b), b)));
    let mut says = says.into_iter();
    let chance = (upper_tail(t) * f64::from(tried)).min(1.0);
    Some(Separator {
        says: says.next()?,
        same: says.take(SAME_MAX).collect(),
        affected_with: t.tp,
        affected_without: t.missed,
        healthy_with: t.fp,
        healthy_without: t.tn,
        score_permille,
        chance_ppm: (chance * f64::from(MILLION)) as u32,
    })
}

/// Probability that of `tp + fp` nodes drawn blindly at least `tp` are affected.
fn upper_tail(t: &Table) -> f64 {
    let (affected, healthy, drawn) = (t.tp + t.missed, t.fp + t.tn, t.tp + t.fp);
    let last = affected.min(drawn);
    let total = choose(affected + healthy, drawn);
    (t.tp..=last)
        .map(|k| product(&choose(affected, k), &choose(healthy, drawn - k), &total))
        .sum()
}

/// A binomial coefficient as mantissa and power of ten: the coefficients of a large cluster fit into no float.
fn choose(n: u32, k: u32) -> (f64, i32) {
    if k > n {
        return (0.0, 0);
    }
    let k = k.min(n - k);
    let (mut mantissa, mut power) = (1.0_f64, 0_i32);
    for i in 0..k {
        mantissa = mantissa * f64::from(n - i) / f64::from(i + 1);
        while mantissa >= 10.0 {
            mantissa /= 10.0;
            power += 1;
        }
    }
    (mantissa, power)
}

fn product(a: &(f64, i32), b: &(f64, i32), total: &(f64, i32)) -> f64 {
    let mut value = a.0 * b.0 / total.0;
    let mut power = a.1 + b.1 - total.1;
    while power < 0 && value > 0.0 {
        value /= 10.0;
        power += 1;
    }
    while power > 0 {
        value *= 10.0;
        power -= 1;
    }
    value
}

/// Of what is true of the same nodes, what likelier is the cause stands first: what packets pass before what machines are called.
fn rank(says: &str) -> u8 {
    let kinds: &[&[&str]] = &[
        &["kernelVersion ", "host/kernel ", "host/modules "],
        &["osImage ", "host/", "programmed/"],
        &["runs DaemonSet"],
        &["runs "],
        &["subnet "],
        &["label topology.kubernetes.io/zone", "label node.kubernetes.io/instance-type"],
        &["label ", "taint "],
        &["kubeletVersion ", "containerRuntimeVersion "],
    ];
    let at = kinds.iter().position(|starts| starts.iter().any(|start| says.starts_with(start)));
    let base = u8::try_from(at.unwrap_or(kinds.len())).unwrap_or(u8::MAX / 2) * 2;
    base + u8::from(says.contains(" is not ") || says.ends_with(" is no"))
}

/// Presence of something, as a trait.
pub fn presence(there: bool) -> Trait {
    Trait::Text(if there { "yes" } else { "no" }.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(traits: &[&[(&str, Trait)]]) -> Traits {
        let of = |all: &&[(&str, Trait)]| all.iter().map(|(k, v)| (k.to_string(), v.clone())).collect();
        traits
            .iter()
            .enumerate()
            .map(|(i, all)| (NodeName::from(format!("n{i}")), of(all)))
            .collect()
    }

    fn text(text: &str) -> Trait {
        Trait::Text(text.to_string())
    }

    fn names(all: &[usize]) -> BTreeSet<NodeName> {
        all.iter().map(|i| NodeName::from(format!("n{i}"))).collect()
    }

    #[test]
    fn the_tail_is_fishers() {
        // Fisher's tea: 8 cups, 4 of them milk first; all four told right: 1/70.
        let t = |tp, missed, fp, tn| Table { tp, missed, fp, tn };
        assert!((upper_tail(&t(4, 0, 0, 4)) - 1.0 / 70.0).abs() < 1e-12);
        assert!((upper_tail(&t(3, 1, 1, 3)) - 17.0 / 70.0).abs() < 1e-12);
        // Far beyond what a float holds as a factorial.
        let p = upper_tail(&t(300, 200, 100, 900));
        assert!(p > 0.0 && p < 1e-50, "{p}");
        assert!((upper_tail(&t(0, 5, 0, 5)) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn what_all_affected_have_comes_first_with_its_equals_beside_it() {
        let zone = |z: &str, k: &str| {
            [
                ("label topology.kubernetes.io/zone", text(z)),
                ("kernelVersion", text(k)),
                ("label pool", text("x")),
            ]
        };
        let rows: Vec<_> = (0..12)
            .map(|i| {
                if i < 4 {
                    zone("b", "6.9")
                } else if i < 8 {
                    zone("a", "6.8")
                } else {
                    zone("c", "6.8")
                }
            })
            .collect();
        let traits = nodes(&rows.iter().map(|r| r.as_slice()).collect::<Vec<_>>());
        let found = discover(&traits, &names(&[0, 1, 2, 3]));
        let best = &found.separators[0];
        assert_eq!((best.says.as_str(), best.score_permille), ("kernelVersion is 6.9", 1000));
        assert_eq!(best.same, ["label topology.kubernetes.io/zone is b"]);
        assert_eq!(
            (best.affected_with, best.affected_without, best.healthy_with, best.healthy_without),
            (4, 0, 0, 8)
        );
        assert!(best.is_claimed(), "{best:?}");
    }

    #[test]
    fn ages_part_at_a_threshold_and_names_do_not() {
        let rows: Vec<_> = (0..20)
            .map(|i: u64| {
                [
                    ("age", Trait::Age(if i < 6 { 3600 + i } else { 900_000 + i })),
                    ("label id", text(&format!("id-{i}"))),
                ]
            })
            .collect();
        let traits = nodes(&rows.iter().map(|r| r.as_slice()).collect::<Vec<_>>());
        let found = discover(&traits, &names(&[0, 1, 2, 3, 4, 5]));
        assert!(
            found.separators[0].says.starts_with("age is less than 10 d"),
            "{:?}",
            found.separators[0]
        );
        assert!(found.separators.iter().all(|s| !s.says.contains("label id")));
    }

    #[test]
    fn three_nodes_are_too_few_for_a_claim() {
        let rows = [
            [("kernelVersion", text("6.9"))],
            [("kernelVersion", text("6.8"))],
            [("kernelVersion", text("6.8"))],
        ];
        let traits = nodes(&rows.iter().map(|r| r.as_slice()).collect::<Vec<_>>());
        let found = discover(&traits, &names(&[0]));
        assert_eq!(found.separators[0].score_permille, 1000);
        assert!(!found.separators[0].is_claimed());
    }

    #[test]
    fn nothing_parts_all_from_none_and_unknown_is_not_no() {
        let rows = [[("a", text("1"))], [("a", text("2"))]];
        let traits = nodes(&rows.iter().map(|r| r.as_slice()).collect::<Vec<_>>());
        assert_eq!(discover(&traits, &names(&[0, 1])), Subset::default());
        // Known of one affected node in four only: that is nothing to build on.
        let mut traits: Traits = (0..8).map(|i| (NodeName::from(format!("n{i}")), BTreeMap::new())).collect();
        for (node, value) in [(0, "x"), (4, "y"), (5, "y"), (6, "y"), (7, "y")] {
            let name = NodeName::from(format!("n{node}"));
            traits.entry(name).or_default().insert("t".to_string(), text(value));
        }
        assert!(discover(&traits, &names(&[0, 1, 2, 3])).separators.is_empty());
    }
}
