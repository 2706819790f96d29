//! IPAM blocks with their true allocations, and the affinities of blocks.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::{CREATED, uid};
use crate::fabric::{Carrier, Node, Pod, State};

/// `10-244-0-0-26` (`libcalico-go/lib/names/cidr.go`).
fn cidr_name(block: IpNet) -> String {
    block.to_string().replace(['.', ':', '/'], "-")
}

fn each_block(state: &State) -> impl Iterator<Item = (&Node, IpNet)> {
    state
        .nodes
        .iter()
        .flat_map(|node| node.all_blocks().into_iter().map(move |block| (node, block)))
}

/// Place of an address in its block; none if it is not in it.
fn ordinal(block: IpNet, address: IpAddr) -> Option<usize> {
    if !block.contains(&address) {
        return None;
    }
    let number = |address: IpAddr| match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    usize::try_from(number(address) - number(block.network())).ok()
}

/// The addresses of a node's tunnel devices, with the kind of tunnel as IPAM spells it in the handle and in the type.
fn tunnel_addresses<'s>(state: &State, node: &'s Node) -> impl Iterator<Item = (&'static str, &'static str, IpAddr)> + use<'s> {
    let kind = match state.spec.encapsulation.tunnel() {
        Carrier::Vxlan => Some(("vxlan", "vxlanTunnelAddress")),
        Carrier::Ipip => Some(("ipip", "ipipTunnelAddress")),
        Carrier::Bare => None,
    };
    let has_one = !state.overrides.without_tunnel_address.contains(&node.name);
    let v4 = kind
        .filter(|_| has_one)
        .map(|(handle, attribute)| (handle, attribute, IpAddr::V4(node.tunnel_ip)));
    let tunnel_of_ipv6 = state.spec.encapsulation.device_v6().is_some();
    let v6 = node
        .v6
        .iter()
        .filter(move |_| tunnel_of_ipv6)
        .map(|v6| ("vxlan-v6", "vxlanV6TunnelAddress", IpAddr::V6(v6.tunnel_ip)));
    v4.into_iter().chain(v6)
}

pub(super) fn blocks(state: &State) -> Vec<Value> {
    each_block(state).map(|(node, block)| object(state, node, block)).collect()
}

fn object(state: &State, node: &Node, block: IpNet) -> Value {
    let size = 1usize << (block.max_prefix_len() - block.prefix_len());
    let mut allocations = vec![Value::Null; size];
    let mut attributes = Vec::new();
    let mut allocate = |address: IpAddr, attribute: Value| {
        if let Some(slot) = ordinal(block, address).and_then(|ordinal| allocations.get_mut(ordinal)) {
            *slot = json!(attributes.len());
            attributes.push(attribute);
        }
    };
    for (handle, kind, address) in tunnel_addresses(state, node) {
        allocate(
            address,
            json!({
                "handle_id": format!("{handle}-tunnel-addr-{}", node.name),
                "secondary": { "node": node.name, "type": kind },
            }),
        );
    }
    for pod in &state.pods {
        for address in pod.addresses() {
            allocate(address, pod_attribute(state, pod));
        }
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
