//! A cluster of any size as manifests: VXLAN everywhere, one block for each node, addresses as IPAM would give them.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// Addresses of a block.
const BLOCK_SIZE: u32 = 64;
/// Prefix length of a block.
const BLOCK_PREFIX_LEN: u8 = 26;
/// Label of the pods that every agent knows of, wherever they are.
pub const CANARY: &str = "dataplane-verifier.io/canary";
/// Before any pod of the cluster began.
const CREATED: &str = "2026-01-01T00:00:00Z";

/// How large.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Nodes, 16,000 at most.
    pub nodes: u32,
    /// Pods on each of them, 62 at most, the canary among them.
    pub pods_per_node: u32,
}

/// Name of the `n`th node.
#[must_use]
pub fn node_name(n: u32) -> String {
    format!("node-{n:05}")
}

/// The `n`th node's block.
#[must_use]
pub fn block(n: u32) -> Ipv4Net {
    let base = u32::from(Ipv4Addr::new(10, 128, 0, 0)) + n * BLOCK_SIZE;
    Ipv4Net::new_assert(Ipv4Addr::from(base), BLOCK_PREFIX_LEN)
}

fn block_name(n: u32) -> String {
    block(n).to_string().replace(['.', '/'], "-")
}

/// An address of the `n`th node's block: the first is its tunnel's, then come its pods'.
#[must_use]
pub fn address(n: u32, ordinal: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block(n).network()) + ordinal)
}

/// The `n`th node's address on the underlay, `172.16.0.0/12`.
#[must_use]
pub fn host(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 2)) + n)
}

/// What there is once: the pool and the configuration.
#[must_use]
pub fn configuration() -> Vec<Value> {
    let object = |kind: &str, name: &str, spec: Value| json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    vec![
        object(
            "IPPool",
            "default-ipv4-ippool",
            json!({
                "blockSize": BLOCK_PREFIX_LEN, "cidr": "10.128.0.0/9", "ipipMode": "Never", "natOutgoing": true,
                "nodeSelector": "all()", "vxlanMode": "Always",
            }),
        ),
        object("FelixConfiguration", "default", json!({ "vxlanVNI": 4096, "vxlanPort": 4789 })),
        object("BGPConfiguration", "default", json!({ "nodeToNodeMeshEnabled": false })),
        object(
            "ClusterInformation",
            "default",
            json!({ "calicoVersion": "v3.31.7", "datastoreReady": true }),
        ),
    ]
}

/// The `n`th node with its block and affinity, without pods.
#[must_use]
pub fn node(n: u32, size: Size) -> Vec<Value> {
    let name = node_name(n);
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({
            "lastHeartbeatTime": CREATED, "lastTransitionTime": CREATED, "message": "", "reason": reason, "status": status, "type": kind,
        })
    };
    let node = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "annotations": {
                "projectcalico.org/IPv4Address": format!("{}/12", host(n)),
                "projectcalico.org/IPv4VXLANTunnelAddr": address(n, 0).to_string(),
            },
            "labels": { "kubernetes.io/hostname": name, "kubernetes.io/os": "linux" },
        },
        "spec": {},
        "status": {
            "addresses": [ { "address": host(n).to_string(), "type": "InternalIP" } ],
            "conditions": [
                condition("Ready", "True", "KubeletReady"),
                condition("NetworkUnavailable", "False", "CalicoIsUp"),
            ],
        },
    });
    let taken = size.pods_per_node + 1;
    let allocations: Vec<Option<u32>> = (0..BLOCK_SIZE).map(|ordinal| (ordinal < taken).then_some(ordinal)).collect();
    let mut attributes = vec![json!({
        "handle_id": format!("vxlan-tunnel-addr-{name}"),
        "secondary": { "node": name, "type": "vxlanTunnelAddress" },
    })];
    attributes.extend((0..size.pods_per_node).map(|i| {
        json!({
            "handle_id": format!("k8s-pod-network.{n:08x}{i:08x}"),
            "secondary": { "namespace": "default", "node": name, "pod": pod_name(n, i) },
        })
    }));
    let unallocated: Vec<u32> = (taken..BLOCK_SIZE).collect();
    let block_object = json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "IPAMBlock",
        "metadata": { "name": block_name(n) },
        "spec": {
            "affinity": format!("host:{name}"), "allocations": allocations, "attributes": attributes, "cidr": block(n).to_string(),
            "deleted": false, "strictAffinity": false, "unallocated": unallocated,
        },
    });
    let affinity = json!({
        "apiVersion": "crd.projectcalico.org/v1",
        "kind": "BlockAffinity",
        "metadata": { "name": format!("{name}-{}", block_name(n)) },
        "spec": { "cidr": block(n).to_string(), "deleted": "false", "node": name, "state": "confirmed", "type": "host" },
    });
    vec![node, block_object, affinity]
}

/// Name of the `i`th pod of the `n`th node.
#[must_use]
pub fn pod_name(n: u32, i: u32) -> String {
    format!("pod-{n:05}-{i:03}")
}

/// The `i`th pod of the `n`th node; the first of each is a canary.
#[must_use]
pub fn pod(n: u32, i: u32) -> Value {
    let ip = address(n, i + 1).to_string();
    let labels = if i == 0 {
        json!({ CANARY: "true" })
    } else {
        json!({ "app": "web" })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod_name(n, i),
            "namespace": "default",
            "labels": labels,
            "annotations": { "cni.projectcalico.org/podIP": format!("{ip}/32"), "cni.projectcalico.org/podIPs": format!("{ip}/32") },
            "ownerReferences": [ {
                "apiVersion": "apps/v1", "controller": true, "kind": "ReplicaSet", "name": format!("app-{}", n % 100),
                "uid": format!("00000000-0000-0000-0000-{:012x}", n % 100),
            } ],
        },
        "spec": {
            "containers": [ { "image": "example/web:1.0", "name": "web" } ],
            "nodeName": node_name(n),
        },
        "status": {
            "conditions": [ { "lastTransitionTime": CREATED, "status": "True", "type": "Ready" } ],
            "hostIP": host(n).to_string(),
            "phase": "Running",
            "podIP": ip,
            "podIPs": [ { "ip": ip } ],
            "startTime": CREATED,
        },
    })
}

/// Whether a pod is one of those that are probed.
#[must_use]
pub fn is_canary(pod: &Value) -> bool {
    pod.pointer("/metadata/labels").is_some_and(|labels| labels.get(CANARY).is_some())
}

/// Everything of a cluster but its pods.
#[must_use]
pub fn all_but_pods(size: Size) -> Vec<Value> {
    let mut all = configuration();
    all.extend((0..size.nodes).flat_map(|n| node(n, size)));
    all
}

/// All pods of a cluster.
#[must_use]
pub fn pods(size: Size) -> Vec<Value> {
    (0..size.nodes)
        .flat_map(|n| (0..size.pods_per_node).map(move |i| pod(n, i)))
        .collect()
}
