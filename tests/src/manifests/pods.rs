//! Pods: the fabric's own, and one calico-node for each node.

use std::iter;

use serde_json::{Value, json};

use super::{CREATED, config::calico_node_container, uid};
use crate::fabric::{Node, Phase, Pod, State, plan::hex};

/// When a pod that is going will be gone.
const DELETED: &str = "2026-01-02T00:00:30Z";

pub(super) fn pods(state: &State) -> Vec<Value> {
    let last = state
        .pods
        .iter()
        .filter(|pod| pod.node + 1 == state.nodes.len())
        .map(|pod| pod.number)
        .max();
    let mut all: Vec<Value> = state
        .pods
        .iter()
        .map(|pod| {
            // The last node's last pod has no controller: nothing would bring it back.
            let bare = pod.node + 1 == state.nodes.len() && Some(pod.number) == last;
            workload(state, pod, bare)
        })
        .collect();
    all.extend(state.nodes.iter().map(|node| calico_node(state, node)));
    all
}

fn conditions() -> Value {
    let condition = |kind: &str| {
        json!({
            "lastProbeTime": null,
            "lastTransitionTime": CREATED,
            "status": "True",
            "type": kind,
        })
    };
    json!([
        condition("PodReadyToStartContainers"),
        condition("Initialized"),
        condition("Ready"),
        condition("ContainersReady"),
        condition("PodScheduled"),
    ])
}

fn container_status(name: &str, image: &str, container: &str) -> Value {
    json!({
        "containerID": format!("containerd://{container}"),
        "image": image,
        "lastState": {},
        "name": name,
        "ready": true,
        "restartCount": 0,
        "started": true,
        "state": { "running": { "startedAt": CREATED } },
    })
}

fn workload(state: &State, pod: &Pod, bare: bool) -> Value {
    let node = &state.nodes[pod.node];
    let ip = state.overrides.pod_ips.get(&pod.key()).unwrap_or(&pod.ip).to_string();
    let ip6 = pod.ip6.map(|ip| ip.to_string());
    let nets: Vec<String> = iter::once(format!("{ip}/32"))
        .chain(ip6.iter().map(|ip| format!("{ip}/128")))
        .collect();
    let ips: Vec<Value> = iter::once(&ip).chain(&ip6).map(|ip| json!({ "ip": ip })).collect();
    let image = "example/web:1.0";
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "annotations": {
                "cni.projectcalico.org/containerID": pod.container_id,
                "cni.projectcalico.org/podIP": format!("{ip}/32"),
                "cni.projectcalico.org/podIPs": nets.join(","),
            },
            "creationTimestamp": CREATED,
            "labels": { "app": "web", "pod-template-hash": "6d4cf56db6" },
            "name": pod.name,
            "namespace": pod.namespace,
            "resourceVersion": "2000",
            "uid": uid("pod", &format!("{} {}", pod.key(), pod.incarnation)),
        },
        "spec": {
            "containers": [ { "image": image, "name": "web" } ],
            "nodeName": node.name,
            "restartPolicy": "Always",
        },
        "status": {
            "conditions": conditions(),
            "containerStatuses": [ container_status("web", image, &pod.container_id) ],
            "hostIP": node.host_ip.to_string(),
            "hostIPs": host_ips(node),
            "phase": "Running",
            "podIP": ip,
            "podIPs": ips,
            "qosClass": "BestEffort",
            "startTime": CREATED,
        },
    });
    match pod.phase {
        Phase::Running => {}
        Phase::Pending => {
            object["metadata"]["annotations"] = json!({});
            object["status"] = json!({
                "conditions": [ { "lastTransitionTime": CREATED, "status": "True", "type": "PodScheduled" } ],
                "hostIP": node.host_ip.to_string(),
                "phase": "Pending",
                "qosClass": "BestEffort",
                "startTime": CREATED,
            });
        }
        Phase::Terminating => {
            object["metadata"]["deletionGracePeriodSeconds"] = json!(30);
            object["metadata"]["deletionTimestamp"] = json!(DELETED);
        }
    }
    if !bare && let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.insert("ownerReferences".to_owned(), owner("apps/v1", "ReplicaSet", "web-6d4cf56db6"));
    }
    object
}

fn host_ips(node: &Node) -> Value {
    let v6 = node.v6.iter().map(|v6| json!({ "ip": v6.host_ip.to_string() }));
    iter::once(json!({ "ip": node.host_ip.to_string() })).chain(v6).collect()
}

fn owner(version: &str, kind: &str, name: &str) -> Value {
    json!([ {
        "apiVersion": version,
        "blockOwnerDeletion": true,
        "controller": true,
        "kind": kind,
        "name": name,
        "uid": uid(kind, name),
    } ])
}

fn calico_node(state: &State, node: &Node) -> Value {
    use sha1::{Digest, Sha1};
    let digest = hex(&Sha1::digest(format!("calico-node on {}", node.name)));
    let name = format!("calico-node-{}", &digest[..5]);
    let container = calico_node_container(state);
    let status = container_status("calico-node", container["image"].as_str().unwrap_or_default(), &digest);
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "creationTimestamp": CREATED,
            "labels": {
                "controller-revision-hash": "7c9f6b9d5c",
                "k8s-app": "calico-node",
                "pod-template-generation": "1",
            },
            "name": name,
            "namespace": "kube-system",
            "ownerReferences": owner("apps/v1", "DaemonSet", "calico-node"),
            "resourceVersion": "2000",
            "uid": uid("pod", &format!("kube-system/{name}")),
        },
        "spec": {
            "containers": [ container ],
            "hostNetwork": true,
            "nodeName": node.name,
            "restartPolicy": "Always",
        },
        "status": {
            "conditions": conditions(),
            "containerStatuses": [ status ],
            "hostIP": node.host_ip.to_string(),
            "hostIPs": host_ips(node),
            "phase": "Running",
            "podIP": node.host_ip.to_string(),
            "podIPs": host_ips(node),
            "qosClass": "Burstable",
            "startTime": CREATED,
        },
    })
}
