//! Calico's objects, as far as the dataplane follows from them (calico.md 3.2 to 3.7). The two API groups differ in name only.

use super::meta::{Meta, Scalar, nullable};
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use ipnet::IpNet;
use serde::Deserialize;

/// When a pool's traffic is encapsulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum EncapsulationMode {
    /// Never.
    #[default]
    #[serde(alias = "")]
    Never,
    /// To every node.
    Always,
    /// Only to nodes outside the sender's subnet.
    CrossSubnet,
}

/// A pool of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IpPool {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: IpPoolSpec,
}

/// `spec` of an IPPool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpPoolSpec {
    /// Addresses.
    pub cidr: IpNet,
    /// Prefix length of its blocks.
    #[serde(default)]
    pub block_size: Option<u8>,
    /// IPIP.
    #[serde(default, deserialize_with = "nullable")]
    pub ipip_mode: EncapsulationMode,
    /// VXLAN.
    #[serde(default, deserialize_with = "nullable")]
    pub vxlan_mode: EncapsulationMode,
    /// Whether traffic that leaves all pools is masqueraded.
    #[serde(default, deserialize_with = "nullable")]
    pub nat_outgoing: bool,
    /// Whether nothing new is allocated from it.
    #[serde(default, deserialize_with = "nullable")]
    pub disabled: bool,
    /// Nodes that may use it.
    #[serde(default, deserialize_with = "nullable")]
    pub node_selector: String,
    /// `Workload`, `Tunnel`, `LoadBalancer`; empty is the first two.
    #[serde(default, deserialize_with = "nullable")]
    pub allowed_uses: Vec<String>,
}

/// A block of addresses of a pool, normally of one node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IpamBlock {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: IpamBlockSpec,
}

/// `spec` of an IPAMBlock.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct IpamBlockSpec {
    /// Addresses.
    pub cidr: IpNet,
    /// `host:<node>` or `virtual:load-balancer`; none for an orphaned block.
    #[serde(default)]
    pub affinity: Option<String>,
    /// For each address the index of its attributes, none if it is free.
    #[serde(default, deserialize_with = "nullable")]
    pub allocations: Vec<Option<usize>>,
    /// Attributes of the allocations.
    #[serde(default, deserialize_with = "nullable")]
    pub attributes: Vec<AllocationAttributes>,
    /// Whether it is being deleted.
    #[serde(default, deserialize_with = "nullable")]
    pub deleted: bool,
}

/// What an address was allocated for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct AllocationAttributes {
    /// Handle.
    #[serde(default)]
    pub handle_id: Option<String>,
    /// `node`, `pod`, `namespace`, `type`, …
    #[serde(default, deserialize_with = "nullable")]
    pub secondary: BTreeMap<String, String>,
}

/// A node's claim to a block.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockAffinity {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: BlockAffinitySpec,
}

/// `spec` of a BlockAffinity.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BlockAffinitySpec {
    /// `pending`, `confirmed`, `pendingDeletion`.
    #[serde(default, deserialize_with = "nullable")]
    pub state: String,
    /// The node, or `load-balancer`.
    #[serde(default, deserialize_with = "nullable")]
    pub node: String,
    /// `host` or `virtual`; empty is host.
    #[serde(default, rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// The block.
    pub cidr: IpNet,
    /// `"true"` or `"false"`: a text in the stored form.
    #[serde(default)]
    pub deleted: Scalar,
}

/// Felix's configuration: `default` for all nodes, `node.<name>` for one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct FelixConfiguration {
    /// Metadata.
    pub metadata: Meta,
    /// Every key as text; Felix parses its parameters from text too.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: BTreeMap<String, Scalar>,
}

/// BGP configuration: `default`, or `node.<name>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct BgpConfiguration {
    /// Metadata.
    pub metadata: Meta,
    /// Every key as text.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: BTreeMap<String, Scalar>,
}

/// What Calico says about the cluster as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct ClusterInformation {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(default, deserialize_with = "nullable")]
    pub spec: ClusterInformationSpec,
}

/// `spec` of ClusterInformation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// `v3.31.7`.
    #[serde(default, deserialize_with = "nullable")]
    pub calico_version: String,
}
