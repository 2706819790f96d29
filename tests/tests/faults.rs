//! Every fault bites on the real kernel, packets die where they should, and undo restores exactly.
//! None of this uses the verifier.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use support::{Guard, can_run};
use verifier_tests::{
    fabric::{Fabric, FabricSpec, Pod},
    faults::{self, Cast, Injection, Outcome},
    netns::Netns,
    reach, snapshot,
};

/// Enough for a packet to come or not; the kernel's path takes microseconds.
const TIMEOUT: Duration = Duration::from_millis(150);

/// What passes between `node-a`'s and `node-b`'s pods and hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Passes {
    /// ICMP pod-a1 to pod-b1 and back
    icmp: bool,
    /// UDP, small, one way
    udp: bool,
    /// UDP, largest, one way
    large: bool,
    /// UDP the other way
    udp_back: bool,
    /// ICMP from node-b's host to pod-a1
    host: bool,
    /// ICMP from node-b's host to its own pod-b1
    local: bool,
    /// ICMP pod-a1 to the third node's pod
    third: bool,
}

const ALL: Passes = Passes {
    icmp: true,
    udp: true,
    large: true,
    udp_back: true,
    host: true,
    local: true,
    third: true,
};

/// Nothing between the two pods, and `node-b`'s host reaches no remote pod.
const NODE_B_CUT: Passes = Passes {
    icmp: false,
    udp: false,
    large: false,
    udp_back: false,
    host: false,
    ..ALL
};

/// `node-a` does not get through to `node-b`; the other way does, but not its answers.
const A_TO_B_CUT: Passes = Passes {
    icmp: false,
    udp: false,
    large: false,
    host: false,
    ..ALL
};

fn measure(cast: &Cast<'_>) -> Passes {
    let fabric = cast.fabric;
    let netns = |pod: &Pod| fabric.pod_netns(pod).unwrap();
    let (a, b) = (netns(&cast.pod_a), netns(&cast.pod_b));
    let third = cast.pods_of(cast.c)[0].clone();
    let host_b = fabric.node_netns(cast.b).unwrap();
    let icmp = |from: &Netns, to: &Pod| reach::icmp(from, to.ip, 32, TIMEOUT).unwrap();
    let udp = |from: &Netns, to: &Netns, pod: &Pod, size| reach::udp(from, None, to, pod.ip, size, TIMEOUT).unwrap().is_some();
    let largest = fabric.spec().pod_mtu_bytes() as usize - 28;
    Passes {
        icmp: icmp(&a, &cast.pod_b),
        udp: udp(&a, &b, &cast.pod_b, 32),
        large: udp(&a, &b, &cast.pod_b, largest),
        udp_back: udp(&b, &a, &cast.pod_a, 32),
        host: icmp(&host_b, &cast.pod_a),
        local: icmp(&host_b, &cast.pod_b),
        third: icmp(&a, &third),
    }
}

/// What passes under each fault, with neighbour tables cold.
fn expected(name: &str) -> Passes {
    // A pod that takes no packets, on nodes that forward.
    let pod_deaf = Passes {
        udp_back: true,
        host: true,
        local: false,
        ..NODE_B_CUT
    };
    // A pod that takes packets and finds no way to answer.
    let pod_mute = Passes {
        udp: true,
        large: true,
        udp_back: false,
        ..pod_deaf
    };
    // A node that takes packets and cannot send any.
    let node_mute = Passes {
        udp: true,
        large: true,
        ..NODE_B_CUT
    };
    match name {
        "tunnel-device-deleted"
        | "tunnel-device-down"
        | "tunnel-device-wrong-vni"
        | "tunnel-device-wrong-port"
        | "tunnel-settings-of-one-node"
        | "vtep-mac-changed"
        | "underlay-drops-tunnel"
        | "node-cut-off" => NODE_B_CUT,
        "tunnel-device-wrong-local" | "tunnel-device-without-address" | "return-route-missing" | "foreign-clsact-on-underlay" => node_mute,
        "tunnel-device-with-anothers-address" => Passes { host: false, ..ALL },
        "route-missing"
        | "route-wrong-device"
        | "route-hijacked-by-rule"
        | "fdb-missing"
        | "fdb-to-dead-vtep"
        | "fdb-to-wrong-node"
        | "neighbor-missing"
        | "neighbor-wrong-mac"
        | "neighbor-stale-mac"
        | "rp-filter-strict-asymmetric"
        | "filter-vxlan-input"
        | "filter-netdev-ingress"
        | "foreign-tcx-on-underlay"
        | "foreign-xdp-on-underlay"
        | "tunnel-address-missing" => A_TO_B_CUT,
        // The host's address is not in the captured half, and established connections are accepted.
        "route-hijacked-by-bridge" | "filter-forward-nftables" | "filter-forward-iptables-legacy" | "policy-denies-pod" => {
            Passes { host: true, ..A_TO_B_CUT }
        }
        "pod-route-missing" | "pod-ip-mismatch" | "foreign-tcx-on-veth" | "foreign-clsact-on-veth" => pod_deaf,
        "pod-veth-missing" | "pod-veth-down" => Passes {
            udp_back: false,
            ..pod_deaf
        },
        "pod-gateway-missing" | "pod-gateway-unanswered-proxy-arp" | "pod-gateway-unanswered-no-default-route" => pod_mute,
        // Nothing is answered from a pod whose gateway is not, not even to its own host.
        "ip-forward-off" => Passes {
            local: false,
            host: true,
            ..NODE_B_CUT
        },
        "mtu-blackhole" => Passes { large: false, ..ALL },
        "checksum-corrupt" => Passes {
            udp: false,
            large: false,
            ..ALL
        },
        // In transit, harmless as yet, not seen from outside, or in the objects only.
        "route-wrong-next-hop" | "blackhole-missing" | "source-rewritten" | "duplicate-pod-ip" | "block-two-owners" => ALL,
        other => panic!("say what passes under {other}"),
    }
}

/// What a few faults do beyond that.
fn look_closer(name: &str, cast: &Cast<'_>) {
    let fabric = cast.fabric;
    let a = fabric.pod_netns(&cast.pod_a).unwrap();
    let b = fabric.pod_netns(&cast.pod_b).unwrap();
    let udp = |from: Option<SocketAddr>, size| reach::udp(&a, from, &b, cast.pod_b.ip, size, TIMEOUT).unwrap();
    let source = |peer: Option<SocketAddr>| peer.unwrap_or_else(|| panic!("{name}: no datagram arrived")).ip();
    match name {
        "source-rewritten" => assert_eq!(source(udp(None, 32)), cast.a.tunnel_ip),
        "route-wrong-next-hop" => assert_eq!(source(udp(None, 32)), cast.pod_a.ip),
        "mtu-blackhole" => {
            // 50 bytes of encapsulation, 28 of inner headers: 1350 - 28 is the largest that passes.
            assert!(udp(None, 1322).is_some());
            assert!(udp(None, 1323).is_none());
        }
        "partial-loss" => {
            // The same flows every time: an unconnected socket keeps its outer port.
            let socket = |port| Some(SocketAddr::new(cast.pod_a.ip.into(), port));
            let outcome: Vec<bool> = (20_000..20_032).map(|port| udp(socket(port), 32).is_some()).collect();
            assert!(outcome.contains(&true) && outcome.contains(&false), "{outcome:?}");
        }
        "checksum-corrupt" => {
            let a_host = fabric.node_netns(cast.a).unwrap();
            assert!(!reach::tcp(&a, cast.pod_b.ip, 9, TIMEOUT).unwrap());
            assert!(!reach::tcp(&a_host, cast.pod_b.ip, 9, TIMEOUT).unwrap());
        }
        "duplicate-pod-ip" => {
            let second = &cast.pods_of(cast.b)[1];
            assert!(!reach::icmp(&a, second.ip, 8, TIMEOUT).unwrap());
            let inside = fabric.pod_netns(second).unwrap();
            assert!(!reach::icmp(&inside, cast.pod_a.ip, 8, TIMEOUT).unwrap());
        }
        "pod-gateway-unanswered-no-default-route" => {
            let second = &cast.pods_of(cast.b)[1];
            assert!(!reach::icmp(&a, second.ip, 8, TIMEOUT).unwrap());
        }
        "foreign-tcx-on-veth" | "foreign-clsact-on-veth" | "policy-denies-pod" | "pod-route-missing" => {
            let second = &cast.pods_of(cast.b)[1];
            assert!(reach::icmp(&a, second.ip, 8, TIMEOUT).unwrap());
        }
        "tunnel-address-missing" => {
            let c = fabric.pod_netns(&cast.pods_of(cast.c)[0]).unwrap();
            assert!(!reach::icmp(&c, cast.pod_b.ip, 8, TIMEOUT).unwrap());
        }
        _ => {}
    }
}

#[test]
fn names_are_unique_and_told() {
    let all = faults::catalogue();
    let names: BTreeSet<_> = all.iter().map(|fault| fault.name).collect();
    assert_eq!(names.len(), all.len());
    for fault in all {
        assert!(faults::find(fault.name).is_ok());
        assert!(fault.description.len() > 20, "{}", fault.name);
        assert!(!fault.description.ends_with('.'), "{}", fault.name);
    }
}

fn run(fabric: &Fabric, only: Option<&str>) {
    let cast = Cast::of(fabric).unwrap();
    let before = snapshot::take(fabric).unwrap();
    let overrides = fabric.state().overrides;
    assert_eq!(measure(&cast), ALL);
    for fault in faults::catalogue() {
        if only.is_some_and(|only| only != fault.name) || matches!(fault.injection, Injection::Agent(_) | Injection::Traffic(_)) {
            continue;
        }
        match fault.inject(fabric).unwrap_or_else(|e| panic!("{}: {e:#}", fault.name)) {
            Outcome::Skipped(why) => eprintln!("{}: skipped, {why}", fault.name),
            Outcome::Injected(_) => {
                let changed = snapshot::take(fabric).unwrap() != before || fabric.state().overrides != overrides;
                assert!(changed, "{} changed nothing", fault.name);
                fabric.cool_neighbours().unwrap();
                if fault.name != "partial-loss" {
                    assert_eq!(measure(&cast), expected(fault.name), "{}", fault.name);
                }
                look_closer(fault.name, &cast);
                faults::undo(fabric).unwrap_or_else(|e| panic!("{}: {e:#}", fault.name));
            }
        }
        let after = snapshot::take(fabric).unwrap();
        let different = snapshot::difference(&before, &after);
        assert!(different.is_empty(), "{} left: {different:#?}", fault.name);
        assert_eq!(fabric.state().overrides, overrides, "{}", fault.name);
        fabric.cool_neighbours().unwrap();
        assert_eq!(measure(&cast), ALL, "after {}", fault.name);
    }
}

#[test]
fn every_fault_bites_and_is_undone() {
    if !can_run("every_fault_bites_and_is_undone") {
        return;
    }
    let guard = Guard::small();
    let only = std::env::var("FAULT");
    run(&guard.0, only.as_deref().ok());
}

#[test]
fn expectations_name_what_exists() {
    if !can_run("expectations_name_what_exists") {
        return;
    }
    let guard = Guard::up(FabricSpec {
        prefix: support::unique_prefix(),
        nodes: 3,
        ..FabricSpec::default()
    });
    for fault in faults::catalogue() {
        let expectation = fault.expectation(&guard.0).unwrap();
        assert_eq!(expectation.verdicts.len(), 3);
        for pod in expectation.pods.keys() {
            assert!(guard.0.pods().iter().any(|p| p.key() == *pod));
        }
        if let Some(place) = expectation.place {
            for hop in place.hops.iter().chain(&place.expected_next) {
                assert!(hop.ends_with("/ingress") || hop.ends_with("/egress"), "{hop}");
                assert!(hop.starts_with("node-"), "{hop}");
            }
        }
    }
}
