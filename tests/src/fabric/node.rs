//! What Felix (and for some pools BIRD) programs on a node: tunnel device, routes, neighbours, FDB.
//!
//! [`program_tunnel`] makes the state what it should be from whatever it is, the way Felix's
//! resync does, so it serves for bringing a fabric up and for undoing faults.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::{link::LinkAttribute, neighbour::NeighbourState};

use super::{
    Carrier,
    plan::{
        FabricSpec, GATEWAY_V6, HOST_SIDE_MAC, IPIP_DEVICE, Node, POD_DEVICE, POD_GATEWAY, POD_GATEWAY_V6, Pod, UNDERLAY_DEVICE,
        UNDERLAY_PREFIX_LEN, UNDERLAY_PREFIX_LEN_V6,
    },
    sysctl,
    vtep::{IpFamily, Vtep, vtep},
};
use crate::{
    netns::Netns,
    nl::{Route, Rtnl, Vxlan, absent_is_fine, errno, host_net, proto},
};

/// How long the kernel may take to give a link its link-local address; the CNI plugin gives it half a second.
const LINK_LOCAL_DEADLINE: Duration = Duration::from_secs(5);
/// How often that is looked at.
const LINK_LOCAL_LOOK: Duration = Duration::from_millis(1);

/// Settings that a node needs before Calico starts, and those Felix writes once at its start
/// (`configureKernel`). To be called inside the node's namespace.
pub fn program_sysctls() -> Result<()> {
    // A new namespace inherits the machine's values; the fabric must not depend on them.
    sysctl::set("net/ipv4/conf/all/rp_filter", "0")?;
    sysctl::set("net/ipv4/conf/default/rp_filter", "0")?;
    sysctl::set("net/ipv4/ip_forward", "1")?;
    sysctl::set_if_there("net/netfilter/nf_conntrack_acct", "1")
}

/// The same for IPv6. To be called inside the node's namespace, before it has links.
pub fn program_sysctls_v6() -> Result<()> {
    without_duplicate_detection()?;
    sysctl::set("net/ipv6/conf/all/forwarding", "1")
}

/// New links of the calling thread's namespace have IPv6, and do not wait a second to see whether somebody else has their address. A
/// cluster waits for that once; a fabric would each time.
pub fn without_duplicate_detection() -> Result<()> {
    for (key, value) in [
        ("all/disable_ipv6", "0"),
        ("default/disable_ipv6", "0"),
        ("default/accept_dad", "0"),
    ] {
        sysctl::set(&format!("net/ipv6/conf/{key}"), value)?;
    }
    Ok(())
}

/// The node's way into the underlay. To be called inside the node's namespace.
pub fn program_underlay(node: &Node) -> Result<()> {
    let mut nl = Rtnl::open()?;
    nl.set_up("lo", true)?;
    nl.add_address(UNDERLAY_DEVICE, Ipv4Net::new(node.host_ip, UNDERLAY_PREFIX_LEN)?)?;
    if let Some(v6) = &node.v6 {
        nl.add_address(UNDERLAY_DEVICE, Ipv6Net::new(v6.host_ip, UNDERLAY_PREFIX_LEN_V6)?)?;
    }
    nl.set_up(UNDERLAY_DEVICE, true)?;
    nl.replace_route(&default_route(node))?;
    if node.v6.is_some() {
        nl.replace_route(&default_route_v6())?;
    }
    Ok(())
}

/// The node's default route.
pub fn default_route(node: &Node) -> Route {
    let mut route = Route::unicast(Ipv4Net::default(), Some(node.gateway().into()), UNDERLAY_DEVICE, proto::STATIC);
    route.link_scope = false;
    route
}

/// A node's default route of IPv6.
pub fn default_route_v6() -> Route {
    Route::unicast(Ipv6Net::default(), Some(GATEWAY_V6.into()), UNDERLAY_DEVICE, proto::STATIC)
}

/// `B via T(N) dev vxlan.calico onlink`, with an `mtu` metric from 3.31 on. The device and the tunnel's address are those of the block's
/// family; none if the fabric has no tunnel of it.
pub fn tunnel_route(spec: &FabricSpec, remote: &Node, block: impl Into<IpNet>) -> Option<Route> {
    let block = block.into();
    let remote = vtep(spec, remote, IpFamily::of(block.addr()))?;
    let mut route = Route::unicast(block, Some(remote.tunnel_ip), remote.device, proto::BOOT);
    route.onlink = true;
    route.mtu = spec.routes_carry_mtu().then_some(remote.mtu_bytes);
    Some(route)
}

/// The route of `node` to a block of `remote`, or to an address that it borrowed; none if the fabric has no pool of that family.
pub fn remote_route(spec: &FabricSpec, node: &Node, remote: &Node, dst: impl Into<IpNet>) -> Option<Route> {
    let dst = dst.into();
    let birds = spec.encapsulation.by_bird(dst);
    let protocol = if birds { proto::BIRD } else { proto::FELIX };
    match spec.encapsulation.between(node, remote, dst) {
        Carrier::Vxlan => tunnel_route(spec, remote, dst),
        Carrier::Ipip => {
            let mut route = Route::unicast(dst, Some(remote.host_ip.into()), IPIP_DEVICE, protocol);
            route.onlink = true;
            Some(route)
        }
        Carrier::Bare => {
            let mut route = Route::unicast(dst, Some(remote.host_ip_of(dst.addr())?), UNDERLAY_DEVICE, protocol);
            // BIRD has it from the BGP next hop, Felix says so.
            route.onlink = !birds;
            Some(route)
        }
    }
}

/// Every route that Felix or BIRD keeps on `node` for the blocks and borrowed addresses of `nodes`.
pub fn block_routes(spec: &FabricSpec, node: &Node, nodes: &[Node]) -> Vec<Route> {
    let mut routes = Vec::new();
    for other in nodes {
        for block in other.all_blocks() {
            if other.index == node.index {
                let own = if spec.encapsulation.by_bird(block) {
                    proto::BIRD
                } else {
                    proto::FELIX
                };
                routes.push(Route::blackhole(block, own));
            } else {
                routes.extend(remote_route(spec, node, other, block));
            }
        }
    }
    for (address, borrower) in spec.loans(nodes) {
        if borrower.index != node.index {
            routes.extend(remote_route(spec, node, borrower, address));
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
            let own: Vec<(IpFamily, Vtep)> = IpFamily::ALL
                .into_iter()
                .filter_map(|family| Some((family, vtep(spec, node, family)?)))
                .collect();
            for (_, own) in &own {
                program_device(&mut nl, spec, own)?;
                program_address(&mut nl, own.device, own.tunnel_ip)?;
            }
            program_routes(&mut nl, spec, node, nodes)?;
            for (family, own) in &own {
                let others = nodes.iter().filter(|other| other.index != node.index);
                let remotes: Vec<Vtep> = others.filter_map(|other| vtep(spec, other, *family)).collect();
                program_neighbours(&mut nl, own.device, &remotes)?;
            }
            Ok(())
        }
        Carrier::Ipip => {
            program_ipip(&mut nl, spec)?;
            program_address(&mut nl, IPIP_DEVICE, node.tunnel_ip.into())?;
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
    nl.change_link(IPIP_DEVICE, vec![LinkAttribute::Mtu(spec.tunnel_mtu_bytes())])?;
    nl.set_up(IPIP_DEVICE, true)
}

/// Why this kernel cannot have the encapsulation, if it cannot. To be called inside a namespace that is thrown away.
pub fn lacks(spec: &FabricSpec) -> Result<Option<String>> {
    if spec.encapsulation.is_dual_stack() && sysctl::get("net/ipv6/conf/all/disable_ipv6").is_err() {
        return Ok(Some("this kernel has no IPv6 (CONFIG_IPV6, or ipv6.disable=1)".to_owned()));
    }
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

/// The tunnel device of `own` as Felix makes it.
pub fn device(nl: &mut Rtnl, spec: &FabricSpec, own: &Vtep) -> Result<Vxlan> {
    Ok(Vxlan {
        vni: spec.vni,
        port: spec.port,
        local: Some(own.host_ip),
        parent: nl.index(UNDERLAY_DEVICE)?,
        learning: false,
    })
}

fn program_device(nl: &mut Rtnl, spec: &FabricSpec, own: &Vtep) -> Result<()> {
    let wanted = device(nl, spec, own)?;
    let (name, mtu) = (own.device, own.mtu_bytes);
    // Felix, too, deletes an incompatible device and makes a new one.
    if let Some(link) = nl.link(name)?
        && (link.vxlan.as_ref() != Some(&wanted) || link.mac != own.mac)
    {
        nl.delete_link(name)?;
    }
    match nl.link(name)? {
        None => nl.add_vxlan(name, own.mac, mtu, &wanted)?,
        Some(link) if link.mtu != mtu => {
            nl.change_link(name, vec![LinkAttribute::Mtu(mtu)])?;
        }
        Some(_) => {}
    }
    nl.set_up(name, true)
}

/// Exactly one address, as `ensureAddressOnLink` sees to. The right one is added before others go:
/// with its last address the device would lose its routes.
fn program_address(nl: &mut Rtnl, device: &str, address: IpAddr) -> Result<()> {
    let right = host_net(address);
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
    let devices = spec.encapsulation.devices();
    for route in nl.routes()? {
        // The ownership rules: whatever is on the tunnel device, or carries Felix's or BIRD's protocol. So goes, as it does from Felix's, the
        // kernel's own route to the address of IPv6's tunnel device.
        let on_tunnel = route.dev.as_deref().is_some_and(|device| devices.contains(&device));
        let owned = on_tunnel || matches!(route.protocol, proto::FELIX | proto::BIRD);
        // IPv6 has one route for each metric.
        let same = wanted.iter().find(|w| (w.dst, w.priority) == (route.dst, route.priority));
        // It does not take an on-link gateway that another route leads elsewhere (`ip6_route_check_nh_onlink`), and the route to be replaced
        // is such a one: the gateway is an address of the block.
        let in_the_way = route.dst.addr().is_ipv6() && same.is_some_and(|w| *w != route);
        if in_the_way || (owned && same.is_none()) {
            absent_is_fine(nl.delete_route(&route))?;
        }
    }
    for route in &wanted {
        nl.replace_route(route)?;
    }
    Ok(())
}

fn program_neighbours(nl: &mut Rtnl, device: &str, remotes: &[Vtep]) -> Result<()> {
    let index = nl.index(device)?;
    for entry in nl.neighbours()? {
        let wanted = remotes.iter().any(|remote| remote.tunnel_ip == entry.address);
        if entry.link == index && !wanted && entry.state != NeighbourState::Noarp {
            absent_is_fine(nl.delete_neighbour(device, entry.address))?;
        }
    }
    for entry in nl.fdb()? {
        let wanted = remotes.iter().any(|remote| remote.mac[..] == entry.mac[..]);
        if entry.link == index && !wanted {
            absent_is_fine(nl.delete_fdb(device, &entry.mac))?;
        }
    }
    for remote in remotes {
        nl.replace_neighbour(device, remote.tunnel_ip, remote.mac)?;
        nl.replace_fdb(device, remote.mac, remote.host_ip)?;
    }
    Ok(())
}

/// `PODIP dev caliXXXXXXXXXXX scope link`.
pub fn pod_route(pod: &Pod) -> Route {
    Route::unicast(host_net(pod.ip), None, &pod.host_device, proto::BOOT)
}

/// `PODIP6 dev caliXXXXXXXXXXX metric 1024`, if the pod has an address of IPv6.
pub fn pod_route_v6(pod: &Pod) -> Option<Route> {
    Some(Route::unicast(host_net(pod.ip6?), None, &pod.host_device, proto::BOOT))
}

/// What the CNI plugin does for a pod (`dataplane_linux.go`), from scratch or over what is there.
pub fn program_pod(spec: &FabricSpec, node: &Netns, pod: &Pod) -> Result<()> {
    let inside = Netns::open(&pod.netns)?;
    let inside_file = inside.file()?;
    if pod.ip6.is_some() {
        // Before the device is there; the node has it from its own beginning.
        inside.run(without_duplicate_detection)?;
    }
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

/// Inside the pod: addresses, the gateway's route, the default routes.
pub fn program_pod_inside(pod: &Pod) -> Result<()> {
    let mut nl = Rtnl::open()?;
    sysctl::set("net/ipv4/ip_forward", "0")?;
    nl.set_up("lo", true)?;
    let index = nl
        .link(POD_DEVICE)?
        .ok_or_else(|| anyhow!("{} has no {POD_DEVICE}", pod.name))?
        .index;
    let right: Vec<IpNet> = pod.addresses().into_iter().map(host_net).collect();
    for address in &right {
        nl.add_address(POD_DEVICE, *address)?;
    }
    for (link, address) in nl.addresses()? {
        if link == index && !right.contains(&address) {
            nl.delete_address(POD_DEVICE, address)?;
        }
    }
    nl.set_up(POD_DEVICE, true)?;
    nl.replace_route(&pod_gateway_route())?;
    nl.replace_route(&pod_default_route())?;
    if pod.ip6.is_some() {
        sysctl::set("net/ipv6/conf/all/forwarding", "0")?;
        nl.replace_route(&pod_default_route_v6())?;
    }
    Ok(())
}

/// `169.254.1.1 dev eth0 scope link`.
pub fn pod_gateway_route() -> Route {
    Route::unicast(host_net(POD_GATEWAY), None, POD_DEVICE, proto::BOOT)
}

/// `default via 169.254.1.1 dev eth0`.
pub fn pod_default_route() -> Route {
    Route::unicast(Ipv4Net::default(), Some(POD_GATEWAY.into()), POD_DEVICE, proto::BOOT)
}

/// `default via fe80::ecee:eeff:feee:eeee dev eth0`: the address of the host's side of the veth.
pub fn pod_default_route_v6() -> Route {
    Route::unicast(Ipv6Net::default(), Some(POD_GATEWAY_V6.into()), POD_DEVICE, proto::BOOT)
}

/// On the node: the settings of `configureProcSysForInterface`, the link, the `/32` and the `/128`.
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
    if pod.ip6.is_some() {
        let settings = [
            ("accept_dad", "0"),
            ("disable_ipv6", "0"),
            ("proxy_ndp", "1"),
            ("forwarding", "1"),
            ("accept_ra", "0"),
        ];
        for (key, value) in settings {
            sysctl::set(&format!("net/ipv6/conf/{device}/{key}"), value)?;
        }
    }
    nl.set_up(device, true)?;
    nl.replace_route(&pod_route(pod))?;
    if let Some(route) = pod_route_v6(pod) {
        nl.replace_route(&route)?;
        await_link_local(&mut nl, device)?;
    }
    Ok(())
}

/// Until the kernel has given the link its link-local address, which it does behind the back of whoever sets the link up. Without it the
/// node neither answers its pod nor asks for it.
fn await_link_local(nl: &mut Rtnl, device: &str) -> Result<()> {
    let deadline = Instant::now() + LINK_LOCAL_DEADLINE;
    while !nl.has_link_local(device)? {
        if Instant::now() > deadline {
            bail!(
                "{device} got no link-local address of IPv6 within {} s",
                LINK_LOCAL_DEADLINE.as_secs()
            );
        }
        thread::sleep(LINK_LOCAL_LOOK);
    }
    Ok(())
}
