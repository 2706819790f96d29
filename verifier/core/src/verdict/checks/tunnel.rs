//! The tunnel device: that it is there, up, configured as intent says, with its own address and MAC.

use super::{Looked, Out, View, mac_text};
use crate::{
    intent::{Dataplane, Encapsulation, ExpectedTunnel, Owner, derive::VXLAN_DEVICE},
    programmed::{ChangedObject, Link, LinkKind},
    verdict::{CauseCode, Finding},
};
use alloc::{format, string::ToString, vec::Vec};
use ipnet::IpNet;

/// Missing, down or misconfigured.
pub(super) fn device(view: &View<'_>, out: &mut Out) {
    for tunnel in view.intent.tunnels.iter().filter(|t| t.required) {
        match view.link(&tunnel.device, "tunnel-device", out) {
            Looked::Unknown => {}
            Looked::Absent => {
                let mut f = of_device(view, CauseCode::TunnelDeviceMissing, tunnel);
                let ipip = tunnel.encapsulation == Encapsulation::Ipip;
                f.value(MODULES, if ipip { "`modprobe ipip`" } else { "`modprobe vxlan`" });
                f.evidence.intent = Some(expected(tunnel));
                f.evidence.programmed = Some(format!("no device named {} in a complete dump of links", tunnel.device));
                f.since = view.removed_at(|o| matches!(o, ChangedObject::Link(l) if l.name == tunnel.device));
                out.findings.push(f);
            }
            Looked::Found(link) => {
                if !link.up {
                    let mut f = of_device(view, CauseCode::TunnelDeviceDown, tunnel);
                    f.evidence.intent = Some(format!("{} is up", tunnel.device));
                    f.evidence.programmed = Some(format!("{} lacks IFF_UP", tunnel.device));
                    f.since = view.added_at(|o| matches!(o, ChangedObject::Link(l) if l.name == tunnel.device && !l.up));
                    out.findings.push(f);
                }
                misconfigured(view, tunnel, link, out);
            }
        }
    }
}

/// What the table's remedy says where the encapsulation is not known.
const MODULES: &str = "`modprobe vxlan` (or `ipip`)";

/// What the table's remedy says of what the kernel flushed with the address. An IPIP device has no neighbours.
const FOLLOWS: &str = "routes and neighbours follow with Felix's refresh, or at once when the node's calico-node pod is deleted";

/// About this device, which the remedy's commands are to name: there may be several.
fn of_device(view: &View<'_>, code: CauseCode, tunnel: &ExpectedTunnel) -> Finding {
    let mut f = view.finding(code, tunnel.device.clone());
    f.value(VXLAN_DEVICE, &tunnel.device);
    f
}

fn expected(tunnel: &ExpectedTunnel) -> alloc::string::String {
    let or = |x: Option<alloc::string::String>| x.unwrap_or_else(|| "?".to_string());
    match tunnel.encapsulation {
        Encapsulation::Vxlan => format!(
            "VXLAN device {} id {} dstport {} local {}",
            tunnel.device,
            or(tunnel.vni.map(|v| v.to_string())),
            or(tunnel.port.map(|v| v.to_string())),
            or(tunnel.local.map(|v| v.to_string())),
        ),
        Encapsulation::Ipip => format!("IPIP device {}", tunnel.device),
        Encapsulation::None => format!("device {}", tunnel.device),
    }
}

fn misconfigured(view: &View<'_>, tunnel: &ExpectedTunnel, link: &Link, out: &mut Out) {
    if view.intent.settings.dataplane.value() == Some(&Dataplane::Bpf) {
        return;
    }
    let mut wrong = Vec::new();
    match &link.kind {
        LinkKind::Ipip if tunnel.encapsulation == Encapsulation::Ipip => {}
        other if tunnel.encapsulation == Encapsulation::Ipip => wrong.push(format!("its kind is {other:?}, not ipip")),
        LinkKind::Vxlan { vni, port, local, .. } => {
            if let Some(want) = tunnel.vni.filter(|want| want != vni) {
                wrong.push(format!("VNI {vni} instead of {want}"));
            }
            if let Some(want) = tunnel.port.filter(|want| want != port) {
                wrong.push(format!("UDP port {port} instead of {want}"));
            }
            // A local address that differs but is the node's own passes (kernel.md); one that is not the node's cannot send at all.
            if let (Some(want), Some(have)) = (tunnel.local, *local)
                && want != have
            {
                match view.state.addresses.all() {
                    Ok(all) if !all.iter().any(|a| a.ip.addr() == have) => {
                        wrong.push(format!("local address {have}, which is not the node's, instead of {want}"));
                    }
                    Ok(_) => {}
                    Err(gaps) => out.cannot("tunnel-device", &gaps),
                }
            }
        }
        other => wrong.push(format!("its kind is {other:?}, not vxlan")),
    }
    if wrong.is_empty() {
        return;
    }
    let mut f = of_device(view, CauseCode::TunnelDeviceMisconfigured, tunnel);
    f.evidence.intent = Some(expected(tunnel));
    f.evidence.programmed = Some(format!("{}: {}", tunnel.device, wrong.join(", ")));
    f.since = view.added_at(|o| matches!(o, ChangedObject::Link(l) if l.name == tunnel.device));
    out.findings.push(f);
}

/// Its address: there, and its own.
pub(super) fn address(view: &View<'_>, out: &mut Out) {
    for tunnel in &view.intent.tunnels {
        let Some(want) = tunnel.address else { continue };
        let Looked::Found(link) = view.link(&tunnel.device, "tunnel-address", out) else {
            continue;
        };
        let mut have: Vec<_> = view
            .addresses_of(link.index)
            .map(|a| a.ip.addr())
            .filter(|a| a.is_ipv4() == want.is_ipv4() && !link_local(a))
            .collect();
        have.sort_unstable();
        if have.contains(&want) && have.len() == 1 {
            continue;
        }
        if let Err(gaps) = view.state.addresses.all() {
            out.cannot("tunnel-address", &gaps);
            continue;
        }
        let code = if have.is_empty() {
            CauseCode::TunnelAddressMissingOnDevice
        } else {
            CauseCode::TunnelAddressWrong
        };
        let mut f = of_device(view, code, tunnel);
        f.evidence.intent = Some(format!("{} carries {want} and nothing else", tunnel.device));
        f.evidence.programmed = Some(if have.is_empty() {
            format!("{} has no address", tunnel.device)
        } else {
            format!(
                "{} carries {}",
                tunnel.device,
                have.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            )
        });
        f.value("TUNNEL_ADDRESS/32", IpNet::from(want));
        if tunnel.encapsulation == Encapsulation::Ipip && view.intent.routes.iter().any(|r| r.owner == Owner::Bird) {
            f.value(FOLLOWS, "routes follow with BIRD's next scan");
        }
        if let Some(wrong) = have.iter().find(|ip| **ip != want) {
            f.value("WRONG/32", IpNet::from(*wrong));
        }
        f.since = view.removed_at(|o| matches!(o, ChangedObject::Address(a) if a.index == link.index));
        if have.contains(&want) {
            // Its own address is there and a foreign one beside it: source selection still takes the first.
            f.severity = crate::verdict::Severity::Warning;
        }
        out.findings.push(f);
    }
}

fn link_local(ip: &core::net::IpAddr) -> bool {
    match ip {
        core::net::IpAddr::V4(v4) => v4.is_link_local(),
        core::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Its MAC: the one every other node was told.
pub(super) fn mac(view: &View<'_>, out: &mut Out) {
    for tunnel in &view.intent.tunnels {
        let Some(want) = tunnel.mac else { continue };
        let Looked::Found(link) = view.link(&tunnel.device, "vtep-mac", out) else {
            continue;
        };
        if link.mac == Some(want) {
            continue;
        }
        let mut f = of_device(view, CauseCode::VtepMacMismatch, tunnel);
        f.evidence.intent = Some(format!("{} has MAC {want}, as every other node was told", tunnel.device));
        f.evidence.programmed = Some(format!("{} has MAC {}", tunnel.device, mac_text(link.mac)));
        f.value("DERIVED_MAC", want);
        f.since = view.added_at(|o| matches!(o, ChangedObject::Link(l) if l.name == tunnel.device && l.mac == link.mac));
        out.findings.push(f);
    }
}
