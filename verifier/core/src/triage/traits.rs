//! From what is known of a cluster to traits of its nodes: zone, subnet, labels, image, kernel, age, recent restarts, and what runs there.
//!
//! What follows from being affected is no trait: conditions, taints that the node controller sets, pods that were evicted, calico-node itself.

use super::{
    facts::{ClusterFacts, NodeFacts, PodFacts},
    subset::{NOT_NOW, Trait, Traits, presence},
};
use crate::names::{NodeName, UnixNs};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
};

/// Labels that name a node, or say what others say better.
const LABELS_LEFT_OUT: &[&str] = &["kubernetes.io/hostname", "beta.kubernetes.io/arch", "beta.kubernetes.io/os"];
/// Taints of the node controller follow from a node's state.
const TAINTS_LEFT_OUT: &str = "node.kubernetes.io/";
/// A restart within this time is recent.
const RECENT_NS: u64 = 24 * 3600 * 1_000_000_000;

/// The traits of every node.
pub fn traits(facts: &ClusterFacts) -> Traits {
    let mut all: Traits = facts
        .known_nodes()
        .map(|(name, node)| (name.clone(), of_node(node, facts.read_at)))
        .collect();
    pods(facts, &mut all);
    restarts(facts, &mut all);
    for (name, account) in &facts.accounts {
        if let Some(traits) = all.get_mut(name) {
            traits.extend(account.iter().map(|(key, value)| (key.clone(), Trait::Text(value.clone()))));
        }
    }
    labels(facts, &mut all);
    all
}

fn of_node(node: &NodeFacts, now: UnixNs) -> BTreeMap<String, Trait> {
    let mut out = BTreeMap::new();
    let text = |value: &str| Trait::Text(value.to_string());
    for (key, value) in node.info.iter().filter(|(_, value)| !value.is_empty()) {
        out.insert(key.clone(), text(value));
    }
    if let Some(net) = &node.address {
        // An annotation without a mask, or Kubernetes' address: by the usual size of a segment.
        let net = if net.prefix_len() >= 31 && net.addr().is_ipv4() {
            ipnet::IpNet::new(net.addr(), 24).unwrap_or(*net)
        } else {
            *net
        };
        out.insert("subnet".to_string(), text(&net.trunc().to_string()));
    }
    if let Some(created) = node.created_at {
        out.insert("age of the node".to_string(), Trait::Age(now.since_ns(created) / 1_000_000_000));
    }
    for taint in node.taints.iter().filter(|taint| !taint.starts_with(TAINTS_LEFT_OUT)) {
        out.insert(format!("taint {taint}"), presence(true));
    }
    out
}

/// Labels and taints: a node without one is known not to have it.
fn labels(facts: &ClusterFacts, all: &mut Traits) {
    let keys: BTreeSet<&String> = facts
        .known_nodes()
        .flat_map(|(_, node)| node.labels.keys())
        .filter(|key| !LABELS_LEFT_OUT.contains(&key.as_str()))
        .collect();
    for (name, node) in facts.known_nodes() {
        let Some(traits) = all.get_mut(name) else { continue };
        for key in &keys {
            let value = node.labels.get(*key).map_or("absent", String::as_str);
            let value = if value.is_empty() { "present" } else { value };
            traits.insert(format!("label {key}"), Trait::Text(value.to_string()));
        }
    }
    let taints: BTreeSet<String> = all
        .values()
        .flat_map(|t| t.keys())
        .filter(|key| key.starts_with("taint "))
        .cloned()
        .collect();
    for traits in all.values_mut() {
        for taint in &taints {
            traits.entry(taint.clone()).or_insert_with(|| presence(false));
        }
    }
}

/// What runs where. A DaemonSet's pod may be wanting, too; other pods may have been evicted, so only their presence counts.
fn pods(facts: &ClusterFacts, all: &mut Traits) {
    // Some of the pods is not where which pods are not.
    let Ok(pods) = facts.pods.all() else { return };
    let mut runs: BTreeMap<String, BTreeSet<NodeName>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| pod.app.as_deref() != Some("calico-node")) {
        let (Some(node), Some(what)) = (&pod.node, what(pod)) else {
            continue;
        };
        runs.entry(what).or_default().insert(node.clone());
    }
    for (what, nodes) in runs {
        let daemon = what.starts_with("DaemonSet ");
        for (name, traits) in all.iter_mut() {
            let there = nodes.contains(name);
            if there || daemon {
                traits.insert(format!("runs {what}"), presence(there));
            } else {
                // Not "no": that it went may follow from what is wrong.
                traits.insert(format!("runs {what}"), Trait::Text(NOT_NOW.to_string()));
            }
        }
    }
}

/// The controller of a pod; static pods belong to their node and are named after it.
fn what(pod: &PodFacts) -> Option<String> {
    let (kind, name) = pod.owner.as_ref()?;
    if kind == "Node" || kind == "Job" {
        return None;
    }
    Some(format!("{kind} {}/{name}", pod.pod.namespace))
}

/// Who started anew lately, by events and by calico-node's container.
fn restarts(facts: &ClusterFacts, all: &mut Traits) {
    if let Ok(events) = facts.events.all() {
        let rebooted: BTreeSet<&str> = events
            .iter()
            .filter(|event| event.kind == "Node" && matches!(event.reason.as_str(), "Rebooted" | "Starting"))
            .map(|event| event.name.as_str())
            .collect();
        for (name, traits) in all.iter_mut() {
            traits.insert(
                "restart event of the last hour".to_string(),
                presence(rebooted.contains(name.as_str())),
            );
        }
    }
    if facts.pods.is_complete() {
        for (name, traits) in all.iter_mut() {
            let Some(pod) = facts.calico_node_on(name) else { continue };
            let started = pod.containers.iter().filter(|c| !c.init).filter_map(|c| c.started_at).max();
            if let Some(started) = started {
                let recent = facts.read_at.since_ns(started) < RECENT_NS;
                traits.insert("calico-node started within a day".to_string(), presence(recent));
            }
            if let Some(image) = pod.containers.iter().find(|c| c.name == "calico-node").map(|c| &c.image) {
                traits.insert("image of calico-node".to_string(), Trait::Text(image.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{evidence::Evidence, names::PodRef};
    use alloc::{vec, vec::Vec};

    fn pod(node: &str, owner: (&str, &str)) -> PodFacts {
        PodFacts {
            pod: PodRef::new("kube-system", format!("{}-{node}", owner.1)),
            node: Some(NodeName::from(node)),
            owner: Some((owner.0.to_string(), owner.1.to_string())),
            app: None,
            phase: "Running".to_string(),
            ready: Some(true),
            deleting: false,
            containers: Vec::new(),
        }
    }

    #[test]
    fn absence_is_a_trait_only_where_it_is_known_and_no_consequence() {
        let node = |zone: Option<&str>| NodeFacts {
            labels: zone.map(|z| ("zone".to_string(), z.to_string())).into_iter().collect(),
            address: "10.0.1.7/32".parse().ok(),
            ..NodeFacts::default()
        };
        let mut facts = ClusterFacts::unread(UnixNs(0));
        facts.nodes = Evidence::complete(BTreeMap::from([("a".into(), node(Some("z"))), ("b".into(), node(None))]));
        let web = ("Deployment", "web");
        facts.pods = Evidence::complete(vec![pod("a", ("DaemonSet", "kube-proxy")), pod("a", web), pod("a", ("Node", "a"))]);
        let all = traits(&facts);
        let b = &all[&NodeName::from("b")];
        assert_eq!(b["label zone"], Trait::Text("absent".to_string()));
        assert_eq!(b["runs DaemonSet kube-system/kube-proxy"], presence(false));
        assert_eq!(b["runs Deployment kube-system/web"], Trait::Text("not now".to_string()));
        assert_eq!(b["subnet"], Trait::Text("10.0.1.0/24".to_string()));
        assert!(!b.contains_key("restart event of the last hour"), "events were not read");
        // Half of the pods is no ground for any of it.
        facts.pods = Evidence::partial(Vec::new(), vec![crate::evidence::Gap::new("pods", "forbidden")]);
        assert!(!traits(&facts)[&NodeName::from("a")].keys().any(|key| key.starts_with("runs ")));
    }
}
