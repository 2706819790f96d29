//! What an operator would look at besides: Typha, BGP sessions, the password that stayed behind, clocks, what changed lately.

use super::{
    branch::dead_webhooks,
    facts::{ClusterFacts, EventFacts, ObjectFacts},
    health::Complaint,
};
use crate::{
    names::{NodeName, UnixNs},
    report::rfc3339,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Something that is wrong, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about: `typha`, `bgp`, `bgp-password`, `webhook`, `clock`, `log`.
    pub about: String,
    /// Whether something is wrong.
    pub wrong: bool,
    /// In words.
    pub says: String,
}

/// A change from which the dataplane follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: UnixNs,
    /// What.
    pub what: String,
    /// `created`, `changed`, `being deleted`.
    pub how: String,
    /// Who, by the field manager.
    pub by: Option<String>,
    /// How long before the first node was affected, in seconds; none if it came after, or that is not known.
    pub before_seconds: Option<u64>,
}

impl Change {
    /// Whether a Node changed, or came.
    pub fn is_of_a_node(&self) -> bool {
        self.what.starts_with("Node ")
    }
}

/// A clock that is this far ahead is worth a note; the API's times have whole seconds.
const CLOCK_AHEAD_NS: u64 = 5_000_000_000;
/// How old a Lease may be: the node controller waits 40 s, newer ones 50 s.
const LEASE_OLD_NS: u64 = 60_000_000_000;
/// Lines of one kind.
const NOTES_MAX: usize = 10;

/// All notes.
pub fn notes(facts: &ClusterFacts) -> Vec<Note> {
    let mut out = Vec::new();
    typha(facts, &mut out);
    bgp(facts, &mut out);
    password(facts, &mut out);
    for hook in dead_webhooks(facts) {
        let says = format!(
            "{} {}: webhook {} refuses pods where it does not answer, and its Service has no ready address",
            hook.kind, hook.configuration, hook.name
        );
        note(&mut out, "webhook", true, says);
    }
    clocks(facts, &mut out);
    for clue in facts.clues.seen().into_iter().flatten().take(NOTES_MAX * 2) {
        let says = format!(
            "{} ({}): {} x {}: {}",
            clue.node, clue.source, clue.count, clue.signature, clue.meaning
        );
        note(&mut out, "log", true, says);
    }
    out
}

fn note(out: &mut Vec<Note>, about: &str, wrong: bool, says: String) {
    out.push(Note {
        about: about.to_string(),
        wrong,
        says,
    });
}

/// Typha: whether it is meant to be, is ready, and is behind its Service.
fn typha(facts: &ClusterFacts, out: &mut Vec<Note>) {
    let Some(workloads) = facts.workloads.seen() else { return };
    let typha = workloads
        .iter()
        .find(|w| w.kind == "Deployment" && (w.app.as_deref() == Some("calico-typha") || w.name == "calico-typha"));
    let endpoints = facts.endpoints.seen().into_iter().flatten();
    let behind: Option<(u32, u32)> = endpoints
        .filter(|e| e.service == "calico-typha")
        .map(|e| (e.ready, e.not_ready))
        .reduce(|a, b| (a.0 + b.0, a.1 + b.1));
    match typha {
        None => {
            let left = facts.workloads.is_complete() && behind.is_some();
            if left {
                note(
                    out,
                    "typha",
                    true,
                    "there is a Service calico-typha and no Deployment behind it: Felix finds no Typha".to_string(),
                );
            }
        }
        Some(typha) => {
            let desired = typha.desired.unwrap_or(0);
            let name = format!("{}/{}", typha.namespace, typha.name);
            if desired == 0 {
                let wrong = behind.is_some();
                note(
                    out,
                    "typha",
                    wrong,
                    format!(
                        "{name} is scaled to zero{}",
                        if wrong {
                            ", and its Service exists: Felix finds no Typha"
                        } else {
                            ""
                        }
                    ),
                );
            } else if typha.ready < desired {
                note(out, "typha", true, format!("{} of {desired} pods of {name} are ready", typha.ready));
            }
            if desired > 0 && behind.is_none_or(|(ready, _)| ready == 0) && facts.endpoints.is_complete() {
                note(
                    out,
                    "typha",
                    true,
                    format!("no ready address stands behind the Service of {name}: Felix finds no Typha"),
                );
            } else if typha.ready >= desired && desired > 0 {
                note(
                    out,
                    "typha",
                    false,
                    format!("{name}: all {desired} pods ready; a Typha that serves old data looks the same"),
                );
            }
        }
    }
}

/// Readiness probes that fail because of BGP, with whom.
fn bgp(facts: &ClusterFacts, out: &mut Vec<Note>) {
    let mut missing: BTreeMap<NodeName, BTreeSet<IpAddr>> = BTreeMap::new();
    for event in facts.events.seen().into_iter().flatten() {
        let peers = peers_of(event);
        if peers.is_empty() {
            continue;
        }
        let pod = facts
            .calico_nodes()
            .find(|p| p.pod.namespace == event.namespace && p.pod.name == event.name);
        // An event may outlive its pod; what the pod of now says counts.
        if let Some(node) = pod.filter(|pod| pod.ready != Some(true)).and_then(|pod| pod.node.clone()) {
            missing.entry(node).or_default().extend(peers);
        }
    }
    let mut accused: BTreeMap<String, u32> = BTreeMap::new();
    for (node, peers) in &missing {
        let named: Vec<String> = peers.iter().map(|ip| who(facts, *ip)).collect();
        for peer in &named {
            *accused.entry(peer.clone()).or_default() += 1;
        }
        note(out, "bgp", true, format!("{node} has no BGP session with {}", named.join(", ")));
    }
    if let Some((peer, count)) = accused.iter().max_by_key(|(_, count)| **count).filter(|(_, count)| **count > 1) {
        note(
            out,
            "bgp",
            true,
            format!("{count} nodes miss their session with {peer}: look there first, and at TCP 179 on the way"),
        );
    }
}

/// `BIRD is not ready: BGP not established with 10.0.0.2,10.0.0.3`: the addresses.
fn peers_of(event: &EventFacts) -> BTreeSet<IpAddr> {
    if event.kind != "Pod" || event.reason != "Unhealthy" {
        return BTreeSet::new();
    }
    let Some((_, rest)) = event.message.split_once("BGP not established with ") else {
        return BTreeSet::new();
    };
    rest.split([',', ' ', '\n'])
        .map(|word| word.trim_end_matches(['.', ';']))
        .map_while(|word| word.parse().ok())
        .collect()
}

/// Whose address it is.
fn who(facts: &ClusterFacts, ip: IpAddr) -> String {
    if let Some((name, _)) = facts
        .known_nodes()
        .find(|(_, node)| node.address.is_some_and(|net| net.addr() == ip))
    {
        return format!("{name} ({ip})");
    }
    match facts.bgp_peers.seen().into_iter().flatten().find(|peer| peer.address == Some(ip)) {
        Some(peer) => format!("BGPPeer {} ({ip})", peer.name),
        None => format!("{ip}, which is no node's and no BGPPeer's address"),
    }
}

/// A password of a BGP session must lie in the namespace that calico-node lives in. The move to the operator changes that namespace.
fn password(facts: &ClusterFacts, out: &mut Vec<Note>) {
    let Some(namespace) = facts.calico_namespace() else { return };
    let (Ok(secrets), Some(peers)) = (facts.secrets.all(), facts.bgp_peers.seen()) else {
        return;
    };
    let wanted: BTreeMap<&str, Vec<&str>> = peers.iter().fold(BTreeMap::new(), |mut all, peer| {
        if let Some(secret) = &peer.secret {
            all.entry(secret.as_str()).or_insert_with(Vec::new).push(&peer.name);
        }
        all
    });
    for (secret, peers) in wanted {
        if secrets.contains(&(namespace.to_string(), secret.to_string())) {
            continue;
        }
        let peers = peers.join(", ");
        let elsewhere: Vec<&str> = secrets
            .iter()
            .filter(|(_, name)| name == secret)
            .map(|(ns, _)| ns.as_str())
            .collect();
        let says = if elsewhere.is_empty() {
            format!("the Secret {secret} with the password of BGPPeer {peers} does not exist in {namespace}: the sessions do not come up")
        } else {
            format!(
                "the Secret {secret} with the password of BGPPeer {peers} is in {} and not in {namespace}, where calico-node runs now: left behind in a migration; confd cannot read it and the sessions do not come up",
                elsewhere.join(", ")
            )
        };
        note(out, "bgp-password", true, says);
    }
}

/// Clocks that run ahead, and Leases that are old while the node counts as Ready.
fn clocks(facts: &ClusterFacts, out: &mut Vec<Note>) {
    for (name, node) in facts.known_nodes() {
        let Some(renewed) = node.renewed_at else { continue };
        let ahead = renewed.since_ns(facts.read_at);
        let old = facts.read_at.since_ns(renewed);
        let ready = node.condition("Ready").is_some_and(|c| c.status == "True");
        if ahead > CLOCK_AHEAD_NS {
            let seconds = ahead / 1_000_000_000;
            note(
                out,
                "clock",
                true,
                format!("the clock of {name} is at least {seconds} s ahead of this one: times in its logs and tokens are off by that"),
            );
        } else if ready && old > LEASE_OLD_NS {
            let seconds = old / 1_000_000_000;
            note(
                out,
                "clock",
                true,
                format!(
                    "{name} is Ready and its Lease is {seconds} s old: its kubelet has just stopped, or its clock is behind; compare `date` there"
                ),
            );
        }
    }
}

/// Changes of the last `window_ns`, the latest first.
pub fn changes(facts: &ClusterFacts, complaints: &BTreeMap<NodeName, Vec<Complaint>>, window_ns: u64) -> Vec<Change> {
    let onset = complaints.values().flatten().filter_map(|c| c.since).min();
    let objects = facts.objects.seen().into_iter().flatten();
    let mut out: Vec<Change> = objects
        .filter_map(|object| change(object, facts.read_at, window_ns, onset))
        .collect();
    out.sort_by(|a, b| (b.at, &a.what).cmp(&(a.at, &b.what)));
    out
}

fn change(object: &ObjectFacts, now: UnixNs, window_ns: u64, onset: Option<UnixNs>) -> Option<Change> {
    let at = object.changed_at.max(object.created_at)?;
    if now.since_ns(at) > window_ns {
        return None;
    }
    let how = if object.deleting {
        "being deleted"
    } else if object.created_at == Some(at) {
        "created"
    } else {
        "changed"
    };
    let name = if object.namespace.is_empty() {
        object.name.clone()
    } else {
        format!("{}/{}", object.namespace, object.name)
    };
    Some(Change {
        at,
        what: format!("{} {name}", object.kind),
        how: how.to_string(),
        by: object.changed_by.clone(),
        before_seconds: onset.filter(|onset| *onset >= at).map(|onset| onset.since_ns(at) / 1_000_000_000),
    })
}

/// A change in one line.
pub fn change_line(change: &Change) -> String {
    let by = change.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
    let before = change
        .before_seconds
        .map_or_else(String::new, |s| format!(", {} min before the first node was affected", s / 60));
    format!("{} {} {}{by}{before}", rfc3339(change.at), change.what, change.how)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_of_a_failing_probe() {
        let event = |message: &str| EventFacts {
            kind: "Pod".to_string(),
            reason: "Unhealthy".to_string(),
            message: message.to_string(),
            ..EventFacts::default()
        };
        let peers = peers_of(&event(
            "Readiness probe failed: 2026-11-20 [INFO][1] calico/node is not ready: BIRD is not ready: BGP not established with 10.0.0.2,10.0.0.3\n",
        ));
        assert_eq!(peers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2", "10.0.0.3"]);
        assert!(peers_of(&event("Readiness probe failed: felix is not ready")).is_empty());
        assert!(peers_of(&event("BGP not established with nobody")).is_empty());
    }
}
