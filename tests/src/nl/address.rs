//! IPv4 addresses of links.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use super::Rtnl;

impl Rtnl {
    fn address(&mut self, link: &str, address: Ipv4Net) -> Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = address.prefix_len();
        message.header.index = self.index(link)?;
        let ip = IpAddr::V4(address.addr());
        message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];
        Ok(message)
    }

    /// Gives a link an address (scope global). Having it already is fine.
    pub fn add_address(&mut self, link: &str, address: Ipv4Net) -> Result<()> {
        let message = self.address(link, address)?;
        self.request(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("add address {address} to {link}"))
    }

    /// Takes an address from a link.
    pub fn delete_address(&mut self, link: &str, address: Ipv4Net) -> Result<()> {
        let message = self.address(link, address)?;
        self.request(RouteNetlinkMessage::DelAddress(message), 0)
            .with_context(|| format!("delete address {address} of {link}"))
    }

    /// All IPv4 addresses: index of the link, address with prefix length.
    pub fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        let dump = self.dump(&RouteNetlinkMessage::GetAddress(message))?;
        let mut all = Vec::new();
        for message in dump {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                continue;
            };
            for attribute in &message.attributes {
                if let AddressAttribute::Local(IpAddr::V4(ip)) = attribute {
                    all.push((message.header.index, Ipv4Net::new(*ip, message.header.prefix_len)?));
                }
            }
        }
        Ok(all)
    }
}

/// `address/32`.
#[must_use]
pub fn host_net(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}
