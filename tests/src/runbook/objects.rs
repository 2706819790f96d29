//! A healthy cluster of twelve nodes as objects: three zones, two pools, Calico by its operator's names, Typha, BGP.

use serde_json::{Value, json};

/// When all of it is looked at.
pub const NOW: &str = "2026-11-20T12:00:00Z";
/// When all of it was made.
const CREATED: &str = "2026-09-01T08:00:00Z";
/// When it last changed.
const LAST: &str = "2026-11-20T11:59:55.000000Z";
/// Nodes.
const NODES: usize = 12;

/// All objects of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// Nodes.
    pub nodes: Vec<Value>,
    /// Their Leases.
    pub leases: Vec<Value>,
    /// Pods.
    pub pods: Vec<Value>,
    /// Events.
    pub events: Vec<Value>,
    /// DaemonSets.
    pub daemon_sets: Vec<Value>,
    /// Deployments.
    pub deployments: Vec<Value>,
    /// EndpointSlices.
    pub endpoint_slices: Vec<Value>,
    /// Validating webhooks.
    pub webhooks: Vec<Value>,
    /// Secrets, without contents.
    pub secrets: Vec<Value>,
    /// Network policies of Kubernetes.
    pub policies: Vec<Value>,
    /// Objects of Calico, by kind.
    pub calico: Vec<(&'static str, Vec<Value>)>,
}

/// Name of a node.
#[must_use]
pub fn node_name(i: usize) -> String {
    format!("node-{i:02}")
}

fn zone(i: usize) -> usize {
    i % 3
}

fn address(i: usize) -> String {
    format!("10.0.{}.{}", zone(i), 10 + i)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": reason, "message": message, "lastHeartbeatTime": NOW, "lastTransitionTime": CREATED })
}

fn node(i: usize) -> Value {
    let pool = if i < 8 { "general" } else { "compute" };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node_name(i), "creationTimestamp": CREATED,
            "labels": {
                "kubernetes.io/hostname": node_name(i), "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("zone-{}", zone(i)), "node-pool": pool,
            },
            "annotations": { "projectcalico.org/IPv4Address": format!("{}/24", address(i)) },
        },
        "spec": {},
        "status": {
            "addresses": [ { "type": "InternalIP", "address": address(i) } ],
            "conditions": [
                condition("NetworkUnavailable", "False", "CalicoIsUp", "Calico is running on this node"),
                condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            ],
            "nodeInfo": {
                "architecture": "amd64", "bootID": format!("boot-{i}"), "containerRuntimeVersion": "containerd://2.1.4",
                "kernelVersion": "6.8.0-45-generic", "kubeProxyVersion": "", "kubeletVersion": "v1.33.4", "machineID": format!("machine-{i}"),
                "operatingSystem": "linux", "osImage": "Ubuntu 24.04.1 LTS", "systemUUID": format!("uuid-{i}"),
            },
        },
    })
}

fn lease(i: usize) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": node_name(i), "namespace": "kube-node-lease", "creationTimestamp": CREATED },
        "spec": { "holderIdentity": node_name(i), "leaseDurationSeconds": 40, "renewTime": LAST },
    })
}

/// A pod of a DaemonSet or a ReplicaSet, running and ready.
#[must_use]
pub fn pod(namespace: &str, name: &str, app: &str, owner: (&str, &str), node: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "namespace": namespace, "creationTimestamp": CREATED,
            "labels": { "k8s-app": app, "pod-template-hash": "5d4f8c7b9" },
            "ownerReferences": [ { "apiVersion": "apps/v1", "kind": owner.0, "name": owner.1, "controller": true, "uid": "00000000-0000-0000-0000-000000000001" } ],
        },
        "spec": { "nodeName": node_name(node), "hostNetwork": true, "containers": [ { "name": app, "image": format!("example/{app}:v3.31.7") } ] },
        "status": {
            "phase": "Running",
            "conditions": [ { "type": "Ready", "status": "True", "lastTransitionTime": CREATED } ],
            "containerStatuses": [ {
                "name": app, "image": format!("example/{app}:v3.31.7"), "imageID": "", "ready": true, "restartCount": 0, "lastState": {},
                "state": { "running": { "startedAt": CREATED } },
            } ],
        },
    })
}

/// An event about something.
#[must_use]
pub fn event(about: (&str, &str, &str), reason: &str, message: &str, count: u32) -> Value {
    let (kind, namespace, name) = about;
    // What is about a thing without a namespace stands in `default`.
    let home = if namespace.is_empty() { "default" } else { namespace };
    json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": { "name": format!("{name}.{}", reason.to_lowercase()), "namespace": home, "creationTimestamp": NOW },
        "involvedObject": { "kind": kind, "namespace": namespace, "name": name },
        "reason": reason, "message": message, "type": "Warning", "count": count,
        "firstTimestamp": "2026-11-20T11:20:00Z", "lastTimestamp": "2026-11-20T11:58:00Z", "source": { "component": "test" },
    })
}

fn daemon_set() -> Value {
    let desired = NODES;
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "calico-node", "namespace": "calico-system", "labels": { "k8s-app": "calico-node" }, "generation": 1, "creationTimestamp": CREATED },
        "spec": {
            "selector": { "matchLabels": { "k8s-app": "calico-node" } },
            "template": {
                "metadata": { "labels": { "k8s-app": "calico-node" } },
                "spec": { "nodeSelector": { "kubernetes.io/os": "linux" }, "containers": [ { "name": "calico-node", "image": "example/calico-node:v3.31.7" } ] },
            },
        },
        "status": { "currentNumberScheduled": desired, "desiredNumberScheduled": desired, "numberReady": desired, "numberMisscheduled": 0, "observedGeneration": 1 },
    })
}

/// A Deployment with its status.
#[must_use]
pub fn deployment(namespace: &str, name: &str, replicas: u32, ready: u32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace, "labels": { "k8s-app": name }, "generation": 1, "creationTimestamp": CREATED },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "k8s-app": name } },
            "template": { "metadata": { "labels": { "k8s-app": name } }, "spec": { "containers": [ { "name": name, "image": format!("example/{name}:v3.31.7") } ] } },
        },
        "status": { "replicas": ready, "readyReplicas": ready, "observedGeneration": 1 },
    })
}

/// What stands behind a Service.
#[must_use]
pub fn slice(namespace: &str, service: &str, ready: &[bool]) -> Value {
    let endpoints: Vec<Value> = ready
        .iter()
        .enumerate()
        .map(|(i, ready)| json!({ "addresses": [ format!("10.0.9.{}", i + 1) ], "conditions": { "ready": ready } }))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{service}-x"), "namespace": namespace, "labels": { "kubernetes.io/service-name": service } },
        "endpoints": endpoints, "ports": [ { "port": 5473, "protocol": "TCP", "name": "p" } ],
    })
}

/// A webhook that sees every pod.
#[must_use]
pub fn webhook(name: &str, policy: &str, service: (&str, &str)) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": { "name": name, "creationTimestamp": CREATED },
        "webhooks": [ {
            "name": format!("{name}.example.io"), "failurePolicy": policy, "sideEffects": "None", "admissionReviewVersions": ["v1"], "timeoutSeconds": 5,
            "clientConfig": { "service": { "namespace": service.0, "name": service.1, "path": "/validate" } },
            "rules": [ { "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced" } ],
        } ],
    })
}

/// A Secret's name.
#[must_use]
pub fn secret(namespace: &str, name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": namespace }, "type": "Opaque" })
}

/// An object of Calico.
#[must_use]
pub fn calico(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "crd.projectcalico.org/v1", "kind": kind, "metadata": { "name": name, "creationTimestamp": CREATED }, "spec": spec })
}

impl Cluster {
    /// In which nothing is wrong.
    #[must_use]
    pub fn healthy() -> Self {
        let mut pods: Vec<Value> = (0..NODES)
            .map(|i| {
                pod(
                    "calico-system",
                    &format!("calico-node-{i:02}"),
                    "calico-node",
                    ("DaemonSet", "calico-node"),
                    i,
                )
            })
            .collect();
        pods.extend((0..NODES).map(|i| {
            pod(
                "kube-system",
                &format!("kube-proxy-{i:02}"),
                "kube-proxy",
                ("DaemonSet", "kube-proxy"),
                i,
            )
        }));
        pods.push(pod(
            "calico-system",
            "calico-typha-5d4f8c7b9-a",
            "calico-typha",
            ("ReplicaSet", "calico-typha-5d4f8c7b9"),
            0,
        ));
        Self {
            nodes: (0..NODES).map(node).collect(),
            leases: (0..NODES).map(lease).collect(),
            pods,
            events: Vec::new(),
            daemon_sets: vec![daemon_set()],
            deployments: vec![
                deployment("calico-system", "calico-typha", 2, 2),
                deployment("tigera-operator", "tigera-operator", 1, 1),
            ],
            endpoint_slices: vec![slice("calico-system", "calico-typha", &[true, true])],
            webhooks: Vec::new(),
            secrets: vec![secret("calico-system", "bgp-secrets")],
            policies: Vec::new(),
            calico: vec![
                (
                    "IPPool",
                    vec![calico(
                        "IPPool",
                        "default",
                        json!({ "cidr": "10.244.0.0/16", "vxlanMode": "Always" }),
                    )],
                ),
                ("FelixConfiguration", vec![calico("FelixConfiguration", "default", json!({}))]),
                ("BGPConfiguration", vec![calico("BGPConfiguration", "default", json!({}))]),
                (
                    "BGPPeer",
                    vec![calico(
                        "BGPPeer",
                        "tor",
                        json!({ "peerIP": "10.0.0.1", "asNumber": 64512, "password": { "secretKeyRef": { "name": "bgp-secrets", "key": "tor" } } }),
                    )],
                ),
                ("GlobalNetworkPolicy", Vec::new()),
                ("NetworkPolicy", Vec::new()),
                ("HostEndpoint", Vec::new()),
            ],
        }
    }

    /// Every list: version, kind, items.
    #[must_use]
    pub fn lists(&self) -> Vec<(&'static str, &'static str, &[Value])> {
        let mut out: Vec<(&str, &str, &[Value])> = vec![
            ("v1", "Node", &self.nodes),
            ("coordination.k8s.io/v1", "Lease", &self.leases),
            ("v1", "Pod", &self.pods),
            ("v1", "Event", &self.events),
            ("apps/v1", "DaemonSet", &self.daemon_sets),
            ("apps/v1", "Deployment", &self.deployments),
            ("discovery.k8s.io/v1", "EndpointSlice", &self.endpoint_slices),
            ("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", &self.webhooks),
            ("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", &[]),
            ("networking.k8s.io/v1", "NetworkPolicy", &self.policies),
            ("v1", "Secret", &self.secrets),
        ];
        out.extend(
            self.calico
                .iter()
                .map(|(kind, items)| ("crd.projectcalico.org/v1", *kind, items.as_slice())),
        );
        out
    }

    /// Changes a condition of a node.
    pub fn set_condition(&mut self, node: usize, kind: &str, status: &str, reason: &str, message: &str, since: &str) {
        let conditions = &mut self.nodes[node]["status"]["conditions"];
        for condition in conditions.as_array_mut().into_iter().flatten().filter(|c| c["type"] == kind) {
            *condition = self::condition(kind, status, reason, message);
            condition["lastTransitionTime"] = json!(since);
        }
    }

    /// The pod of calico-node on a node.
    pub fn calico_node(&mut self, node: usize) -> &mut Value {
        &mut self.pods[node]
    }

    /// Makes a pod's container one that waits or runs, not ready.
    pub fn not_ready(&mut self, node: usize, restarts: u32, state: Value) {
        let pod = self.calico_node(node);
        pod["status"]["conditions"][0]["status"] = json!("False");
        let status = &mut pod["status"]["containerStatuses"][0];
        status["ready"] = json!(false);
        status["restartCount"] = json!(restarts);
        status["state"] = state;
    }

    /// The DaemonSet's numbers.
    pub fn scheduled(&mut self, desired: u32, current: u32) {
        let status = &mut self.daemon_sets[0]["status"];
        status["desiredNumberScheduled"] = json!(desired);
        status["currentNumberScheduled"] = json!(current);
        status["numberReady"] = json!(current);
    }

    /// Takes away the pods of calico-node.
    pub fn without_calico_node(&mut self) {
        self.pods.retain(|pod| pod["metadata"]["labels"]["k8s-app"] != "calico-node");
    }
}
