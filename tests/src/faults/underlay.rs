//! The network between the nodes: what the switch does to their packets.

use anyhow::Result;

use super::{
    Blame, Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, underlay},
};
use crate::{
    fabric::{Node, plan::TUNNEL_DEVICE},
    foreign::{
        bpf::{self, Direction},
        offload,
        program::{Action, Match, Place, assemble},
    },
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "underlay-drops-tunnel",
        description: "the network drops UDP 4789 between two nodes and passes everything else (a security group)",
        incidents: &["projectcalico/calico#3665", "projectcalico/calico#1996"],
        injection: Injection::Fabric(drops_tunnel),
        expect: |cast| {
            between(cast, "underlay-drops-tunnel").at(
                vec![underlay(cast.a, "egress"), underlay(cast.b, "egress")],
                vec![underlay(cast.b, "ingress"), underlay(cast.a, "ingress")],
            )
        },
    },
    Fault {
        name: "mtu-blackhole",
        description: "packets over 1400 bytes to and from a node vanish in the network, without a word",
        incidents: &["projectcalico/calico#1709", "kubernetes-sigs/cluster-api-provider-azure#1353"],
        injection: Injection::Fabric(mtu_blackhole),
        expect: |cast| {
            let mut expectation = between(cast, "mtu-blackhole").mentioning("1350");
            for node in cast.fabric.nodes() {
                expectation = expectation.verdict(node, &[Verdict::Degraded, Verdict::Forwarding]);
            }
            expectation.verdict(cast.b, &[Verdict::Degraded])
        },
    },
    Fault {
        name: "partial-loss",
        description: "one of four paths between two nodes is bad: what hashes to it (by outer source port) is lost",
        incidents: &["google/cloudprober#612", "projectcalico/calico#6386"],
        injection: Injection::Fabric(partial_loss),
        expect: |cast| between(cast, "partial-loss").at(vec![underlay(cast.a, "egress")], vec![underlay(cast.b, "ingress")]),
    },
    Fault {
        name: "checksum-corrupt",
        description: "a node's network card computes inner checksums wrongly: ICMP passes, UDP and TCP do not",
        incidents: &["projectcalico/calico#9433", "projectcalico/calico#3145"],
        injection: Injection::Fabric(checksum_corrupt),
        expect: |cast| {
            let mut expectation = Expectation::cause(cast, "checksum-corrupt", Class::NotForwarded, Blame::Node(cast.a.name.clone()));
            for node in cast.fabric.nodes() {
                expectation = expectation.verdict(node, &[Verdict::Degraded, Verdict::Forwarding]);
            }
            expectation.verdict(cast.a, &[Verdict::Degraded, Verdict::NotForwarding])
        },
    },
    Fault {
        name: "node-cut-off",
        description: "a node's cable is out: nobody reaches it, and it reaches nobody",
        incidents: &[],
        injection: Injection::Fabric(cut_off),
        expect: |cast| {
            let mut expectation = Expectation::node(cast, "node-cut-off", Class::NotForwarded, cast.b, &[Verdict::NotForwarding]);
            if !cast.has_third() {
                // With two nodes nobody can tell which of them it is.
                expectation = expectation
                    .verdict(cast.a, &[Verdict::Unknown, Verdict::NotForwarding])
                    .verdict(cast.b, &[Verdict::Unknown, Verdict::NotForwarding]);
            }
            expectation
        },
    },
];

/// A fault of the network between `node-a` and `node-b`.
fn between(cast: &Cast<'_>, code: &str) -> Expectation {
    let blame = Blame::Between(cast.a.name.clone(), cast.b.name.clone());
    let verdicts: &[Verdict] = if cast.has_third() {
        &[Verdict::Degraded, Verdict::Forwarding]
    } else {
        &[Verdict::NotForwarding, Verdict::Degraded]
    };
    Expectation::cause(cast, code, Class::NotForwarded, blame)
        .verdict(cast.a, verdicts)
        .verdict(cast.b, verdicts)
}

/// Attaches a program to a port of the switch, where packets from the node come in or packets to
/// it go out.
pub(super) fn on_port(cast: &Cast<'_>, node: &Node, direction: Direction, what: &Match, action: Action) -> Result<Step> {
    let code = assemble(Place::Tc, what, action)?;
    let program = bpf::load(Place::Tc, "switch_fault", &code)?;
    let link = node.switch_port.clone();
    let program = cast.fabric.switch_netns()?.run(|| bpf::attach_tcx(&program, &link, direction))?;
    Ok(Step::DetachTcx {
        netns: cast.fabric.spec().switch_netns(),
        link: node.switch_port.clone(),
        direction,
        program,
    })
}

fn drops_tunnel(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    for (from, to) in [(cast.a, cast.b), (cast.b, cast.a)] {
        let what = Match {
            src: Some(from.host_ip),
            dst: Some(to.host_ip),
            udp_dport: Some(cast.fabric.spec().port),
            ..Match::default()
        };
        steps.push(on_port(cast, from, Direction::Ingress, &what, Action::Drop)?);
    }
    injected(steps)
}

fn mtu_blackhole(cast: &Cast<'_>) -> Result<Outcome> {
    let what = Match {
        longer_than_bytes: Some(1400),
        ..Match::default()
    };
    let mut steps = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        steps.push(on_port(cast, cast.b, direction, &what, Action::Drop)?);
    }
    injected(steps)
}

fn partial_loss(cast: &Cast<'_>) -> Result<Outcome> {
    let what = Match {
        src: Some(cast.a.host_ip),
        dst: Some(cast.b.host_ip),
        udp_dport: Some(cast.fabric.spec().port),
        sport_bits: Some((3, 1)),
        ..Match::default()
    };
    injected(vec![on_port(cast, cast.a, Direction::Ingress, &what, Action::Drop)?])
}

/// Checksums of veth traffic are not computed until somebody must: with offload off on the tunnel
/// device they are in the packet, and there the switch breaks them.
fn checksum_corrupt(cast: &Cast<'_>) -> Result<Outcome> {
    let mut steps = Vec::new();
    cast.fabric
        .node_netns(cast.a)?
        .run(|| offload::set_transmit_checksum(TUNNEL_DEVICE, false))?;
    let what = Match {
        udp_dport: Some(cast.fabric.spec().port),
        ..Match::default()
    };
    steps.push(on_port(cast, cast.a, Direction::Ingress, &what, Action::BreakInnerChecksum)?);
    steps.push(Step::ChecksumOffload {
        netns: cast.a.netns.clone(),
        link: TUNNEL_DEVICE.to_owned(),
    });
    injected(steps)
}

fn cut_off(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on_switch(|nl| nl.set_up(&cast.b.switch_port, false))?;
    injected(vec![Step::LinkUp {
        netns: cast.fabric.spec().switch_netns(),
        link: cast.b.switch_port.clone(),
    }])
}
