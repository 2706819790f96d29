//! What breaks where two pools travel in two ways, as in a migration: one in VXLAN by Felix's routes, one as it is by BIRD's.

use anyhow::{Context, Result};
use ipnet::Ipv4Net;

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third},
};
use crate::{
    fabric::{
        Node,
        node::remote_route,
        plan::{TUNNEL_DEVICE, UNDERLAY_DEVICE},
    },
    nl::{Route, proto},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "bare-pool-route-missing",
        description: "a node has no route to another's block of the pool without encapsulation; the one to its block in VXLAN stands",
        incidents: &["projectcalico/calico#4869"],
        injection: Injection::Fabric(|cast| {
            let route = remote_route(cast.fabric.spec(), cast.a, cast.b, bare_block(cast.b)?).context("the fabric has no such pool")?;
            cast.on(cast.a, |nl| nl.delete_route(&route))?;
            mended(cast.a)
        }),
        expect: |cast| on_bare_pool(cast, "route-missing", Verdict::Degraded),
    },
    Fault {
        name: "bare-pool-through-tunnel",
        description: "the route to a block of the pool without encapsulation leads into the tunnel: traffic passes, against intent",
        incidents: &["projectcalico/calico#4254"],
        injection: Injection::Fabric(|cast| {
            let mut route = Route::unicast(bare_block(cast.b)?, Some(cast.b.tunnel_ip.into()), TUNNEL_DEVICE, proto::BOOT);
            route.onlink = true;
            replace(cast, &route)
        }),
        expect: |cast| {
            on_bare_pool(cast, "route-wrong", Verdict::Forwarding)
                .warning()
                .mentioning(TUNNEL_DEVICE)
        },
    },
    Fault {
        name: "vxlan-pool-by-bird",
        description: "BIRD has the route to a block of the pool in VXLAN too, and Felix's is not there: traffic passes, unencapsulated",
        incidents: &["projectcalico/calico#9687"],
        injection: Injection::Fabric(|cast| {
            replace(
                cast,
                &Route::unicast(cast.b.block(), Some(cast.b.host_ip.into()), UNDERLAY_DEVICE, proto::BIRD),
            )
        }),
        expect: |cast| {
            Expectation::node(cast, "route-wrong", Class::NotProgrammed, cast.a, &[Verdict::Forwarding])
                .warning()
                .mentioning("proto bird")
        },
    },
    Fault {
        name: "tunnel-down-beside-bare-pool",
        description: "the tunnel device of a node is down: its pods in the pool without encapsulation are reached all the same",
        incidents: &["projectcalico/calico#3271"],
        injection: Injection::Fabric(|cast| {
            if !cast.has_third() {
                return needs_third();
            }
            cast.on(cast.c, |nl| nl.set_up(TUNNEL_DEVICE, false))?;
            mended(cast.c)
        }),
        expect: |cast| Expectation::node(cast, "tunnel-device-down", Class::NotProgrammed, cast.c, &[Verdict::Degraded]),
    },
];

/// A node's block of the pool without encapsulation.
fn bare_block(node: &Node) -> Result<Ipv4Net> {
    node.blocks.last().copied().with_context(|| format!("{} has no block", node.name))
}

fn on_bare_pool(cast: &Cast<'_>, code: &str, verdict: Verdict) -> Expectation {
    let expectation = Expectation::node(cast, code, Class::NotProgrammed, cast.a, &[verdict]);
    let block = cast.b.blocks.last().map(Ipv4Net::to_string);
    block.iter().fold(expectation, |expectation, block| expectation.mentioning(block))
}

fn mended(node: &Node) -> Result<Outcome> {
    injected(vec![Step::Tunnel(node.name.clone())])
}

fn replace(cast: &Cast<'_>, route: &Route) -> Result<Outcome> {
    cast.on(cast.a, |nl| nl.replace_route(route))?;
    mended(cast.a)
}
