//! IPAM blocks with their true allocations, and the affinities of blocks.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

use super::{CREATED, uid};
use crate::fabric::{Carrier, Node, Pod, State};

/// `10-244-0-0-26` (`libcalico-go/lib/names/cidr.go`).
fn cidr_name(block: Ipv4Net) -> String {
    block.to_string().replace(['.', '/'], "-")
}

fn each_block(state: &State) -> impl Iterator<Item = (&Node, Ipv4Net)> {
    state
        .nodes
        .iter()
        .flat_map(|node| node.blocks.iter().map(move |block| (node, *block)))
}

pub(super) fn blocks(state: &State) -> Vec<Value> {
    each_block(state).map(|(node, block)| object(state, node, block)).collect()
}

fn object(state: &State, node: &Node, block: Ipv4Net) -> Value {
    let base = u32::from(block.network());
    let size = 1usize << (32 - block.prefix_len());
    let mut allocations = vec![Value::Null; size];
    let mut attributes = Vec::new();
    let mut allocate = |ordinal: u32, attribute: Value| {
        if let Some(slot) = allocations.get_mut(ordinal as usize) {
            *slot = json!(attributes.len());
            attributes.push(attribute);
        }
    };
    let has_tunnel = !state.overrides.without_tunnel_address.contains(&node.name);
    let tunnel = match state.spec.encapsulation.tunnel() {
        Carrier::Vxlan => Some("vxlan"),
        Carrier::Ipip => Some("ipip"),
        Carrier::Bare => None,
    };
    if let Some(tunnel) = tunnel
        && has_tunnel
        && block.contains(&node.tunnel_ip)
    {
        allocate(
            u32::from(node.tunnel_ip) - base,
            json!({
                "handle_id": format!("{tunnel}-tunnel-addr-{}", node.name),
                "secondary": { "node": node.name, "type": format!("{tunnel}TunnelAddress") },
            }),
        );
    }
    for pod in state.pods.iter().filter(|pod| block.contains(&pod.ip)) {
        allocate(u32::from(pod.ip) - base, pod_attribute(state, pod));
    }
    let unallocated: Vec<usize> = (0..size).filter(|ordinal| allocations[*ordinal].is_null()).collect();
    let name = cidr_name(block);
    json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": {
            "annotations": { "projectcalico.org/metadata": "{\"creationTimestamp\":null}" },
            "creationTimestamp": CREATED,
            "generation": 3,
            "name": name,
            "resourceVersion": "3000",
            "uid": uid("ipamblock", &name),
        },
        "spec": {
            "affinity": format!("host:{}", node.name),
            "allocations": allocations,
            "attributes": attributes,
            "cidr": block.to_string(),
            "deleted": false,
            "sequenceNumber": 1_790_000_000_000_u64,
            "sequenceNumberForAllocation": {},
            "strictAffinity": false,
            "unallocated": unallocated,
        },
    })
}

fn pod_attribute(state: &State, pod: &Pod) -> Value {
    json!({
        "handle_id": format!("k8s-pod-network.{}", pod.container_id),
        "secondary": {
            "namespace": pod.namespace,
            "node": state.nodes[pod.node].name,
            "pod": pod.name,
            "timestamp": "2026-01-01 00:00:00 +0000 UTC",
        },
    })
}

pub(super) fn affinities(state: &State) -> Vec<Value> {
    each_block(state)
        .map(|(node, block)| {
            let owner = state.overrides.affinity_nodes.get(&block).unwrap_or(&node.name);
            let name = format!("{owner}-{}", cidr_name(block));
            json!({
                "apiVersion": "crd.projectcalico.org/v1",
                "kind": "BlockAffinity",
                "metadata": {
                    "creationTimestamp": CREATED,
                    "generation": 2,
                    "name": name,
                    "resourceVersion": "3000",
                    "uid": uid("blockaffinity", &name),
                },
                "spec": {
                    "cidr": block.to_string(),
                    "deleted": "false",
                    "node": owner,
                    "state": "confirmed",
                    "type": "host",
                },
            })
        })
        .collect()
}
