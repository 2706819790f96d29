//! Somebody else's programs on a node's devices.

use anyhow::{Context, Result};

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, PodState, Step, Verdict,
    cast::{injected, tunnel, underlay},
};
use crate::{
    fabric::plan::UNDERLAY_DEVICE,
    foreign::{
        bpf::{self, Direction},
        program::{Action, Match, Place, assemble},
        tc,
    },
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "foreign-tcx-on-underlay",
        description: "another agent's tcx program drops the tunnel's packets coming in on the underlay device of a node",
        incidents: &["projectcalico/calico#8867"],
        injection: Injection::Fabric(|cast| attach(cast, Hook::Tcx, UNDERLAY_DEVICE, Direction::Ingress, &tunnel_packets(cast))),
        expect: |cast| {
            node(cast).at(
                vec![underlay(cast.b, "ingress"), underlay(cast.a, "egress"), underlay(cast.c, "egress")],
                vec![tunnel(cast.b, "ingress"), underlay(cast.b, "ingress")],
            )
        },
    },
    Fault {
        name: "foreign-tcx-on-veth",
        description: "another agent's tcx program drops all IPv4 on its way to one pod",
        incidents: &["projectcalico/calico#8867"],
        injection: Injection::Fabric(|cast| attach(cast, Hook::Tcx, &cast.pod_b.host_device, Direction::Egress, &Match::default())),
        expect: one_pod,
    },
    Fault {
        name: "foreign-clsact-on-underlay",
        description: "a classifier on a clsact qdisc drops the tunnel's packets leaving the underlay device of a node",
        incidents: &["projectcalico/calico#8867"],
        injection: Injection::Fabric(|cast| attach(cast, Hook::Clsact, UNDERLAY_DEVICE, Direction::Egress, &tunnel_packets(cast))),
        expect: |cast| {
            node(cast).at(
                vec![tunnel(cast.b, "egress"), underlay(cast.b, "egress")],
                [
                    vec![underlay(cast.b, "egress")],
                    vec![underlay(cast.a, "ingress"), underlay(cast.c, "ingress")],
                ]
                .concat(),
            )
        },
    },
    Fault {
        name: "foreign-clsact-on-veth",
        description: "a classifier on a clsact qdisc drops all IPv4 on its way to one pod",
        incidents: &["projectcalico/calico#8867"],
        injection: Injection::Fabric(|cast| attach(cast, Hook::Clsact, &cast.pod_b.host_device, Direction::Egress, &Match::default())),
        expect: one_pod,
    },
    Fault {
        name: "foreign-xdp-on-underlay",
        description: "another agent's XDP program drops the tunnel's packets before the node's own stack, or any tap, sees them",
        incidents: &["projectcalico/calico#8867"],
        injection: Injection::Fabric(|cast| attach(cast, Hook::Xdp, UNDERLAY_DEVICE, Direction::Ingress, &tunnel_packets(cast))),
        expect: |cast| {
            node(cast).at(
                vec![underlay(cast.a, "egress"), underlay(cast.c, "egress")],
                vec![underlay(cast.b, "ingress")],
            )
        },
    },
];

/// The foreign programs' name.
const NAME: &str = "foreign_drop";

enum Hook {
    Tcx,
    Clsact,
    Xdp,
}

fn node(cast: &Cast<'_>) -> Expectation {
    Expectation::node(cast, "foreign-hook-drop", Class::NotForwarded, cast.b, &[Verdict::NotForwarding]).mentioning(NAME)
}

/// A program on one pod's veth: the node forwards to its other pods.
fn one_pod(cast: &Cast<'_>) -> Expectation {
    Expectation::node(
        cast,
        "foreign-hook-drop",
        Class::NotForwarded,
        cast.b,
        &[Verdict::Degraded, Verdict::Forwarding],
    )
    .mentioning(NAME)
    // The program sits on the node: the pod has no fault, and nothing proves it well.
    .pod(&cast.pod_b, PodState::Unknown)
}

fn tunnel_packets(cast: &Cast<'_>) -> Match {
    Match {
        udp_dport: Some(cast.fabric.spec().port),
        ..Match::default()
    }
}

fn attach(cast: &Cast<'_>, hook: Hook, link: &str, direction: Direction, what: &Match) -> Result<Outcome> {
    let place = match hook {
        Hook::Tcx | Hook::Clsact => Place::Tc,
        Hook::Xdp => Place::Xdp,
    };
    let code = assemble(place, what, Action::Drop)?;
    let program = bpf::load(place, NAME, &code)?;
    let netns = cast.b.netns.clone();
    let link = link.to_owned();
    let step = cast.fabric.node_netns(cast.b)?.run(|| {
        Ok(match hook {
            Hook::Tcx => Step::DetachTcx {
                program: bpf::attach_tcx(&program, &link, direction)?,
                netns,
                direction,
                link,
            },
            Hook::Clsact => {
                tc::attach(&program, NAME, &link, direction)?;
                Step::RemoveClsact { netns, link }
            }
            Hook::Xdp => {
                bpf::attach_xdp(&program, &link).context("attach an XDP program")?;
                Step::DetachXdp { netns, link }
            }
        })
    })?;
    injected(vec![step])
}
