//! Each pod's own network: its veth, its route on the node, its address, its gateway. What is wrong here makes the pod stale and leaves the
//! node's verdict alone.

use super::{Looked, Out, View, routes};
use crate::{
    intent::{ExpectedWorkload, PodPhase},
    programmed::{ChangedObject, Decision, Flow, NetconfScope, PodState, RouteKind, TABLE_MAIN},
    verdict::CauseCode,
};
use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The gateway Calico's CNI plugin gives every IPv4 pod (calico.md 2.2).
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The gateway of an IPv6 pod: the link-local address of the host side of its veth, which follows from the MAC that Calico gives all of
/// them, `ee:ee:ee:ee:ee:ee` (calico.md 2.2; RFC 4291, appendix A).
const GATEWAY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee));

/// Pods whose network can be held against intent: running, not being deleted, with an address, their sandbox not in the making.
fn live<'v>(view: &'v View<'_>) -> impl Iterator<Item = &'v ExpectedWorkload> {
    view.intent
        .workloads
        .values()
        .filter(|w| w.phase == PodPhase::Running && !w.terminating && !w.sandbox_pending && !w.addresses.is_empty())
}

fn inside<'v>(view: &'v View<'_>, w: &ExpectedWorkload, check: &str, out: &mut Out) -> Option<&'v PodState> {
    match view.state.pods.get(&w.pod) {
        Some(evidence) => match evidence.seen() {
            Some(state) => Some(state),
            None => {
                out.cannot(&format!("{check} of {}", w.pod), evidence.gaps());
                None
            }
        },
        None => {
            out.cannot(
                &format!("{check} of {}", w.pod),
                &[crate::evidence::Gap::new("programmed/pods", "its namespace was not visited")],
            );
            None
        }
    }
}

/// The host side of the veth is there and up, and so is the pod's side.
pub(super) fn veth(view: &View<'_>, out: &mut Out) {
    for w in live(view) {
        match view.link(&w.device, "pod-veth", out) {
            Looked::Unknown => {}
            Looked::Absent => {
                let mut f = view.pod_finding(CauseCode::PodVethMissing, &w.pod, w.device.clone());
                f.evidence.intent = Some(format!("{} leads to {}", w.device, w.pod));
                f.evidence.programmed = Some(format!("no device named {} in a complete dump of links", w.device));
                f.since = view.removed_at(|o| matches!(o, ChangedObject::Link(l) if l.name == w.device));
                out.findings.push(f);
            }
            Looked::Found(link) if !link.up => down(view, w, &format!("{} lacks IFF_UP", w.device), out),
            Looked::Found(_) => {
                let Some(state) = view.state.pods.get(&w.pod).and_then(|p| p.seen()) else {
                    continue;
                };
                let eth0 = state.links.seen().and_then(|l| l.iter().find(|l| l.name == "eth0"));
                if eth0.is_some_and(|l| !l.up) {
                    down(view, w, "eth0 inside the pod lacks IFF_UP", out);
                }
            }
        }
    }
}

fn down(view: &View<'_>, w: &ExpectedWorkload, what: &str, out: &mut Out) {
    let mut f = view.pod_finding(CauseCode::PodVethDown, &w.pod, w.device.clone());
    f.evidence.intent = Some(format!("{} and eth0 of {} are up", w.device, w.pod));
    f.evidence.programmed = Some(what.to_string());
    f.value("CALI_DEVICE", &w.device);
    f.since = view.added_at(|o| matches!(o, ChangedObject::Link(l) if l.name == w.device && !l.up));
    out.findings.push(f);
}

/// The node's route to the pod.
pub(super) fn route(view: &View<'_>, out: &mut Out) {
    if view.intent.settings.route_sync_disabled.value() == Some(&true) {
        return;
    }
    for w in live(view) {
        let index = match view.link(&w.device, &format!("pod-route of {}", w.pod), out) {
            Looked::Found(link) => Some(link.index),
            Looked::Absent => None,
            Looked::Unknown => continue,
        };
        for ip in &w.addresses {
            let Err(other) = routes::pod_route(view, *ip, index) else {
                continue;
            };
            if let Err(gaps) = view.state.routes.all() {
                out.cannot(&format!("pod-route of {}", w.pod), &gaps);
                continue;
            }
            let mut f = view.pod_finding(CauseCode::PodRouteMissing, &w.pod, format!("{ip} dev {}", w.device));
            f.evidence.intent = Some(format!("{ip} dev {} scope link", w.device));
            f.evidence.programmed = Some(other.unwrap_or_else(|| format!("no route to {ip} in the main table")));
            f.since = view.removed_at(|o| matches!(o, ChangedObject::Route(r) if r.table == TABLE_MAIN && r.dst == super::host_net(*ip)));
            out.findings.push(f);
        }
    }
}

/// The pod's own address is the API's.
pub(super) fn address(view: &View<'_>, out: &mut Out) {
    for w in live(view) {
        let Some(state) = inside(view, w, "pod-address", out) else {
            continue;
        };
        let have = match state.addresses.all() {
            Ok(all) => all,
            Err(gaps) => {
                out.cannot(&format!("pod-address of {}", w.pod), &gaps);
                continue;
            }
        };
        for ip in w.addresses.iter().filter(|ip| !have.iter().any(|a| a.ip.addr() == **ip)) {
            let others: BTreeSet<IpAddr> = have
                .iter()
                .map(|a| a.ip.addr())
                .filter(|a| !a.is_loopback() && !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local()))
                .collect();
            let others: Vec<String> = others.iter().map(ToString::to_string).collect();
            let mut f = view.pod_finding(CauseCode::PodIpMismatch, &w.pod, ip.to_string());
            f.evidence.intent = Some(format!("the API says {} has {ip}", w.pod));
            f.evidence.programmed = Some(if others.is_empty() {
                "no address inside the pod".to_string()
            } else {
                format!("inside the pod: {}", others.join(", "))
            });
            out.findings.push(f);
        }
    }
}

/// The pod has a default route of each family it has an address of.
pub(super) fn gateway_route(view: &View<'_>, out: &mut Out) {
    for w in live(view) {
        for v6 in [false, true]
            .into_iter()
            .filter(|v6| w.addresses.iter().any(|ip| ip.is_ipv6() == *v6))
        {
            let Some(state) = inside(view, w, "pod-gateway-route", out) else {
                continue;
            };
            if gateway_of(state, v6).is_some() {
                continue;
            }
            if let Err(gaps) = state.routes.all() {
                out.cannot(&format!("pod-gateway-route of {}", w.pod), &gaps);
                continue;
            }
            let gateway = if v6 {
                link_local_of(view, w).into_iter().next().unwrap_or(GATEWAY6)
            } else {
                GATEWAY
            };
            let mut f = view.pod_finding(CauseCode::PodGatewayMissing, &w.pod, format!("default via {gateway}"));
            f.evidence.intent = Some(format!("default via {gateway} dev eth0 inside the pod"));
            f.evidence.programmed = Some("no usable default route inside the pod".to_string());
            out.findings.push(f);
        }
    }
}

/// The link-local addresses of the host side of a pod's veth, as far as they were seen.
fn link_local_of(view: &View<'_>, w: &ExpectedWorkload) -> Vec<IpAddr> {
    let links = view.state.links.seen().into_iter().flatten();
    let index = links.filter(|l| l.name == w.device).map(|l| l.index).next();
    let addresses = index.into_iter().flat_map(|index| view.addresses_of(index)).map(|a| a.ip.addr());
    addresses.filter(link_local).collect()
}

fn link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The gateway of a pod's default route, if it has one that the kernel can use.
fn gateway_of(state: &PodState, v6: bool) -> Option<IpAddr> {
    let routes = state.routes.seen()?;
    let usable = routes.iter().filter(|r| {
        r.table == TABLE_MAIN
            && r.kind == RouteKind::Unicast
            && r.dst.prefix_len() == 0
            && r.dst.addr().is_ipv6() == v6
            && r.next_hops.iter().any(|h| h.oif.is_some())
    });
    let default = usable.min_by_key(|r| r.priority)?;
    let hop = default.next_hops.first()?;
    match hop.gateway {
        // A default route straight through the device needs no gateway; the node must then answer for every address.
        None => Some(if v6 { GATEWAY6 } else { GATEWAY }),
        Some(gateway) => {
            // What is link-local is on the link by definition (RFC 4291, 2.5.6).
            let reachable = hop.onlink
                || link_local(&gateway)
                || routes
                    .iter()
                    .any(|r| r.table == TABLE_MAIN && r.kind == RouteKind::Unicast && r.dst.prefix_len() > 0 && r.dst.contains(&gateway));
            reachable.then_some(gateway)
        }
    }
}

/// Somebody answers for the gateway of IPv6: it is the link-local address of the host side of the veth.
pub(super) fn gateway_answer6(view: &View<'_>, out: &mut Out) {
    for w in live(view).filter(|w| w.addresses.iter().any(IpAddr::is_ipv6)) {
        let check = format!("pod-gateway-answer of {}", w.pod);
        let Looked::Found(link) = view.link(&w.device, &check, out) else {
            continue;
        };
        let state = view.state.pods.get(&w.pod).and_then(|p| p.seen());
        // A pod without the route asks nobody, a device that is down answers nobody: findings of their own.
        let Some(gateway) = state.and_then(|s| gateway_of(s, true)).filter(link_local).filter(|_| link.up) else {
            continue;
        };
        let own = link_local_of(view, w);
        if own.contains(&gateway) {
            continue;
        }
        if let Err(gaps) = view.state.addresses.all() {
            out.cannot(&check, &gaps);
            continue;
        }
        let mut f = view.pod_finding(CauseCode::PodGatewayUnanswered, &w.pod, format!("{gateway} on {}", w.device));
        f.evidence.intent = Some(format!("{gateway} is the link-local address of {}", w.device));
        let (why, cure) = if own.is_empty() {
            let setting = format!("net.ipv6.conf.{}.disable_ipv6", w.device);
            (
                format!("{} has no link-local address (is {setting} 1?)", w.device),
                format!("`sysctl -w {setting}=0`"),
            )
        } else {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            let pod = format!("`kubectl delete pod {} -n {}`", w.pod.name, w.pod.namespace);
            (
                format!("{} has {}", w.device, own.join(", ")),
                format!("Delete the pod, whose gateway is another address: {pod}"),
            )
        };
        f.evidence.programmed = Some(why);
        f.value(GATEWAY_CURES, cure);
        out.findings.push(f);
    }
}

/// Somebody answers for the gateway: proxy ARP is on, and the node has a route to it through another device (calico.md 2.3).
pub(super) fn gateway_answer(view: &View<'_>, out: &mut Out) {
    let netconf = match view.state.netconf.all() {
        Ok(all) => all,
        Err(gaps) => return out.cannot("pod-gateway-answer", &gaps),
    };
    let fib = match &view.fib {
        Ok(fib) => fib,
        Err(gaps) => return out.cannot("pod-gateway-answer", gaps),
    };
    let conf = |scope| netconf.iter().find(move |n| !n.v6 && n.scope == scope);
    let all_proxy = conf(NetconfScope::All).and_then(|n| n.proxy_neigh) == Some(true);
    for w in live(view).filter(|w| w.addresses.iter().any(IpAddr::is_ipv4)) {
        let Looked::Found(link) = view.link(&w.device, "pod-gateway-answer", out) else {
            continue;
        };
        // A pod whose own gateway route is gone asks nobody; a device that is down answers nobody. Both are findings of their own.
        let gateway = view
            .state
            .pods
            .get(&w.pod)
            .and_then(|p| p.seen())
            .and_then(|state| gateway_of(state, false))
            .unwrap_or(GATEWAY);
        let own = conf(NetconfScope::Link(link.index));
        let setting = |name: &str| format!("net.ipv4.conf.{}.{name}", w.device);
        let switch_on = |name: &str| format!("`sysctl -w {}=1`", setting(name));
        let (why, cure) = if own.and_then(|n| n.proxy_neigh) == Some(false) && !all_proxy {
            (format!("{} = 0", setting("proxy_arp")), switch_on("proxy_arp"))
        } else if own.and_then(|n| n.forwarding) == Some(false) {
            let why = format!("{} = 0, so the kernel does not answer for others there", setting("forwarding"));
            (why, switch_on("forwarding"))
        } else {
            match fib.lookup(&Flow {
                src: w.addresses.iter().copied().find(IpAddr::is_ipv4),
                iif: Some(link.index),
                ..Flow::to(gateway)
            }) {
                Decision::Forward { next_hops, .. } if next_hops.iter().all(|h| h.oif == Some(link.index)) => {
                    let why = format!("the node's route to {gateway} leads back through {}", w.device);
                    (why, format!("Remove that route (`ip route get {gateway}`)"))
                }
                Decision::Forward { .. } | Decision::Local { .. } => continue,
                Decision::Unknown { why } => {
                    out.cannot("pod-gateway-answer", &[crate::evidence::Gap::new("programmed/rules", why)]);
                    continue;
                }
                _ => (
                    format!("the node has no route to {gateway} (no default route), so it does not answer for it"),
                    "Give the node a default route: the one it had, or any".to_string(),
                ),
            }
        };
        if !link.up {
            continue;
        }
        let mut f = view.pod_finding(CauseCode::PodGatewayUnanswered, &w.pod, format!("{gateway} on {}", w.device));
        f.evidence.intent = Some(format!("the node answers ARP for {gateway} on {}", w.device));
        f.evidence.programmed = Some(why);
        f.value(GATEWAY_CURES, cure);
        out.findings.push(f);
    }
}

/// What the table's remedy says where it is not known why nobody answers.
const GATEWAY_CURES: &str = "`sysctl -w net.ipv4.conf.CALI_DEVICE.proxy_arp=1`; or give the node a default route. Of IPv6, \
                             `sysctl -w net.ipv6.conf.CALI_DEVICE.disable_ipv6=0`, and delete the pod where its gateway is another address";
