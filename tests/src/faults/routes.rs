//! Routes between nodes: missing, changed in place, bypassed.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third, tunnel, underlay, workloads},
};
use crate::{
    fabric::{
        Node,
        node::{block_routes, tunnel_route},
        plan::{GATEWAY, UNDERLAY_DEVICE},
    },
    nl::{Route, Rule, proto},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "route-missing",
        description: "one node has no route to another node's block: its pods' packets leave bare by the default route",
        incidents: &["projectcalico/calico#4869", "projectcalico/felix#2547"],
        injection: Injection::Fabric(|cast| missing(cast, cast.a, cast.b)),
        expect: |cast| {
            one_way(cast, "route-missing", cast.a).at(
                from_pods(cast, cast.a, Some(underlay(cast.a, "egress"))),
                vec![tunnel(cast.a, "egress")],
            )
        },
    },
    Fault {
        name: "return-route-missing",
        description: "the far node has no route back: requests arrive and answers do not, and the far node is to blame",
        incidents: &["projectcalico/calico#4869", "projectcalico/felix#2214"],
        injection: Injection::Fabric(|cast| missing(cast, cast.b, cast.a)),
        expect: |cast| one_way(cast, "route-missing", cast.b),
    },
    Fault {
        name: "route-wrong-next-hop",
        description: "a route was changed in place to lead through a third node's VTEP: traffic passes, in transit, against intent",
        incidents: &["projectcalico/calico PR #12959"],
        injection: Injection::Fabric(wrong_next_hop),
        expect: |cast| one_way(cast, "route-wrong", cast.a).mentioning(&cast.c.tunnel_ip.to_string()),
    },
    Fault {
        name: "route-wrong-device",
        description: "a route was changed in place to lead out of the underlay device, without the tunnel",
        incidents: &["projectcalico/calico PR #12959", "projectcalico/calico#9687"],
        injection: Injection::Fabric(wrong_device),
        expect: |cast| {
            one_way(cast, "route-wrong", cast.a)
                .at(
                    from_pods(cast, cast.a, Some(underlay(cast.a, "egress"))),
                    vec![tunnel(cast.a, "egress")],
                )
                .mentioning(UNDERLAY_DEVICE)
        },
    },
    Fault {
        name: "route-hijacked-by-bridge",
        description: "docker0 was given a network that covers the upper half of another node's block",
        incidents: &["projectcalico/calico#6910"],
        injection: Injection::Fabric(hijacked_by_bridge),
        expect: |cast| {
            one_way(cast, "route-hijacked", cast.a)
                .at(from_pods(cast, cast.a, None), vec![tunnel(cast.a, "egress")])
                .mentioning("docker0")
        },
    },
    Fault {
        name: "route-hijacked-by-rule",
        description: "a VPN's policy rule sends another node's block to a table of its own, ahead of the main table",
        incidents: &["projectcalico/calico#9293", "tailscale/tailscale#14706"],
        injection: Injection::Fabric(hijacked_by_rule),
        expect: |cast| {
            one_way(cast, "route-hijacked", cast.a)
                .at(
                    from_pods(cast, cast.a, Some(underlay(cast.a, "egress"))),
                    vec![tunnel(cast.a, "egress")],
                )
                .mentioning("52")
        },
    },
    Fault {
        name: "blackhole-missing",
        description: "the blackhole of a node's own block is missing: nothing fails yet",
        incidents: &["projectcalico/calico commit 7ea6e12e21"],
        injection: Injection::Fabric(blackhole_missing),
        expect: |cast| Expectation::node(cast, "blackhole-missing", Class::NotProgrammed, cast.b, &[Verdict::Forwarding]).warning(),
    },
];

/// A fault on `node`'s way to one of its peers.
fn one_way(cast: &Cast<'_>, code: &str, node: &Node) -> Expectation {
    // With one peer only, one lost peer is all of them.
    let verdicts: &[Verdict] = if cast.has_third() {
        &[Verdict::Degraded]
    } else {
        &[Verdict::NotForwarding]
    };
    Expectation::node(cast, code, Class::NotProgrammed, node, verdicts)
}

/// The last points at which a pod's lost packet is seen on its own node.
fn from_pods(cast: &Cast<'_>, node: &Node, or: Option<String>) -> Vec<String> {
    let mut hops = workloads(cast, node, "ingress");
    hops.push(format!("{}/host/egress", node.name));
    hops.extend(or);
    hops
}

fn restore(node: &Node) -> Step {
    Step::Tunnel(node.name.clone())
}

fn to_block(cast: &Cast<'_>, to: &Node) -> Result<Route> {
    tunnel_route(cast.fabric.spec(), to, to.block()).context("the fabric has no tunnel")
}

fn missing(cast: &Cast<'_>, on: &Node, to: &Node) -> Result<Outcome> {
    let route = to_block(cast, to)?;
    cast.on(on, |nl| nl.delete_route(&route))?;
    injected(vec![restore(on)])
}

fn wrong_next_hop(cast: &Cast<'_>) -> Result<Outcome> {
    if !cast.has_third() {
        return needs_third();
    }
    let mut route = to_block(cast, cast.b)?;
    route.via = Some(cast.c.tunnel_ip.into());
    cast.on(cast.a, |nl| nl.replace_route(&route))?;
    injected(vec![restore(cast.a)])
}

fn wrong_device(cast: &Cast<'_>) -> Result<Outcome> {
    let route = Route::unicast(cast.b.block(), Some(GATEWAY.into()), UNDERLAY_DEVICE, proto::BOOT);
    cast.on(cast.a, |nl| nl.replace_route(&route))?;
    injected(vec![restore(cast.a)])
}

/// The upper half of a block: the fabric's pods live there, the tunnel's address does not.
fn upper_half(block: Ipv4Net) -> Result<Ipv4Net> {
    block.subnets(block.prefix_len() + 1)?.nth(1).context("a block has two halves")
}

fn hijacked_by_bridge(cast: &Cast<'_>) -> Result<Outcome> {
    let half = upper_half(cast.b.block())?;
    // The half's last usable address is no pod's.
    let own = Ipv4Net::new(Ipv4Addr::from(u32::from(half.broadcast()) - 1), half.prefix_len())?;
    cast.on(cast.a, |nl| {
        nl.add_bridge("docker0", None)?;
        // A container's end, so that the bridge has a carrier as it has on a used machine.
        nl.add_veth(("veth0f00d", None), ("veth1f00d", None), None, 1500)?;
        nl.set_controller("veth0f00d", "docker0")?;
        nl.set_up("veth0f00d", true)?;
        nl.set_up("veth1f00d", true)?;
        nl.add_address("docker0", own)?;
        nl.set_up("docker0", true)
    })?;
    let netns = cast.a.netns.clone();
    injected(vec![
        Step::DeleteLink {
            netns: netns.clone(),
            link: "veth0f00d".to_owned(),
        },
        Step::DeleteLink {
            netns,
            link: "docker0".to_owned(),
        },
    ])
}

fn hijacked_by_rule(cast: &Cast<'_>) -> Result<Outcome> {
    // Tailscale's table and preference.
    let rule = Rule {
        priority: 5270,
        to: cast.b.block(),
        table: 52,
    };
    let mut route = Route::unicast(cast.b.block(), Some(GATEWAY.into()), UNDERLAY_DEVICE, proto::STATIC);
    route.table = 52;
    cast.on(cast.a, |nl| {
        nl.add_route(&route)?;
        nl.add_rule(&rule)
    })?;
    let netns = cast.a.netns.clone();
    injected(vec![
        Step::DeleteRule {
            netns: netns.clone(),
            rule,
        },
        Step::DeleteRoute { netns, route },
    ])
}

fn blackhole_missing(cast: &Cast<'_>) -> Result<Outcome> {
    let routes = block_routes(cast.fabric.spec(), cast.b, cast.fabric.nodes());
    let own = routes
        .iter()
        .find(|route| route.dst == cast.b.block().into())
        .context("a node has a blackhole for its block")?;
    cast.on(cast.b, |nl| nl.delete_route(own))?;
    injected(vec![restore(cast.b)])
}
