//! From netlink messages to the core's typed state, one file per kind of object.
//!
//! A decoder gets the payload of one message. It returns `None` for an object that was not asked for, and an error only if the message
//! contradicts itself; attributes that are not known are passed over, values that are not known are kept as numbers.

pub mod address;
pub mod link;
pub mod neighbor;
pub mod netconf;
pub mod route;
pub mod rule;

use super::netlink::attr::Malformed;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `AF_INET` as it stands in message headers.
pub const AF_INET: u8 = 2;
/// `AF_BRIDGE`.
pub const AF_BRIDGE: u8 = 7;
/// `AF_INET6`.
pub const AF_INET6: u8 = 10;

/// A prefix; without an address it is the one that matches everything.
pub(crate) fn prefix(part: &'static str, v6: bool, address: Option<IpAddr>, length: u8) -> Result<IpNet, Malformed> {
    let address = address.unwrap_or(if v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    });
    IpNet::new(address, length).map_err(|_| Malformed::Value {
        part,
        value: u64::from(length),
    })
}
