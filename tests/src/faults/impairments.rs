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
    fabric::Carrier,
    foreign::netem::{self, Netem},
};

/// Whose machine this is: only the guest of `cargo xtask vm` has it.
const OF_A_GUEST: &str = "/dpv/plan.json";

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

/// The module of the fabric's tunnel. The machine's one for all its namespaces, so it must be a guest.
fn unload(cast: &Cast<'_>) -> Result<Outcome> {
    if !std::path::Path::new(OF_A_GUEST).exists() {
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
