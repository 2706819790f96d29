//! Intent computed from the fabric's manifests is what the fabric programmed: two independent readings of what Calico does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_route::neighbour::NeighbourState;

use support::{Guard, can_run, unique_prefix};
use verifier::intent::files;
use verifier_core::{
    intent::{Cluster, ExpectedDevice, ExpectedRoute, NodeIntent, RouteClass},
    names::{NodeName, UnixNs},
    verdict::CauseCode,
};
use verifier_tests::{
    fabric::{self, Encapsulation, Fabric, FabricSpec, Overrides},
    manifests,
    nl::{RouteKind, Rtnl},
};

/// What is compared, as text: one line per object of the node's kernel.
type Lines = BTreeSet<String>;

/// A contradiction put into the datastore.
type Change = Box<dyn Fn(&mut Overrides)>;

fn cluster_of(fabric: &Fabric) -> Cluster {
    let dir = std::env::temp_dir().join(format!("{}-manifests", fabric.spec().prefix));
    manifests::write(&fabric.state(), &dir).unwrap();
    let loaded = files::load(&dir, UnixNs(1));
    manifests::remove(&dir).unwrap();
    let loaded = loaded.unwrap();
    assert!(loaded.objects.is_complete(), "{:?}", loaded.objects.gaps());
    Cluster::compile(loaded.objects.all().unwrap().clone())
}

fn route_line(route: &ExpectedRoute) -> String {
    let blackhole = if route.class == RouteClass::LocalBlock { "blackhole " } else { "" };
    let device = match &route.device {
        Some(ExpectedDevice::Named(name)) => name.as_str(),
        Some(ExpectedDevice::Parent) => "eth0",
        None => "-",
    };
    let gateway = route.gateway.map_or_else(|| "-".to_owned(), |g| g.to_string());
    let protocol = route.protocol.unwrap();
    format!(
        "{blackhole}{} via {gateway} dev {device} proto {protocol} onlink {}",
        route.dst, route.onlink
    )
}

fn expected_routes(intent: &NodeIntent, required: bool) -> Lines {
    intent.routes.iter().filter(|r| r.required || !required).map(route_line).collect()
}

/// Routes of the main table, but for the kernel's own and the default route, which are not Calico's.
fn kernel_routes(rtnl: &mut Rtnl) -> Lines {
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

fn layer2(intent: &NodeIntent) -> Lines {
    let neighbors = intent
        .neighbors
        .iter()
        .map(|n| format!("neigh {} {} dev {}", n.ip, n.mac, n.device));
    let fdb = intent.fdb.iter().map(|f| format!("fdb {} {} dev {}", f.mac, f.dst, f.device));
    neighbors.chain(fdb).collect()
}

fn kernel_layer2(rtnl: &mut Rtnl) -> Lines {
    let mac = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    let mut lines = Lines::new();
    for device in ["vxlan.calico", "vxlan-v6.calico"] {
        let Some(link) = rtnl.link(device).unwrap() else { continue };
        let neighbours = rtnl.neighbours().unwrap().into_iter();
        // What the kernel needs no telling of (multicast) is not Calico's.
        let told = neighbours.filter(|n| n.link == link.index && n.state != NeighbourState::Noarp);
        lines.extend(told.map(|n| format!("neigh {} {} dev {device}", n.address, mac(&n.mac.unwrap()))));
        let fdb = rtnl.fdb().unwrap().into_iter().filter(|f| f.link == link.index);
        lines.extend(fdb.map(|f| format!("fdb {} {} dev {device}", mac(&f.mac), f.remote)));
    }
    lines
}

#[test]
fn every_node() {
    if !can_run("every_node") {
        return;
    }
    let (single, dual, bare) = (Encapsulation::Vxlan, Encapsulation::VxlanDualStack, Encapsulation::NoneDualStack);
    for (version, encapsulation) in [
        ("v3.28.5", single),
        ("v3.30.7", single),
        ("v3.31.7", single),
        ("v3.30.7", dual),
        ("v3.31.7", dual),
        ("v3.30.7", bare),
        ("v3.31.7", Encapsulation::VxlanAndNone),
    ] {
        let spec = FabricSpec {
            calico_version: version.to_owned(),
            vni: 4097,
            port: 4790,
            ..FabricSpec::of(&unique_prefix(), encapsulation)
        };
        if let Some(why) = fabric::lacking(&spec).unwrap() {
            eprintln!("skipped: every_node, {encapsulation}: {why}");
            continue;
        }
        let guard = Guard::up(spec);
        let fabric = &guard.0;
        let cluster = cluster_of(fabric);
        for node in fabric.nodes() {
            let intent = cluster.node_intent(&NodeName::from(node.name.as_str())).unwrap();
            assert_eq!(intent.gaps, [], "{version}");
            assert_eq!(intent.contradictions, [], "{version}");
            assert_eq!(intent.host_ip, Some(IpAddr::V4(node.host_ip)));
            assert_eq!(intent.host_ip6, node.v6.as_ref().map(|v6| IpAddr::V6(v6.host_ip)));
            // A borrowed address is a block of its own.
            let own = intent.blocks.iter().filter(|block| block.prefix_len() < block.max_prefix_len());
            assert_eq!(own.count(), node.all_blocks().len());
            let what = format!("{version} {encapsulation} {}", node.name);
            fabric
                .node_netns(node)
                .unwrap()
                .run(|| {
                    let mut rtnl = Rtnl::open()?;
                    let kernel = kernel_routes(&mut rtnl);
                    let required = expected_routes(&intent, true);
                    assert_eq!(
                        required.difference(&kernel).collect::<Vec<_>>(),
                        [] as [&String; 0],
                        "{what}: missing"
                    );
                    let accepted = expected_routes(&intent, false);
                    assert_eq!(
                        kernel.difference(&accepted).collect::<Vec<_>>(),
                        [] as [&String; 0],
                        "{what}: foreign"
                    );
                    assert_eq!(layer2(&intent), kernel_layer2(&mut rtnl), "{what}");
                    compare_tunnels(&intent, &mut rtnl, encapsulation, &what);
                    for workload in intent.workloads.values() {
                        assert!(rtnl.link(&workload.device)?.is_some(), "{what}: {}", workload.device);
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(
                intent.workloads.len(),
                fabric.pods().iter().filter(|p| p.node == node.index).count()
            );
        }
    }
}

fn compare_tunnels(intent: &NodeIntent, rtnl: &mut Rtnl, encapsulation: Encapsulation, what: &str) {
    let devices: Vec<&str> = intent.tunnels.iter().map(|tunnel| tunnel.device.as_str()).collect();
    assert_eq!(devices, encapsulation.devices(), "{what}");
    for tunnel in &intent.tunnels {
        let link = rtnl.link(&tunnel.device).unwrap().unwrap();
        let vxlan = link.vxlan.unwrap();
        assert_eq!(Some(vxlan.vni), tunnel.vni, "{what}");
        assert_eq!(Some(vxlan.port), tunnel.port, "{what}");
        assert_eq!(vxlan.local, tunnel.local, "{what}");
        assert_eq!(link.mac, tunnel.mac.unwrap().0, "{what}");
        let all = rtnl.addresses().unwrap().into_iter();
        let addresses: Vec<IpAddr> = all.filter(|(index, _)| *index == link.index).map(|(_, net)| net.addr()).collect();
        assert_eq!(addresses, [tunnel.address.unwrap()], "{what}");
    }
}

/// The faults of the datastore, as the fabric writes them: one contradiction each, and nothing demanded of the kernel that is not there.
#[test]
fn contradictions_demand_nothing_of_the_kernel() {
    if !can_run("contradictions_demand_nothing_of_the_kernel") {
        return;
    }
    let guard = Guard::small();
    let fabric = &guard.0;
    let pods = fabric.pods();
    let (one, other) = (&pods[0], pods.iter().find(|p| p.node != pods[0].node).unwrap());
    let nodes = fabric.nodes();
    let cases: [(CauseCode, Change); 3] = [
        (CauseCode::DuplicatePodIp, {
            let (key, ip) = (other.key(), one.ip);
            Box::new(move |o| {
                o.pod_ips.insert(key.clone(), ip);
            })
        }),
        (CauseCode::BlockTwoOwners, {
            let (block, name) = (nodes[1].block().into(), nodes[2].name.clone());
            Box::new(move |o| {
                o.affinity_nodes.insert(block, name.clone());
            })
        }),
        (CauseCode::TunnelAddressMissing, {
            let name = nodes[1].name.clone();
            Box::new(move |o| {
                o.without_tunnel_address.insert(name.clone());
            })
        }),
    ];
    for (code, change) in cases {
        fabric
            .change_overrides(|o| {
                *o = Overrides::default();
                change(o);
            })
            .unwrap();
        let cluster = cluster_of(fabric);
        for node in nodes {
            let intent = cluster.node_intent(&NodeName::from(node.name.as_str())).unwrap();
            let codes: Vec<_> = intent.contradictions.iter().map(|c| c.code).collect();
            assert_eq!(codes, [code], "{:?}", intent.contradictions);
            fabric
                .node_netns(node)
                .unwrap()
                .run(|| {
                    let mut rtnl = Rtnl::open()?;
                    let kernel = kernel_routes(&mut rtnl);
                    let required = expected_routes(&intent, true);
                    let missing: Vec<_> = required.difference(&kernel).collect();
                    assert_eq!(missing, [] as [&String; 0], "{code} on {}", node.name);
                    let expected = layer2(&intent);
                    let kernel = kernel_layer2(&mut rtnl);
                    assert!(expected.is_subset(&kernel), "{code} on {}", node.name);
                    Ok(())
                })
                .unwrap();
        }
    }
}
