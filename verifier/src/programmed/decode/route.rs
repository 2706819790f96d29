//! Routes: `RTM_NEWROUTE`, `struct rtmsg`, attributes of `include/uapi/linux/rtnetlink.h`.

use super::{AF_INET, AF_INET6, prefix};
use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use std::net::IpAddr;
use verifier_core::programmed::{NextHop, Route, RouteKind};

/// `RTM_NEWROUTE`.
pub const NEW: u16 = 24;
/// `RTM_GETROUTE`.
pub const GET: u16 = 26;

const RTNH_F_DEAD: u32 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// Dump of the routes of one family, every table. Strict checking keeps the cached exceptions out.
pub fn request(family: u8) -> Request {
    let mut header = [0; 12];
    header[0] = family;
    Request::dump(GET, &header)
}

/// Decode one of `family`.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(family: u8, kind: u16, message: &[u8]) -> Result<Option<Route>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let header = attr::head::<12>("rtmsg", message)?;
    let [found, dst_length, src_length, tos, table, protocol, scope, kind, ..] = header;
    if found != family || !matches!(found, AF_INET | AF_INET6) {
        return Ok(None);
    }
    let v6 = family == AF_INET6;
    let flags = attr::u32_of("rtmsg flags", &header[8..])?;
    let mut hop = NextHop {
        gateway: None,
        oif: None,
        onlink: flags & RTNH_F_ONLINK != 0,
        dead: flags & RTNH_F_DEAD != 0,
        weight: 1,
    };
    let mut next_hops = Vec::new();
    let (mut dst, mut src) = (None, None);
    let mut route = Route {
        table: u32::from(table),
        dst: prefix("rtm_dst_len", v6, None, 0)?,
        src: None,
        tos,
        priority: 0,
        kind: route_kind(kind),
        next_hops: Vec::new(),
        prefsrc: None,
        protocol,
        scope,
        mtu: None,
    };
    for attr in attrs(&message[12..]) {
        let (kind, value) = attr?;
        match kind {
            1 => dst = Some(attr::ip_of("RTA_DST", value)?),
            2 => src = Some(attr::ip_of("RTA_SRC", value)?),
            4 => hop.oif = Some(attr::u32_of("RTA_OIF", value)?).filter(|i| *i != 0),
            5 => hop.gateway = Some(attr::ip_of("RTA_GATEWAY", value)?),
            6 => route.priority = attr::u32_of("RTA_PRIORITY", value)?,
            7 => route.prefsrc = Some(attr::ip_of("RTA_PREFSRC", value)?),
            8 => route.mtu = metric_mtu(value)?,
            9 => next_hops = multipath(value)?,
            15 => route.table = attr::u32_of("RTA_TABLE", value)?,
            18 => hop.gateway = via(value)?,
            _ => {}
        }
    }
    route.dst = prefix("rtm_dst_len", v6, dst, dst_length)?;
    if src_length != 0 {
        route.src = Some(prefix("rtm_src_len", v6, src, src_length)?);
    }
    // The IPv6 blackholes hang on `lo` for the kernel's own convenience; they have no next hop.
    let forwards = !matches!(
        route.kind,
        RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw
    );
    route.next_hops = match (forwards, next_hops.is_empty()) {
        (false, _) => Vec::new(),
        (true, true) => vec![hop],
        (true, false) => next_hops,
    };
    Ok(Some(route))
}

const fn route_kind(kind: u8) -> RouteKind {
    match kind {
        1 => RouteKind::Unicast,
        2 => RouteKind::Local,
        3 => RouteKind::Broadcast,
        4 => RouteKind::Anycast,
        5 => RouteKind::Multicast,
        6 => RouteKind::Blackhole,
        7 => RouteKind::Unreachable,
        8 => RouteKind::Prohibit,
        9 => RouteKind::Throw,
        other => RouteKind::Other(other),
    }
}

/// `RTA_METRICS`, of which `RTAX_MTU` is 2.
fn metric_mtu(value: &[u8]) -> Result<Option<u32>, Malformed> {
    for attr in attrs(value) {
        if let (2, value) = attr? {
            return attr::u32_of("RTAX_MTU", value).map(Some);
        }
    }
    Ok(None)
}

/// `struct rtvia`: a gateway of another family than the route's.
fn via(value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    attr::u16_of("RTA_VIA", value)?;
    attr::ip_of("RTA_VIA", &value[2..]).map(Some)
}

/// `RTA_MULTIPATH`: a list of `struct rtnexthop`, each with attributes behind it.
fn multipath(mut value: &[u8]) -> Result<Vec<NextHop>, Malformed> {
    let mut hops = Vec::new();
    while !value.is_empty() {
        let header = attr::head::<8>("rtnexthop", value)?;
        let length = usize::from(attr::u16_of("rtnh_len", &header)?);
        let own = value.get(8..length).ok_or(Malformed::Attributes)?;
        let [_, _, flags, hops_less_one, ..] = header;
        let mut hop = NextHop {
            gateway: None,
            oif: Some(attr::u32_of("rtnh_ifindex", &header[4..])?).filter(|i| *i != 0),
            onlink: u32::from(flags) & RTNH_F_ONLINK != 0,
            dead: u32::from(flags) & RTNH_F_DEAD != 0,
            weight: u16::from(hops_less_one) + 1,
        };
        for attr in attrs(own) {
            match attr? {
                (5, value) => hop.gateway = Some(attr::ip_of("RTA_GATEWAY", value)?),
                (18, value) => hop.gateway = via(value)?,
                _ => {}
            }
        }
        hops.push(hop);
        value = value.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(hops)
}
