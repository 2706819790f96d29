//! Clusters of any size for measurements and tests: VXLAN everywhere, one block per node, addresses as IPAM would give them.

use super::objects::{
    AllocationAttributes, BlockAffinity, BlockAffinitySpec, ClusterInformation, ClusterInformationSpec, Condition, DaemonSet,
    EncapsulationMode, FelixConfiguration, Group, IpPool, IpPoolSpec, IpamBlock, IpamBlockSpec, Meta, Node, NodeStatus, Object, Objects,
    OwnerReference, Pod, PodIp, PodSpec, PodStatus, Scalar,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec,
    vec::Vec,
};
use core::net::Ipv4Addr;
use ipnet::{IpNet, Ipv4Net};

/// Prefix length of the blocks.
const BLOCK_PREFIX_LEN: u8 = 26;
/// Addresses of a block.
const BLOCK_SIZE: u32 = 64;

/// Name of the `n`th node.
pub fn node_name(n: u32) -> String {
    format!("node-{n:05}")
}

fn meta(namespace: &str, name: String) -> Meta {
    Meta {
        name,
        namespace: namespace.to_string(),
        ..Meta::default()
    }
}

/// The block of the `n`th node, in `10.0.0.0/8`.
pub fn block_of(n: u32) -> Ipv4Net {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0)).wrapping_add(n.wrapping_mul(BLOCK_SIZE));
    Ipv4Net::new_assert(Ipv4Addr::from(base), BLOCK_PREFIX_LEN)
}

/// Address of the `i`th pod of the `n`th node: the first of the block is the tunnel's.
pub fn pod_ip(n: u32, i: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(block_of(n).network()).wrapping_add(i + 1))
}

/// The `n`th node.
pub fn node(n: u32) -> Object {
    let mut metadata = meta("", node_name(n));
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 2)).wrapping_add(n));
    let annotations = [
        ("projectcalico.org/IPv4Address", format!("{host}/12")),
        ("projectcalico.org/IPv4VXLANTunnelAddr", block_of(n).network().to_string()),
    ];
    metadata.annotations = annotations.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
    let condition = |kind: &str, status: &str, reason: &str| Condition {
        kind: kind.to_string(),
        status: status.to_string(),
        reason: reason.to_string(),
    };
    Object::Node(Node {
        metadata,
        status: NodeStatus {
            conditions: vec![
                condition("Ready", "True", "KubeletReady"),
                condition("NetworkUnavailable", "False", "CalicoIsUp"),
            ],
            ..NodeStatus::default()
        },
        ..Node::default()
    })
}

/// The `i`th pod of the `n`th node.
pub fn pod(n: u32, i: u32) -> Object {
    let mut metadata = meta("default", format!("pod-{n:05}-{i:03}"));
    metadata.owner_references = vec![OwnerReference {
        kind: "ReplicaSet".to_string(),
        name: format!("app-{}", n % 100),
        controller: true,
    }];
    let ip = pod_ip(n, i).to_string();
    Object::Pod(Pod {
        metadata,
        spec: PodSpec {
            node_name: node_name(n),
            ..PodSpec::default()
        },
        status: PodStatus {
            phase: "Running".to_string(),
            pod_ip: ip.clone(),
            pod_ips: vec![PodIp { ip }],
            conditions: vec![Condition {
                kind: "Ready".to_string(),
                status: "True".to_string(),
                reason: String::new(),
            }],
            ..PodStatus::default()
        },
    })
}

/// The `n`th node's block, with the tunnel's address and those of `pods` pods allocated.
pub fn block(n: u32, pods: u32) -> Object {
    let net = block_of(n);
    let taken = (pods as usize + 1).min(BLOCK_SIZE as usize);
    let mut allocations: Vec<Option<usize>> = (0..taken).map(Some).collect();
    allocations.resize(BLOCK_SIZE as usize, None);
    let attributes = AllocationAttributes {
        handle_id: None,
        secondary: BTreeMap::from([("node".to_string(), node_name(n))]),
    };
    Object::IpamBlock(IpamBlock {
        metadata: meta("", net.to_string().replace(['.', '/'], "-")),
        spec: IpamBlockSpec {
            cidr: IpNet::V4(net),
            affinity: Some(format!("host:{}", node_name(n))),
            allocations,
            attributes: vec![attributes; taken],
            deleted: false,
        },
    })
}

fn affinity(n: u32) -> Object {
    let net = block_of(n);
    Object::BlockAffinity(BlockAffinity {
        metadata: meta("", format!("{}-{}", node_name(n), net.to_string().replace(['.', '/'], "-"))),
        spec: BlockAffinitySpec {
            state: "confirmed".to_string(),
            node: node_name(n),
            kind: "host".to_string(),
            cidr: IpNet::V4(net),
            deleted: Scalar("false".to_string()),
        },
    })
}

/// A cluster of `nodes` nodes with `pods_per_node` pods (63 at most) each.
pub fn synthetic(nodes: u32, pods_per_node: u32) -> Objects {
    let mut objects = Objects::default();
    let pods_per_node = pods_per_node.min(BLOCK_SIZE - 1);
    let pool = Object::IpPool(IpPool {
        metadata: meta("", "default-ipv4-ippool".to_string()),
        spec: IpPoolSpec {
            cidr: IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
            block_size: Some(BLOCK_PREFIX_LEN),
            ipip_mode: EncapsulationMode::Never,
            vxlan_mode: EncapsulationMode::Always,
            nat_outgoing: true,
            disabled: false,
            node_selector: "all()".to_string(),
            allowed_uses: Vec::new(),
        },
    });
    let felix = Object::FelixConfiguration(FelixConfiguration {
        metadata: meta("", "default".to_string()),
        spec: BTreeMap::from([("vxlanVNI".to_string(), Scalar("4096".to_string()))]),
    });
    let information = Object::ClusterInformation(ClusterInformation {
        metadata: meta("", "default".to_string()),
        spec: ClusterInformationSpec {
            calico_version: "v3.29.7".to_string(),
        },
    });
    let daemon_set = Object::DaemonSet(DaemonSet {
        metadata: meta("calico-system", "calico-node".to_string()),
        ..DaemonSet::default()
    });
    let of_node = |n: u32| {
        let pods = (0..pods_per_node).map(move |i| pod(n, i));
        [node(n), block(n, pods_per_node), affinity(n)].into_iter().chain(pods)
    };
    let all = [pool, felix, information, daemon_set]
        .into_iter()
        .chain((0..nodes).flat_map(of_node));
    for object in all {
        // Names are unique, so nothing can conflict; if it did, the first would stay.
        if objects.insert(Group::Stored, object).is_err() {
            break;
        }
    }
    objects
}
