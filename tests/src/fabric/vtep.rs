//! A node's end of the VXLAN tunnel of one family: the same attributes for IPv4 and for IPv6, by Calico's names. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::plan::{FabricSpec, Node, TUNNEL_DEVICE, TUNNEL_DEVICE_V6};

/// Family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IpFamily {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

impl IpFamily {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// What a node has of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// the tunnel device's name
    pub device: &'static str,
    /// the node's address on the underlay, the outer one of its tunnel packets
    pub host_ip: IpAddr,
    /// the tunnel device's address
    pub tunnel_ip: IpAddr,
    /// the tunnel device's MAC
    pub mac: [u8; 6],
    /// the tunnel device's MTU
    pub mtu_bytes: u32,
    /// blocks affine to the node
    pub blocks: Vec<IpNet>,
}

/// A node's end of the tunnel of a family; none where the fabric has no such pool. To be asked of VXLAN fabrics.
#[must_use]
pub fn vtep(spec: &FabricSpec, node: &Node, family: IpFamily) -> Option<Vtep> {
    match family {
        IpFamily::V4 => Some(Vtep {
            device: TUNNEL_DEVICE,
            host_ip: node.host_ip.into(),
            tunnel_ip: node.tunnel_ip.into(),
            mac: node.vtep_mac,
            mtu_bytes: spec.tunnel_mtu_bytes(),
            blocks: node.blocks.iter().copied().map(IpNet::V4).collect(),
        }),
        IpFamily::V6 => node.v6.as_ref().map(|v6| Vtep {
            device: TUNNEL_DEVICE_V6,
            host_ip: v6.host_ip.into(),
            tunnel_ip: v6.tunnel_ip.into(),
            mac: v6.vtep_mac,
            mtu_bytes: spec.tunnel_mtu_v6_bytes(),
            blocks: v6.blocks.iter().copied().map(IpNet::V6).collect(),
        }),
    }
}
