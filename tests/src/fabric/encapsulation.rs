//! How pod traffic travels between the fabric's nodes: the modes of Calico's pools, and what each means for one pair of nodes. Pure.

use std::fmt;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Node, plan::POOL_BARE};

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
    /// two pools, as in a migration: one of `vxlanMode: Always`, and one without encapsulation, whose routes are BIRD's and in which every
    /// second pod is
    VxlanAndNone,
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
    pub const ALL: [Self; 8] = [
        Self::Vxlan,
        Self::VxlanCrossSubnet,
        Self::VxlanDualStack,
        Self::VxlanAndNone,
        Self::Ipip,
        Self::IpipCrossSubnet,
        Self::None,
        Self::NoneDualStack,
    ];

    /// As the command line calls it.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

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

    /// Whether there is a second pool of IPv4, without encapsulation ([`POOL_BARE`]).
    #[must_use]
    pub const fn is_mixed(self) -> bool {
        matches!(self, Self::VxlanAndNone)
    }

    /// What the pool's tunnel is; [`Carrier::Bare`] for none.
    #[must_use]
    pub const fn tunnel(self) -> Carrier {
        match self {
            Self::Vxlan | Self::VxlanCrossSubnet | Self::VxlanDualStack | Self::VxlanAndNone => Carrier::Vxlan,
            Self::Ipip | Self::IpipCrossSubnet => Carrier::Ipip,
            Self::None | Self::NoneDualStack => Carrier::Bare,
        }
    }

    /// What a packet from `one` to an address of `other`'s travels in: the pool of its destination decides.
    #[must_use]
    pub fn between(self, one: &Node, other: &Node, dst: impl Into<IpNet>) -> Carrier {
        if (self.crosses_subnets() && one.subnet == other.subnet) || self.in_bare_pool(dst) {
            Carrier::Bare
        } else {
            self.tunnel()
        }
    }

    fn in_bare_pool(self, dst: impl Into<IpNet>) -> bool {
        let pool: Result<IpNet, _> = POOL_BARE.parse();
        self.is_mixed() && pool.is_ok_and(|pool| pool.contains(&dst.into()))
    }

    /// Whether the routes to these addresses are BIRD's.
    #[must_use]
    pub fn by_bird(self, dst: impl Into<IpNet>) -> bool {
        self.is_birds() || self.in_bare_pool(dst)
    }

    /// Whether BIRD runs at all.
    #[must_use]
    pub const fn has_bird(self) -> bool {
        self.is_birds() || self.is_mixed()
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

    /// Whether BIRD programs all routes between nodes, as it does for all but VXLAN pools by default until 3.32.
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

    /// `vxlanMode` and `ipipMode` of the (first) pool of IPv4; IPv6's has the same `vxlanMode`, and there is no IPIP for it.
    #[must_use]
    pub const fn pool_modes(self) -> (&'static str, &'static str) {
        match self {
            Self::Vxlan | Self::VxlanDualStack | Self::VxlanAndNone => ("Always", "Never"),
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
            Self::VxlanAndNone => "VXLAN beside unencapsulated",
            Self::Ipip => "IPIP",
            Self::IpipCrossSubnet => "IPIP across subnets",
            Self::None => "unencapsulated",
            Self::NoneDualStack => "unencapsulated, both families",
        })
    }
}
