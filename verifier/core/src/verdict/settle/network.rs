//! Causes that lie in the network between nodes: many pairs of endpoints show one of them.

use super::{
    Reports,
    family::only_text,
    latency::lossy_text,
    residual::{Blame, by_chance, fabric, only_by_place},
};
use crate::{
    names::NodeName,
    probe::Transport,
    verdict::{CauseCode, Scope, Share, Symptom},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// One fault of the network shows as one cause, however many pairs it hits.
pub(super) fn merge_fabric<'s>(reports: &Reports<'_>, mut groups: BTreeMap<Blame, Vec<&'s Symptom>>) -> Vec<(Blame, Vec<&'s Symptom>)> {
    join_chance(&mut groups);
    let mut out: Vec<(Blame, Vec<&Symptom>)> = Vec::new();
    let mut network: BTreeMap<CauseCode, Vec<(Blame, Vec<&Symptom>)>> = BTreeMap::new();
    for (blame, symptoms) in groups {
        if of_network(blame.code) {
            network.entry(blame.code).or_default().push((blame, symptoms));
        } else {
            out.push((blame, symptoms));
        }
    }
    bad_paths(&mut network);
    for (code, hits) in network {
        let edges: BTreeSet<(NodeName, NodeName)> = hits
            .iter()
            .filter_map(|(b, _)| Some((b.node.clone()?, b.towards.clone()?)))
            .collect();
        let pairs: BTreeSet<(&NodeName, &NodeName)> = edges.iter().map(|(a, b)| if a < b { (a, b) } else { (b, a) }).collect();
        let mut symptoms: Vec<&Symptom> = hits.iter().flat_map(|(_, s)| s.iter().copied()).collect();
        // The first is shown: one that tells of chance, where chance is the cause.
        symptoms.sort_by_key(|s| !by_chance(s));
        let (node, towards, between) = match (pairs.len(), edges.len()) {
            (1, 1) => edges
                .first()
                .map(|(a, b)| (Some(a.clone()), Some(b.clone()), format!("from {a} to {b}"))),
            (1, _) => pairs
                .first()
                .map(|(a, b)| (Some((*a).clone()), Some((*b).clone()), format!("between {a} and {b}"))),
            _ => Some((None, None, across(reports, &edges, &pairs))),
        }
        .unwrap_or((None, None, String::new()));
        let node = node.or_else(|| {
            if code == CauseCode::ChecksumCorrupt {
                only(&edges, |e| &e.0)
            } else {
                None
            }
        });
        let between = format!("{between}{}", only_text(reports, &symptoms));
        let subject = describe(code, &symptoms, &between);
        let programmed = (code == CauseCode::UnderlayDropsTunnel)
            .then(|| unanswered(reports, &edges, &symptoms))
            .flatten();
        out.push((
            Blame {
                code,
                node,
                towards,
                pod: None,
                subject,
                programmed,
            },
            symptoms,
        ));
    }
    out
}

/// What is lost by chance between two nodes whose network loses by chance is that network's, though its place was not seen or is where a
/// damaged packet was thrown away at last; and so is what a node throws away in the same manner of what comes from the others. So is what looks
/// like a fault of its own but is no more than chance takes now and then: of some hundred groups of three probes each one or another is lost
/// whole, and looks like large packets or a port that never pass.
fn join_chance(groups: &mut BTreeMap<Blame, Vec<&Symptom>>) {
    let pair = |a: &NodeName, b: &NodeName| if a < b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
    let lossy: BTreeMap<(NodeName, NodeName), (Blame, Share)> = groups
        .iter()
        .filter(|(blame, symptoms)| blame.code == CauseCode::PartialLoss && symptoms.iter().any(|s| by_chance(s)))
        .filter_map(|(blame, symptoms)| {
            let share = symptoms
                .iter()
                .filter_map(|s| s.lossy)
                .max_by_key(|share| share.lost * 100 / share.of.max(1))?;
            Some((pair(blame.node.as_ref()?, blame.towards.as_ref()?), (blame.clone(), share)))
        })
        .collect();
    let ends: BTreeMap<NodeName, Share> = lossy
        .iter()
        .flat_map(|((a, b), (_, share))| [(a.clone(), *share), (b.clone(), *share)])
        .collect();
    let mut moved: Vec<(Blame, &Symptom)> = Vec::new();
    for (from, symptoms) in groups.iter_mut() {
        let by_place = only_by_place(from);
        if !by_place && !of_network(from.code) {
            continue;
        }
        symptoms.retain(|symptom| match lossy.get(&pair(&symptom.from.node, &symptom.to.node)) {
            None if by_place => match beside(symptom, &ends) {
                Some(blame) => {
                    moved.push((blame, symptom));
                    false
                }
                None => true,
            },
            Some((blame, share))
                if blame != from && (by_chance(symptom) && by_place || !by_chance(symptom) && may_be_chance(symptom, *share)) =>
            {
                moved.push((blame.clone(), symptom));
                false
            }
            _ => true,
        });
    }
    for (blame, symptom) in moved {
        groups.entry(blame).or_default().push(symptom);
    }
    groups.retain(|_, symptoms| !symptoms.is_empty());
}

/// The network to blame for what is lost, by chance or as chance may do it, at a node whose other ways lose by chance. Where the place is not
/// known, because a node could not be asked over that very network, both ends count.
fn beside(symptom: &Symptom, ends: &BTreeMap<NodeName, Share>) -> Option<Blame> {
    let (from, to) = (&symptom.from.node, &symptom.to.node);
    let chance = |share: &Share| from != to && (by_chance(symptom) || may_be_chance(symptom, *share));
    match symptom.place.as_ref().filter(|_| symptom.gaps.is_empty()) {
        Some(place) => ends
            .get(&place.node)
            .filter(|share| chance(share))
            .map(|_| fabric(CauseCode::PartialLoss, place, symptom)),
        None => ends
            .get(from)
            .or_else(|| ends.get(to))
            .filter(|share| chance(share))
            .map(|_| Blame {
                code: CauseCode::PartialLoss,
                node: Some(from.clone()),
                towards: Some(to.clone()),
                pod: None,
                subject: String::new(),
                programmed: None,
            }),
    }
}

/// Less probable than this is no chance.
const CHANCE_MIN: f64 = 1e-5;

/// Whether a network that loses this share may have lost, by chance alone, all of those kinds of which nothing passed. A fault of its own loses
/// every probe of a kind, and there are a dozen and more of each.
fn may_be_chance(symptom: &Symptom, share: Share) -> bool {
    let never_passed = symptom.tallies.iter().filter(|t| t.passed == 0).map(|t| t.failed).sum::<u32>();
    let each = f64::from(share.lost) / f64::from(share.of.max(1));
    (0..never_passed).fold(1.0, |chance, _| chance * each) >= CHANCE_MIN
}

/// Which nodes wait, or waited when the probes were lost, for the link-layer address of another: what they would send there has not left
/// them. A network that loses ARP or neighbour discovery loses the tunnel of that family with it, and only a cold table shows it.
fn unanswered(reports: &Reports<'_>, edges: &BTreeSet<(NodeName, NodeName)>, symptoms: &[&Symptom]) -> Option<String> {
    let v6 = symptoms.iter().all(|s| s.to.ip.is_ipv6());
    let waits = |(from, to): &(NodeName, NodeName)| {
        let report = reports.get(from)?;
        let hosts = if v6 { &report.host_ips6 } else { &report.host_ips };
        let ip = hosts.get(to)?;
        if report.unresolved.iter().any(|(_, x)| x == ip) {
            return Some((true, format!("{from} has no link-layer address of {ip} ({to})")));
        }
        let lost = |s: &&Symptom| {
            let place = s.place.as_ref();
            s.waited_on.is_some() && place.is_some_and(|p| p.node == *from) && [&s.from.node, &s.to.node].contains(&to)
        };
        let waited = symptoms.iter().any(lost);
        let had = || format!("{from} had no link-layer address of {ip} ({to}) when the probes were sent, and waits for none now");
        waited.then(|| (false, had()))
    };
    let (still, waiting): (Vec<bool>, Vec<String>) = edges.iter().filter_map(waits).take(UNANSWERED_MAX).unzip();
    let how = if v6 { "neighbour discovery (ICMPv6 135 and 136)" } else { "ARP" };
    let is = if still.contains(&true) { "is" } else { "was" };
    (!waiting.is_empty()).then(|| format!("{}: {how} {is} not answered", waiting.join(", ")))
}

/// As many as a person reads.
const UNANSWERED_MAX: usize = 4;

type Hits<'s> = Vec<(Blame, Vec<&'s Symptom>)>;

/// A network that carries some of the tunnel's packets from one node to another does not drop the tunnel: a pair all of whose probes
/// happened to take the bad path shows the same cause as the pairs of which only some did.
fn bad_paths(fabric: &mut BTreeMap<CauseCode, Hits<'_>>) {
    let Some(mut partial) = fabric.remove(&CauseCode::PartialLoss) else {
        return;
    };
    let edge = |blame: &Blame| (blame.node.clone(), blame.towards.clone());
    let edges: BTreeSet<_> = partial.iter().map(|(blame, _)| edge(blame)).collect();
    if let Some(dropped) = fabric.remove(&CauseCode::UnderlayDropsTunnel) {
        let (same, other): (Hits<'_>, Hits<'_>) = dropped.into_iter().partition(|(blame, _)| edges.contains(&edge(blame)));
        partial.extend(same);
        if !other.is_empty() {
            fabric.insert(CauseCode::UnderlayDropsTunnel, other);
        }
    }
    fabric.insert(CauseCode::PartialLoss, partial);
}

/// Causes that lie between nodes: what several pairs show of them is one cause.
pub(super) fn of_network(code: CauseCode) -> bool {
    code.cause().scope == Scope::Fabric || code == CauseCode::ChecksumCorrupt
}

/// The end all edges share.
fn only(edges: &BTreeSet<(NodeName, NodeName)>, of: fn(&(NodeName, NodeName)) -> &NodeName) -> Option<NodeName> {
    let first = edges.first().map(of)?;
    edges.iter().all(|e| of(e) == first).then(|| first.clone())
}

pub(super) fn across(reports: &Reports<'_>, edges: &BTreeSet<(NodeName, NodeName)>, pairs: &BTreeSet<(&NodeName, &NodeName)>) -> String {
    let n = reports.len();
    if n > 1 && pairs.len() == n * (n - 1) / 2 {
        return "between all nodes".to_string();
    }
    if let Some(to) = only(edges, |e| &e.1) {
        return format!("from every node to {to}");
    }
    if let Some(from) = only(edges, |e| &e.0) {
        return format!("from {from} to every node");
    }
    pairs
        .iter()
        .map(|(a, b)| format!("between {a} and {b}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The subject of a fabric's cause, from the symptoms themselves.
fn describe(code: CauseCode, symptoms: &[&Symptom], between: &str) -> String {
    match code {
        CauseCode::MtuBlackhole => {
            // A tunnel of IPv6 takes 20 bytes more, so the limits differ.
            let (v6, v4): (Vec<&Symptom>, Vec<&Symptom>) = symptoms.iter().partition(|s| s.to.ip.is_ipv6());
            let limits = match (v4.is_empty(), v6.is_empty()) {
                (false, false) => format!("{}; of IPv6: {}", limits(&v4), limits(&v6)),
                _ => limits(symptoms),
            };
            format!("largest inner packet that passes: {limits}; {between}")
        }
        CauseCode::PartialLoss if symptoms.iter().any(|s| s.lossy.is_some()) => lossy_text(symptoms, between),
        CauseCode::PartialLoss => {
            let lost = symptoms.iter().flat_map(|s| &s.tallies).filter(|t| t.failed > t.passed);
            let mut ports: Vec<String> = lost
                .filter_map(|tally| {
                    let inner = match tally.transport {
                        Transport::Udp => tally.src_port.to_string(),
                        Transport::Icmp => "icmp".to_string(),
                        // Another port with every probe.
                        Transport::Tcp => return None,
                    };
                    let outer: Vec<String> = tally.outer_ports.iter().map(ToString::to_string).collect();
                    let outer = if outer.is_empty() { "?".to_string() } else { outer.join("/") };
                    Some(format!("inner {inner} outer {outer}"))
                })
                .collect();
            ports.sort();
            ports.dedup();
            ports.truncate(8);
            format!("source ports {}; {between}", ports.join(", "))
        }
        _ => between.to_string(),
    }
}

/// `1400 bytes, 1401 bytes die`, of symptoms of one family.
fn limits(symptoms: &[&Symptom]) -> String {
    // Only some pairs were searched; of the others the largest that passed is the smallest that was sent.
    let smallest = symptoms.iter().filter_map(|s| s.smallest_failing_bytes).min();
    let below = |bytes: &u32| smallest.is_none_or(|fails| *bytes < fails);
    let largest = symptoms.iter().filter_map(|s| s.largest_passing_bytes).filter(below).max();
    let passes = largest.map_or_else(|| "unknown".to_string(), |n| format!("{n} bytes"));
    let dies = smallest.map_or_else(String::new, |n| format!(", {n} bytes die"));
    format!("{passes}{dies}")
}
