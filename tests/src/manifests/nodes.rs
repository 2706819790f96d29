//! Node objects: healthy in every claim they make.

use serde_json::{Value, json};

use super::{CREATED, uid};
use crate::fabric::{
    Carrier, Node, State,
    plan::{UNDERLAY_PREFIX_LEN, UNDERLAY_PREFIX_LEN_V6},
};

pub(super) fn nodes(state: &State) -> Vec<Value> {
    state.nodes.iter().map(|node| object(state, node)).collect()
}

fn object(state: &State, node: &Node) -> Value {
    let mut annotations = json!({
        "kubeadm.alpha.kubernetes.io/cri-socket": "unix:///run/containerd/containerd.sock",
        "projectcalico.org/IPv4Address": format!("{}/{UNDERLAY_PREFIX_LEN}", node.host_ip),
        "volumes.kubernetes.io/controller-managed-attach-detach": "true",
    });
    let key = match state.spec.encapsulation.tunnel() {
        Carrier::Vxlan => Some("projectcalico.org/IPv4VXLANTunnelAddr"),
        Carrier::Ipip => Some("projectcalico.org/IPv4IPIPTunnelAddr"),
        Carrier::Bare => None,
    };
    if let Some(key) = key
        && !state.overrides.without_tunnel_address.contains(&node.name)
    {
        annotations[key] = json!(node.tunnel_ip.to_string());
    }
    let mut addresses = vec![json!({ "address": node.host_ip.to_string(), "type": "InternalIP" })];
    if let Some(v6) = &node.v6 {
        annotations["projectcalico.org/IPv6Address"] = json!(format!("{}/{UNDERLAY_PREFIX_LEN_V6}", v6.host_ip));
        if state.spec.encapsulation.device_v6().is_some() {
            annotations["projectcalico.org/IPv6VXLANTunnelAddr"] = json!(v6.tunnel_ip.to_string());
        }
        addresses.push(json!({ "address": v6.host_ip.to_string(), "type": "InternalIP" }));
    }
    addresses.push(json!({ "address": node.name, "type": "Hostname" }));
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({
            "lastHeartbeatTime": CREATED,
            "lastTransitionTime": CREATED,
            "message": message,
            "reason": reason,
            "status": status,
            "type": kind,
        })
    };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "annotations": annotations,
            "creationTimestamp": CREATED,
            "labels": {
                "kubernetes.io/arch": "amd64",
                "kubernetes.io/hostname": node.name,
                "kubernetes.io/os": "linux",
            },
            "name": node.name,
            "resourceVersion": "1000",
            "uid": uid("node", &node.name),
        },
        "spec": {},
        "status": {
            "addresses": addresses,
            "conditions": [
                condition("NetworkUnavailable", "False", "CalicoIsUp", "Calico is running on this node"),
                condition("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
                condition("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
                condition("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "nodeInfo": {
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kubeletVersion": "v1.34.1",
                "containerRuntimeVersion": "containerd://2.1.4",
            },
        },
    })
}
