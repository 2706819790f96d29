//! Fabrics of every encapsulation: they forward, their kernels hold what intent computes from their manifests, and their faults are undone.
//! What this machine's kernel lacks is skipped, and said.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, net::IpAddr, process::Command, time::Duration};

use support::{Guard, can_run, unique_prefix};
use verifier::intent::files;
use verifier_core::{
    intent::{Cluster, Encapsulation as Travels, ExpectedDevice, NodeIntent, RouteClass},
    names::{NodeName, UnixNs},
    verdict::CauseCode,
};
use verifier_tests::{
    fabric::{self, Carrier, Encapsulation, Fabric, FabricSpec, plan::GATEWAY_V6},
    faults::{self, Injection, Outcome},
    manifests,
    nl::{RouteKind, Rtnl},
    reach, snapshot,
};

const TIMEOUT: Duration = Duration::from_secs(2);

/// A fabric of each encapsulation besides plain VXLAN, which the other suites are about.
fn each(test: &str, work: impl Fn(&Fabric)) {
    if !can_run(test) {
        return;
    }
    for encapsulation in Encapsulation::ALL.into_iter().filter(|e| *e != Encapsulation::Vxlan) {
        let spec = FabricSpec::of(&unique_prefix(), encapsulation);
        match fabric::lacking(&spec).unwrap() {
            Some(why) => eprintln!("skipped: {test}, {encapsulation}: {why}"),
            None => work(&Guard::up(spec).0),
        }
    }
}

fn cluster_of(fabric: &Fabric) -> Cluster {
    let dir = std::env::temp_dir().join(format!("{}-manifests", fabric.spec().prefix));
    manifests::write(&fabric.state(), &dir).unwrap();
    let loaded = files::load(&dir, UnixNs(1));
    manifests::remove(&dir).unwrap();
    Cluster::compile(loaded.unwrap().objects.all().unwrap().clone())
}

#[test]
fn every_pod_and_node_reaches_every_pod() {
    each("every_pod_and_node_reaches_every_pod", |fabric| {
        let encapsulation = fabric.spec().encapsulation;
        let mtu = fabric.spec().pod_mtu_bytes() as usize;
        let pods = fabric.pods();
        let nodes = fabric.nodes().iter().map(|node| (fabric.node_netns(node).unwrap(), Some(node)));
        let inside = pods.iter().map(|pod| (fabric.pod_netns(pod).unwrap(), None));
        for (source, node) in nodes.chain(inside).collect::<Vec<_>>() {
            for pod in &pods {
                let target = fabric.pod_netns(pod).unwrap();
                for address in pod.addresses() {
                    let what = format!("{encapsulation}: {} to {} ({address})", source.name(), pod.name);
                    // IP and UDP headers.
                    let largest = mtu - if address.is_ipv4() { 28 } else { 48 };
                    let from = reach::udp(&source, None, &target, address, largest, TIMEOUT).unwrap();
                    let from = from.unwrap_or_else(|| panic!("{what}"));
                    let Some(node) = node.filter(|node| node.index != pod.node) else {
                        continue;
                    };
                    // The host's packets carry the address of the device that they leave by.
                    let own = match (encapsulation.between(node, &fabric.nodes()[pod.node], address), &node.v6) {
                        (Carrier::Bare, Some(v6)) if address.is_ipv6() => IpAddr::V6(v6.host_ip),
                        (Carrier::Bare, _) => IpAddr::V4(node.host_ip),
                        (Carrier::Vxlan, Some(v6)) if address.is_ipv6() => IpAddr::V6(v6.tunnel_ip),
                        (Carrier::Vxlan | Carrier::Ipip, _) => IpAddr::V4(node.tunnel_ip),
                    };
                    assert_eq!(from.ip(), own, "{what}");
                }
            }
        }
    });
}

/// IPv6 beyond datagrams: pings, refusals, no more bytes than fit; and the gateway, which forwards nothing.
#[test]
fn both_families_of_a_dual_stack_fabric_pass() {
    if !can_run("both_families_of_a_dual_stack_fabric_pass") {
        return;
    }
    let spec = FabricSpec::of(&unique_prefix(), Encapsulation::VxlanDualStack);
    if let Some(why) = fabric::lacking(&spec).unwrap() {
        eprintln!("skipped: {why}");
        return;
    }
    let guard = Guard::up(spec);
    let fabric = &guard.0;
    let pods = fabric.pods();
    let (first, last) = (&pods[0], &pods[pods.len() - 1]);
    assert_ne!(first.node, last.node);
    let (here, there) = (fabric.pod_netns(first).unwrap(), fabric.pod_netns(last).unwrap());
    let mtu = fabric.spec().pod_mtu_bytes() as usize;
    for address in last.addresses() {
        let largest = mtu - if address.is_ipv4() { 28 } else { 48 };
        assert!(reach::icmp(&here, address, 56, TIMEOUT).unwrap(), "{address}");
        assert!(reach::tcp(&here, address, 9, TIMEOUT).unwrap(), "{address}");
        let too_large = reach::udp(&here, None, &there, address, largest + 1, TIMEOUT).unwrap();
        assert!(too_large.is_none(), "{address}");
    }
    let node = fabric.node_netns(&fabric.nodes()[0]).unwrap();
    assert!(reach::icmp(&node, GATEWAY_V6, 8, TIMEOUT).unwrap());
    let outside: IpAddr = "2001:db8::9".parse().unwrap();
    assert!(!reach::icmp(&here, outside, 8, Duration::from_millis(100)).unwrap());
    // A pod that comes later, and goes.
    let new = fabric.add_pod(&fabric.nodes()[1]).unwrap();
    let ip6 = new.ip6.unwrap();
    assert!(reach::icmp(&here, ip6, 8, TIMEOUT).unwrap());
    fabric.remove_pod(&new).unwrap();
    assert!(!reach::icmp(&here, ip6, 8, Duration::from_millis(100)).unwrap());
}

/// Where there is no pool of IPv6 nothing of it is programmed.
#[test]
fn a_fabric_of_ipv4_has_no_ipv6() {
    if !can_run("a_fabric_of_ipv4_has_no_ipv6") {
        return;
    }
    let guard = Guard::small();
    let snapshot = snapshot::take(&guard.0).unwrap();
    let v6 = |line: &&String| line.starts_with("address ") && line.contains("::") && !line.contains("::1/128 dev lo");
    for (netns, lines) in &snapshot {
        assert_eq!(lines.iter().find(v6), None, "{netns}");
        assert!(
            !lines.iter().any(|line| line.contains("vxlan-v6") || line.starts_with("route fd")),
            "{netns}"
        );
    }
}

/// Routes of the main table that are Calico's, as text.
fn kernel_routes(rtnl: &mut Rtnl) -> BTreeSet<String> {
    let routes = rtnl.routes().unwrap().into_iter();
    routes
        .filter(|r| r.table == 254 && r.protocol != 2 && r.dst.prefix_len() > 0)
        .map(|r| {
            let blackhole = if r.kind == RouteKind::Blackhole { "blackhole " } else { "" };
            let gateway = r.via.map_or_else(|| "-".to_owned(), |g| g.to_string());
            // The kernel hangs IPv6's blackholes on `lo`.
            let device = r.dev.filter(|_| r.kind != RouteKind::Blackhole).unwrap_or_else(|| "-".to_owned());
            format!(
                "{blackhole}{} via {gateway} dev {device} proto {} onlink {}",
                r.dst, r.protocol, r.onlink
            )
        })
        .collect()
}

fn expected_routes(intent: &NodeIntent) -> BTreeSet<String> {
    let line = |route: &verifier_core::intent::ExpectedRoute| {
        let blackhole = if route.class == RouteClass::LocalBlock { "blackhole " } else { "" };
        let device = match &route.device {
            Some(ExpectedDevice::Named(name)) => name.as_str(),
            Some(ExpectedDevice::Parent) => "eth0",
            None => "-",
        };
        let gateway = route.gateway.map_or_else(|| "-".to_owned(), |g| g.to_string());
        format!(
            "{blackhole}{} via {gateway} dev {device} proto {} onlink {}",
            route.dst,
            route.protocol.unwrap(),
            route.onlink
        )
    };
    intent.routes.iter().filter(|r| r.required).map(line).collect()
}

#[test]
fn intent_is_what_the_fabric_programmed() {
    each("intent_is_what_the_fabric_programmed", |fabric| {
        let spec = fabric.spec();
        let cluster = cluster_of(fabric);
        for node in fabric.nodes() {
            let what = format!("{}: {}", spec.encapsulation, node.name);
            let intent = cluster.node_intent(&NodeName::from(node.name.as_str())).unwrap();
            assert!(
                intent.gaps.is_empty() && intent.contradictions.is_empty(),
                "{what}: {:?} {:?}",
                intent.gaps,
                intent.contradictions
            );
            for (name, peer) in &intent.peers {
                let other = fabric.node(name.as_str()).unwrap();
                for (prefix, travels) in &peer.prefixes {
                    let want = match spec.encapsulation.between(node, other, *prefix) {
                        Carrier::Vxlan => Travels::Vxlan,
                        Carrier::Ipip => Travels::Ipip,
                        Carrier::Bare => Travels::None,
                    };
                    assert_eq!(*travels, want, "{what} to {prefix} of {name}");
                }
            }
            let devices: Vec<&str> = intent.tunnels.iter().map(|tunnel| tunnel.device.as_str()).collect();
            assert_eq!(devices, spec.encapsulation.devices(), "{what}");
            let (routes, links) = fabric
                .node_netns(node)
                .unwrap()
                .run(|| {
                    let mut rtnl = Rtnl::open()?;
                    let links: Vec<bool> = devices.iter().map(|device| rtnl.link(device).unwrap().is_some()).collect();
                    Ok((kernel_routes(&mut rtnl), links))
                })
                .unwrap();
            assert_eq!(routes, expected_routes(&intent), "{what}");
            assert!(links.iter().all(|there| *there), "{what}");
        }
    });
}

#[test]
fn every_fault_of_an_encapsulation_changes_something_and_is_undone() {
    each("every_fault_of_an_encapsulation_changes_something_and_is_undone", |fabric| {
        let before = snapshot::take(fabric).unwrap();
        let overrides = fabric.state().overrides;
        for fault in faults::catalogue_of(fabric.spec().encapsulation) {
            let what = format!("{}: {}", fabric.spec().encapsulation, fault.name);
            if !matches!(fault.injection, Injection::Fabric(_)) {
                continue;
            }
            match fault.inject(fabric).unwrap_or_else(|e| panic!("{what}: {e:#}")) {
                Outcome::Skipped(why) => eprintln!("skipped: {what}: {why}"),
                Outcome::Injected(_) => {
                    let changed = snapshot::take(fabric).unwrap() != before || fabric.state().overrides != overrides;
                    assert!(changed, "{what} changed nothing");
                    faults::undo(fabric).unwrap_or_else(|e| panic!("{what}: {e:#}"));
                }
            }
            let different = snapshot::difference(&before, &snapshot::take(fabric).unwrap());
            assert!(different.is_empty(), "{what} left: {different:#?}");
            assert_eq!(fabric.state().overrides, overrides, "{what}");
        }
    });
}

#[test]
fn both_told_to_program_the_routes_is_a_contradiction() {
    each("both_told_to_program_the_routes_is_a_contradiction", |fabric| {
        if !fabric.spec().encapsulation.is_birds() {
            return;
        }
        for (felix, bird, conflict) in [
            ("Enabled", "Enabled", true),
            ("Disabled", "Disabled", true),
            ("Enabled", "Disabled", false),
            ("Disabled", "Enabled", false),
        ] {
            fabric
                .change_overrides(|overrides| {
                    overrides.calico_version = Some("v3.32.1".to_owned());
                    overrides.program_cluster_routes = Some((felix.to_owned(), bird.to_owned()));
                })
                .unwrap();
            let intent = cluster_of(fabric).node_intent(&NodeName::from("node-a")).unwrap();
            let codes: Vec<CauseCode> = intent.contradictions.iter().map(|c| c.code).collect();
            let want: &[CauseCode] = if conflict { &[CauseCode::RouteOwnerConflict] } else { &[] };
            assert_eq!(codes, want, "{felix} {bird}");
        }
    });
}

/// The demonstration itself, with agents, on a few faults of each encapsulation: that cause, that node, that place, and no other root.
#[test]
fn the_verifier_is_right_about_a_short_selection() {
    const SELECTION: [(Encapsulation, &str, &[&str]); 5] = [
        (
            Encapsulation::VxlanCrossSubnet,
            "vxlan-cross-subnet",
            &["far-node-without-tunnel", "neighbour-through-tunnel", "spoofed-source"],
        ),
        (
            Encapsulation::VxlanDualStack,
            "vxlan-dual-stack",
            &["ipv6-route-missing", "ipv6-underlay-drops-tunnel", "ipv6-spoofed-source"],
        ),
        (
            Encapsulation::None,
            "none",
            &["direct-route-missing", "route-owner-conflict", "needless-tunnel"],
        ),
        (
            Encapsulation::VxlanAndNone,
            "vxlan-and-none",
            &[
                "bare-pool-route-missing",
                "bare-pool-through-tunnel",
                "tunnel-down-beside-bare-pool",
            ],
        ),
        (
            Encapsulation::NoneDualStack,
            "none-dual-stack",
            &["ipv6-route-missing", "ipv6-underlay-filters-discovery"],
        ),
    ];
    if !can_run("the_verifier_is_right_about_a_short_selection") {
        return;
    }
    for (encapsulation, mode, faults) in SELECTION {
        let known = faults::catalogue_of(encapsulation);
        assert!(faults.iter().all(|name| known.iter().any(|fault| fault.name == *name)), "{mode}");
        let mut demo = Command::new(env!("CARGO_BIN_EXE_demo"));
        demo.args(["--prefix", &unique_prefix(), "--encapsulation", mode]);
        demo.args(faults.iter().flat_map(|name| ["--only", name]));
        let played = demo.output().unwrap();
        let said = String::from_utf8_lossy(&played.stdout);
        assert!(
            played.status.success(),
            "{mode}: {said}\n{}",
            String::from_utf8_lossy(&played.stderr)
        );
        assert_eq!(said.matches("RIGHT").count(), faults.len(), "{mode}: {said}");
    }
}
