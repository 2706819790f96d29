//! The tunnel device: gone, down, different.

use anyhow::{Context, Result};
use netlink_packet_route::link::LinkAttribute;
use std::net::Ipv4Addr;

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third, tunnel, underlay, workloads},
};
use crate::{
    fabric::{
        node::{block_routes, device},
        plan::TUNNEL_DEVICE,
        vtep::{IpFamily, vtep},
    },
    nl::{Vxlan, host_net},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "tunnel-device-deleted",
        description: "the tunnel device of a node is gone (vxlan module lost after a kernel upgrade), and its routes, neighbours and FDB entries with it",
        incidents: &["canonical/microk8s#2680", "flannel-io/flannel#1502", "projectcalico/calico#7757"],
        injection: Injection::Fabric(deleted),
        expect: |cast| whole_node(cast, "tunnel-device-missing"),
    },
    Fault {
        name: "tunnel-device-down",
        description: "the tunnel device of a node is down: the kernel flushed its routes and neighbours and kept its FDB entries",
        incidents: &[
            "projectcalico/calico#3271",
            "projectcalico/calico#4262",
            "projectcalico/calico#4468",
        ],
        injection: Injection::Fabric(down),
        expect: |cast| whole_node(cast, "tunnel-device-down"),
    },
    Fault {
        name: "tunnel-device-wrong-vni",
        description: "the tunnel device of a node has another VNI than the cluster",
        incidents: &["projectcalico/calico#6383", "projectcalico/calico#11910"],
        injection: Injection::Fabric(|cast| remade(cast, |vxlan| vxlan.vni += 1)),
        expect: |cast| whole_node(cast, "tunnel-device-misconfigured").mentioning("4097"),
    },
    Fault {
        name: "tunnel-device-wrong-port",
        description: "the tunnel device of a node has another UDP port than the cluster",
        incidents: &["projectcalico/calico#6383"],
        injection: Injection::Fabric(|cast| remade(cast, |vxlan| vxlan.port += 1)),
        expect: |cast| whole_node(cast, "tunnel-device-misconfigured").mentioning("4790"),
    },
    Fault {
        name: "tunnel-device-wrong-local",
        description: "the tunnel device of a node sends from an address that is not the node's (it came back with another one)",
        incidents: &["projectcalico/calico#8700", "projectcalico/calico#6954"],
        injection: Injection::Fabric(|cast| remade(cast, |vxlan| vxlan.local = Some(FOREIGN_LOCAL.into()))),
        expect: |cast| whole_node(cast, "tunnel-device-misconfigured").mentioning("172.18.0.222"),
    },
    Fault {
        name: "tunnel-device-without-address",
        description: "the tunnel device of a node lost its address, and with the last address the kernel dropped its routes and neighbours",
        incidents: &["projectcalico/calico#6883", "projectcalico/calico#8039"],
        injection: Injection::Fabric(without_address),
        expect: |cast| whole_node(cast, "tunnel-address-missing-on-device"),
    },
    Fault {
        name: "tunnel-device-with-anothers-address",
        description: "the tunnel device of a node has another node's address: pods reach pods, the host reaches no remote pod",
        incidents: &["projectcalico/calico#3589", "projectcalico/node#12"],
        injection: Injection::Fabric(anothers_address),
        expect: |cast| {
            Expectation::node(cast, "tunnel-address-wrong", Class::NotProgrammed, cast.b, &[Verdict::Degraded])
                .mentioning(&cast.c.tunnel_ip.to_string())
        },
    },
    Fault {
        name: "vtep-mac-changed",
        description: "the tunnel device of a node has another MAC than every other node was told (udev's persistent MAC policy)",
        incidents: &["projectcalico/calico#6383", "projectcalico/calico PR #8924"],
        injection: Injection::Fabric(mac_changed),
        expect: |cast| {
            whole_node(cast, "vtep-mac-mismatch").at(
                vec![tunnel(cast.b, "ingress"), underlay(cast.b, "ingress")],
                [workloads(cast, cast.b, "egress"), vec![tunnel(cast.b, "ingress")]].concat(),
            )
        },
    },
];

const FOREIGN_LOCAL: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 222);

/// A fault of the device of `node-b` that cuts it off from all others.
fn whole_node(cast: &Cast<'_>, code: &str) -> Expectation {
    Expectation::node(cast, code, Class::NotProgrammed, cast.b, &[Verdict::NotForwarding])
}

fn restore(cast: &Cast<'_>) -> Result<Outcome> {
    injected(vec![Step::Tunnel(cast.b.name.clone())])
}

fn deleted(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.delete_link(TUNNEL_DEVICE))?;
    restore(cast)
}

fn down(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.set_up(TUNNEL_DEVICE, false))?;
    restore(cast)
}

/// The device made anew with one attribute different, and everything else as it was.
pub(super) fn remade(cast: &Cast<'_>, change: fn(&mut Vxlan)) -> Result<Outcome> {
    remade_of(cast, IpFamily::V4, change)
}

/// The same for the tunnel device of a family; what the fabric does not have of it is not touched.
pub(super) fn remade_of(cast: &Cast<'_>, family: IpFamily, change: fn(&mut Vxlan)) -> Result<Outcome> {
    let spec = cast.fabric.spec();
    let nodes = cast.fabric.nodes();
    let own = vtep(spec, cast.b, family).context("the fabric has no tunnel of that family")?;
    cast.on(cast.b, |nl| {
        let mut vxlan = device(nl, spec, &own)?;
        change(&mut vxlan);
        nl.delete_link(own.device)?;
        nl.add_vxlan(own.device, own.mac, own.mtu_bytes, &vxlan)?;
        nl.set_up(own.device, true)?;
        nl.add_address(own.device, host_net(own.tunnel_ip))?;
        for route in block_routes(spec, cast.b, nodes) {
            nl.replace_route(&route)?;
        }
        let others = nodes.iter().filter(|node| node.index != cast.b.index);
        for remote in others.filter_map(|node| vtep(spec, node, family)) {
            nl.replace_neighbour(own.device, remote.tunnel_ip, remote.mac)?;
            nl.replace_fdb(own.device, remote.mac, remote.host_ip)?;
        }
        Ok(())
    })?;
    restore(cast)
}

fn without_address(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.delete_address(TUNNEL_DEVICE, host_net(cast.b.tunnel_ip)))?;
    restore(cast)
}

/// The wrong address is added before the right one goes: only the address is wrong, no route is lost.
fn anothers_address(cast: &Cast<'_>) -> Result<Outcome> {
    if !cast.has_third() {
        return needs_third();
    }
    cast.on(cast.b, |nl| {
        nl.add_address(TUNNEL_DEVICE, host_net(cast.c.tunnel_ip))?;
        nl.delete_address(TUNNEL_DEVICE, host_net(cast.b.tunnel_ip))
    })?;
    restore(cast)
}

/// The kernel flushes the device's permanent neighbours when its MAC changes: that is a consequence.
fn mac_changed(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| {
        let mac = vec![0x02, 0xde, 0xad, 0xbe, 0xef, 0x01];
        nl.change_link(TUNNEL_DEVICE, vec![LinkAttribute::Address(mac)])
    })?;
    restore(cast)
}
