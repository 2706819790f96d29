//! Routes of the main table: to the other nodes' blocks, blackholes of the own ones, and whether the kernel really uses them.

use super::{Looked, Out, View, host_net, writer};
use crate::{
    intent::{ExpectedDevice, ExpectedRoute, Owner, RouteClass},
    names::{NodeName, UnixNs},
    programmed::{ChangeKind, ChangedObject, Decision, Flow, NextHop, Route, RouteKind, TABLE_MAIN},
    verdict::CauseCode,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// Each remote block has its route, through the right device and next hop.
pub(super) fn remote(view: &View<'_>, out: &mut Out) {
    if view.intent.settings.route_sync_disabled.value() == Some(&true) {
        return;
    }
    for (want, peer) in remote_routes(view).filter(|(w, _)| w.required) {
        let same: Vec<&Route> = main_routes(view).filter(|r| r.dst == want.dst).collect();
        if same.iter().any(|r| matches(view, want, r)) {
            continue;
        }
        // Without the device's index no route can be told from the wanted one.
        if device_unknown(view, want, out) {
            continue;
        }
        if let Err(gaps) = view.state.routes.all() {
            out.cannot("remote-routes", &gaps);
            continue;
        }
        // Traffic that was told the same by a covering route does not suffer, but intent wants its own.
        let code = if same.is_empty() {
            CauseCode::RouteMissing
        } else {
            CauseCode::RouteWrong
        };
        let mut f = view.finding(code, want.dst.to_string());
        f.peer = Some(peer.clone());
        f.evidence.intent = Some(want_text(want));
        f.owner = Some(want.owner);
        f.evidence.programmed = Some(match first_used(same) {
            None => format!("no route to {} in the main table", want.dst),
            Some(r) => {
                f.recognised_by = writer::recognised_by(view, r);
                if let Some(suspect) = writer::suspect(want.owner, r.protocol) {
                    f.value(writer::SUSPECTS, suspect);
                }
                f.value(REPLACE, replacement(view, want));
                route_text(view, r)
            }
        });
        f.since = route_since(view, want, code);
        out.findings.push(f);
    }
}

/// What the table's remedy says where nothing is known but the cause.
const REPLACE: &str = "`ip route replace BLOCK via TUNNEL_ADDRESS dev vxlan.calico onlink`";

/// The command that puts the expected route into the place of a wrong one.
fn replacement(view: &View<'_>, want: &ExpectedRoute) -> String {
    let dst = want.dst;
    let v6 = dst.addr().is_ipv6();
    let ip = if v6 { "ip -6" } else { "ip" };
    if want.owner == Owner::Bird {
        // Whatever anybody else writes there stands in the way of BIRD's own for good.
        return format!("`{ip} route del {dst}`: BIRD's next scan puts its own there");
    }
    let mut route = dst.to_string();
    let mut add = |word: &str, value: Option<String>| route.extend(value.map(|value| format!(" {word} {value}")));
    add("via", want.gateway.map(|gateway| gateway.to_string()));
    add(
        "dev",
        want.device.as_ref().map(|device| match device {
            ExpectedDevice::Named(name) => name.clone(),
            ExpectedDevice::Parent => view
                .parent_index(v6)
                .map_or_else(|| "UNDERLAY_DEVICE".to_string(), |index| view.device_name(index)),
        }),
    );
    add("proto", want.protocol.map(|protocol| protocol.to_string()));
    add("src", want.src.map(|src| src.to_string()));
    add("mtu", want.mtu.map(|mtu| mtu.to_string()));
    if want.onlink {
        route.push_str(" onlink");
    }
    if v6 {
        // While the wrong route covers the gateway of the right one, which is in the tunnel's block, the kernel refuses to replace it
        // (ip6_route_check_nh_onlink, net/ipv6/route.c).
        format!("`{ip} route del {dst} && {ip} route add {route}`")
    } else {
        format!("`{ip} route replace {route}`")
    }
}

/// Blocks of this node have their blackhole.
pub(super) fn blackholes(view: &View<'_>, out: &mut Out) {
    if view.intent.settings.route_sync_disabled.value() == Some(&true) {
        return;
    }
    for want in view
        .intent
        .routes
        .iter()
        .filter(|r| r.required && r.class == RouteClass::LocalBlock)
    {
        if main_routes(view).any(|r| r.dst == want.dst && r.kind == RouteKind::Blackhole) {
            continue;
        }
        if let Err(gaps) = view.state.routes.all() {
            out.cannot("blackholes", &gaps);
            continue;
        }
        let mut f = view.finding(CauseCode::BlackholeMissing, want.dst.to_string());
        f.evidence.intent = Some(want_text(want));
        f.evidence.programmed = Some(match first_used(main_routes(view).filter(|r| r.dst == want.dst)) {
            None => format!("no route to {} in the main table", want.dst),
            Some(r) => route_text(view, r),
        });
        f.value("BLOCK", want.dst);
        f.owner = Some(want.owner);
        f.since = route_since(view, want, CauseCode::RouteMissing);
        out.findings.push(f);
    }
}

/// The kernel's own decision for addresses of each remote block, with rules and the workload's input interface, is the block's route.
pub(super) fn hijacked(view: &View<'_>, out: &mut Out) {
    if view.intent.settings.route_sync_disabled.value() == Some(&true) {
        return;
    }
    let fib = match &view.fib {
        Ok(fib) => fib,
        Err(gaps) => return out.cannot("hijacked-routes", gaps),
    };
    let expected: BTreeSet<IpNet> = view.intent.routes.iter().map(|r| r.dst).collect();
    for (want, peer) in remote_routes(view).filter(|(w, _)| w.required) {
        // A route that is missing or wrong is a finding of its own.
        if !main_routes(view).any(|r| r.dst == want.dst && matches(view, want, r)) {
            continue;
        }
        let mut taken = BTreeSet::new();
        let mut nets: Vec<IpNet> = Vec::new();
        for (dst, via) in samples(view, want, peer, &expected) {
            // A network on a device brings routes for its own address and its broadcast with it: they are the same foreigner.
            if via.is_some_and(|net| nets.iter().any(|wider| *wider != net && wider.contains(&net))) {
                continue;
            }
            for flow in flows(view, dst) {
                let (captured, why) = match fib.lookup(&flow) {
                    Decision::Forward { next_hops, .. } if next_hops.iter().any(|h| hop_matches(view, want, h)) => continue,
                    Decision::Forward { next_hops, .. } if next_hops.iter().any(|h| encrypts(view, h)) => {
                        let why = format!("{dst} goes into WireGuard, whose own table and peers are not verified");
                        out.cannot("hijacked-routes", &[crate::evidence::Gap::new("programmed/wireguard", why)]);
                        continue;
                    }
                    Decision::Unknown { why } => {
                        out.cannot("hijacked-routes", &[crate::evidence::Gap::new("programmed/rules", why)]);
                        continue;
                    }
                    decision => decision_text(view, &decision),
                };
                if !taken.insert(captured.clone()) {
                    continue;
                }
                let subject = match via {
                    Some(net) => net.to_string(),
                    None => captured,
                };
                if out
                    .findings
                    .iter()
                    .any(|f| f.code == CauseCode::RouteHijacked && f.subject == subject)
                {
                    continue;
                }
                nets.extend(via);
                let mut f = view.finding(CauseCode::RouteHijacked, subject);
                f.peer = Some(peer.clone());
                f.evidence.intent = Some(format!("{dst} goes by {}", want_text(want)));
                f.evidence.programmed = Some(format!("a lookup of {dst} gives {why}"));
                f.since = via.and_then(|net| view.added_at(|o| matches!(o, ChangedObject::Route(r) if r.dst == net)));
                out.findings.push(f);
            }
        }
    }
}

/// Routes that two programs keep taking from each other: each wrote its own at least twice within the journal.
pub(super) fn owners(view: &View<'_>, out: &mut Out) {
    // What the objects say is a cause already, and names why.
    if view.intent.contradictions.iter().any(|c| c.code == CauseCode::RouteOwnerConflict) {
        return;
    }
    for (want, peer) in remote_routes(view) {
        let added = view.state.journal.iter().filter_map(|change| match &change.what {
            ChangedObject::Route(r) if change.change == ChangeKind::Added && r.table == TABLE_MAIN && r.dst == want.dst => {
                Some((r.protocol, change.at))
            }
            _ => None,
        });
        let mut writers: BTreeMap<u8, (u32, UnixNs)> = BTreeMap::new();
        for (protocol, at) in added {
            let (times, last) = writers.entry(protocol).or_insert((0, at));
            *times += 1;
            *last = at;
        }
        writers.retain(|_, (times, _)| *times > 1);
        let since = writers.values().map(|(_, at)| *at).max();
        if writers.len() < 2 {
            continue;
        }
        let owner = want.protocol.filter(|p| writers.contains_key(p));
        let turns: Vec<String> = writers
            .iter()
            .map(|(protocol, (times, _))| format!("proto {} {times} times", writer::protocol_text(*protocol)))
            .collect();
        let mut f = view.finding(CauseCode::RouteOwnerConflict, want.dst.to_string());
        f.peer = Some(peer.clone());
        f.evidence.intent = Some(match owner {
            Some(protocol) => format!("{} is proto {}'s alone", want_text(want), writer::protocol_text(protocol)),
            None => want_text(want),
        });
        f.evidence.programmed = Some(format!(
            "the journal has the route to {} written by {}",
            want.dst,
            turns.join(" and by ")
        ));
        f.since = since;
        out.findings.push(f);
    }
}

/// Addresses of a block to look up: its pods, one of its middle, and one inside every foreign route that is more specific.
fn samples(view: &View<'_>, want: &ExpectedRoute, peer: &NodeName, expected: &BTreeSet<IpNet>) -> Vec<(IpAddr, Option<IpNet>)> {
    let known = view.intent.peers.get(peer);
    let is_tunnel = |ip: IpAddr| known.is_some_and(|p| [p.tunnel_ip, p.tunnel_ip6].contains(&Some(ip)));
    let mut out: Vec<(IpAddr, Option<IpNet>)> = Vec::new();
    for route in view.state.routes.seen().into_iter().flatten() {
        if want.dst != route.dst && want.dst.contains(&route.dst) && !expected.contains(&route.dst) {
            let inside = if route.dst.prefix_len() >= route.dst.max_prefix_len() - 1 {
                Some(route.dst.addr())
            } else {
                second(route.dst)
            };
            out.extend(inside.filter(|ip| !is_tunnel(*ip)).map(|ip| (ip, Some(route.dst))));
        }
    }
    // The widest first: what lies within it needs no finding of its own.
    out.sort_by_key(|(_, via)| via.map(|net| (net.prefix_len(), net)));
    let pods = known
        .into_iter()
        .flat_map(|p| p.pods.iter())
        .flat_map(|p| p.addresses())
        .filter(|ip| want.dst.contains(ip));
    out.extend(pods.chain(second(want.dst)).filter(|ip| !is_tunnel(*ip)).map(|ip| (ip, None)));
    out
}

/// The address after the first: the first is often the tunnel's.
fn second(net: IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(n) if n.prefix_len() < 31 => Some(IpAddr::V4(core::net::Ipv4Addr::from_bits(n.network().to_bits() | 1))),
        IpNet::V6(n) if n.prefix_len() < 127 => Some(IpAddr::V6(core::net::Ipv6Addr::from_bits(n.network().to_bits() | 1))),
        n => Some(n.addr()),
    }
}

/// Whether a next hop is Felix's WireGuard device, where that is switched on.
fn encrypts(view: &View<'_>, hop: &NextHop) -> bool {
    let text = |key: &str| {
        view.intent
            .settings
            .other
            .get(key)
            .and_then(|s| s.value())
            .map(alloc::string::String::as_str)
    };
    let on = |key: &str| text(key).is_some_and(|t| matches!(t.to_lowercase().as_str(), "true" | "1" | "yes" | "y" | "t"));
    let is = |index: u32, enabled: &str, key: &str, default: &str| on(enabled) && view.device_name(index) == text(key).unwrap_or(default);
    hop.oif.is_some_and(|index| {
        is(index, "wireguardEnabled", "wireguardInterfaceName", "wireguard.cali")
            || is(index, "wireguardEnabledV6", "wireguardInterfaceNameV6", "wg-v6.cali")
    })
}

/// As whom to ask: each of the node's workloads, and the host by its tunnel address.
fn flows(view: &View<'_>, dst: IpAddr) -> Vec<Flow> {
    let links = view.state.links.seen();
    let mut out: Vec<Flow> = view
        .intent
        .workloads
        .values()
        .filter_map(|w| {
            let index = links?.iter().find(|l| l.name == w.device)?.index;
            let src = w.addresses.iter().copied().find(|a| a.is_ipv4() == dst.is_ipv4())?;
            Some(Flow {
                src: Some(src),
                dst,
                iif: Some(index),
                ..Flow::to(dst)
            })
        })
        .take(4)
        .collect();
    let own = view
        .intent
        .tunnels
        .iter()
        .filter_map(|t| t.address)
        .find(|a| a.is_ipv4() == dst.is_ipv4());
    out.push(Flow { src: own, ..Flow::to(dst) });
    out
}

/// Routes to other nodes' blocks, with the node.
pub(super) fn remote_routes<'v>(view: &'v View<'_>) -> impl Iterator<Item = (&'v ExpectedRoute, &'v NodeName)> {
    view.intent.routes.iter().filter_map(|r| match &r.class {
        RouteClass::RemoteBlock { peer, .. } | RouteClass::RemoteTunnelAddress { peer } => Some((r, peer)),
        _ => None,
    })
}

pub(super) fn main_routes<'v>(view: &'v View<'_>) -> impl Iterator<Item = &'v Route> {
    view.state.routes.seen().into_iter().flatten().filter(|r| r.table == TABLE_MAIN)
}

/// Whether a route of the kernel is the expected one: type, device and gateway. Protocol and metrics are for the report only.
pub(super) fn matches(view: &View<'_>, want: &ExpectedRoute, have: &Route) -> bool {
    have.kind == RouteKind::Unicast && have.next_hops.len() == 1 && have.next_hops.iter().all(|h| hop_matches(view, want, h))
}

/// Whether it cannot be told which index the wanted device has; the reason is noted.
fn device_unknown(view: &View<'_>, want: &ExpectedRoute, out: &mut Out) -> bool {
    match &want.device {
        Some(ExpectedDevice::Named(name)) => matches!(view.link(name, "remote-routes", out), Looked::Unknown),
        Some(ExpectedDevice::Parent) if view.parent_index(want.dst.addr().is_ipv6()).is_none() => match view.state.addresses.all() {
            Ok(_) => false,
            Err(gaps) => {
                out.cannot("remote-routes", &gaps);
                true
            }
        },
        Some(ExpectedDevice::Parent) | None => false,
    }
}

/// Of several routes to one destination the one that the kernel tries first.
fn first_used<'r>(routes: impl IntoIterator<Item = &'r Route>) -> Option<&'r Route> {
    routes.into_iter().min_by_key(|r| (core::cmp::Reverse(r.tos), r.priority))
}

fn hop_matches(view: &View<'_>, want: &ExpectedRoute, have: &NextHop) -> bool {
    if want.device.is_none() && want.gateway.is_none() {
        // BIRD's route to a peer that is not directly connected: where the BGP next hop leads is the underlay's business, but not into a tunnel.
        let name = have.oif.map(|index| view.device_name(index));
        return name.is_some_and(|name| !view.intent.tunnels.iter().any(|t| t.device == name));
    }
    let index = match &want.device {
        Some(ExpectedDevice::Named(name)) => {
            let mut ignored = Out::default();
            match view.link(name, "remote-routes", &mut ignored) {
                Looked::Found(link) => Some(link.index),
                _ => None,
            }
        }
        Some(ExpectedDevice::Parent) => view.parent_index(want.dst.addr().is_ipv6()),
        None => None,
    };
    have.oif.is_some() && have.oif == index && have.gateway == want.gateway
}

/// The journal's word on since when the expected route is not there.
fn route_since(view: &View<'_>, want: &ExpectedRoute, code: CauseCode) -> Option<UnixNs> {
    let is = |o: &ChangedObject| matches!(o, ChangedObject::Route(r) if r.table == TABLE_MAIN && r.dst == want.dst);
    if code == CauseCode::RouteMissing {
        view.removed_at(is)
    } else {
        view.added_at(is)
    }
}

/// An expected route as `ip route` would print it.
pub(super) fn want_text(want: &ExpectedRoute) -> String {
    let mut text = if want.class == RouteClass::LocalBlock {
        format!("blackhole {}", want.dst)
    } else {
        want.dst.to_string()
    };
    if let Some(gateway) = want.gateway {
        text.push_str(&format!(" via {gateway}"));
    }
    match &want.device {
        Some(ExpectedDevice::Named(name)) => text.push_str(&format!(" dev {name}")),
        Some(ExpectedDevice::Parent) => text.push_str(" dev (the underlay device)"),
        None => {}
    }
    if want.onlink {
        text.push_str(" onlink");
    }
    text
}

/// A route of the kernel as `ip route` would print it.
pub(super) fn route_text(view: &View<'_>, route: &Route) -> String {
    let mut text = match route.kind {
        RouteKind::Unicast => route.dst.to_string(),
        kind => format!("{} {}", format!("{kind:?}").to_lowercase(), route.dst),
    };
    for hop in &route.next_hops {
        if let Some(gateway) = hop.gateway {
            text.push_str(&format!(" via {gateway}"));
        }
        if let Some(oif) = hop.oif {
            text.push_str(&format!(" dev {}", view.device_name(oif)));
        }
        if hop.onlink {
            text.push_str(" onlink");
        }
    }
    if route.table != TABLE_MAIN {
        text.push_str(&format!(" table {}", route.table));
    }
    text.push_str(&format!(" proto {}", writer::protocol_text(route.protocol)));
    text
}

/// What captured the packet, briefly (the subject) and in full.
fn decision_text(view: &View<'_>, decision: &Decision) -> (String, String) {
    match decision {
        Decision::Forward { route, table, .. } => {
            let subject = if *table == TABLE_MAIN {
                route.dst.to_string()
            } else {
                format!("table {table}")
            };
            (subject, route_text(view, route))
        }
        Decision::Discard {
            route: Some(route), table, ..
        } => {
            let subject = if *table == TABLE_MAIN {
                route.dst.to_string()
            } else {
                format!("table {table}")
            };
            (subject, route_text(view, route))
        }
        Decision::Local { route } => (
            route.dst.to_string(),
            format!("{}, which is this host's own", route_text(view, route)),
        ),
        other => (format!("{other:?}").to_lowercase(), format!("{other:?}").to_lowercase()),
    }
}

/// Whether a pod's address is routed to its device (by its index, if that is there); if not, where else, if anywhere.
pub(super) fn pod_route(view: &View<'_>, ip: IpAddr, index: Option<u32>) -> Result<(), Option<String>> {
    let routes = || main_routes(view).filter(|r| r.dst == host_net(ip));
    let to_device = |r: &Route| r.kind == RouteKind::Unicast && index.is_some() && r.next_hops.iter().any(|h| h.oif == index);
    if routes().any(to_device) {
        return Ok(());
    }
    Err(first_used(routes()).map(|route| route_text(view, route)))
}
