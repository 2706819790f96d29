//! Pool, configuration objects, and the calico-node DaemonSet.

use serde_json::{Value, json};

use super::{CREATED, uid};
use crate::fabric::{
    State,
    plan::{BLOCK_PREFIX_LEN, POOL},
};

pub(super) fn objects(state: &State) -> Vec<Value> {
    let object = |kind: &str, name: &str, spec: Value| {
        json!({
            "apiVersion": "crd.projectcalico.org/v1",
            "kind": kind,
            "metadata": {
                "creationTimestamp": CREATED,
                "generation": 1,
                "name": name,
                "resourceVersion": "900",
                "uid": uid(kind, name),
            },
            "spec": spec,
        })
    };
    vec![
        object(
            "IPPool",
            "default-ipv4-ippool",
            json!({
                "allowedUses": ["Workload", "Tunnel"],
                "assignmentMode": "Automatic",
                "blockSize": BLOCK_PREFIX_LEN,
                "cidr": POOL,
                "ipipMode": "Never",
                "natOutgoing": true,
                "nodeSelector": "all()",
                "vxlanMode": "Always",
            }),
        ),
        object(
            "FelixConfiguration",
            "default",
            json!({
                "bpfConnectTimeLoadBalancing": "TCP",
                "floatingIPs": "Disabled",
                "logSeverityScreen": "Info",
                "nftablesMode": "Enabled",
                "reportingInterval": "0s",
                "vxlanPort": state.spec.port,
                "vxlanVNI": state.spec.vni,
            }),
        ),
        object("BGPConfiguration", "default", json!({ "nodeToNodeMeshEnabled": false })),
        object(
            "ClusterInformation",
            "default",
            json!({
                "calicoVersion": state.spec.calico_version,
                "clusterGUID": "5a1d0c9e4b7f4d0e8c3b2a1908f7e6d5",
                "clusterType": "k8s,kubeadm,kdd",
                "datastoreReady": true,
            }),
        ),
    ]
}

/// The calico-node container, the same in the DaemonSet and in its pods.
pub(super) fn calico_node_container(state: &State) -> Value {
    let env = |name: &str, value: &str| json!({ "name": name, "value": value });
    json!({
        "env": [
            env("DATASTORE_TYPE", "kubernetes"),
            env("WAIT_FOR_DATASTORE", "true"),
            {
                "name": "NODENAME",
                "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "spec.nodeName" } },
            },
            env("CALICO_NETWORKING_BACKEND", "vxlan"),
            env("CLUSTER_TYPE", "k8s"),
            env("IP", "autodetect"),
            env("CALICO_IPV4POOL_IPIP", "Never"),
            env("CALICO_IPV4POOL_VXLAN", "Always"),
            env("CALICO_DISABLE_FILE_LOGGING", "true"),
            env("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
            env("FELIX_IPV6SUPPORT", "false"),
            env("FELIX_HEALTHENABLED", "true"),
        ],
        "image": format!("calico/node:{}", state.spec.calico_version),
        "name": "calico-node",
        "securityContext": { "privileged": true },
    })
}

pub(super) fn daemon_set(state: &State) -> Value {
    let labels = json!({ "k8s-app": "calico-node" });
    let count = state.nodes.len();
    json!({
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {
            "creationTimestamp": CREATED,
            "generation": 1,
            "labels": labels,
            "name": "calico-node",
            "namespace": "kube-system",
            "resourceVersion": "1500",
            "uid": uid("DaemonSet", "calico-node"),
        },
        "spec": {
            "revisionHistoryLimit": 10,
            "selector": { "matchLabels": labels },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "containers": [ calico_node_container(state) ],
                    "hostNetwork": true,
                },
            },
            "updateStrategy": { "rollingUpdate": { "maxSurge": 0, "maxUnavailable": 1 }, "type": "RollingUpdate" },
        },
        "status": {
            "currentNumberScheduled": count,
            "desiredNumberScheduled": count,
            "numberAvailable": count,
            "numberMisscheduled": 0,
            "numberReady": count,
            "observedGeneration": 1,
            "updatedNumberScheduled": count,
        },
    })
}
