//! One change each to the healthy cluster, and what triage must say of it.

use super::objects::{Cluster, calico, deployment, event, secret, slice, webhook};
use serde_json::json;
use verifier_core::triage::Branch::{self, *};

/// A state of a cluster.
pub struct Case {
    /// What happened.
    pub name: &'static str,
    /// What is done to the healthy cluster.
    pub change: fn(&mut Cluster),
    /// Branches that must apply, in order.
    pub branches: &'static [Branch],
    /// Nodes that must be affected, by number.
    pub nodes: &'static [usize],
    /// What must stand in the text.
    pub says: &'static [&'static str],
    /// What must not.
    pub never: &'static [&'static str],
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const PLUGIN: &str = "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns error: cni plugin not initialized";
const ALL: &[usize] = &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];

/// All of them.
pub const CASES: &[Case] = &[
    Case {
        name: "nothing is wrong",
        change: |_| {},
        branches: &[],
        nodes: &[],
        says: &["None of 12 nodes has a complaint."],
        never: &["Next, in this order", "Not known"],
    },
    Case {
        name: "two kubelets lost contact with the control plane",
        change: |c| {
            for node in [3, 5] {
                c.set_condition(
                    node,
                    "Ready",
                    "Unknown",
                    "NodeStatusUnknown",
                    "Kubelet stopped posting node status.",
                    "2026-11-20T11:40:00Z",
                );
                c.leases[node]["spec"]["renewTime"] = json!("2026-11-20T11:39:10.000000Z");
            }
        },
        branches: &[KubeletLostContact, FewNodes],
        nodes: &[3, 5],
        says: &[
            "systemctl status kubelet",
            "do not delete pods of these nodes by force",
            "do not delete its calico-node yet",
        ],
        never: &["kubectl -n calico-system delete pod"],
    },
    Case {
        name: "Ready toggles",
        change: |c| {
            c.events.push(event(
                ("Node", "", "node-04"),
                "NodeNotReady",
                "Node node-04 status is now: NodeNotReady",
                6,
            ));
        },
        branches: &[ReadyToggling, FewNodes],
        nodes: &[4],
        says: &["became NotReady 6 times"],
        never: &[],
    },
    Case {
        name: "Ready toggled twice, which is no pattern",
        change: |c| {
            c.events.push(event(
                ("Node", "", "node-04"),
                "NodeNotReady",
                "Node node-04 status is now: NodeNotReady",
                2,
            ));
        },
        branches: &[],
        nodes: &[],
        says: &[],
        never: &["toggling"],
    },
    Case {
        name: "network plugin not initialised",
        change: |c| {
            for node in [8, 9, 10, 11] {
                c.set_condition(node, "Ready", "False", "KubeletNotReady", PLUGIN, "2026-11-20T11:30:00Z");
                let pod = c.calico_node(node);
                pod["status"] = json!({ "phase": "Pending", "conditions": [ { "type": "Ready", "status": "False" } ] });
            }
        },
        branches: &[NetworkPluginNotInitialised, FewNodes],
        nodes: &[8, 9, 10, 11],
        says: &[
            "label node-pool is compute",
            "4 of 4 affected, 0 of 8 healthy",
            "verifier host --root /",
        ],
        never: &["may be chance", "not now"],
    },
    Case {
        name: "Calico says that it is down",
        change: |c| {
            c.set_condition(
                2,
                "NetworkUnavailable",
                "True",
                "CalicoIsDown",
                "Calico is shutting down on this node",
                "2026-11-20T11:30:00Z",
            );
            c.not_ready(2, 0, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
        },
        branches: &[CalicoIsDown, FewNodes],
        nodes: &[2],
        says: &[
            "verifier logs calico-system/calico-node-02",
            "kubectl cordon node-02",
            "kubectl uncordon node-02",
            "verifier gather --node node-02",
        ],
        never: &[],
    },
    Case {
        name: "no calico-node anywhere: the DaemonSet is gone",
        change: |c| {
            c.without_calico_node();
            c.daemon_sets.clear();
            c.deployments[1] = deployment("tigera-operator", "tigera-operator", 1, 0);
        },
        branches: &[NoCalicoNode, MostNodes],
        nodes: ALL,
        says: &[
            "there is no DaemonSet with the label k8s-app=calico-node",
            "tigera-operator/tigera-operator, has no ready pod",
        ],
        never: &["kubectl cordon"],
    },
    Case {
        name: "no calico-node anywhere: an admission webhook refuses its pods",
        change: |c| {
            c.without_calico_node();
            c.scheduled(12, 0);
            c.webhooks.push(webhook("policy-gate", "Fail", ("policy", "gate")));
            c.endpoint_slices.push(slice("policy", "gate", &[false]));
            c.events.push(event(
                ("DaemonSet", "calico-system", "calico-node"),
                "FailedCreate",
                "Error creating: Internal error occurred: failed calling webhook \"policy-gate.example.io\": failed to call webhook: Post \"https://gate.policy.svc:443/validate?timeout=5s\": context deadline exceeded",
                40,
            ));
        },
        branches: &[NoCalicoNode, MostNodes],
        nodes: ALL,
        says: &[
            "refused by the admission webhook \"policy-gate.example.io\"",
            "nothing stands behind its Service",
            "a copy of it was saved",
        ],
        never: &["kubectl cordon", "kubectl -n calico-system delete pod"],
    },
    Case {
        name: "no calico-node anywhere: a nodeSelector that fits no node",
        change: |c| {
            c.without_calico_node();
            c.scheduled(0, 0);
            c.daemon_sets[0]["spec"]["template"]["spec"]["nodeSelector"] = json!({ "non-calico": "true" });
        },
        branches: &[NoCalicoNode, MostNodes],
        nodes: ALL,
        says: &[
            "none has the labels of its nodeSelector (non-calico=true)",
            "give the DaemonSet nodes again",
        ],
        never: &[],
    },
    Case {
        name: "one node: a kernel that the others do not have",
        change: |c| {
            c.nodes[6]["status"]["nodeInfo"]["kernelVersion"] = json!("6.11.0-9-generic");
            c.not_ready(6, 0, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
        },
        branches: &[FewNodes],
        nodes: &[6],
        says: &[
            "kernelVersion is 6.11.0-9-generic",
            "verifier compare node-00 node-06",
            "kubectl -n calico-system delete pod calico-node-06",
        ],
        never: &[],
    },
    Case {
        name: "a few nodes: the zone",
        change: |c| {
            for node in [1, 4, 7, 10] {
                c.not_ready(node, 7, json!({ "waiting": { "reason": "CrashLoopBackOff" } }));
            }
        },
        branches: &[FewNodes],
        nodes: &[1, 4, 7, 10],
        says: &[
            "subnet is 10.0.1.0/24",
            "label topology.kubernetes.io/zone is zone-1",
            "restarted 7 times, is waiting: CrashLoopBackOff",
            "the other 3, one at a time",
        ],
        never: &[],
    },
    Case {
        name: "most nodes, and Typha has nobody behind its Service",
        change: |c| {
            for node in 0..10 {
                c.not_ready(node, 0, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
            }
            c.deployments[0] = deployment("calico-system", "calico-typha", 2, 0);
            c.endpoint_slices = vec![slice("calico-system", "calico-typha", &[false, false])];
        },
        branches: &[MostNodes],
        nodes: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        says: &[
            "0 of 2 pods of calico-system/calico-typha are ready",
            "no ready address stands behind the Service",
            "not node by node",
        ],
        never: &[],
    },
    Case {
        name: "all nodes, after a change of the pool",
        change: |c| {
            for node in 0..12 {
                c.set_condition(
                    node,
                    "NetworkUnavailable",
                    "True",
                    "CalicoIsDown",
                    "Calico is shutting down on this node",
                    "2026-11-20T11:30:00Z",
                );
            }
            let mut pool = calico("IPPool", "default", json!({ "cidr": "10.244.0.0/16", "vxlanMode": "CrossSubnet" }));
            pool["metadata"]["managedFields"] =
                json!([ { "manager": "kubectl-edit", "operation": "Update", "time": "2026-11-20T11:24:00Z" } ]);
            c.calico[0].1 = vec![pool];
        },
        branches: &[CalicoIsDown, MostNodes],
        nodes: ALL,
        says: &[
            "IPPool default changed by kubectl-edit, 6 min before the first node was affected",
            "changed before the first node was affected: IPPool default",
        ],
        never: &[],
    },
    Case {
        name: "BGP is not established, and with whom",
        change: |c| {
            for (node, peers) in [(2, "10.0.0.1,10.0.1.11"), (5, "10.0.0.1")] {
                c.not_ready(node, 0, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
                c.events.push(event(
                    ("Pod", "calico-system", &format!("calico-node-{node:02}")),
                    "Unhealthy",
                    &format!("Readiness probe failed: calico/node is not ready: BIRD is not ready: BGP not established with {peers}\n"),
                    30,
                ));
            }
        },
        branches: &[FewNodes],
        nodes: &[2, 5],
        says: &[
            "node-02 has no BGP session with BGPPeer tor (10.0.0.1), node-01 (10.0.1.11)",
            "2 nodes miss their session with BGPPeer tor",
        ],
        never: &[],
    },
    Case {
        name: "the password's Secret stayed in the old namespace",
        change: |c| c.secrets = vec![secret("kube-system", "bgp-secrets")],
        branches: &[],
        nodes: &[],
        says: &["is in kube-system and not in calico-system", "left behind in a migration"],
        never: &[],
    },
    Case {
        name: "a clock ahead, and a Lease that is old on a Ready node",
        change: |c| {
            c.leases[1]["spec"]["renewTime"] = json!("2026-11-20T12:03:00.000000Z");
            c.leases[2]["spec"]["renewTime"] = json!("2026-11-20T11:56:00.000000Z");
        },
        branches: &[],
        nodes: &[],
        says: &[
            "the clock of node-01 is at least 180 s ahead",
            "node-02 is Ready and its Lease is 240 s old",
        ],
        never: &[],
    },
    Case {
        name: "a node without calico-node",
        change: |c| {
            c.pods.remove(7);
        },
        branches: &[FewNodes],
        nodes: &[7],
        says: &["no pod of calico-node is bound to it", "describe daemonset calico-node"],
        never: &["delete pod"],
    },
    Case {
        name: "a webhook without anybody behind it, while the pods still run",
        change: |c| {
            c.webhooks.push(webhook("policy-gate", "Fail", ("policy", "gate")));
            c.not_ready(4, 0, json!({ "running": { "startedAt": "2026-11-20T11:31:00Z" } }));
        },
        branches: &[FewNodes],
        nodes: &[4],
        says: &["policy-gate", "do not delete its calico-node yet", "it would not come back"],
        never: &["delete pod calico-node-04"],
    },
];
