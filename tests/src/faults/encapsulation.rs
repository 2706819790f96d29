//! What breaks by the way pod traffic travels: the neighbour reached through the tunnel, the far node without it, a stale route of BIRD's,
//! and packets against intent that no state tells of.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use netlink_packet_route::link::LinkAttribute;

use super::{
    Blame, Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third, underlay, workloads},
};
use crate::{
    fabric::{
        Carrier, Encapsulation, Node,
        node::remote_route,
        plan::{IPIP_DEVICE, TUNNEL_DEVICE, UNDERLAY_DEVICE},
    },
    foreign::{
        bpf::Direction,
        program::{Action, Match},
        traffic::{Traffic, datagram},
    },
    nl::{Route, host_net, proto},
};

use Encapsulation::{Ipip, IpipCrossSubnet, None as Bare, Vxlan, VxlanCrossSubnet};

/// Faults, and the encapsulations under which each can happen.
pub(super) const FAULTS: &[(&[Encapsulation], Fault)] = &[
    (
        &[VxlanCrossSubnet, IpipCrossSubnet],
        Fault {
            name: "neighbour-through-tunnel",
            description: "a node of the same subnet is reached through the tunnel, where intent wants none: traffic passes",
            incidents: &["projectcalico/calico#4254"],
            injection: Injection::Fabric(neighbour_through_tunnel),
            expect: |cast| {
                one_way(cast, "route-wrong", &[Verdict::Forwarding])
                    .warning()
                    .mentioning(device(cast))
            },
        },
    ),
    (
        &[VxlanCrossSubnet, IpipCrossSubnet],
        Fault {
            name: "far-node-without-tunnel",
            description: "a node of another subnet is reached without the tunnel: the router between them knows no pods",
            incidents: &["projectcalico/calico#4869"],
            injection: Injection::Fabric(far_node_without_tunnel),
            expect: |cast| {
                one_way(cast, "route-wrong", &[Verdict::Degraded])
                    .at(from_pods(cast), vec![format!("{}/{}/egress", cast.a.name, device(cast))])
                    .mentioning(UNDERLAY_DEVICE)
            },
        },
    ),
    (
        &[Bare, VxlanCrossSubnet, IpipCrossSubnet],
        Fault {
            name: "direct-route-missing",
            description: "a node has no route to the block of another in its own subnet: packets go to the default gateway",
            incidents: &["projectcalico/calico#4869"],
            injection: Injection::Fabric(|cast| missing(cast, cast.b)),
            expect: |cast| one_way(cast, "route-missing", &[Verdict::Degraded]).mentioning(&cast.b.block().to_string()),
        },
    ),
    (
        &[VxlanCrossSubnet, Ipip, IpipCrossSubnet],
        Fault {
            name: "tunnel-route-missing",
            description: "a node has no route through the tunnel to another node's block: packets leave bare by the default route",
            incidents: &["projectcalico/calico#4869"],
            injection: Injection::Fabric(|cast| missing(cast, cast.c)),
            expect: |cast| {
                one_way(cast, "route-missing", &[Verdict::Degraded])
                    .at(from_pods(cast), vec![format!("{}/{}/egress", cast.a.name, device(cast))])
                    .mentioning(&cast.c.block().to_string())
            },
        },
    ),
    (
        &[Vxlan, VxlanCrossSubnet],
        Fault {
            name: "stale-bird-route",
            description: "BIRD's route to a block is still there after Felix took the routes over, and Felix's is not",
            incidents: &["projectcalico/calico#9687"],
            injection: Injection::Fabric(stale_bird_route),
            expect: |cast| {
                let lost = cast.a.subnet != cast.c.subnet;
                let expectation = one_way(
                    cast,
                    "route-wrong",
                    if lost { &[Verdict::Degraded] } else { &[Verdict::Forwarding] },
                );
                let expectation = if lost { expectation } else { expectation.warning() };
                expectation.mentioning("proto bird")
            },
        },
    ),
    (
        &[Vxlan, VxlanCrossSubnet, Ipip, IpipCrossSubnet, Bare],
        Fault {
            name: "moved-block-blackhole",
            description: "a block moved to another node, and its old owner still has the blackhole for it",
            incidents: &["projectcalico/calico#6486"],
            injection: Injection::Fabric(moved_block_blackhole),
            expect: |cast| one_way(cast, "route-wrong", &[Verdict::Degraded]).mentioning("blackhole"),
        },
    ),
    (
        &[VxlanCrossSubnet, Ipip, IpipCrossSubnet, Bare],
        Fault {
            name: "borrowed-address-without-route",
            description: "an address borrowed from another node's block has lost its /32: packets take the way through the block's owner",
            incidents: &["projectcalico/calico#4726"],
            injection: Injection::Fabric(borrowed_without_route),
            expect: |cast| {
                let loans = cast.fabric.spec().loans(cast.fabric.nodes());
                // They arrive, as the owner of the block sends them on: by a way that nobody has promised.
                let expectation = one_way(cast, "route-missing", &[Verdict::Degraded]);
                loans.iter().fold(expectation, |e, (address, _)| e.mentioning(&address.to_string()))
            },
        },
    ),
    (
        &[VxlanCrossSubnet, Ipip, IpipCrossSubnet],
        Fault {
            name: "far-tunnel-down",
            description: "the tunnel device of a node is down, and with it every way between it and nodes of other subnets",
            incidents: &["projectcalico/calico#3271"],
            injection: Injection::Fabric(|cast| {
                let device = device(cast);
                cast.on(cast.c, |nl| nl.set_up(device, false))?;
                injected(vec![Step::Tunnel(cast.c.name.clone())])
            }),
            expect: |cast| whole_node(cast, "tunnel-device-down"),
        },
    ),
    (
        &[VxlanCrossSubnet, Ipip, IpipCrossSubnet],
        Fault {
            name: "far-tunnel-gone",
            description: "the tunnel device of a node is gone, and with it every way between it and nodes of other subnets",
            incidents: &["canonical/microk8s#2680"],
            injection: Injection::Fabric(tunnel_gone),
            expect: |cast| whole_node(cast, "tunnel-device-missing"),
        },
    ),
    (
        &[VxlanCrossSubnet, Ipip, IpipCrossSubnet],
        Fault {
            name: "far-tunnel-without-address",
            description: "the tunnel device of a node lost its only address, and the kernel dropped its routes with it",
            incidents: &["projectcalico/calico#6883"],
            injection: Injection::Fabric(|cast| {
                let device = device(cast);
                cast.on(cast.c, |nl| nl.delete_address(device, host_net(cast.c.tunnel_ip)))?;
                injected(vec![Step::Tunnel(cast.c.name.clone())])
            }),
            expect: |cast| whole_node(cast, "tunnel-address-missing-on-device"),
        },
    ),
    (
        &[Ipip, IpipCrossSubnet],
        Fault {
            name: "underlay-drops-protocol-4",
            description: "the network drops IP protocol 4 between two nodes and passes everything else (a security group)",
            incidents: &["projectcalico/calico#1996"],
            injection: Injection::Fabric(drops_ipip),
            expect: |cast| {
                let blame = Blame::Between(cast.a.name.clone(), cast.c.name.clone());
                let verdicts = [Verdict::Degraded, Verdict::Forwarding, Verdict::NotForwarding];
                Expectation::cause(cast, "underlay-drops-tunnel", Class::NotForwarded, blame)
                    .verdict(cast.a, &verdicts)
                    .verdict(cast.c, &verdicts)
                    .at(
                        vec![underlay(cast.a, "egress"), underlay(cast.c, "egress")],
                        vec![underlay(cast.c, "ingress"), underlay(cast.a, "ingress")],
                    )
            },
        },
    ),
    (
        &[Ipip, IpipCrossSubnet, Bare],
        Fault {
            name: "route-owner-conflict",
            description: "Felix and BIRD were both told to program the routes between nodes",
            incidents: &["projectcalico/calico#4869"],
            injection: Injection::Fabric(owner_conflict),
            expect: |cast| {
                Expectation::cause(cast, "route-owner-conflict", Class::Datastore, Blame::Cluster).mentioning("programClusterRoutes")
            },
        },
    ),
    (
        &[Vxlan, VxlanCrossSubnet],
        Fault {
            name: "vni-mismatch",
            description: "a node sends tunnel packets with another network identifier than the cluster's; no probe is hurt",
            incidents: &["projectcalico/calico#11910"],
            injection: Injection::Traffic(|cast| {
                let inner = datagram(cast.pod_a.ip, first_pod(cast, cast.c)?);
                in_tunnel(cast, cast.c, cast.fabric.spec().vni + 7, &inner)
            }),
            expect: |cast| seen(cast, "vni-mismatch-seen", cast.a),
        },
    ),
    (
        &[Vxlan, VxlanCrossSubnet, Ipip],
        Fault {
            name: "spoofed-source",
            description: "a node sends tunnel packets in the name of a third node's pod; no probe is hurt",
            incidents: &["projectcalico/calico#13116"],
            injection: Injection::Traffic(|cast| {
                let inner = datagram(cast.pod_b.ip, first_pod(cast, cast.c)?);
                in_tunnel(cast, cast.c, cast.fabric.spec().vni, &inner)
            }),
            expect: |cast| seen(cast, "spoofed-source-seen", cast.c).mentioning(&cast.a.host_ip.to_string()),
        },
    ),
    (
        &[Vxlan, VxlanCrossSubnet, Ipip, IpipCrossSubnet],
        Fault {
            name: "bare-leak",
            description: "a process on a node sends to a pod past the tunnel, though every route is right; no probe is hurt",
            incidents: &["projectcalico/calico#4869"],
            injection: Injection::Traffic(|cast| {
                Traffic::bare(&cast.fabric.node_netns(cast.a)?, UNDERLAY_DEVICE, first_pod(cast, cast.c)?)
            }),
            expect: |cast| seen(cast, "unencapsulated-leak", cast.a),
        },
    ),
    (
        &[VxlanCrossSubnet, IpipCrossSubnet, Bare],
        Fault {
            name: "needless-tunnel",
            description: "a node sends tunnel packets to one that intent wants reached without; no probe is hurt",
            incidents: &["projectcalico/calico#4254"],
            injection: Injection::Traffic(|cast| {
                let inner = datagram(cast.pod_a.ip, cast.pod_b.ip);
                in_tunnel(cast, cast.b, cast.fabric.spec().vni, &inner)
            }),
            expect: |cast| seen(cast, "unexpected-encapsulation", cast.a),
        },
    ),
];

/// Faults of the spine that are the same under every encapsulation.
pub(super) const COMMON: &[&str] = &[
    "blackhole-missing",
    "pod-route-missing",
    "policy-denies-pod",
    "ip-forward-off",
    "node-cut-off",
];

fn device(cast: &Cast<'_>) -> &'static str {
    cast.fabric.spec().encapsulation.device().unwrap_or(UNDERLAY_DEVICE)
}

fn one_way(cast: &Cast<'_>, code: &str, verdicts: &[Verdict]) -> Expectation {
    Expectation::node(cast, code, Class::NotProgrammed, cast.a, verdicts)
}

/// A fault of the device of the last node, all of whose peers are beyond the tunnel.
fn whole_node(cast: &Cast<'_>, code: &str) -> Expectation {
    Expectation::node(cast, code, Class::NotProgrammed, cast.c, &[Verdict::NotForwarding])
}

/// Packets that a node was seen to send, or to get: nothing fails.
fn seen(cast: &Cast<'_>, code: &str, node: &Node) -> Expectation {
    Expectation::node(cast, code, Class::NotForwarded, node, &[Verdict::Forwarding]).warning()
}

/// The last points at which a lost packet is seen on `node-a`.
fn from_pods(cast: &Cast<'_>) -> Vec<String> {
    let mut hops = workloads(cast, cast.a, "ingress");
    hops.push(format!("{}/host/egress", cast.a.name));
    hops.push(underlay(cast.a, "egress"));
    hops
}

fn restore(cast: &Cast<'_>) -> Result<Outcome> {
    injected(vec![Step::Tunnel(cast.a.name.clone())])
}

fn replace(cast: &Cast<'_>, route: &Route) -> Result<Outcome> {
    cast.on(cast.a, |nl| nl.replace_route(route))?;
    restore(cast)
}

fn missing(cast: &Cast<'_>, to: &Node) -> Result<Outcome> {
    let route = remote_route(cast.fabric.spec(), cast.a, to, to.block()).context("the fabric has no such pool")?;
    cast.on(cast.a, |nl| nl.delete_route(&route))?;
    restore(cast)
}

fn neighbour_through_tunnel(cast: &Cast<'_>) -> Result<Outcome> {
    let mut route = match cast.fabric.spec().encapsulation.tunnel() {
        Carrier::Vxlan => Route::unicast(cast.b.block(), Some(cast.b.tunnel_ip.into()), TUNNEL_DEVICE, proto::BOOT),
        Carrier::Ipip | Carrier::Bare => Route::unicast(cast.b.block(), Some(cast.b.host_ip.into()), IPIP_DEVICE, proto::BIRD),
    };
    route.onlink = true;
    replace(cast, &route)
}

fn far_node_without_tunnel(cast: &Cast<'_>) -> Result<Outcome> {
    let spec = cast.fabric.spec();
    let protocol = if spec.encapsulation.is_birds() { proto::BIRD } else { proto::FELIX };
    replace(
        cast,
        &Route::unicast(cast.c.block(), Some(cast.a.gateway().into()), UNDERLAY_DEVICE, protocol),
    )
}

/// As BIRD has it: by the next hop itself in one subnet, by the router to it in another.
fn stale_bird_route(cast: &Cast<'_>) -> Result<Outcome> {
    if !cast.has_third() {
        return needs_third();
    }
    let via = if cast.a.subnet == cast.c.subnet {
        cast.c.host_ip
    } else {
        cast.a.gateway()
    };
    replace(
        cast,
        &Route::unicast(cast.c.block(), Some(via.into()), UNDERLAY_DEVICE, proto::BIRD),
    )
}

fn moved_block_blackhole(cast: &Cast<'_>) -> Result<Outcome> {
    let protocol = if cast.fabric.spec().encapsulation.is_birds() {
        proto::BIRD
    } else {
        proto::FELIX
    };
    replace(cast, &Route::blackhole(cast.b.block(), protocol))
}

fn borrowed_without_route(cast: &Cast<'_>) -> Result<Outcome> {
    let spec = cast.fabric.spec();
    let loans = spec.loans(cast.fabric.nodes());
    let Some((address, borrower)) = loans.first() else {
        return Ok(Outcome::Skipped("no pod of this fabric has a borrowed address".to_owned()));
    };
    let route = remote_route(spec, cast.a, borrower, *address).context("the fabric has no such pool")?;
    cast.on(cast.a, |nl| nl.delete_route(&route))?;
    restore(cast)
}

/// `tunl0` cannot be deleted while its module is loaded; under another name it is as good as gone.
fn tunnel_gone(cast: &Cast<'_>) -> Result<Outcome> {
    let device = device(cast);
    let ipip = cast.fabric.spec().encapsulation.tunnel() == Carrier::Ipip;
    cast.on(cast.c, |nl| {
        if ipip {
            nl.set_up(device, false)?;
            nl.change_link(device, vec![LinkAttribute::IfName(crate::fabric::node::IPIP_AWAY.to_owned())])
        } else {
            nl.delete_link(device)
        }
    })?;
    injected(vec![Step::Tunnel(cast.c.name.clone())])
}

fn drops_ipip(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    for (from, to) in [(cast.a, cast.c), (cast.c, cast.a)] {
        let what = Match {
            src: Some(from.host_ip),
            dst: Some(to.host_ip),
            protocol: Some(4),
            ..Match::default()
        };
        steps.push(super::underlay::on_port(cast, from, Direction::Ingress, &what, Action::Drop)?);
    }
    injected(steps)
}

/// A Calico that has the setting on both sides, and both set to the same.
fn owner_conflict(cast: &Cast<'_>) -> Result<Outcome> {
    let old = cast.fabric.state().overrides;
    cast.fabric.change_overrides(|overrides| {
        overrides.calico_version = Some("v3.32.1".to_owned());
        overrides.program_cluster_routes = Some(("Enabled".to_owned(), "Enabled".to_owned()));
    })?;
    injected(vec![Step::Overrides(old)])
}

fn first_pod(cast: &Cast<'_>, node: &Node) -> Result<std::net::Ipv4Addr> {
    let pods = cast.pods_of(node);
    Ok(pods.first().with_context(|| format!("{} has no pod", node.name))?.ip)
}

/// From `node-a`'s host, in what the pool's tunnel is; in VXLAN where it has none.
fn in_tunnel(cast: &Cast<'_>, to: &Node, vni: u32, inner: &[u8]) -> Result<Traffic> {
    let spec = cast.fabric.spec();
    let netns = cast.fabric.node_netns(cast.a)?;
    match spec.encapsulation.tunnel() {
        Carrier::Ipip => Traffic::in_ip(&netns, to.host_ip, inner),
        Carrier::Vxlan | Carrier::Bare => Traffic::in_vxlan(&netns, SocketAddr::new(to.host_ip.into(), spec.port), vni, inner),
    }
}
