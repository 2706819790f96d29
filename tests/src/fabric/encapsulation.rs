//! How pod traffic travels between the fabric's nodes: the modes of Calico's pools, and what each means for one pair of nodes. Pure.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::Node;

/// Mode of the fabric's pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Encapsulation {
    /// `vxlanMode: Always`
    #[default]
    Vxlan,
    /// `vxlanMode: CrossSubnet`; every third node is in another subnet
    VxlanCrossSubnet,
    /// `vxlanMode: Always` for a pool of IPv4 and one of IPv6: every node and pod has an address of each
    VxlanDualStack,
    /// `ipipMode: Always`, routes by BIRD
    Ipip,
    /// `ipipMode: CrossSubnet`, routes by BIRD; every third node is in another subnet
    IpipCrossSubnet,
    /// neither, routes by BIRD
    None,
    /// neither, for a pool of IPv4 and one of IPv6: every node and pod has an address of each, routes by BIRD
    NoneDualStack,
}

/// What a packet between two nodes travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// VXLAN
    Vxlan,
    /// IP in IP
    Ipip,
    /// as it is
    Bare,
}

/// Bytes that VXLAN over IPv6 takes from the underlay's MTU (`mtu_defaults`).
pub const OVERHEAD_V6_BYTES: u32 = 70;

impl Encapsulation {
    /// All modes.
    pub const ALL: [Self; 7] = [
        Self::Vxlan,
        Self::VxlanCrossSubnet,
        Self::VxlanDualStack,
        Self::Ipip,
        Self::IpipCrossSubnet,
        Self::None,
        Self::NoneDualStack,
    ];

    /// Whether only traffic between subnets is encapsulated; the fabric then has two.
    #[must_use]
    pub const fn crosses_subnets(self) -> bool {
        matches!(self, Self::VxlanCrossSubnet | Self::IpipCrossSubnet)
    }

    /// Whether there is a pool of IPv6 beside the one of IPv4, of the same mode.
    #[must_use]
    pub const fn is_dual_stack(self) -> bool {
        matches!(self, Self::VxlanDualStack | Self::NoneDualStack)
    }

    /// What the pool's tunnel is; [`Carrier::Bare`] for none.
    #[must_use]
    pub const fn tunnel(self) -> Carrier {
        match self {
            Self::Vxlan | Self::VxlanCrossSubnet | Self::VxlanDualStack => Carrier::Vxlan,
            Self::Ipip | Self::IpipCrossSubnet => Carrier::Ipip,
            Self::None | Self::NoneDualStack => Carrier::Bare,
        }
    }

    /// What a packet from `one` to `other` travels in.
    #[must_use]
    pub const fn between(self, one: &Node, other: &Node) -> Carrier {
        if self.crosses_subnets() && one.subnet == other.subnet {
            Carrier::Bare
        } else {
            self.tunnel()
        }
    }

    /// The tunnel's device, if there is one.
    #[must_use]
    pub const fn device(self) -> Option<&'static str> {
        match self.tunnel() {
            Carrier::Vxlan => Some(super::plan::TUNNEL_DEVICE),
            Carrier::Ipip => Some(super::plan::IPIP_DEVICE),
            Carrier::Bare => None,
        }
    }

    /// Whether BIRD programs the routes between nodes, as it does for all but VXLAN pools by default until 3.32.
    #[must_use]
    pub const fn is_birds(self) -> bool {
        !matches!(self.tunnel(), Carrier::Vxlan)
    }

    /// Devices of all its tunnels.
    #[must_use]
    pub fn devices(self) -> Vec<&'static str> {
        self.device().into_iter().chain(self.device_v6()).collect()
    }

    /// The device of IPv6's tunnel, if there is one.
    #[must_use]
    pub const fn device_v6(self) -> Option<&'static str> {
        match (self.is_dual_stack(), self.tunnel()) {
            (true, Carrier::Vxlan) => Some(super::plan::TUNNEL_DEVICE_V6),
            _ => None,
        }
    }

    /// Bytes that the tunnel of IPv4 takes from the underlay's MTU (`mtu_defaults`); IPv6's VXLAN takes [`OVERHEAD_V6_BYTES`].
    #[must_use]
    pub const fn overhead_bytes(self) -> u32 {
        match self.tunnel() {
            Carrier::Vxlan => 50,
            Carrier::Ipip => 20,
            Carrier::Bare => 0,
        }
    }

    /// `vxlanMode` and `ipipMode` of the pool of IPv4; IPv6's has the same `vxlanMode`, and there is no IPIP for it.
    #[must_use]
    pub const fn pool_modes(self) -> (&'static str, &'static str) {
        match self {
            Self::Vxlan | Self::VxlanDualStack => ("Always", "Never"),
            Self::VxlanCrossSubnet => ("CrossSubnet", "Never"),
            Self::Ipip => ("Never", "Always"),
            Self::IpipCrossSubnet => ("Never", "CrossSubnet"),
            Self::None | Self::NoneDualStack => ("Never", "Never"),
        }
    }
}

impl fmt::Display for Encapsulation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vxlan => "VXLAN",
            Self::VxlanCrossSubnet => "VXLAN across subnets",
            Self::VxlanDualStack => "VXLAN of both families",
            Self::Ipip => "IPIP",
            Self::IpipCrossSubnet => "IPIP across subnets",
            Self::None => "unencapsulated",
            Self::NoneDualStack => "unencapsulated, both families",
        })
    }
}
