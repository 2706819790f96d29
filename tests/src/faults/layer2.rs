//! Neighbours and FDB entries of the tunnel device.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict,
    cast::{injected, needs_third, tunnel, underlay},
};
use crate::fabric::plan::TUNNEL_DEVICE;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "fdb-missing",
        description: "one node has no FDB entry for another's VTEP",
        incidents: &["projectcalico/calico#7281", "projectcalico/calico PR #9576"],
        injection: Injection::Fabric(|cast| fdb(cast, None)),
        expect: |cast| pair(cast, "fdb-missing").at(vec![tunnel(cast.a, "egress")], vec![underlay(cast.a, "egress")]),
    },
    Fault {
        name: "fdb-to-dead-vtep",
        description: "one node's FDB entry for another's VTEP points at an address that nobody has any more",
        incidents: &["projectcalico/calico#7281"],
        injection: Injection::Fabric(|cast| fdb(cast, Some(DEAD))),
        expect: |cast| {
            pair(cast, "fdb-wrong-vtep")
                .at(vec![tunnel(cast.a, "egress")], vec![underlay(cast.a, "egress")])
                .mentioning("172.18.0.250")
        },
    },
    Fault {
        name: "fdb-to-wrong-node",
        description: "one node's FDB entry for another's VTEP points at a third node, which drops the frames as not its own",
        incidents: &["projectcalico/calico#7281"],
        injection: Injection::Fabric(|cast| {
            if cast.has_third() {
                fdb(cast, Some(cast.c.host_ip))
            } else {
                needs_third()
            }
        }),
        expect: |cast| {
            pair(cast, "fdb-wrong-vtep")
                .at(
                    vec![
                        tunnel(cast.a, "egress"),
                        underlay(cast.a, "egress"),
                        underlay(cast.c, "ingress"),
                        tunnel(cast.c, "ingress"),
                    ],
                    vec![underlay(cast.a, "egress"), underlay(cast.b, "ingress")],
                )
                .mentioning(&cast.c.host_ip.to_string())
        },
    },
    Fault {
        name: "neighbor-missing",
        description: "one node has no permanent neighbour for another's tunnel address",
        incidents: &["projectcalico/calico#9450", "projectcalico/calico PR #9576"],
        injection: Injection::Fabric(neighbor_missing),
        expect: |cast| pair(cast, "neighbor-missing"),
    },
    Fault {
        name: "neighbor-wrong-mac",
        description: "one node's neighbour for another has a MAC that nobody has, with no FDB entry for it (the node was rebuilt under another name)",
        incidents: &["projectcalico/calico#7281"],
        injection: Injection::Fabric(|cast| neighbor_wrong_mac(cast, false)),
        expect: |cast| pair(cast, "neighbor-wrong-mac").at(vec![tunnel(cast.a, "egress")], vec![underlay(cast.a, "egress")]),
    },
    Fault {
        name: "neighbor-stale-mac",
        description: "one node's neighbour for another has its old MAC, and an FDB entry for that is left over: frames arrive and are dropped as somebody else's",
        incidents: &["projectcalico/calico#7281", "projectcalico/calico#6383"],
        injection: Injection::Fabric(|cast| neighbor_wrong_mac(cast, true)),
        expect: |cast| pair(cast, "neighbor-wrong-mac"),
    },
];

/// An address of the underlay that nobody has.
const DEAD: Ipv4Addr = Ipv4Addr::new(172, 18, 0, 250);
/// A MAC of Calico's shape that no node of the fabric has.
const OLD_MAC: [u8; 6] = [0x66, 0x01, 0x02, 0x03, 0x04, 0x05];

fn pair(cast: &Cast<'_>, code: &str) -> Expectation {
    let verdicts: &[Verdict] = if cast.has_third() {
        &[Verdict::Degraded]
    } else {
        &[Verdict::NotForwarding]
    };
    Expectation::node(cast, code, Class::NotProgrammed, cast.a, verdicts)
}

fn restore(cast: &Cast<'_>) -> Result<Outcome> {
    injected(vec![Step::Tunnel(cast.a.name.clone())])
}

fn fdb(cast: &Cast<'_>, remote: Option<Ipv4Addr>) -> Result<Outcome> {
    cast.on(cast.a, |nl| match remote {
        Some(remote) => nl.replace_fdb(TUNNEL_DEVICE, cast.b.vtep_mac, remote),
        None => nl.delete_fdb(TUNNEL_DEVICE, &cast.b.vtep_mac),
    })?;
    restore(cast)
}

fn neighbor_missing(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.a, |nl| nl.delete_neighbour(TUNNEL_DEVICE, cast.b.tunnel_ip))?;
    restore(cast)
}

fn neighbor_wrong_mac(cast: &Cast<'_>, with_fdb: bool) -> Result<Outcome> {
    cast.on(cast.a, |nl| {
        if with_fdb {
            nl.replace_fdb(TUNNEL_DEVICE, OLD_MAC, cast.b.host_ip)?;
        }
        nl.replace_neighbour(TUNNEL_DEVICE, cast.b.tunnel_ip, OLD_MAC)
    })?;
    restore(cast)
}
