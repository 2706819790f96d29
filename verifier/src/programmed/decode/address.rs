//! Addresses: `RTM_NEWADDR`, `struct ifaddrmsg`.

use super::prefix;
use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use verifier_core::programmed::Address;

/// `RTM_NEWADDR`.
pub const NEW: u16 = 20;
const GET: u16 = 22;

/// Dump of the addresses of one family.
pub fn request(family: u8) -> Request {
    Request::dump(GET, &[family, 0, 0, 0, 0, 0, 0, 0])
}

/// Decode one of `family`.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(family: u8, kind: u16, message: &[u8]) -> Result<Option<Address>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let header = attr::head::<8>("ifaddrmsg", message)?;
    let [found, length, _flags, scope, ..] = header;
    if found != family {
        return Ok(None);
    }
    let index = attr::u32_of("ifaddrmsg index", &header[4..])?;
    let (mut address, mut local) = (None, None);
    for attr in attrs(&message[8..]) {
        match attr? {
            (1, value) => address = Some(attr::ip_of("IFA_ADDRESS", value)?),
            (2, value) => local = Some(attr::ip_of("IFA_LOCAL", value)?),
            _ => {}
        }
    }
    // On a point-to-point link IFA_ADDRESS is the peer's address and IFA_LOCAL ours; IPv6 without a peer has IFA_ADDRESS alone.
    let ip = local.or(address).ok_or(Malformed::Missing { part: "IFA_ADDRESS" })?;
    Ok(Some(Address {
        index,
        ip: prefix("ifa_prefixlen", ip.is_ipv6(), Some(ip), length)?,
        scope,
    }))
}
