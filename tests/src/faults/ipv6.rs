//! What breaks IPv6 alone, on a fabric of both families: IPv4 keeps working under each of these, and nothing of it is to blame.

use anyhow::{Context, Result};

use super::{
    Blame, Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third, tunnel_v6, underlay, workloads},
    tunnel::remade_of,
};
use crate::{
    fabric::{
        Encapsulation, Node,
        node::{block_routes, pod_default_route_v6, pod_route_v6, remote_route},
        plan::{GATEWAY_V6, POD_DEVICE, TUNNEL_DEVICE_V6, UNDERLAY_DEVICE},
        sysctl,
        vtep::IpFamily,
    },
    foreign::traffic::{Traffic, datagram_v6},
    nft::{Batch, Family, Hook, Verdict as Rule, hook, rules},
    nl::{Route, Rtnl, host_net, proto},
};

/// The faults that a fabric of this encapsulation can have: none without IPv6, and without a tunnel those that are not the tunnel's.
pub(super) fn faults_of(encapsulation: Encapsulation) -> impl Iterator<Item = &'static Fault> {
    let of = move |fault: &&Fault| encapsulation.device_v6().is_some() || WITHOUT_TUNNEL.contains(&fault.name);
    FAULTS.iter().filter(move |fault| encapsulation.is_dual_stack() && of(fault))
}

const WITHOUT_TUNNEL: &[&str] = &[
    "ipv6-forwarding-off",
    "ipv6-route-missing",
    "ipv6-route-wrong-device",
    "ipv6-route-wrong-next-hop",
    "ipv6-route-blackholed",
    "ipv6-blackhole-missing",
    "ipv6-underlay-filters-discovery",
    "ipv6-pod-discovery-filtered",
    "ipv6-pod-address-missing",
    "ipv6-pod-gateway-missing",
    "ipv6-pod-route-missing",
];

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "ipv6-forwarding-off",
        description: "net.ipv6.conf.all.forwarding of a node was switched off (a hardening script), which Felix never repairs",
        incidents: &[],
        injection: Injection::Fabric(forwarding_off),
        expect: |cast| {
            Expectation::node(cast, "ip-forward-disabled", Class::NotForwarded, cast.b, &[Verdict::Degraded])
                .mentioning("net.ipv6.conf.all.forwarding")
        },
    },
    Fault {
        name: "ipv6-tunnel-down",
        description: "the tunnel device of IPv6 is down on a node: the kernel flushed its routes, its address and its neighbours",
        incidents: &["projectcalico/calico#3271"],
        injection: Injection::Fabric(|cast| {
            cast.on(cast.b, |nl| nl.set_up(TUNNEL_DEVICE_V6, false))?;
            mended_by_felix(cast.b)
        }),
        expect: |cast| whole_node(cast, "tunnel-device-down").mentioning(TUNNEL_DEVICE_V6),
    },
    Fault {
        name: "ipv6-tunnel-gone",
        description: "the tunnel device of IPv6 is gone from a node, and IPv4's stands",
        incidents: &["projectcalico/calico#6273"],
        injection: Injection::Fabric(|cast| {
            cast.on(cast.b, |nl| nl.delete_link(TUNNEL_DEVICE_V6))?;
            mended_by_felix(cast.b)
        }),
        expect: |cast| whole_node(cast, "tunnel-device-missing").mentioning(TUNNEL_DEVICE_V6),
    },
    Fault {
        name: "ipv6-tunnel-without-address",
        description: "the tunnel device of IPv6 lost its address on a node: pods reach pods, and its host has no address to ask them from",
        incidents: &["projectcalico/calico#6246"],
        injection: Injection::Fabric(|cast| {
            let own = host_net(Cast::v6(cast.b)?.tunnel_ip);
            cast.on(cast.b, |nl| nl.delete_address(TUNNEL_DEVICE_V6, own))?;
            mended_by_felix(cast.b)
        }),
        expect: |cast| {
            let verdicts = [Verdict::Degraded, Verdict::Forwarding];
            Expectation::node(cast, "tunnel-address-missing-on-device", Class::NotProgrammed, cast.b, &verdicts)
                .mentioning(TUNNEL_DEVICE_V6)
        },
    },
    Fault {
        name: "ipv6-tunnel-wrong-vni",
        description: "the tunnel device of IPv6 has another VNI than the cluster on a node, and IPv4's has the right one",
        incidents: &["projectcalico/calico#11910"],
        injection: Injection::Fabric(|cast| remade_of(cast, IpFamily::V6, |vxlan| vxlan.vni += 1)),
        expect: |cast| {
            whole_node(cast, "tunnel-device-misconfigured")
                .mentioning(TUNNEL_DEVICE_V6)
                .mentioning("4097")
        },
    },
    Fault {
        name: "ipv6-vtep-mac-of-ipv4",
        description: "the tunnel device of IPv6 has IPv4's MAC on a node, not the one that every other node was told",
        incidents: &["projectcalico/calico PR #8924"],
        injection: Injection::Fabric(mac_of_ipv4),
        expect: |cast| {
            whole_node(cast, "vtep-mac-mismatch")
                .at(
                    vec![tunnel_v6(cast.b, "ingress"), underlay(cast.b, "ingress")],
                    [workloads(cast, cast.b, "egress"), vec![tunnel_v6(cast.b, "ingress")]].concat(),
                )
                .mentioning(TUNNEL_DEVICE_V6)
        },
    },
    Fault {
        name: "ipv6-route-missing",
        description: "one node has no route to another node's block of IPv6: packets leave bare by the default route",
        incidents: &["projectcalico/calico#6273", "projectcalico/calico#9416"],
        injection: Injection::Fabric(|cast| {
            let route = to_block(cast, cast.b)?;
            cast.on(cast.a, |nl| nl.delete_route(&route))?;
            mended_by_felix(cast.a)
        }),
        expect: |cast| past_tunnel(cast, one_way(cast, "route-missing")),
    },
    Fault {
        name: "ipv6-route-wrong-device",
        description: "a route to a block of IPv6 was changed in place to lead out of the underlay device to the default gateway",
        incidents: &["projectcalico/calico#9687"],
        injection: Injection::Fabric(|cast| {
            let block = Cast::v6(cast.b)?.block();
            let protocol = if has_tunnel(cast) { proto::BOOT } else { own_protocol(cast) };
            replace(cast, &Route::unicast(block, Some(GATEWAY_V6.into()), UNDERLAY_DEVICE, protocol))
        }),
        expect: |cast| past_tunnel(cast, one_way(cast, "route-wrong")).mentioning(UNDERLAY_DEVICE),
    },
    Fault {
        name: "ipv6-route-wrong-next-hop",
        description: "a route to a block of IPv6 leads through a third node: traffic passes, in transit, against intent",
        incidents: &["projectcalico/calico PR #12959"],
        injection: Injection::Fabric(|cast| {
            if !cast.has_third() {
                return needs_third();
            }
            let mut route = to_block(cast, cast.b)?;
            let third = Cast::v6(cast.c)?;
            route.via = Some(if has_tunnel(cast) { third.tunnel_ip } else { third.host_ip }.into());
            replace(cast, &route)
        }),
        expect: |cast| {
            let expectation = one_way(cast, "route-wrong");
            if has_tunnel(cast) {
                mentioning(expectation, cast.c, |v6| v6.tunnel_ip.to_string())
            } else {
                mentioning(expectation, cast.c, |v6| v6.host_ip.to_string())
            }
        },
    },
    Fault {
        name: "ipv6-route-blackholed",
        description: "a block of IPv6 moved to another node, and its old owner still has the blackhole for it",
        incidents: &["projectcalico/calico#6486"],
        injection: Injection::Fabric(|cast| replace(cast, &Route::blackhole(Cast::v6(cast.b)?.block(), own_protocol(cast)))),
        expect: |cast| one_way(cast, "route-wrong").mentioning("blackhole"),
    },
    Fault {
        name: "ipv6-neighbor-missing",
        description: "one node has no permanent neighbour for another's tunnel address of IPv6",
        incidents: &["projectcalico/calico#9450"],
        injection: Injection::Fabric(|cast| {
            let address = Cast::v6(cast.b)?.tunnel_ip;
            cast.on(cast.a, |nl| nl.delete_neighbour(TUNNEL_DEVICE_V6, address))?;
            mended_by_felix(cast.a)
        }),
        expect: |cast| one_way(cast, "neighbor-missing"),
    },
    Fault {
        name: "ipv6-neighbor-with-ipv4s-mac",
        description: "one node's neighbour for another's tunnel address of IPv6 has the MAC of that node's tunnel of IPv4",
        incidents: &["projectcalico/calico#7281"],
        injection: Injection::Fabric(|cast| {
            let address = Cast::v6(cast.b)?.tunnel_ip;
            cast.on(cast.a, |nl| nl.replace_neighbour(TUNNEL_DEVICE_V6, address, cast.b.vtep_mac))?;
            mended_by_felix(cast.a)
        }),
        expect: |cast| one_way(cast, "neighbor-wrong-mac").at(vec![tunnel_v6(cast.a, "egress")], vec![underlay(cast.a, "egress")]),
    },
    Fault {
        name: "ipv6-fdb-missing",
        description: "one node has no FDB entry for another's VTEP of IPv6",
        incidents: &["projectcalico/calico PR #9576"],
        injection: Injection::Fabric(|cast| {
            let mac = Cast::v6(cast.b)?.vtep_mac;
            cast.on(cast.a, |nl| nl.delete_fdb(TUNNEL_DEVICE_V6, &mac))?;
            mended_by_felix(cast.a)
        }),
        expect: |cast| one_way(cast, "fdb-missing").at(vec![tunnel_v6(cast.a, "egress")], vec![underlay(cast.a, "egress")]),
    },
    Fault {
        name: "ipv6-fdb-to-wrong-node",
        description: "one node's FDB entry for another's VTEP of IPv6 points at a third node, which drops the frames as not its own",
        incidents: &["projectcalico/calico#7281"],
        injection: Injection::Fabric(|cast| {
            if !cast.has_third() {
                return needs_third();
            }
            let (mac, remote) = (Cast::v6(cast.b)?.vtep_mac, Cast::v6(cast.c)?.host_ip);
            cast.on(cast.a, |nl| nl.replace_fdb(TUNNEL_DEVICE_V6, mac, remote))?;
            mended_by_felix(cast.a)
        }),
        expect: |cast| mentioning(one_way(cast, "fdb-wrong-vtep"), cast.c, |v6| v6.host_ip.to_string()),
    },
    Fault {
        name: "ipv6-blackhole-missing",
        description: "the blackhole of a node's own block of IPv6 is missing: nothing fails yet",
        incidents: &["projectcalico/calico commit 7ea6e12e21"],
        injection: Injection::Fabric(|cast| {
            let block = Cast::v6(cast.b)?.block().into();
            let routes = block_routes(cast.fabric.spec(), cast.b, cast.fabric.nodes());
            let own = routes
                .iter()
                .find(|route| route.dst == block)
                .context("a node has a blackhole for its block")?;
            cast.on(cast.b, |nl| nl.delete_route(own))?;
            mended_by_felix(cast.b)
        }),
        expect: |cast| Expectation::node(cast, "blackhole-missing", Class::NotProgrammed, cast.b, &[Verdict::Forwarding]).warning(),
    },
    Fault {
        name: "ipv6-underlay-drops-tunnel",
        description: "the network drops the tunnel's UDP port over IPv6 between two nodes, and passes it over IPv4",
        incidents: &["projectcalico/calico#3665"],
        injection: Injection::Fabric(drops_tunnel),
        expect: |cast| {
            let blame = Blame::Between(cast.a.name.clone(), cast.b.name.clone());
            let verdicts = [Verdict::Degraded, Verdict::Forwarding];
            Expectation::cause(cast, "underlay-drops-tunnel", Class::NotForwarded, blame)
                .verdict(cast.a, &verdicts)
                .verdict(cast.b, &verdicts)
                .at(
                    vec![underlay(cast.a, "egress"), underlay(cast.b, "egress")],
                    vec![underlay(cast.b, "ingress"), underlay(cast.a, "ingress")],
                )
        },
    },
    Fault {
        name: "ipv6-underlay-filters-discovery",
        description: "the network filters neighbour discovery of a node: once tables are cold nobody finds it by IPv6, and it finds nobody",
        incidents: &[],
        injection: Injection::Fabric(filters_discovery),
        expect: |cast| {
            // IPv4 reaches it: the node is not cut off, its tunnel of IPv6 is. Who waits for an answer has sent nothing yet.
            let blame = Blame::Between(cast.a.name.clone(), cast.b.name.clone());
            let mut expectation = Expectation::cause(cast, "underlay-drops-tunnel", Class::NotForwarded, blame);
            for node in cast.fabric.nodes() {
                expectation = expectation.verdict(node, &[Verdict::Degraded]);
            }
            expectation.mentioning("link-layer address")
        },
    },
    Fault {
        name: "ipv6-pod-discovery-filtered",
        description: "neighbour discovery between a node and one of its pods is filtered: once tables are cold neither finds the other",
        incidents: &[],
        injection: Injection::Fabric(pod_discovery_filtered),
        expect: |cast| {
            let mut expectation = Expectation::stale(cast, "pod-unresponsive", &cast.pod_b);
            expectation.class = Class::NotForwarded;
            expectation
        },
    },
    Fault {
        name: "ipv6-pod-address-missing",
        description: "a pod has lost its address of IPv6 and kept the one of IPv4",
        incidents: &["projectcalico/calico#13858"],
        injection: Injection::Fabric(|cast| {
            let address = host_net(cast.pod_b.ip6.context("the pod has no IPv6")?);
            cast.inside(&cast.pod_b, |nl| nl.delete_address(POD_DEVICE, address))?;
            mended_by_cni(cast)
        }),
        expect: |cast| of_pod(cast, "pod-ip-mismatch"),
    },
    Fault {
        name: "ipv6-pod-gateway-missing",
        description: "a pod has no default route of IPv6: what reaches it is not answered",
        incidents: &["projectcalico/calico#4779"],
        injection: Injection::Fabric(|cast| {
            cast.inside(&cast.pod_b, |nl| nl.delete_route(&pod_default_route_v6()))?;
            mended_by_cni(cast)
        }),
        expect: |cast| Expectation::stale(cast, "pod-gateway-missing", &cast.pod_b),
    },
    Fault {
        name: "ipv6-pod-route-missing",
        description: "the node has no route to the address of IPv6 of one of its pods",
        incidents: &["projectcalico/calico#5173"],
        injection: Injection::Fabric(|cast| {
            let route = pod_route_v6(&cast.pod_b).context("the pod has no IPv6")?;
            cast.on(cast.b, |nl| nl.delete_route(&route))?;
            mended_by_cni(cast)
        }),
        expect: |cast| of_pod(cast, "pod-route-missing"),
    },
    Fault {
        name: "ipv6-spoofed-source",
        description: "a node sends tunnel packets over IPv6 in the name of a third node's pod; no probe is hurt",
        incidents: &["projectcalico/calico#13116"],
        injection: Injection::Traffic(|cast| against_intent(cast, cast.pod_b.ip6, 0)),
        expect: |cast| mentioning(seen(cast, "spoofed-source-seen", cast.c), cast.a, |v6| v6.host_ip.to_string()),
    },
    Fault {
        name: "ipv6-vni-mismatch",
        description: "a node sends tunnel packets over IPv6 with another network identifier than the cluster's; no probe is hurt",
        incidents: &["projectcalico/calico#11910"],
        injection: Injection::Traffic(|cast| against_intent(cast, cast.pod_a.ip6, 7)),
        expect: |cast| seen(cast, "vni-mismatch-seen", cast.a),
    },
    Fault {
        name: "ipv6-bare-leak",
        description: "a process on a node sends to a pod's address of IPv6 past the tunnel, though every route is right; no probe is hurt",
        incidents: &["projectcalico/calico#4869"],
        injection: Injection::Traffic(|cast| {
            let pod = first_pod_v6(cast, cast.c)?;
            Traffic::bare(&cast.fabric.node_netns(cast.a)?, UNDERLAY_DEVICE, pod)
        }),
        expect: |cast| seen(cast, "unencapsulated-leak", cast.a),
    },
];

/// A fault that cuts `node-b` off from all others in IPv6: half of what it does fails.
fn whole_node(cast: &Cast<'_>, code: &str) -> Expectation {
    Expectation::node(cast, code, Class::NotProgrammed, cast.b, &[Verdict::Degraded])
}

/// A fault on `node-a`'s way to `node-b`.
fn one_way(cast: &Cast<'_>, code: &str) -> Expectation {
    Expectation::node(cast, code, Class::NotProgrammed, cast.a, &[Verdict::Degraded])
}

fn has_tunnel(cast: &Cast<'_>) -> bool {
    cast.fabric.spec().encapsulation.device_v6().is_some()
}

/// The protocol of routes without a tunnel, and of blackholes.
fn own_protocol(cast: &Cast<'_>) -> u8 {
    if cast.fabric.spec().encapsulation.is_birds() {
        proto::BIRD
    } else {
        proto::FELIX
    }
}

/// Where there is a tunnel, packets are missed there.
fn past_tunnel(cast: &Cast<'_>, expectation: Expectation) -> Expectation {
    if has_tunnel(cast) {
        expectation.at(from_pods(cast), vec![tunnel_v6(cast.a, "egress")])
    } else {
        expectation
    }
}

/// A pod that IPv6 does not reach.
fn of_pod(cast: &Cast<'_>, code: &str) -> Expectation {
    let expectation = Expectation::stale(cast, code, &cast.pod_b);
    cast.pod_b
        .ip6
        .iter()
        .fold(expectation, |expectation, ip| expectation.mentioning(&ip.to_string()))
}

/// Packets that a node was seen to send, or to get: nothing fails.
fn seen(cast: &Cast<'_>, code: &str, node: &Node) -> Expectation {
    Expectation::node(cast, code, Class::NotForwarded, node, &[Verdict::Forwarding]).warning()
}

fn mentioning(expectation: Expectation, node: &Node, word: fn(&crate::fabric::plan::NodeV6) -> String) -> Expectation {
    node.v6
        .iter()
        .fold(expectation, |expectation, v6| expectation.mentioning(&word(v6)))
}

/// The last points at which a lost packet is seen on `node-a`.
fn from_pods(cast: &Cast<'_>) -> Vec<String> {
    let mut hops = workloads(cast, cast.a, "ingress");
    hops.push(format!("{}/host/egress", cast.a.name));
    hops.push(underlay(cast.a, "egress"));
    hops
}

fn mended_by_felix(node: &Node) -> Result<Outcome> {
    injected(vec![Step::Tunnel(node.name.clone())])
}

fn mended_by_cni(cast: &Cast<'_>) -> Result<Outcome> {
    injected(vec![Step::Pod(cast.pod_b.name.clone())])
}

fn replace(cast: &Cast<'_>, route: &Route) -> Result<Outcome> {
    cast.on(cast.a, |nl| nl.replace_route(route))?;
    mended_by_felix(cast.a)
}

fn to_block(cast: &Cast<'_>, to: &Node) -> Result<Route> {
    remote_route(cast.fabric.spec(), cast.a, to, Cast::v6(to)?.block()).context("the fabric has no pool of IPv6")
}

fn first_pod_v6(cast: &Cast<'_>, node: &Node) -> Result<std::net::Ipv6Addr> {
    let pods = cast.pods_of(node);
    let first = pods.first().and_then(|pod| pod.ip6);
    first.with_context(|| format!("{} has no pod with IPv6", node.name))
}

fn forwarding_off(cast: &Cast<'_>) -> Result<Outcome> {
    const KEY: &str = "net/ipv6/conf/all/forwarding";
    cast.fabric.node_netns(cast.b)?.run(|| sysctl::set(KEY, "0"))?;
    // Switching it on again switches it on for every device, which is how it was.
    injected(vec![Step::Sysctl {
        netns: cast.b.netns.clone(),
        key: KEY.to_owned(),
        value: "1".to_owned(),
    }])
}

/// The kernel flushes the device's permanent neighbours when its MAC changes: that is a consequence.
fn mac_of_ipv4(cast: &Cast<'_>) -> Result<Outcome> {
    let mac = netlink_packet_route::link::LinkAttribute::Address(cast.b.vtep_mac.to_vec());
    cast.on(cast.b, |nl| nl.change_link(TUNNEL_DEVICE_V6, vec![mac]))?;
    mended_by_felix(cast.b)
}

/// The table of whoever filters IPv6.
const TABLE: &str = "filter_ipv6";

/// A chain in that table for what comes in from a node.
fn chain_from(batch: &mut Batch, node: &Node) -> String {
    let chain = format!("from-{}", node.name);
    batch.chain(Family::Netdev, TABLE, &chain, Some(&ingress(&node.switch_port)));
    chain
}

fn ingress(device: &str) -> Hook {
    Hook {
        kind: "filter",
        number: hook::NETDEV_INGRESS,
        priority: 0,
        device: Some(device.to_owned()),
    }
}

fn drop_table(netns: String) -> Step {
    Step::DropTable {
        netns,
        family: Family::Netdev,
        table: TABLE.to_owned(),
    }
}

fn drops_tunnel(cast: &Cast<'_>) -> Result<Outcome> {
    let port = cast.fabric.spec().port;
    let mut batch = Batch::new();
    batch.table(Family::Netdev, TABLE);
    for (from, to) in [(cast.a, cast.b), (cast.b, cast.a)] {
        let chain = chain_from(&mut batch, from);
        let rule = rules::all(&[
            rules::ipv6(),
            rules::between_v6(Cast::v6(from)?.host_ip, Cast::v6(to)?.host_ip),
            rules::udp_dport(port),
            rules::count_and(Rule::Drop),
        ]);
        batch.rule(Family::Netdev, (TABLE, &chain), false, &rule, None);
    }
    cast.fabric.switch_netns()?.run(|| batch.commit())?;
    injected(vec![drop_table(cast.fabric.spec().switch_netns())])
}

/// What asks for a neighbour, and what answers: ICMPv6 types 135 and 136 (RFC 4861).
const SOLICITATION_AND_ADVERTISEMENT: [u8; 2] = [135, 136];

/// What `node-b` says of itself and asks, and what others ask about it: each of these teaches an address by the way.
fn filters_discovery(cast: &Cast<'_>) -> Result<Outcome> {
    let target = Cast::v6(cast.b)?.host_ip;
    let mut batch = Batch::new();
    batch.table(Family::Netdev, TABLE);
    for node in cast.fabric.nodes() {
        let chain = chain_from(&mut batch, node);
        for kind in SOLICITATION_AND_ADVERTISEMENT {
            let mut parts = vec![rules::ipv6(), rules::icmpv6_type(kind)];
            if node.index != cast.b.index {
                parts.push(rules::nd_target(target));
            }
            parts.push(rules::count_and(Rule::Drop));
            batch.rule(Family::Netdev, (TABLE, &chain), false, &rules::all(&parts), None);
        }
    }
    cast.fabric.switch_netns()?.run(|| batch.commit())?;
    for node in cast.fabric.nodes() {
        cast.on(node, |nl| nl.flush_dynamic_neighbours())?;
    }
    injected(vec![drop_table(cast.fabric.spec().switch_netns())])
}

/// At both ends of the pod's veth: each side's question would teach the other its address.
fn pod_discovery_filtered(cast: &Cast<'_>) -> Result<Outcome> {
    let ends = [
        (cast.fabric.node_netns(cast.b)?, cast.pod_b.host_device.as_str()),
        (cast.fabric.pod_netns(&cast.pod_b)?, POD_DEVICE),
    ];
    let mut steps = Vec::new();
    for (netns, device) in ends {
        netns.run(|| {
            let mut batch = Batch::new();
            batch.table(Family::Netdev, TABLE);
            batch.chain(Family::Netdev, TABLE, "ingress", Some(&ingress(device)));
            for kind in SOLICITATION_AND_ADVERTISEMENT {
                let rule = rules::all(&[rules::ipv6(), rules::icmpv6_type(kind), rules::count_and(Rule::Drop)]);
                batch.rule(Family::Netdev, (TABLE, "ingress"), false, &rule, None);
            }
            batch.commit()?;
            Rtnl::open()?.flush_dynamic_neighbours()
        })?;
        steps.push(drop_table(netns.name().to_owned()));
    }
    injected(steps)
}

/// From `node-a`'s host to `node-c`'s tunnel of IPv6, as if `source` sent it, with a VNI that is off by so much.
fn against_intent(cast: &Cast<'_>, source: Option<std::net::Ipv6Addr>, vni_off_by: u32) -> Result<Traffic> {
    let spec = cast.fabric.spec();
    let source = source.context("the pod has no IPv6")?;
    let inner = datagram_v6(source, first_pod_v6(cast, cast.c)?);
    let to = std::net::SocketAddr::new(Cast::v6(cast.c)?.host_ip.into(), spec.port);
    Traffic::in_vxlan(&cast.fabric.node_netns(cast.a)?, to, spec.vni + vni_off_by, &inner)
}
