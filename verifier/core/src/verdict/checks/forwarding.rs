//! Whether the kernel forwards at all, strict reverse path filtering, connection tracking.

use super::{Looked, Out, View, routes};
use crate::{
    intent::{ExpectedDevice, ExpectedTunnel, RemotePod},
    programmed::{ChangedObject, Decision, Flow, NetconfScope, ReversePath},
    verdict::CauseCode,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::{IpAddr, Ipv4Addr};

/// `ip_forward`, and forwarding of the tunnel and underlay devices; of IPv6, where there are pools of it, only what is said for all devices
/// counts (`ip6_forward`).
pub(super) fn forwarding(view: &View<'_>, out: &mut Out) {
    let all = match view.state.netconf.all() {
        Ok(all) => all,
        Err(gaps) => return out.cannot("forwarding", &gaps),
    };
    let off_in = |v6: bool, scope: NetconfScope| all.iter().any(|n| n.v6 == v6 && n.scope == scope && n.forwarding == Some(false));
    let off = |scope: NetconfScope| off_in(false, scope);
    let pools = |v6: bool| view.intent.pools.iter().any(|(cidr, _)| cidr.addr().is_ipv6() == v6);
    let mut subjects: Vec<String> = Vec::new();
    if pools(true) && off_in(true, NetconfScope::All) {
        subjects.push("net.ipv6.conf.all.forwarding".to_string());
    }
    if !pools(false) && pools(true) {
        // Nothing of the pods' is forwarded as IPv4.
    } else if off(NetconfScope::All) {
        subjects.push("net.ipv4.ip_forward".to_string());
    } else {
        let mut devices: Vec<u32> = view.parent_index(false).into_iter().collect();
        // Of IPv6 what is said for a device does not count, so neither does what its tunnel's device says of IPv4.
        let of_ipv4 = |t: &&ExpectedTunnel| t.required && t.may_carry(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        for tunnel in view.intent.tunnels.iter().filter(of_ipv4) {
            if let Looked::Found(link) = view.link(&tunnel.device, "forwarding", out) {
                devices.push(link.index);
            }
        }
        for index in devices.into_iter().filter(|i| off(NetconfScope::Link(*i))) {
            subjects.push(format!("net.ipv4.conf.{}.forwarding", view.device_name(index)));
        }
    }
    if subjects.is_empty() {
        return;
    }
    let mut f = view.finding(CauseCode::IpForwardDisabled, subjects.join(", "));
    let on: Vec<String> = subjects.iter().map(|subject| format!("{}=1", as_key(subject))).collect();
    f.value(SWITCH_ON, format!("`sysctl -w {}`", on.join(" ")));
    f.value(KEPT_ON, format!("`{}`", on.join("`, `")));
    f.evidence.intent = Some("forwarding is on".to_string());
    f.evidence.programmed = Some(format!("{} = 0", subjects.join(", ")));
    f.since = view.added_at(|o| matches!(o, ChangedObject::Netconf(n) if n.forwarding == Some(false)));
    out.findings.push(f);
}

/// What the table's remedies say where it is not known which setting is off.
const SWITCH_ON: &str = "`sysctl -w net.ipv4.ip_forward=1` (of IPv6 `net.ipv6.conf.all.forwarding=1`)";
const KEPT_ON: &str = "`net.ipv4.ip_forward=1`";

/// As sysctl(8) takes it: a dot in a device's name stands as a slash.
fn as_key(setting: &str) -> String {
    let parts = setting.strip_prefix("net.ipv4.conf.").and_then(|rest| rest.rsplit_once('.'));
    match parts {
        Some((device, name)) => format!("net.ipv4.conf.{}.{name}", device.replace('.', "/")),
        None => setting.to_string(),
    }
}

/// Strict mode together with a way back through another device.
pub(super) fn rp_filter(view: &View<'_>, out: &mut Out) {
    let fib = match &view.fib {
        Ok(fib) => fib,
        Err(gaps) => return out.cannot("rp-filter", gaps),
    };
    let Some(links) = view.state.links.seen() else { return };
    let local = view
        .intent
        .workloads
        .values()
        .find_map(|w| w.addresses.iter().copied().find(core::net::IpAddr::is_ipv4));
    for (want, peer) in routes::remote_routes(view).filter(|(w, _)| w.required && w.dst.addr().is_ipv4()) {
        // Where the forward route is not as intended, that is the finding.
        if !routes::main_routes(view).any(|r| r.dst == want.dst && routes::matches(view, want, r)) {
            continue;
        }
        let Some(known) = view.intent.peers.get(peer) else { continue };
        let mut cases = Vec::new();
        let device = match &want.device {
            Some(ExpectedDevice::Named(device)) => Some(device.clone()),
            Some(ExpectedDevice::Parent) => view.parent_index(false).map(|index| view.device_name(index)),
            None => None,
        };
        if let Some(device) = device {
            let pod = known.pods.iter().flat_map(RemotePod::addresses).find(|ip| want.dst.contains(ip));
            cases.extend(pod.map(|ip| (device, ip, local)));
        }
        if let (Some(host), Some(parent)) = (known.host_ip_of(false), view.parent_index(false)) {
            cases.push((view.device_name(parent), host, view.intent.host_ip_of(false)));
        }
        for (device, src, dst) in cases {
            let Some(link) = links.iter().find(|l| l.name == device) else {
                continue;
            };
            let Some(dst) = dst else { continue };
            let ReversePath::Dropped { by } = fib.reverse_path(
                &Flow {
                    src: Some(src),
                    iif: Some(link.index),
                    ..Flow::to(dst)
                },
                view.state,
            ) else {
                continue;
            };
            // A foreign route that also captures our own packets is the finding; here only the way back differs.
            if out
                .findings
                .iter()
                .any(|f| f.code == CauseCode::RouteHijacked && f.peer.as_ref() == Some(peer))
            {
                continue;
            }
            let back = match by {
                Decision::Forward { next_hops, .. } => next_hops
                    .iter()
                    .filter_map(|h| h.oif)
                    .map(|i| view.device_name(i))
                    .collect::<Vec<_>>()
                    .join(", "),
                other => format!("{other:?}").to_lowercase(),
            };
            let subject = device.clone();
            if let Some(known) = out
                .findings
                .iter_mut()
                .find(|f| f.code == CauseCode::RpFilterDrop && f.subject == subject)
            {
                known.peer = known.peer.take().filter(|p| p == peer);
                continue;
            }
            let mut f = view.finding(CauseCode::RpFilterDrop, subject);
            f.peer = Some(peer.clone());
            f.evidence.intent = Some(format!("packets from {src} ({peer}) arrive on {device}"));
            f.evidence.programmed = Some(format!(
                "rp_filter of {device} is 1 (strict), and the way back to {src} leads through {back}"
            ));
            out.findings.push(f);
        }
    }
}

/// The table at its limit.
pub(super) fn conntrack(view: &View<'_>, out: &mut Out) {
    let Some(stats) = view.state.conntrack.seen() else { return };
    if let (Some(entries), Some(max)) = (stats.entries, stats.entries_max)
        && max > 0
        && entries >= max
    {
        let mut f = view.finding(CauseCode::ConntrackFull, "nf_conntrack_max");
        f.evidence.programmed = Some(format!("{entries} of {max} entries, {} packets dropped so far", stats.drop));
        out.findings.push(f);
    }
}
