//! Routes.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType},
};
use serde::{Deserialize, Serialize};

use super::{FAMILIES, Rtnl, address::is_link_local, family_of};

/// Protocol numbers of routes (`rtm_protocol`).
pub mod proto {
    /// `RTPROT_BOOT`: Felix's device route protocol, and what `ip route add` uses.
    pub const BOOT: u8 = 3;
    /// `RTPROT_STATIC`.
    pub const STATIC: u8 = 4;
    /// `RTPROT_BIRD`.
    pub const BIRD: u8 = 12;
    /// Felix's own (`DefaultRouteProto`).
    pub const FELIX: u8 = 80;
}
/// Metric that the kernel gives an IPv6 route without one (`IP6_RT_PRIO_USER`); Felix asks for it by name.
pub const METRIC_V6: u32 = 1024;
/// The main routing table.
pub const TABLE_MAIN: u32 = 254;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RouteKind {
    /// forward it
    Unicast,
    /// drop it silently
    Blackhole,
    /// any other kind, as the kernel's number
    Other(u8),
}

/// One route, with all that Calico sets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Route {
    /// destination
    pub dst: IpNet,
    /// what it does
    pub kind: RouteKind,
    /// next hop
    pub via: Option<IpAddr>,
    /// output device
    pub dev: Option<String>,
    /// the next hop is taken to be on the link
    pub onlink: bool,
    /// scope link rather than global; IPv6 has no scopes here
    pub link_scope: bool,
    /// `rtm_protocol`
    pub protocol: u8,
    /// routing table
    pub table: u32,
    /// metric
    pub priority: u32,
    /// the `mtu` metric
    pub mtu: Option<u32>,
}

impl Route {
    /// A plain unicast route in the main table.
    #[must_use]
    pub fn unicast(dst: impl Into<IpNet>, via: Option<IpAddr>, dev: &str, protocol: u8) -> Self {
        let dst = dst.into();
        let v6 = dst.addr().is_ipv6();
        Self {
            dst,
            kind: RouteKind::Unicast,
            via,
            dev: Some(dev.to_owned()),
            onlink: false,
            link_scope: via.is_none() && !v6,
            protocol,
            table: TABLE_MAIN,
            priority: if v6 { METRIC_V6 } else { 0 },
            mtu: None,
        }
    }

    /// `blackhole DST proto PROTOCOL`; of IPv6 on `lo`, on which the kernel hangs it by itself (`ip6_route_info_create`).
    #[must_use]
    pub fn blackhole(dst: impl Into<IpNet>, protocol: u8) -> Self {
        let mut route = Self::unicast(dst, None, "lo", protocol);
        route.kind = RouteKind::Blackhole;
        route.link_scope = false;
        if route.dst.addr().is_ipv4() {
            route.dev = None;
        }
        route
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Blackhole => write!(f, "blackhole ")?,
            RouteKind::Other(kind) => write!(f, "type {kind} ")?,
        }
        write!(f, "{}", self.dst)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(dev) = &self.dev {
            write!(f, " dev {dev}")?;
        }
        write!(f, " table {} proto {}", self.table, self.protocol)?;
        if self.priority != 0 {
            write!(f, " metric {}", self.priority)?;
        }
        if self.link_scope {
            write!(f, " scope link")?;
        }
        if self.onlink {
            write!(f, " onlink")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        Ok(())
    }
}

impl Rtnl {
    fn route_message(&mut self, route: &Route) -> Result<RouteMessage> {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family_of(route.dst.addr());
        header.destination_prefix_length = route.dst.prefix_len();
        header.table = u8::try_from(route.table).unwrap_or(0);
        header.protocol = RouteProtocol::from(route.protocol);
        header.scope = if route.link_scope { RouteScope::Link } else { RouteScope::Universe };
        header.kind = match route.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Other(kind) => RouteType::from(kind),
        };
        if route.onlink {
            header.flags |= RouteFlags::Onlink;
        }
        let attributes = &mut message.attributes;
        attributes.push(RouteAttribute::Table(route.table));
        if route.dst.prefix_len() > 0 {
            attributes.push(RouteAttribute::Destination(wire(route.dst.network())));
        }
        if let Some(via) = route.via {
            attributes.push(RouteAttribute::Gateway(wire(via)));
        }
        if let Some(dev) = &route.dev {
            let index = self.index(dev)?;
            attributes.push(RouteAttribute::Oif(index));
        }
        if route.priority != 0 {
            attributes.push(RouteAttribute::Priority(route.priority));
        }
        if let Some(mtu) = route.mtu {
            attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
        }
        Ok(message)
    }

    /// Adds a route; one with the same key must not exist.
    pub fn add_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route_message(route)?;
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("add route {route}"))
    }

    /// Adds a route or replaces the one with the same key, in place.
    pub fn replace_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route_message(route)?;
        self.request(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("replace route {route}"))
    }

    /// Deletes a route.
    pub fn delete_route(&mut self, route: &Route) -> Result<()> {
        let message = self.route_message(route)?;
        self.request(RouteNetlinkMessage::DelRoute(message), 0)
            .with_context(|| format!("delete route {route}"))
    }

    /// All routes of all tables except those that the kernel keeps by itself: the table `local`, and IPv6's link-local prefix of each link.
    pub fn routes(&mut self) -> Result<Vec<Route>> {
        let names: Vec<(u32, String)> = self.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        let name_of = |index: u32| {
            names
                .iter()
                .find(|(i, _)| *i == index)
                .map_or_else(|| format!("if{index}"), |(_, name)| name.clone())
        };
        let mut all = Vec::new();
        for family in FAMILIES {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            for message in self.dump(&RouteNetlinkMessage::GetRoute(message))? {
                // A kernel without IPv6 answers with whatever it has.
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && message.header.address_family == family
                {
                    let route = describe(&message, &name_of)?;
                    // Table 255 is `local`; a clone remembers what a path's MTU was found to be.
                    let programmed = route.table != 255 && !message.header.flags.contains(RouteFlags::Cloned);
                    if programmed && !is_link_local(route.dst.addr()) {
                        all.push(route);
                    }
                }
            }
        }
        all.sort();
        Ok(all)
    }
}

/// An address as netlink has it.
fn wire(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn address(wire: &RouteAddress) -> Option<IpAddr> {
    match wire {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn describe(message: &RouteMessage, name_of: &dyn Fn(u32) -> String) -> Result<Route> {
    let header = &message.header;
    let anywhere = match header.address_family {
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let mut route = Route {
        dst: IpNet::new(anywhere, header.destination_prefix_length)?,
        kind: match header.kind {
            RouteType::Unicast => RouteKind::Unicast,
            RouteType::BlackHole => RouteKind::Blackhole,
            other => RouteKind::Other(other.into()),
        },
        via: None,
        dev: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        link_scope: header.scope == RouteScope::Link,
        protocol: header.protocol.into(),
        table: u32::from(header.table),
        priority: 0,
        mtu: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Destination(to) => {
                if let Some(ip) = address(to) {
                    route.dst = IpNet::new(ip, header.destination_prefix_length)?;
                }
            }
            RouteAttribute::Gateway(by) => route.via = address(by),
            RouteAttribute::Oif(index) => route.dev = Some(name_of(*index)),
            RouteAttribute::Priority(priority) => route.priority = *priority,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    if let RouteMetric::Mtu(mtu) = metric {
                        route.mtu = Some(*mtu);
                    }
                }
            }
            _ => {}
        }
    }
    Ok(route)
}
