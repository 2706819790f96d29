//! What the cluster keeps of each object: parsed, and no more than the computation needs. With 250,000 pods the difference counts.

mod ipam;
mod node;
mod pod;

pub(crate) use ipam::*;
pub(crate) use node::*;
pub(crate) use pod::*;

use core::net::IpAddr;
use ipnet::IpNet;

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) const fn of(ip: &IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) const fn of_net(net: &IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }
}

/// The host route to one address.
pub(crate) fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

/// Whether a prefix is a single address.
pub(crate) fn is_host_length(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

/// The address of a single-address prefix.
pub(crate) fn single_address(net: &IpNet) -> Option<IpAddr> {
    is_host_length(net).then(|| net.addr())
}
