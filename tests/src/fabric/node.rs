//! What Felix programs on a node for a VXLAN pool: tunnel device, routes, neighbours, FDB.
//!
//! [`program_tunnel`] makes the state what it should be from whatever it is, the way Felix's
//! resync does, so it serves for bringing a fabric up and for undoing faults.

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv4Net;
use netlink_packet_route::{link::LinkAttribute, neighbour::NeighbourState};

use super::{
    plan::{FabricSpec, GATEWAY, HOST_SIDE_MAC, Node, POD_DEVICE, POD_GATEWAY, Pod, TUNNEL_DEVICE, UNDERLAY, UNDERLAY_DEVICE},
    sysctl,
};
use crate::{
    netns::Netns,
    nl::{Route, Rtnl, Vxlan, absent_is_fine, host_net, proto},
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
    let network: Ipv4Net = UNDERLAY.parse().context("the underlay's prefix")?;
    nl.add_address(UNDERLAY_DEVICE, Ipv4Net::new(node.host_ip, network.prefix_len())?)?;
    nl.set_up(UNDERLAY_DEVICE, true)?;
    nl.replace_route(&default_route())
}

/// The node's default route.
pub fn default_route() -> Route {
    let mut route = Route::unicast(Ipv4Net::default(), Some(GATEWAY), UNDERLAY_DEVICE, proto::STATIC);
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

/// Every route that Felix keeps on `node` for the blocks of `nodes`.
pub fn block_routes(spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Vec<Route> {
    let mut routes = Vec::new();
    for other in nodes {
        for &block in &other.blocks {
            routes.push(if other.index == node.index {
                Route::blackhole(block, proto::FELIX)
            } else {
                tunnel_route(spec, other, block)
            });
        }
    }
    routes
}

/// Makes the tunnel of `node` right: device, address, routes, neighbours and FDB entries for all
/// of `nodes`. To be called inside the node's namespace.
pub fn program_tunnel(spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Result<()> {
    let mut nl = Rtnl::open()?;
    program_device(&mut nl, spec, node)?;
    program_address(&mut nl, node)?;
    program_routes(&mut nl, spec, node, nodes)?;
    program_neighbours(&mut nl, node, nodes)
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
fn program_address(nl: &mut Rtnl, node: &Node) -> Result<()> {
    let right = host_net(node.tunnel_ip);
    nl.add_address(TUNNEL_DEVICE, right)?;
    let index = nl.index(TUNNEL_DEVICE)?;
    for (link, address) in nl.addresses()? {
        if link == index && address != right {
            nl.delete_address(TUNNEL_DEVICE, address)?;
        }
    }
    Ok(())
}

fn program_routes(nl: &mut Rtnl, spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Result<()> {
    let wanted = block_routes(spec, node, nodes);
    for route in nl.routes()? {
        // Felix's ownership rules: whatever is on the tunnel device, or carries its protocol.
        let owned = route.dev.as_deref() == Some(TUNNEL_DEVICE) || route.protocol == proto::FELIX;
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
