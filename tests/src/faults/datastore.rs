//! Objects that contradict each other, with the kernel state that follows; and agents.

use anyhow::{Context, Result};

use super::{AgentFault, Blame, Cast, Class, Expectation, Fault, Injection, Outcome, PodState, Step, Verdict, cast::injected};
use crate::{
    fabric::{
        Overrides,
        node::{pod_route, tunnel_route},
        plan::{POD_DEVICE, TUNNEL_DEVICE},
    },
    nl::host_net,
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "duplicate-pod-ip",
        description: "two pods of one node have one address (after a sandbox was made anew): only one of them is reached",
        incidents: &["projectcalico/calico#13858", "projectcalico/calico#5044"],
        injection: Injection::Fabric(duplicate_pod_ip),
        expect: |cast| {
            let mut expectation =
                Expectation::cause(cast, "duplicate-pod-ip", Class::Datastore, Blame::Cluster).mentioning(&cast.pod_b.ip.to_string());
            if let Some(second) = cast.pods_of(cast.b).get(1) {
                expectation = expectation.pod(second, PodState::Stale);
            }
            expectation
        },
    },
    Fault {
        name: "block-two-owners",
        description: "a block's own affinity and its BlockAffinity name different nodes",
        incidents: &["projectcalico/calico#6486", "projectcalico/calico#9618"],
        injection: Injection::Fabric(two_owners),
        expect: |cast| {
            Expectation::cause(cast, "block-two-owners", Class::Datastore, Blame::Cluster).mentioning(&cast.b.block().to_string())
        },
    },
    Fault {
        name: "tunnel-address-missing",
        description: "a node has no tunnel address: every other node withdraws its routes, neighbour and FDB entry",
        incidents: &["projectcalico/calico#7192", "projectcalico/calico#5595"],
        injection: Injection::Fabric(no_tunnel_address),
        expect: |cast| Expectation::node(cast, "tunnel-address-missing", Class::Datastore, cast.b, &[Verdict::NotForwarding]),
    },
    Fault {
        name: "tunnel-settings-of-one-node",
        description: "a node has a VNI of its own by its FelixConfiguration, and a tunnel device that is as Felix then builds it",
        incidents: &[],
        injection: Injection::Fabric(own_vni),
        expect: |cast| {
            Expectation::node(
                cast,
                "tunnel-settings-conflict",
                Class::Datastore,
                cast.b,
                &[Verdict::NotForwarding],
            )
            .mentioning(&format!("VNI {}", cast.fabric.spec().vni + 1))
        },
    },
    Fault {
        name: "agent-dead",
        description: "the agent of a node is dead: that node is unknown, or its peers vouch for it; nobody has a fault",
        incidents: &[],
        injection: Injection::Agent(AgentFault::Dead),
        expect: |cast| no_cause(cast).verdict(cast.b, &[Verdict::Unknown]),
    },
    Fault {
        name: "agent-restarts",
        description: "the agent of a node restarts: nothing to report",
        incidents: &[],
        injection: Injection::Agent(AgentFault::Restarts),
        expect: no_cause,
    },
];

fn no_cause(cast: &Cast<'_>) -> Expectation {
    let mut expectation = Expectation::cause(cast, "", Class::None, Blame::Nobody);
    expectation.code = None;
    expectation
}

fn overriding(cast: &Cast<'_>, before: &mut Vec<Step>, change: impl FnOnce(&mut Overrides)) -> Result<()> {
    let old = cast.fabric.state().overrides;
    cast.fabric.change_overrides(change)?;
    before.push(Step::Overrides(old));
    Ok(())
}

/// The second pod of `node-b` takes the first one's address, in the API and in its namespace; the
/// node can have only one route for it and keeps the first one's.
fn duplicate_pod_ip(cast: &Cast<'_>) -> Result<Outcome> {
    let pods = cast.pods_of(cast.b);
    let [first, second, ..] = pods.as_slice() else {
        return Ok(Outcome::Skipped("it takes two pods on a node".to_owned()));
    };
    let mut steps = Vec::new();
    overriding(cast, &mut steps, |overrides| {
        overrides.pod_ips.insert(second.key(), first.ip);
    })?;
    cast.inside(second, |nl| {
        nl.add_address(POD_DEVICE, host_net(first.ip))?;
        nl.delete_address(POD_DEVICE, host_net(second.ip))
    })?;
    cast.on(cast.b, |nl| nl.delete_route(&pod_route(second)))?;
    steps.push(Step::Pod(second.name.clone()));
    injected(steps)
}

fn own_vni(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    overriding(cast, &mut steps, |overrides| {
        overrides.vni_of = Some((cast.b.name.clone(), cast.fabric.spec().vni + 1));
    })?;
    Ok(match super::tunnel::remade(cast, |vxlan| vxlan.vni += 1)? {
        Outcome::Injected(undo) => {
            steps.extend(undo.steps);
            Outcome::Injected(super::Undo { steps })
        }
        skipped @ Outcome::Skipped(_) => skipped,
    })
}

/// Felix reads blocks, not affinities: with VXLAN the kernel's state stays as it is.
fn two_owners(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    overriding(cast, &mut steps, |overrides| {
        overrides.affinity_nodes.insert(cast.b.block().into(), cast.c.name.clone());
    })?;
    injected(steps)
}

fn no_tunnel_address(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    overriding(cast, &mut steps, |overrides| {
        overrides.without_tunnel_address.insert(cast.b.name.clone());
    })?;
    // Its peers withdraw the VTEP. The node itself is left with a device nobody manages.
    let spec = cast.fabric.spec();
    for node in cast.fabric.nodes().iter().filter(|node| node.index != cast.b.index) {
        cast.on(node, |nl| {
            for block in &cast.b.blocks {
                if let Some(route) = tunnel_route(spec, cast.b, *block) {
                    nl.delete_route(&route)?;
                }
            }
            nl.delete_neighbour(TUNNEL_DEVICE, cast.b.tunnel_ip)?;
            nl.delete_fdb(TUNNEL_DEVICE, &cast.b.vtep_mac)
        })
        .with_context(|| format!("withdraw {} on {}", cast.b.name, node.name))?;
        steps.push(Step::Tunnel(node.name.clone()));
    }
    injected(steps)
}
