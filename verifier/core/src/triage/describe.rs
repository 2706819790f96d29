//! A node and its calico-node in words, as `kubectl describe` would put them, out of facts that cannot hold a secret.

use super::facts::{ClusterFacts, EventFacts};
use crate::{
    names::{NodeName, UnixNs},
    report::rfc3339,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Everything that is known of a node, its calico-node and the events about both.
pub fn describe(facts: &ClusterFacts, name: &NodeName) -> String {
    let mut out = format!("Node {name}\n");
    let at = |time: Option<UnixNs>| time.map_or_else(|| "unknown".to_string(), rfc3339);
    match facts.nodes.seen().and_then(|nodes| nodes.get(name)) {
        None => out.push_str("  is not known to the API as far as it could be read\n"),
        Some(node) => {
            out.push_str(&format!(
                "  created    {}\n  lease      {}\n",
                at(node.created_at),
                at(node.renewed_at)
            ));
            let address = node.address.map_or_else(|| "unknown".to_string(), |net| net.to_string());
            out.push_str(&format!("  address    {address}\n  cordoned   {}\n", node.unschedulable));
            for (key, value) in &node.info {
                out.push_str(&format!("  {key}  {value}\n"));
            }
            for (key, value) in &node.labels {
                out.push_str(&format!("  label      {key}={value}\n"));
            }
            for taint in &node.taints {
                out.push_str(&format!("  taint      {taint}\n"));
            }
            for c in &node.conditions {
                out.push_str(&format!(
                    "  condition  {} {} since {} ({}: {})\n",
                    c.kind,
                    c.status,
                    at(c.since),
                    c.reason,
                    c.message
                ));
            }
        }
    }
    let pods: Vec<_> = facts.calico_nodes().filter(|pod| pod.node.as_ref() == Some(name)).collect();
    if pods.is_empty() {
        let known = if facts.pods.is_complete() {
            "has no pod of calico-node"
        } else {
            "has no pod of calico-node as far as pods could be read"
        };
        out.push_str(&format!("\n{name} {known}\n"));
    }
    for pod in &pods {
        let ready = pod.ready.map_or_else(|| "unknown".to_string(), |ready| ready.to_string());
        let going = if pod.deleting { ", being deleted" } else { "" };
        out.push_str(&format!(
            "\nPod {}\n  phase      {}{going}\n  ready      {ready}\n",
            pod.pod, pod.phase
        ));
        for c in &pod.containers {
            let kind = if c.init { "init" } else { "container" };
            out.push_str(&format!(
                "  {kind} {}  {}, ready {}, {} restarts, {}\n",
                c.name, c.state, c.ready, c.restarts, c.image
            ));
            if let Some(started) = c.started_at {
                out.push_str(&format!("    started  {}\n", rfc3339(started)));
            }
            if let Some(last) = &c.last {
                out.push_str(&format!("    before   {last}\n"));
            }
        }
    }
    let about = |event: &&EventFacts| {
        (event.kind == "Node" && event.name == name.as_str())
            || (event.kind == "Pod"
                && pods
                    .iter()
                    .any(|pod| pod.pod.namespace == event.namespace && pod.pod.name == event.name))
    };
    let events: Vec<&EventFacts> = facts.events.seen().into_iter().flatten().filter(about).collect();
    if !events.is_empty() {
        out.push_str("\nEvents\n");
    }
    for e in events {
        let kind = if e.warning { "warning" } else { "normal" };
        out.push_str(&format!(
            "  {} {kind} {} x {} {}: {}\n",
            at(e.last_at),
            e.count,
            e.kind,
            e.reason,
            e.message
        ));
    }
    out
}
