//! What Felix (and for some pools BIRD) programs on a node: tunnel device, routes, neighbours, FDB.
//!
//! [`program_tunnel`] makes the state what it should be from whatever it is, the way Felix's
//! resync does, so it serves for bringing a fabric up and for undoing faults.

use anyhow::{Result, anyhow};
use ipnet::Ipv4Net;
use netlink_packet_route::{link::LinkAttribute, neighbour::NeighbourState};

use super::{
    Carrier,
    plan::{
        FabricSpec, HOST_SIDE_MAC, IPIP_DEVICE, Node, POD_DEVICE, POD_GATEWAY, Pod, TUNNEL_DEVICE, UNDERLAY_DEVICE, UNDERLAY_PREFIX_LEN,
    },
    sysctl,
};
use crate::{
    netns::Netns,
    nl::{Route, Rtnl, Vxlan, absent_is_fine, errno, host_net, proto},
};

/// Settings that a node needs before Calico starts, and those Felix writes once at its start
/// (`configureKernel`). To be called inside the node's namespace.
pub fn program_sysctls() -> Result<()> {
    // A new namespace inherits the machine's values; the fabric must not depend on them.
    sysctl::set("net/ipv4/conf/all/rp_filter", "0")?;
    sysctl::set("net/ipv4/conf/default/rp_filter", "0")?;
    sysctl::set("net/ipv4/ip_forward", "1")?;
    sysctl::set_if_there("net/netfilter/nf_conntrack_acct", "1")
}

/// The node's way into the underlay. To be called inside the node's namespace.
pub fn program_underlay(node: &Node) -> Result<()> {
    let mut nl = Rtnl::open()?;
    nl.set_up("lo", true)?;
    nl.add_address(UNDERLAY_DEVICE, Ipv4Net::new(node.host_ip, UNDERLAY_PREFIX_LEN)?)?;
    nl.set_up(UNDERLAY_DEVICE, true)?;
    nl.replace_route(&default_route(node))
}

/// The node's default route.
pub fn default_route(node: &Node) -> Route {
    let mut route = Route::unicast(Ipv4Net::default(), Some(node.gateway()), UNDERLAY_DEVICE, proto::STATIC);
    route.link_scope = false;
    route
}

/// `B via T(N) dev vxlan.calico onlink`, with an `mtu` metric from 3.31 on.
pub fn tunnel_route(spec: &FabricSpec, remote: &Node, block: Ipv4Net) -> Route {
    let mut route = Route::unicast(block, Some(remote.tunnel_ip), TUNNEL_DEVICE, proto::BOOT);
    route.onlink = true;
    route.mtu = spec.routes_carry_mtu().then(|| spec.pod_mtu_bytes());
    route
}

/// The route of `node` to a block of `remote`, or to an address that it borrowed.
pub fn remote_route(spec: &FabricSpec, node: &Node, remote: &Node, dst: Ipv4Net) -> Route {
    let birds = spec.encapsulation.is_birds();
    let protocol = if birds { proto::BIRD } else { proto::FELIX };
    match spec.encapsulation.between(node, remote) {
        Carrier::Vxlan => tunnel_route(spec, remote, dst),
        Carrier::Ipip => {
            let mut route = Route::unicast(dst, Some(remote.host_ip), IPIP_DEVICE, protocol);
            route.onlink = true;
            route
        }
        Carrier::Bare => {
            let mut route = Route::unicast(dst, Some(remote.host_ip), UNDERLAY_DEVICE, protocol);
            // BIRD has it from the BGP next hop, Felix says so.
            route.onlink = !birds;
            route
        }
    }
}

/// Every route that Felix or BIRD keeps on `node` for the blocks and borrowed addresses of `nodes`.
pub fn block_routes(spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Vec<Route> {
    let mut routes = Vec::new();
    let own = if spec.encapsulation.is_birds() { proto::BIRD } else { proto::FELIX };
    for other in nodes {
        for &block in &other.blocks {
            routes.push(if other.index == node.index {
                Route::blackhole(block, own)
            } else {
                remote_route(spec, node, other, block)
            });
        }
    }
    for (address, borrower) in spec.loans(nodes) {
        if borrower.index != node.index {
            routes.push(remote_route(spec, node, borrower, address));
        }
    }
    routes
}

/// Makes the tunnel of `node` right: device, address, routes, neighbours and FDB entries for all
/// of `nodes`. To be called inside the node's namespace.
pub fn program_tunnel(spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Result<()> {
    let mut nl = Rtnl::open()?;
    match spec.encapsulation.tunnel() {
        Carrier::Vxlan => {
            program_device(&mut nl, spec, node)?;
            program_address(&mut nl, TUNNEL_DEVICE, node)?;
            program_routes(&mut nl, spec, node, nodes)?;
            program_neighbours(&mut nl, node, nodes)
        }
        Carrier::Ipip => {
            program_ipip(&mut nl, spec)?;
            program_address(&mut nl, IPIP_DEVICE, node)?;
            program_routes(&mut nl, spec, node, nodes)
        }
        Carrier::Bare => program_routes(&mut nl, spec, node, nodes),
    }
}

/// What a fault calls `tunl0` that cannot be deleted.
pub const IPIP_AWAY: &str = "tunl0-away";

/// The kernel makes `tunl0` by itself in every namespace once it has IPIP; Felix asks for it all the same, and so do we, in case the machine
/// keeps such devices to its first namespace.
fn program_ipip(nl: &mut Rtnl, spec: &FabricSpec) -> Result<()> {
    if nl.link(IPIP_AWAY)?.is_some() {
        nl.set_up(IPIP_AWAY, false)?;
        nl.change_link(IPIP_AWAY, vec![LinkAttribute::IfName(IPIP_DEVICE.to_owned())])?;
    }
    if nl.link(IPIP_DEVICE)?.is_none() {
        match nl.add_ipip(IPIP_DEVICE) {
            Err(error) if errno(&error) == Some(libc::EEXIST) => {}
            other => other?,
        }
    }
    nl.change_link(IPIP_DEVICE, vec![LinkAttribute::Mtu(spec.pod_mtu_bytes())])?;
    nl.set_up(IPIP_DEVICE, true)
}

/// Why this kernel cannot have the encapsulation, if it cannot. To be called inside a namespace that is thrown away.
pub fn lacks(spec: &FabricSpec) -> Result<Option<String>> {
    if spec.encapsulation.tunnel() != Carrier::Ipip {
        return Ok(None);
    }
    let mut nl = Rtnl::open()?;
    match nl.add_ipip("dpv-try") {
        Ok(()) => nl.delete_link("dpv-try").map(|()| None),
        // It made `tunl0` by itself, and has no second one of all addresses.
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(None),
        Err(error) if errno(&error) == Some(libc::EOPNOTSUPP) => {
            Ok(Some("this kernel has no IPIP (CONFIG_NET_IPIP, module ipip)".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn program_device(nl: &mut Rtnl, spec: &FabricSpec, node: &Node) -> Result<()> {
    let wanted = Vxlan {
        vni: spec.vni,
        port: spec.port,
        local: Some(node.host_ip),
        parent: nl.index(UNDERLAY_DEVICE)?,
        learning: false,
    };
    let mtu = spec.pod_mtu_bytes();
    // Felix, too, deletes an incompatible device and makes a new one.
    if let Some(link) = nl.link(TUNNEL_DEVICE)?
        && (link.vxlan.as_ref() != Some(&wanted) || link.mac != node.vtep_mac)
    {
        nl.delete_link(TUNNEL_DEVICE)?;
    }
    match nl.link(TUNNEL_DEVICE)? {
        None => nl.add_vxlan(TUNNEL_DEVICE, node.vtep_mac, mtu, &wanted)?,
        Some(link) if link.mtu != mtu => {
            nl.change_link(TUNNEL_DEVICE, vec![LinkAttribute::Mtu(mtu)])?;
        }
        Some(_) => {}
    }
    nl.set_up(TUNNEL_DEVICE, true)
}

/// Exactly one address, as `ensureAddressOnLink` sees to. The right one is added before others go:
/// with its last address the device would lose its routes.
fn program_address(nl: &mut Rtnl, device: &str, node: &Node) -> Result<()> {
    let right = host_net(node.tunnel_ip);
    nl.add_address(device, right)?;
    let index = nl.index(device)?;
    for (link, address) in nl.addresses()? {
        if link == index && address != right {
            nl.delete_address(device, address)?;
        }
    }
    Ok(())
}

fn program_routes(nl: &mut Rtnl, spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Result<()> {
    let wanted = block_routes(spec, node, nodes);
    for route in nl.routes()? {
        // The ownership rules: whatever is on the tunnel device, or carries Felix's or BIRD's protocol.
        let on_tunnel = route.dev.is_some() && route.dev.as_deref() == spec.encapsulation.device();
        let owned = on_tunnel || matches!(route.protocol, proto::FELIX | proto::BIRD);
        if owned && !wanted.iter().any(|w| w.dst == route.dst) {
            absent_is_fine(nl.delete_route(&route))?;
        }
    }
    for route in &wanted {
        nl.replace_route(route)?;
    }
    Ok(())
}

fn program_neighbours(nl: &mut Rtnl, node: &Node, nodes: &[Node]) -> Result<()> {
    let index = nl.index(TUNNEL_DEVICE)?;
    let remotes: Vec<&Node> = nodes.iter().filter(|n| n.index != node.index).collect();
    for entry in nl.neighbours()? {
        let wanted = remotes.iter().any(|n| n.tunnel_ip == entry.address);
        if entry.link == index && !wanted && entry.state != NeighbourState::Noarp {
            absent_is_fine(nl.delete_neighbour(TUNNEL_DEVICE, entry.address))?;
        }
    }
    for entry in nl.fdb()? {
        let wanted = remotes.iter().any(|n| n.vtep_mac[..] == entry.mac[..]);
        if entry.link == index && !wanted {
            absent_is_fine(nl.delete_fdb(TUNNEL_DEVICE, &entry.mac))?;
        }
    }
    for remote in remotes {
        nl.replace_neighbour(TUNNEL_DEVICE, remote.tunnel_ip, remote.vtep_mac)?;
        nl.replace_fdb(TUNNEL_DEVICE, remote.vtep_mac, remote.host_ip)?;
    }
    Ok(())
}

/// `PODIP dev caliXXXXXXXXXXX scope link`.
pub fn pod_route(pod: &Pod) -> Route {
    Route::unicast(host_net(pod.ip), None, &pod.host_device, proto::BOOT)
}

/// What the CNI plugin does for a pod (`dataplane_linux.go`), from scratch or over what is there.
pub fn program_pod(spec: &FabricSpec, node: &Netns, pod: &Pod) -> Result<()> {
    let inside = Netns::open(&pod.netns)?;
    let inside_file = inside.file()?;
    node.run(|| {
        let mut nl = Rtnl::open()?;
        if nl.link(&pod.host_device)?.is_none() {
            nl.add_veth(
                (&pod.host_device, Some(HOST_SIDE_MAC)),
                (POD_DEVICE, Some(pod.mac())),
                Some(&inside_file),
                spec.pod_mtu_bytes(),
            )?;
        }
        Ok(())
    })?;
    inside.run(|| program_pod_inside(pod))?;
    node.run(|| program_pod_outside(pod))
}

/// Inside the pod: address, the gateway's route, the default route.
pub fn program_pod_inside(pod: &Pod) -> Result<()> {
    let mut nl = Rtnl::open()?;
    sysctl::set("net/ipv4/ip_forward", "0")?;
    nl.set_up("lo", true)?;
    let index = nl
        .link(POD_DEVICE)?
        .ok_or_else(|| anyhow!("{} has no {POD_DEVICE}", pod.name))?
        .index;
    let right = host_net(pod.ip);
    nl.add_address(POD_DEVICE, right)?;
    for (link, address) in nl.addresses()? {
        if link == index && address != right {
            nl.delete_address(POD_DEVICE, address)?;
        }
    }
    nl.set_up(POD_DEVICE, true)?;
    nl.replace_route(&pod_gateway_route())?;
    nl.replace_route(&pod_default_route())
}

/// `169.254.1.1 dev eth0 scope link`.
pub fn pod_gateway_route() -> Route {
    Route::unicast(host_net(POD_GATEWAY), None, POD_DEVICE, proto::BOOT)
}

/// `default via 169.254.1.1 dev eth0`.
pub fn pod_default_route() -> Route {
    Route::unicast(Ipv4Net::default(), Some(POD_GATEWAY), POD_DEVICE, proto::BOOT)
}

/// On the node: the settings of `configureProcSysForInterface`, the link, the `/32`.
pub fn program_pod_outside(pod: &Pod) -> Result<()> {
    let device = &pod.host_device;
    let conf = |key: &str| format!("net/ipv4/conf/{device}/{key}");
    sysctl::set(&conf("route_localnet"), "1")?;
    sysctl::set(&format!("net/ipv4/neigh/{device}/proxy_delay"), "0")?;
    sysctl::set(&conf("proxy_arp"), "1")?;
    sysctl::set(&conf("forwarding"), "1")?;
    // Felix gives the device the value that conf/default had when Felix started.
    let default = sysctl::get("net/ipv4/conf/default/rp_filter")?;
    sysctl::set(&conf("rp_filter"), &default)?;
    let mut nl = Rtnl::open()?;
    nl.set_up(device, true)?;
    nl.replace_route(&pod_route(pod))
}
