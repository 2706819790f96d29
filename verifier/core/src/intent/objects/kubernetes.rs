//! Kubernetes' own objects, as far as the dataplane follows from them.

use super::meta::{Meta, nullable, timestamp};
use crate::names::UnixNs;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use serde::Deserialize;

/// A Node. Calico keeps its data about a node in the annotations (calico.md 3.5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: NodeSpec,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: NodeStatus,
}

/// `spec` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSpec {
    /// Cordoned.
    #[serde(default, deserialize_with = "nullable")]
    pub unschedulable: bool,
    /// Pod networks of the node, used with host-local IPAM only.
    #[serde(default, rename = "podCIDRs", deserialize_with = "nullable")]
    pub pod_cidrs: Vec<String>,
}

/// `status` of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeStatus {
    /// Addresses.
    #[serde(default, deserialize_with = "nullable")]
    pub addresses: Vec<NodeAddress>,
    /// Conditions.
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// What runs on it.
    #[serde(default, rename = "nodeInfo", deserialize_with = "nullable")]
    pub node_info: NodeInfo,
}

/// `status.nodeInfo` of a Node, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeInfo {
    /// Version of the kubelet, `v1.33.4`.
    #[serde(default, deserialize_with = "nullable")]
    pub kubelet_version: String,
}

/// One address of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct NodeAddress {
    /// `InternalIP`, `ExternalIP`, `Hostname`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The address.
    pub address: String,
}

/// A condition of a Node or a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// `Ready`, `NetworkUnavailable`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False`, `Unknown`.
    #[serde(default, deserialize_with = "nullable")]
    pub status: String,
    /// One word.
    #[serde(default, deserialize_with = "nullable")]
    pub reason: String,
}

/// A Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
    /// Status.
    #[serde(default, deserialize_with = "nullable")]
    pub status: PodStatus,
}

/// `spec` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSpec {
    /// The node it is bound to, empty before.
    #[serde(default, deserialize_with = "nullable")]
    pub node_name: String,
    /// Whether it lives in the node's namespace.
    #[serde(default, deserialize_with = "nullable")]
    pub host_network: bool,
    /// Containers.
    #[serde(default, deserialize_with = "nullable")]
    pub containers: Vec<Container>,
}

/// A container, as far as calico-node's matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Container {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Image with its tag.
    #[serde(default, deserialize_with = "nullable")]
    pub image: String,
    /// Environment.
    #[serde(default, deserialize_with = "nullable")]
    pub env: Vec<EnvVar>,
    /// Environment taken over whole from elsewhere.
    #[serde(default, deserialize_with = "nullable")]
    pub env_from: Vec<EnvFrom>,
}

/// One variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Name.
    pub name: String,
    /// Literal value.
    #[serde(default)]
    pub value: Option<String>,
    /// Reference.
    #[serde(default)]
    pub value_from: Option<EnvValueFrom>,
}

/// Where a variable's value is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvValueFrom {
    /// A field of the pod itself.
    #[serde(default)]
    pub field_ref: Option<FieldRef>,
    /// A key of a ConfigMap.
    #[serde(default)]
    pub config_map_key_ref: Option<KeyRef>,
    /// A key of a Secret. Never read.
    #[serde(default)]
    pub secret_key_ref: Option<KeyRef>,
}

/// A field of the pod itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldRef {
    /// `spec.nodeName`, `status.podIP`, …
    #[serde(default)]
    pub field_path: String,
}

/// A key of a ConfigMap or a Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct KeyRef {
    /// Name of the object.
    #[serde(default)]
    pub name: String,
    /// Key in it.
    #[serde(default)]
    pub key: String,
    /// Whether it may be absent.
    #[serde(default, deserialize_with = "nullable")]
    pub optional: bool,
}

/// All keys of a ConfigMap or a Secret as variables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// Prepended to every key.
    #[serde(default, deserialize_with = "nullable")]
    pub prefix: String,
    /// The ConfigMap.
    #[serde(default)]
    pub config_map_ref: Option<ObjectRef>,
    /// The Secret. Never read.
    #[serde(default)]
    pub secret_ref: Option<ObjectRef>,
}

/// A whole ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ObjectRef {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// Whether it may be absent.
    #[serde(default, deserialize_with = "nullable")]
    pub optional: bool,
}

/// `status` of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
    #[serde(default, deserialize_with = "nullable")]
    pub phase: String,
    /// Address of the node.
    #[serde(default, rename = "hostIP", deserialize_with = "nullable")]
    pub host_ip: String,
    /// First address.
    #[serde(default, rename = "podIP", deserialize_with = "nullable")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(default, rename = "podIPs", deserialize_with = "nullable")]
    pub pod_ips: Vec<PodIp>,
    /// Conditions.
    #[serde(default, deserialize_with = "nullable")]
    pub conditions: Vec<Condition>,
    /// State of the containers.
    #[serde(default, deserialize_with = "nullable")]
    pub container_statuses: Vec<ContainerStatus>,
}

/// One address of a Pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodIp {
    /// The address.
    #[serde(default)]
    pub ip: String,
}

/// State of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// Whether it passes its readiness probe.
    #[serde(default, deserialize_with = "nullable")]
    pub ready: bool,
    /// Restarts.
    #[serde(default, deserialize_with = "nullable")]
    pub restart_count: u32,
    /// What it was before.
    #[serde(default, deserialize_with = "nullable")]
    pub last_state: ContainerState,
}

/// What a container is, as far as its end matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ContainerState {
    /// How it ended.
    #[serde(default)]
    pub terminated: Option<Terminated>,
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Terminated {
    /// `Error`, `OOMKilled`, `Completed`.
    #[serde(default, deserialize_with = "nullable")]
    pub reason: String,
    /// Its exit status.
    #[serde(default, deserialize_with = "nullable")]
    pub exit_code: i32,
    /// When.
    #[serde(default, deserialize_with = "timestamp")]
    pub finished_at: Option<UnixNs>,
}

/// A DaemonSet; only calico-node's is looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: DaemonSetSpec,
}

/// `spec` of a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DaemonSetSpec {
    /// Template of its pods.
    pub template: PodTemplate,
}

/// `spec.template` of a DaemonSet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct PodTemplate {
    /// Metadata of the pods; it may lack a name.
    #[serde(default, deserialize_with = "nullable")]
    pub metadata: Meta,
    /// Spec of the pods.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: PodSpec,
}

/// A ConfigMap; only those beside calico-node are looked at, because its environment refers to them (`calico-config`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Meta,
    /// Values.
    #[serde(default, deserialize_with = "nullable")]
    pub data: BTreeMap<String, String>,
}
