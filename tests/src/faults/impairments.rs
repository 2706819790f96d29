//! A network that is bad without being broken, and what else only a machine of one's own allows: each below what the verifier calls a fault,
//! where nothing may be blamed, and above it, where it must be named with its figure. `cargo xtask vm` plays them.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    kmod::{DeleteModuleFlags, delete_module},
};

use super::{Blame, Cast, Class, Expectation, Fault, Injection, Outcome, Step, Verdict, cast::injected};
use crate::{
    fabric::{Carrier, sysctl},
    foreign::netem::{self, Netem},
    nft::{self, Batch, Expr, Family, Hook, hook, rules},
};

/// Whose machine this is: only the guest of `cargo xtask vm` has it.
const OF_A_GUEST: &str = "/dpv/plan.json";

/// Below `/proc/sys`, of the machine and not of a namespace (`nf_conntrack_standalone.c` makes it read-only elsewhere).
pub(super) const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";
/// More than probes ever make on a node without them.
const CONNTRACK_ENTRIES: u16 = 5000;
/// A table of the fault's own.
const UNTRACKED: &str = "dpv-untracked";
/// `NF_IP_PRI_RAW`: before connection tracking.
const RAW: i32 = -300;
/// Where the agents of a fabric answer.
const AGENT_PORT: u16 = crate::lab::agents::PORT;

/// Nothing at all.
const NOTHING: Netem = Netem {
    delay: Duration::ZERO,
    loss_percent: 0,
    corrupt_percent: 0,
    reorder_percent: 0,
    duplicate_percent: 0,
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "loss-of-one-percent",
        description: "the network loses one packet of a hundred on the way to a node: no fault",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    loss_percent: 1,
                    ..NOTHING
                },
            )
        }),
        expect: nothing,
    },
    Fault {
        name: "loss-of-a-third",
        description: "the network loses a third of all packets on the way to a node, now this one and now that one",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    loss_percent: 33,
                    ..NOTHING
                },
            )
        }),
        expect: |cast| lossy(cast).mentioning("%"),
    },
    Fault {
        name: "delay-of-forty-milliseconds",
        description: "packets to a node take 40 ms longer: no fault",
        incidents: &[],
        injection: Injection::Fabric(|cast| impair(cast, &delayed(40))),
        expect: nothing,
    },
    Fault {
        name: "delay-of-four-hundred-milliseconds",
        description: "packets to a node take 400 ms longer",
        incidents: &[],
        injection: Injection::Fabric(|cast| impair(cast, &delayed(400))),
        expect: |cast| between(cast, "latency-degraded", &[Verdict::Forwarding]).warning().mentioning("ms"),
    },
    Fault {
        name: "corruption-of-one-percent",
        description: "the network turns a bit in one packet of a hundred on the way to a node: no fault",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    corrupt_percent: 1,
                    ..NOTHING
                },
            )
        }),
        expect: nothing,
    },
    Fault {
        name: "corruption-of-a-third",
        description: "the network turns a bit in a third of all packets on the way to a node",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    corrupt_percent: 33,
                    ..NOTHING
                },
            )
        }),
        expect: |cast| lossy(cast).mentioning("%"),
    },
    Fault {
        name: "reordering",
        description: "half the packets to a node overtake the others by 5 ms: no fault",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    delay: Duration::from_millis(5),
                    reorder_percent: 50,
                    ..NOTHING
                },
            )
        }),
        expect: nothing,
    },
    Fault {
        name: "duplication",
        description: "a third of all packets to a node come twice: no fault",
        incidents: &[],
        injection: Injection::Fabric(|cast| {
            impair(
                cast,
                &Netem {
                    duplicate_percent: 33,
                    ..NOTHING
                },
            )
        }),
        expect: nothing,
    },
    Fault {
        name: "conntrack-table-full",
        description: "a node's connection tracking table is full: new connections die there, established ones live on",
        incidents: &["kubernetes/kubernetes#106274"],
        injection: Injection::Fabric(conntrack_full),
        expect: |cast| {
            // The agents' own probes of before are among what lives on.
            let verdicts = [Verdict::Degraded, Verdict::NotForwarding];
            let expectation = Expectation::node(cast, "conntrack-full", Class::NotForwarded, cast.b, &verdicts);
            let pods = cast.pods_of(cast.b);
            pods.iter().fold(expectation, |e, pod| e.pod(pod, super::PodState::FreshOrUnknown))
        },
    },
    Fault {
        name: "module-unloaded",
        description: "the module of the tunnel is unloaded under traffic: the kernel takes every device of it away, on all nodes at once",
        incidents: &["canonical/microk8s#2680"],
        injection: Injection::Fabric(unload),
        expect: |cast| {
            let expectation = Expectation::cause(cast, "tunnel-device-missing", Class::NotProgrammed, Blame::EachNode);
            cast.fabric
                .nodes()
                .iter()
                .fold(expectation, |e, node| e.verdict(node, &[Verdict::NotForwarding]))
        },
    },
];

/// Fills the table of `node-b` to a limit that the other nodes stay far below: the limit is the machine's, each namespace counts for itself.
///
/// The agent's port is taken out of connection tracking first, as an operator does with ports that must stay reachable (Calico's untracked
/// policies): otherwise nobody could ask that agent anything, and all there is to say is that the node is cut off.
fn conntrack_full(cast: &Cast<'_>) -> Result<Outcome> {
    if !is_a_guest() {
        return Ok(Outcome::Skipped("only a virtual machine's own limit is lowered".to_owned()));
    }
    let before = sysctl::get(CONNTRACK_MAX)?;
    cast.fabric.node_netns(cast.b)?.run(|| {
        let mut batch = Batch::new();
        batch.table(Family::Inet, UNTRACKED);
        for (chain, number) in [("prerouting", hook::PREROUTING), ("output", hook::OUTPUT)] {
            let raw = Hook {
                kind: "filter",
                number,
                priority: RAW,
                device: None,
            };
            batch.chain(Family::Inet, UNTRACKED, chain, Some(&raw));
            for destination in [true, false] {
                let rule = rules::all(&[rules::tcp_port(AGENT_PORT, destination), vec![Expr::Notrack]]);
                batch.rule(Family::Inet, (UNTRACKED, chain), false, &rule, None);
            }
        }
        batch.commit()?;
        nft::conntrack::fill(CONNTRACK_ENTRIES)
    })?;
    sysctl::set(CONNTRACK_MAX, &CONNTRACK_ENTRIES.to_string())?;
    injected(vec![
        Step::ConntrackMax(before),
        Step::FlushConntrack {
            netns: cast.b.netns.clone(),
        },
        Step::DropTable {
            netns: cast.b.netns.clone(),
            family: Family::Inet,
            table: UNTRACKED.to_owned(),
        },
    ])
}

fn is_a_guest() -> bool {
    std::path::Path::new(OF_A_GUEST).exists()
}

/// The module of the fabric's tunnel. The machine's one for all its namespaces, so it must be a guest.
fn unload(cast: &Cast<'_>) -> Result<Outcome> {
    if !is_a_guest() {
        return Ok(Outcome::Skipped("only a virtual machine's own modules are unloaded".to_owned()));
    }
    let module = match cast.fabric.spec().encapsulation.tunnel() {
        Carrier::Vxlan => c"vxlan",
        Carrier::Ipip => c"ipip",
        Carrier::Bare => return Ok(Outcome::Skipped("no tunnel, and no module".to_owned())),
    };
    match delete_module(module, DeleteModuleFlags::O_NONBLOCK) {
        Ok(()) => {}
        Err(Errno::ENOENT | Errno::ENOSYS) => return Ok(Outcome::Skipped(format!("{} is no module here", module.to_string_lossy()))),
        Err(error) => return Err(error).with_context(|| format!("unloading {}", module.to_string_lossy())),
    }
    // Making the device again has the kernel ask for the module.
    injected(cast.fabric.nodes().iter().map(|node| Step::Tunnel(node.name.clone())).collect())
}

const fn delayed(ms: u64) -> Netem {
    Netem {
        delay: Duration::from_millis(ms),
        ..NOTHING
    }
}

/// On the switch, where it sends to `node-b`.
fn impair(cast: &Cast<'_>, netem: &Netem) -> Result<Outcome> {
    let switch = cast.fabric.switch_netns()?;
    let link = cast.b.switch_port.clone();
    let done = switch.run(|| netem::impair(&link, netem)).context("impairing the network")?;
    match done {
        Some(()) => injected(vec![Step::Relieve {
            netns: cast.fabric.spec().switch_netns(),
            link: cast.b.switch_port.clone(),
        }]),
        None => Ok(Outcome::Skipped("this kernel has no netem (CONFIG_NET_SCH_NETEM)".to_owned())),
    }
}

/// A healthy fabric's report.
fn nothing(cast: &Cast<'_>) -> Expectation {
    Expectation {
        code: None,
        ..Expectation::cause(cast, "", Class::None, Blame::Nobody)
    }
}

/// Of the network, and so of no node: all of `node-b`'s peers are concerned.
fn between(cast: &Cast<'_>, code: &str, verdicts: &[Verdict]) -> Expectation {
    let expectation = Expectation::cause(cast, code, Class::NotForwarded, Blame::Cluster);
    cast.fabric.nodes().iter().fold(expectation, |e, node| e.verdict(node, verdicts))
}

fn lossy(cast: &Cast<'_>) -> Expectation {
    let expectation = between(cast, "partial-loss", &[Verdict::Degraded]);
    let pods = cast.fabric.pods();
    pods.iter().fold(expectation, |e, pod| e.pod(pod, super::PodState::FreshOrUnknown))
}
