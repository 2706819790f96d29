//! Pool, configuration objects, and the calico-node DaemonSet.

use serde_json::{Value, json};

use super::{CREATED, uid};
use crate::fabric::{
    State,
    plan::{BLOCK_PREFIX_LEN, BLOCK_PREFIX_LEN_V6, POOL, POOL_BARE, POOL_V6},
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
    let (vxlan, ipip) = state.spec.encapsulation.pool_modes();
    let mut felix = json!({
        "bpfConnectTimeLoadBalancing": "TCP",
        "floatingIPs": "Disabled",
        "logSeverityScreen": "Info",
        "nftablesMode": "Enabled",
        "reportingInterval": "0s",
        "vxlanPort": state.spec.port,
        "vxlanVNI": state.spec.vni,
    });
    let mut bgp = json!({ "nodeToNodeMeshEnabled": state.spec.encapsulation.has_bird() });
    if let Some((by_felix, by_bird)) = &state.overrides.program_cluster_routes {
        felix["programClusterRoutes"] = json!(by_felix);
        bgp["programClusterRoutes"] = json!(by_bird);
    }
    let v6 = object(
        "IPPool",
        "default-ipv6-ippool",
        json!({
            "allowedUses": ["Workload", "Tunnel"],
            "assignmentMode": "Automatic",
            "blockSize": BLOCK_PREFIX_LEN_V6,
            "cidr": POOL_V6,
            "ipipMode": "Never",
            "natOutgoing": false,
            "nodeSelector": "all()",
            "vxlanMode": vxlan,
        }),
    );
    let bare = object(
        "IPPool",
        "bare-ipv4-ippool",
        json!({
            "allowedUses": ["Workload", "Tunnel"],
            "assignmentMode": "Automatic",
            "blockSize": BLOCK_PREFIX_LEN,
            "cidr": POOL_BARE,
            "ipipMode": "Never",
            "natOutgoing": true,
            "nodeSelector": "all()",
            "vxlanMode": "Never",
        }),
    );
    let mut objects = vec![
        object(
            "IPPool",
            "default-ipv4-ippool",
            json!({
                "allowedUses": ["Workload", "Tunnel"],
                "assignmentMode": "Automatic",
                "blockSize": BLOCK_PREFIX_LEN,
                "cidr": POOL,
                "ipipMode": ipip,
                "natOutgoing": true,
                "nodeSelector": "all()",
                "vxlanMode": vxlan,
            }),
        ),
        object("FelixConfiguration", "default", felix),
        object("BGPConfiguration", "default", bgp),
        object(
            "ClusterInformation",
            "default",
            json!({
                "calicoVersion": state.calico_version(),
                "clusterGUID": "5a1d0c9e4b7f4d0e8c3b2a1908f7e6d5",
                "clusterType": "k8s,kubeadm,kdd",
                "datastoreReady": true,
            }),
        ),
    ];
    if let Some((node, vni)) = &state.overrides.vni_of {
        objects.push(object("FelixConfiguration", &format!("node.{node}"), json!({ "vxlanVNI": vni })));
    }
    if state.spec.encapsulation.is_dual_stack() {
        objects.push(v6);
    }
    if state.spec.encapsulation.is_mixed() {
        objects.push(bare);
    }
    objects
}

/// The calico-node container, the same in the DaemonSet and in its pods.
pub(super) fn calico_node_container(state: &State) -> Value {
    let backend = if state.spec.encapsulation.has_bird() { "bird" } else { "vxlan" };
    let (vxlan, ipip) = state.spec.encapsulation.pool_modes();
    let env = |name: &str, value: &str| json!({ "name": name, "value": value });
    let dual_stack = state.spec.encapsulation.is_dual_stack();
    let mut container = json!({
        "env": [
            env("DATASTORE_TYPE", "kubernetes"),
            env("WAIT_FOR_DATASTORE", "true"),
            {
                "name": "NODENAME",
                "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": "spec.nodeName" } },
            },
            env("CALICO_NETWORKING_BACKEND", backend),
            env("CLUSTER_TYPE", "k8s"),
            env("IP", "autodetect"),
            env("CALICO_IPV4POOL_IPIP", ipip),
            env("CALICO_IPV4POOL_VXLAN", vxlan),
            env("CALICO_DISABLE_FILE_LOGGING", "true"),
            env("FELIX_DEFAULTENDPOINTTOHOSTACTION", "ACCEPT"),
            env("FELIX_IPV6SUPPORT", if dual_stack { "true" } else { "false" }),
            env("FELIX_HEALTHENABLED", "true"),
        ],
        "image": format!("calico/node:{}", state.calico_version()),
        "name": "calico-node",
        "resources": { "requests": { "cpu": "250m" } },
        "securityContext": { "privileged": true },
    });
    if dual_stack && let Some(all) = container["env"].as_array_mut() {
        all.push(env("IP6", "autodetect"));
        all.push(env("CALICO_IPV6POOL_VXLAN", vxlan));
    }
    container
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
