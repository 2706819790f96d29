//! Every fault of IPv6 bites on the real kernel, where it should, leaves IPv4 alone, and is undone. None of this uses the verifier.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use support::{Guard, can_run, unique_prefix};
use verifier_tests::{
    fabric::{self, Encapsulation, Fabric, FabricSpec, Pod},
    faults::{self, Cast, Injection, Outcome},
    netns::Netns,
    reach, snapshot,
};

/// Enough for a packet to come or not; the kernel's path takes microseconds.
const TIMEOUT: Duration = Duration::from_millis(150);

/// What passes of IPv6 between `node-a`'s and `node-b`'s pods and hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passes {
    /// ping from pod-a1 to pod-b1
    echo: bool,
    /// UDP from pod-a1 to pod-b1, as large as a pod can send, one way
    large: bool,
    /// UDP from pod-b1 to pod-a1, one way
    back: bool,
    /// ping from node-b's host to pod-a1
    host: bool,
    /// ping from node-b's host to its own pod-b1
    local: bool,
    /// ping from pod-a1 to the third node's pod
    third: bool,
}

const ALL: Passes = Passes {
    echo: true,
    large: true,
    back: true,
    host: true,
    local: true,
    third: true,
};

/// Nothing between `node-b` and others.
const NODE_B_CUT: Passes = Passes {
    echo: false,
    large: false,
    back: false,
    host: false,
    ..ALL
};

/// `node-a` does not get through to `node-b`; the other way does, but not its answers.
const A_TO_B_CUT: Passes = Passes { back: true, ..NODE_B_CUT };

fn measure(cast: &Cast<'_>) -> Passes {
    let fabric = cast.fabric;
    let netns = |pod: &Pod| fabric.pod_netns(pod).unwrap();
    let (a, b) = (netns(&cast.pod_a), netns(&cast.pod_b));
    let third = cast.pods_of(cast.c)[0].clone();
    let host_b = fabric.node_netns(cast.b).unwrap();
    let echo = |from: &Netns, to: &Pod| reach::icmp(from, to.ip6.unwrap(), 32, TIMEOUT).unwrap();
    let udp = |from: &Netns, to: &Netns, pod: &Pod, size| reach::udp(from, None, to, pod.ip6.unwrap(), size, TIMEOUT).unwrap().is_some();
    let largest = fabric.spec().pod_mtu_bytes() as usize - 48;
    Passes {
        echo: echo(&a, &cast.pod_b),
        large: udp(&a, &b, &cast.pod_b, largest),
        back: udp(&b, &a, &cast.pod_a, 32),
        host: echo(&host_b, &cast.pod_a),
        local: echo(&host_b, &cast.pod_b),
        third: echo(&a, &third),
    }
}

/// What passes of IPv4 in the same places: always everything.
fn ipv4_passes(cast: &Cast<'_>, what: &str) {
    let fabric = cast.fabric;
    let a = fabric.pod_netns(&cast.pod_a).unwrap();
    let b = fabric.pod_netns(&cast.pod_b).unwrap();
    let host_b = fabric.node_netns(cast.b).unwrap();
    let largest = fabric.spec().pod_mtu_bytes() as usize - 28;
    assert!(reach::icmp(&a, cast.pod_b.ip, 32, TIMEOUT).unwrap(), "{what}");
    assert!(
        reach::udp(&a, None, &b, cast.pod_b.ip, largest, TIMEOUT).unwrap().is_some(),
        "{what}"
    );
    assert!(reach::udp(&b, None, &a, cast.pod_a.ip, 32, TIMEOUT).unwrap().is_some(), "{what}");
    assert!(reach::icmp(&host_b, cast.pod_a.ip, 32, TIMEOUT).unwrap(), "{what}");
    assert!(reach::icmp(&host_b, cast.pod_b.ip, 32, TIMEOUT).unwrap(), "{what}");
}

/// What passes under each fault, with neighbour tables cold.
fn expected(name: &str, tunnel: bool) -> Passes {
    match name {
        "ipv6-tunnel-down"
        | "ipv6-tunnel-gone"
        | "ipv6-tunnel-wrong-vni"
        | "ipv6-vtep-mac-of-ipv4"
        | "ipv6-underlay-drops-tunnel"
        | "ipv6-underlay-filters-discovery" => NODE_B_CUT,
        "ipv6-route-missing"
        | "ipv6-route-wrong-device"
        | "ipv6-route-blackholed"
        | "ipv6-neighbor-missing"
        | "ipv6-neighbor-with-ipv4s-mac"
        | "ipv6-fdb-missing"
        | "ipv6-fdb-to-wrong-node" => Passes {
            // Without a tunnel a host sends from its address on the underlay, to which no route of Calico's leads back.
            host: !tunnel,
            ..A_TO_B_CUT
        },
        // The host itself does not forward: it sends and receives.
        "ipv6-forwarding-off" => Passes { host: true, ..NODE_B_CUT },
        "ipv6-pod-address-missing" | "ipv6-pod-discovery-filtered" => Passes {
            echo: false,
            large: false,
            back: false,
            local: false,
            ..ALL
        },
        "ipv6-pod-route-missing" => Passes {
            echo: false,
            large: false,
            local: false,
            ..ALL
        },
        // It receives, and answers nobody.
        "ipv6-pod-gateway-missing" => Passes {
            echo: false,
            back: false,
            local: false,
            ..ALL
        },
        "ipv6-route-wrong-next-hop" | "ipv6-blackhole-missing" | "ipv6-tunnel-without-address" => ALL,
        other => panic!("say what passes under {other}"),
    }
}

fn run(fabric: &Fabric) {
    let cast = Cast::of(fabric).unwrap();
    let before = snapshot::take(fabric).unwrap();
    assert_eq!(measure(&cast), ALL);
    let tunnel = fabric.spec().encapsulation.device_v6().is_some();
    let catalogue = faults::catalogue_of(fabric.spec().encapsulation);
    let of_ipv6: Vec<_> = catalogue.into_iter().filter(|fault| fault.name.starts_with("ipv6-")).collect();
    assert!(of_ipv6.len() > 10);
    for fault in of_ipv6 {
        let what = fault.name;
        if !matches!(fault.injection, Injection::Fabric(_)) {
            continue;
        }
        match fault.inject(fabric).unwrap_or_else(|e| panic!("{what}: {e:#}")) {
            Outcome::Skipped(why) => eprintln!("{what}: skipped, {why}"),
            Outcome::Injected(_) => {
                assert!(snapshot::take(fabric).unwrap() != before, "{what} changed nothing");
                fabric.cool_neighbours().unwrap();
                assert_eq!(measure(&cast), expected(what, tunnel), "{what}");
                ipv4_passes(&cast, what);
                faults::undo(fabric).unwrap_or_else(|e| panic!("{what}: {e:#}"));
            }
        }
        let different = snapshot::difference(&before, &snapshot::take(fabric).unwrap());
        assert!(different.is_empty(), "{what} left: {different:#?}");
        fabric.cool_neighbours().unwrap();
        assert_eq!(measure(&cast), ALL, "after {what}");
    }
}

#[test]
fn every_fault_of_ipv6_bites_leaves_ipv4_alone_and_is_undone() {
    if !can_run("every_fault_of_ipv6_bites_leaves_ipv4_alone_and_is_undone") {
        return;
    }
    for encapsulation in [Encapsulation::VxlanDualStack, Encapsulation::NoneDualStack] {
        let spec = FabricSpec::of(&unique_prefix(), encapsulation);
        if let Some(why) = fabric::lacking(&spec).unwrap() {
            eprintln!("skipped: {why}");
            return;
        }
        run(&Guard::up(spec).0);
    }
}
