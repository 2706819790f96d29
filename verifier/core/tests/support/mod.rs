//! Objects for the tests of intent, from JSON as the API prints it.
#![allow(dead_code, reason = "each test file uses its part")]

use serde_json::{Value, json};
use verifier_core::intent::{
    Cluster,
    objects::{Kind, Object, Objects},
};

/// Any object, by its JSON.
pub fn object(value: &Value) -> Object {
    let (kind, _) = Kind::of(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap();
    Object::deserialize(kind, value).unwrap()
}

/// A set of objects.
pub fn objects(values: &[Value]) -> Objects {
    let mut all = Objects::default();
    for value in values {
        let (_, group) = Kind::of(value["apiVersion"].as_str().unwrap(), value["kind"].as_str().unwrap()).unwrap();
        all.insert(group, object(value)).unwrap();
    }
    all
}

pub fn cluster(values: &[Value]) -> Cluster {
    Cluster::compile(objects(values))
}

pub fn node(name: &str, host: &str, tunnel: Option<&str>) -> Value {
    let mut annotations = json!({"projectcalico.org/IPv4Address": host});
    if let Some(tunnel) = tunnel {
        annotations["projectcalico.org/IPv4VXLANTunnelAddr"] = json!(tunnel);
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {},
        "status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "KubeletReady"},
            {"type": "NetworkUnavailable", "status": "False", "reason": "CalicoIsUp"},
        ]},
    })
}

pub fn pool(name: &str, cidr: &str, vxlan: &str, ipip: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPPool", "metadata": {"name": name},
        "spec": {"cidr": cidr, "blockSize": 26, "vxlanMode": vxlan, "ipipMode": ipip, "natOutgoing": true, "nodeSelector": "all()"},
    })
}

/// A block with `(position, node, pod)` allocations.
pub fn block(cidr: &str, owner: &str, taken: &[(usize, &str)]) -> Value {
    let mut allocations = vec![Value::Null; 64];
    let mut attributes = Vec::new();
    for (index, (at, node)) in taken.iter().enumerate() {
        allocations[*at] = json!(index);
        attributes.push(json!({"handle_id": format!("h{index}"), "secondary": {"node": node}}));
    }
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMBlock",
        "metadata": {"name": cidr.replace(['.', '/'], "-")},
        "spec": {"cidr": cidr, "affinity": format!("host:{owner}"), "allocations": allocations, "attributes": attributes,
                 "unallocated": [], "strictAffinity": false, "deleted": false},
    })
}

pub fn affinity(cidr: &str, owner: &str) -> Value {
    json!({
        "apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
        "metadata": {"name": format!("{owner}-{}", cidr.replace(['.', '/'], "-"))},
        "spec": {"state": "confirmed", "node": owner, "type": "host", "cidr": cidr, "deleted": "false"},
    })
}

pub fn pod(namespace: &str, name: &str, node: &str, ip: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": namespace, "name": name,
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web", "controller": true, "uid": "u"}]},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

/// The calico-node pod of a node, with an environment.
pub fn calico_node(node: &str, env: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "calico-system", "name": format!("calico-node-{node}"), "labels": {"k8s-app": "calico-node"}},
        "spec": {"nodeName": node, "hostNetwork": true,
            "containers": [{"name": "calico-node", "image": "docker.io/calico/node:v3.31.7", "env": env}]},
        "status": {"phase": "Running", "hostIP": "172.18.0.2", "podIP": "172.18.0.2",
            "containerStatuses": [{"name": "calico-node", "ready": true, "restartCount": 3}]},
    })
}

pub fn felix(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "FelixConfiguration", "metadata": {"name": name}, "spec": spec})
}

pub fn version(version: &str) -> Value {
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "ClusterInformation", "metadata": {"name": "default"},
           "spec": {"calicoVersion": version}})
}

/// The worked example of calico.md 3.9, with pools in the given mode.
pub fn worked_example(vxlan: &str) -> Vec<Value> {
    let (cp, w, w2) = ("kind-control-plane", "kind-worker", "kind-worker2");
    vec![
        node(cp, "172.18.0.2/16", Some("10.244.82.0")),
        node(w, "172.18.0.3/16", Some("10.244.162.128")),
        node(w2, "172.18.0.4/16", Some("10.244.110.128")),
        pool("default-ipv4-ippool", "10.244.0.0/16", vxlan, "Never"),
        block("10.244.82.0/26", cp, &[(0, cp), (5, cp)]),
        block("10.244.162.128/26", w, &[(0, w)]),
        block("10.244.110.128/26", w2, &[(0, w2), (12, w)]),
        affinity("10.244.82.0/26", cp),
        affinity("10.244.162.128/26", w),
        affinity("10.244.110.128/26", w2),
        pod("default", "web-0", w, "10.244.110.140"),
        pod("kube-system", "coredns-abc", cp, "10.244.82.5"),
        felix(
            "default",
            &json!({"bpfEnabled": false, "vxlanPort": 4789, "vxlanVNI": 4096, "vxlanMTU": 1450}),
        ),
        version("v3.31.7"),
        calico_node(cp, &json!([])),
        calico_node(w, &json!([])),
        calico_node(w2, &json!([])),
    ]
}

/// Routes as `ip route` prints them, in this program's order; `?` before those that are accepted and not required.
pub fn routes(intent: &verifier_core::intent::NodeIntent) -> Vec<String> {
    use verifier_core::intent::{ExpectedDevice, RouteClass};
    let line = |r: &verifier_core::intent::ExpectedRoute| {
        let mut line = String::from(if r.required { "" } else { "? " });
        if r.class == RouteClass::LocalBlock {
            line += "blackhole ";
        }
        line += &r.dst.to_string();
        if let Some(gateway) = r.gateway {
            line += &format!(" via {gateway}");
        }
        match &r.device {
            Some(ExpectedDevice::Named(name)) => line += &format!(" dev {name}"),
            Some(ExpectedDevice::Parent) => line += " dev PARENT",
            None => {}
        }
        match r.protocol {
            Some(3) | None => {}
            Some(12) => line += " proto bird",
            Some(p) => line += &format!(" proto {p}"),
        }
        if r.gateway.is_none() && r.device.is_some() {
            line += " scope link";
        }
        if r.onlink {
            line += " onlink";
        }
        if let Some(mtu) = r.mtu {
            line += &format!(" mtu {mtu}");
        }
        line
    };
    intent.routes.iter().map(line).collect()
}
