//! Interface configuration: `RTM_NEWNETCONF`, `include/uapi/linux/netconf.h`. One dump instead of a thousand sysctl files.

use super::{AF_INET, AF_INET6};
use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use verifier_core::programmed::{Netconf, NetconfScope};

/// `RTM_NEWNETCONF`.
pub const NEW: u16 = 80;
const GET: u16 = 82;

/// Dump of one family.
pub fn request(family: u8) -> Request {
    // The header is one byte; strict checking counts its padding.
    Request::dump(GET, &[family, 0, 0, 0])
}

/// Decode one of `family`.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(family: u8, kind: u16, message: &[u8]) -> Result<Option<Netconf>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let [found] = attr::head::<1>("netconfmsg", message)?;
    if found != family || !matches!(family, AF_INET | AF_INET6) {
        return Ok(None);
    }
    let mut scope = None;
    let mut netconf = Netconf {
        scope: NetconfScope::All,
        v6: family == AF_INET6,
        forwarding: None,
        rp_filter: None,
        proxy_neigh: None,
    };
    // `struct netconfmsg` is one byte; the attributes start at the next boundary.
    for attr in attrs(message.get(4..).unwrap_or(&[])) {
        let (kind, value) = attr?;
        match kind {
            1 => {
                let index = attr::i32_of("NETCONFA_IFINDEX", value)?;
                scope = Some(match index {
                    -1 => NetconfScope::All,
                    -2 => NetconfScope::Default,
                    index => NetconfScope::Link(u32::try_from(index).map_err(|_| Malformed::Value {
                        part: "NETCONFA_IFINDEX",
                        value: u64::from(index.unsigned_abs()),
                    })?),
                });
            }
            2 => netconf.forwarding = Some(attr::i32_of("NETCONFA_FORWARDING", value)? != 0),
            3 => {
                let mode = attr::i32_of("NETCONFA_RP_FILTER", value)?;
                // The sysctl takes any number; the kernel treats all but 0 and 1 as loose (`__fib_validate_source`).
                netconf.rp_filter = Some(u8::try_from(mode).unwrap_or(2).min(2));
            }
            5 => netconf.proxy_neigh = Some(attr::i32_of("NETCONFA_PROXY_NEIGH", value)? != 0),
            _ => {}
        }
    }
    netconf.scope = scope.ok_or(Malformed::Missing { part: "NETCONFA_IFINDEX" })?;
    Ok(Some(netconf))
}
