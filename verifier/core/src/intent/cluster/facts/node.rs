//! Nodes: addresses and tunnel addresses by Calico's annotations, claims by their conditions (calico.md 3.5).

use super::{Family, host_net};
use crate::{
    intent::{derive, objects},
    names::{Mac, NodeName},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// A node's address in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostAddress {
    pub(crate) ip: IpAddr,
    /// Its subnet by the annotation's mask; a single address where it has none.
    pub(crate) net: IpNet,
    /// From Calico's annotation. An address that is only Kubernetes' serves as next hop but makes no VTEP (calico.md 3.5).
    pub(crate) annotated: bool,
}

/// A tunnel address as the annotation has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum TunnelAddress {
    #[default]
    Missing,
    /// Not an address of that family.
    Unreadable(String),
    At(IpAddr),
}

impl TunnelAddress {
    pub(crate) const fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::At(ip) => Some(*ip),
            Self::Missing | Self::Unreadable(_) => None,
        }
    }
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeFacts {
    pub(crate) host4: Option<HostAddress>,
    pub(crate) host6: Option<HostAddress>,
    pub(crate) vxlan4: TunnelAddress,
    pub(crate) vxlan6: TunnelAddress,
    pub(crate) ipip4: TunnelAddress,
    pub(crate) mac4: Mac,
    pub(crate) mac6: Mac,
    pub(crate) ready: Option<bool>,
    pub(crate) network_unavailable: Option<bool>,
    pub(crate) network_reason: Option<String>,
    pub(crate) unschedulable: bool,
    pub(crate) kubernetes: Option<(u16, u16)>,
    /// Annotations that cannot be read, in words.
    pub(crate) unreadable: Vec<String>,
}

impl NodeFacts {
    pub(crate) fn of(name: &NodeName, node: &objects::Node) -> Self {
        let mut unreadable = Vec::new();
        let annotation = |key: &str| node.metadata.annotation(key).filter(|text| !text.is_empty());
        let mut mac = |key: &str, derived: Mac| match annotation(key).map(|text| (text, text.parse::<Mac>())) {
            None => derived,
            Some((_, Ok(mac))) => mac,
            Some((text, Err(_))) => {
                unreadable.push(format!(
                    "annotation {key} of node {name} is {text:?}, which is not an Ethernet address"
                ));
                derived
            }
        };
        let mac4 = mac("projectcalico.org/VXLANTunnelMACAddr", derive::vtep_mac(name));
        let mac6 = mac("projectcalico.org/VXLANTunnelMACAddrV6", derive::vtep_mac_v6(name));
        let mut host = |key: &str, family: Family| {
            let text = annotation(key)?;
            let found = host_address(text).filter(|h| Family::of(&h.ip) == family);
            if found.is_none() {
                unreadable.push(format!(
                    "annotation {key} of node {name} is {text:?}, which is not an address of that family"
                ));
            }
            found
        };
        let (mut host4, mut host6) = (
            host("projectcalico.org/IPv4Address", Family::V4),
            host("projectcalico.org/IPv6Address", Family::V6),
        );
        if host4.is_none() && host6.is_none() {
            host4 = kubernetes_address(node, Family::V4);
            host6 = kubernetes_address(node, Family::V6);
        }
        let tunnel = |key: &str, family: Family| match annotation(key) {
            None => TunnelAddress::Missing,
            Some(text) => match text.parse::<IpAddr>() {
                Ok(ip) if Family::of(&ip) == family => TunnelAddress::At(ip),
                _ => TunnelAddress::Unreadable(text.to_string()),
            },
        };
        let condition = |kind: &str| node.status.conditions.iter().find(|c| c.kind == kind);
        let holds = |kind: &str| condition(kind).and_then(|c| truth(&c.status));
        Self {
            host4,
            host6,
            vxlan4: tunnel("projectcalico.org/IPv4VXLANTunnelAddr", Family::V4),
            vxlan6: tunnel("projectcalico.org/IPv6VXLANTunnelAddr", Family::V6),
            ipip4: tunnel("projectcalico.org/IPv4IPIPTunnelAddr", Family::V4),
            mac4,
            mac6,
            ready: holds("Ready"),
            network_unavailable: holds("NetworkUnavailable"),
            network_reason: condition("NetworkUnavailable").map(|c| c.reason.clone()).filter(|r| !r.is_empty()),
            unschedulable: node.spec.unschedulable,
            kubernetes: minor_version(&node.status.node_info.kubelet_version),
            unreadable,
        }
    }

    pub(crate) const fn host(&self, family: Family) -> Option<&HostAddress> {
        match family {
            Family::V4 => self.host4.as_ref(),
            Family::V6 => self.host6.as_ref(),
        }
    }

    pub(crate) const fn vxlan(&self, family: Family) -> &TunnelAddress {
        match family {
            Family::V4 => &self.vxlan4,
            Family::V6 => &self.vxlan6,
        }
    }

    /// The VTEP of one family: it exists only with the annotation of the node's address *and* the tunnel address (calico.md 3.8, step 3).
    pub(crate) fn vtep(&self, family: Family) -> Option<Vtep> {
        let host = self.host(family).filter(|h| h.annotated)?;
        Some(Vtep {
            tunnel_ip: self.vxlan(family).ip()?,
            mac: match family {
                Family::V4 => self.mac4,
                Family::V6 => self.mac6,
            },
            host_ip: host.ip,
        })
    }

    /// Whether what other nodes compute from this one differs.
    pub(crate) fn same_dataplane(&self, other: &Self) -> bool {
        self.host4 == other.host4
            && self.host6 == other.host6
            && self.vxlan4 == other.vxlan4
            && self.vxlan6 == other.vxlan6
            && self.ipip4 == other.ipip4
            && self.mac4 == other.mac4
            && self.mac6 == other.mac6
            && self.unreadable == other.unreadable
    }

    /// Every tunnel address.
    pub(crate) fn tunnel_addresses(&self) -> impl Iterator<Item = IpAddr> {
        [&self.vxlan4, &self.vxlan6, &self.ipip4].into_iter().filter_map(TunnelAddress::ip)
    }

    /// Every address the node itself has by its annotations.
    pub(crate) fn host_addresses(&self) -> impl Iterator<Item = IpAddr> {
        [&self.host4, &self.host6].into_iter().filter_map(|h| h.as_ref().map(|h| h.ip))
    }
}

/// A VXLAN tunnel end point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vtep {
    pub(crate) tunnel_ip: IpAddr,
    pub(crate) mac: Mac,
    pub(crate) host_ip: IpAddr,
}

fn host_address(text: &str) -> Option<HostAddress> {
    let (ip, net) = match text.parse::<IpNet>() {
        Ok(net) => (net.addr(), net.trunc()),
        Err(_) => {
            let ip = text.parse::<IpAddr>().ok()?;
            (ip, host_net(ip))
        }
    };
    Some(HostAddress { ip, net, annotated: true })
}

fn kubernetes_address(node: &objects::Node, family: Family) -> Option<HostAddress> {
    ["InternalIP", "ExternalIP"].into_iter().find_map(|kind| {
        let mut of_kind = node.status.addresses.iter().filter(|a| a.kind == kind);
        of_kind.find_map(|a| {
            let ip = a.address.parse::<IpAddr>().ok().filter(|ip| Family::of(ip) == family)?;
            Some(HostAddress {
                ip,
                net: host_net(ip),
                annotated: false,
            })
        })
    })
}

fn truth(status: &str) -> Option<bool> {
    match status {
        "True" => Some(true),
        "False" => Some(false),
        _ => None,
    }
}

/// `v1.33.4-eks-abc` as (1, 33).
fn minor_version(text: &str) -> Option<(u16, u16)> {
    let mut parts = text.trim_start_matches('v').split('.');
    let mut number = || parts.next()?.parse::<u16>().ok(); // what is no number is no version
    Some((number()?, number()?))
}
