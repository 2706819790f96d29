//! Addresses of links.

use std::net::IpAddr;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
};

use super::{FAMILIES, Rtnl, family_of};

impl Rtnl {
    fn address(&mut self, link: &str, address: IpNet) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        let ip = address.addr();
        message.header.family = family_of(ip);
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(link)?;
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        Ok(message)
    }

    /// Gives a link an address (scope global). Having it already is fine. An IPv6 address is not looked for at others first (duplicate
    /// address detection), which takes a second: the plan has no duplicates.
    pub fn add_address(&mut self, link: &str, address: impl Into<IpNet>) -> Result<()> {
        let address = address.into();
        let mut message = self.address(link, address)?;
        if address.addr().is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("add address {address} to {link}"))
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, link: &str, address: impl Into<IpNet>) -> Result<()> {
        let address = address.into();
        let message = self.address(link, address)?;
        self.request(RouteNetlinkMessage::DelAddress(message), 0)
            .with_context(|| format!("delete address {address} of {link}"))
    }

    /// All addresses but IPv6's link-local ones, which the kernel gives by itself: index of the link, address with prefix length.
    pub fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>> {
        let mut all = self.all_addresses()?;
        all.retain(|(_, address, _)| !is_link_local(address.addr()));
        Ok(all.into_iter().map(|(link, address, _)| (link, address)).collect())
    }

    /// Whether a link has the link-local address of IPv6 and may use it: while it is tentative nobody is answered there.
    pub fn has_link_local(&mut self, link: &str) -> Result<bool> {
        let index = self.index(link)?;
        let all = self.all_addresses()?;
        Ok(all
            .iter()
            .any(|(of, address, usable)| *of == index && is_link_local(address.addr()) && *usable))
    }

    /// Every address, and whether it is past duplicate address detection.
    fn all_addresses(&mut self) -> Result<Vec<(u32, IpNet, bool)>> {
        let mut all = Vec::new();
        for family in FAMILIES {
            let mut message = AddressMessage::default();
            message.header.family = family;
            for message in self.dump(&RouteNetlinkMessage::GetAddress(message))? {
                let RouteNetlinkMessage::NewAddress(message) = message else {
                    continue;
                };
                // A kernel without IPv6 answers with whatever it has.
                if message.header.family != family {
                    continue;
                }
                let mut local = None;
                let mut address = None;
                for attribute in &message.attributes {
                    match attribute {
                        AddressAttribute::Local(ip) => local = Some(*ip),
                        // IPv6 has no IFA_LOCAL without a peer.
                        AddressAttribute::Address(ip) => address = Some(*ip),
                        _ => {}
                    }
                }
                if let Some(ip) = local.or(address) {
                    let usable = !message.header.flags.contains(AddressHeaderFlags::Tentative);
                    all.push((message.header.index, IpNet::new(ip, message.header.prefix_len)?, usable));
                }
            }
        }
        Ok(all)
    }
}

/// Whether it is IPv6's `fe80::/10`.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// `address/32`, or `address/128`.
#[must_use]
pub fn host_net(address: impl Into<IpAddr>) -> IpNet {
    IpNet::from(address.into())
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::AddressFamily;

    use super::*;

    #[test]
    fn families_and_lengths_follow_the_address() {
        assert_eq!(host_net([10, 0, 0, 1]).to_string(), "10.0.0.1/32");
        assert_eq!(host_net([0xfd00, 0, 0, 0, 0, 0, 0, 1]).to_string(), "fd00::1/128");
        assert_eq!(family_of([10, 0, 0, 1].into()), AddressFamily::Inet);
        assert_eq!(family_of([0xfd00, 0, 0, 0, 0, 0, 0, 1].into()), AddressFamily::Inet6);
        assert!(is_link_local([0xfe80, 0, 0, 0, 0, 0, 0, 1].into()));
        assert!(!is_link_local([169, 254, 1, 1].into()));
    }
}
