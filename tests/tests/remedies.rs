//! What the report tells a person to type is typed, on the node that is blamed, and heals: afterwards the kernel's state is what it was.
//! Remedies that need Felix, BIRD or a new pod are not among these.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::process::Command;

use support::staged::{stage, strike, validate};
use verifier_tests::{
    fabric::Encapsulation,
    faults::{self, Fault, Outcome},
    lab::{Stage, report::Cause},
    snapshot,
};

/// Faults whose remedy is a command, with the cause that has it.
const CASES: [(&str, &str); 7] = [
    ("route-wrong-device", "route-wrong"),
    ("neighbor-wrong-mac", "neighbor-wrong-mac"),
    ("ipv6-route-wrong-device", "route-wrong"),
    ("ipv6-route-wrong-next-hop", "route-wrong"),
    ("ipv6-neighbor-missing", "neighbor-missing"),
    ("ipv6-neighbor-with-ipv4s-mac", "neighbor-wrong-mac"),
    ("ipv6-tunnel-without-address", "tunnel-address-missing-on-device"),
];

/// The commands of a remedy, which stand between backticks.
fn commands(cause: &Cause) -> Vec<&str> {
    let quoted = cause.remedy.split('`').skip(1).step_by(2);
    quoted.filter(|text| text.starts_with("ip ")).collect()
}

fn obey(stage: &Stage, cause: &Cause) {
    let commands = commands(cause);
    assert!(!commands.is_empty(), "{}", cause.remedy);
    let node = cause.node.as_deref().unwrap();
    let fabric = stage.fabric();
    let node = fabric.nodes().iter().find(|n| n.name == node).unwrap();
    for command in commands {
        let typed = || Ok(Command::new("sh").args(["-ec", command]).output()?);
        let done = fabric.node_netns(node).unwrap().run(typed).unwrap();
        assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

fn find(name: &str) -> &'static Fault {
    let modes = [Encapsulation::VxlanDualStack, Encapsulation::Vxlan];
    let mut all = modes.into_iter().flat_map(faults::catalogue_of);
    all.find(|fault| fault.name == name).unwrap_or_else(|| panic!("no fault {name}"))
}

#[test]
fn a_remedy_that_is_typed_as_it_stands_heals() {
    let test = "a_remedy_that_is_typed_as_it_stands_heals";
    if Command::new("ip").arg("-V").output().is_err() {
        eprintln!("skipped: {test}: no ip (iproute2)");
        return;
    }
    let Some(stage) = stage(test, Encapsulation::VxlanDualStack) else {
        return;
    };
    let before = snapshot::take(stage.fabric()).unwrap();
    for (name, code) in CASES {
        let outcome = find(name).inject(stage.fabric()).unwrap();
        assert!(matches!(outcome, Outcome::Injected(_)), "{name}: {outcome:?}");
        let (_, report) = validate(&stage, &[]);
        let roots = report.roots();
        let [(_, cause)] = roots.as_slice() else {
            panic!("{name}: {roots:#?}");
        };
        assert_eq!(cause.code, code, "{name}");
        obey(&stage, cause);
        let mut left = snapshot::difference(&before, &snapshot::take(stage.fabric()).unwrap());
        // The kernel's own, to an address of IPv6 that is added by hand.
        left.retain(|line| !line.contains(" proto 2 "));
        assert!(left.is_empty(), "{name}: after `{}` there is left: {left:#?}", cause.remedy);
    }
    let (status, report) = validate(&stage, &[]);
    assert_eq!((status, report.complaints()), (0, Vec::new()));
    strike(stage);
}
