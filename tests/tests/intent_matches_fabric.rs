//! Intent computed from the fabric's manifests is what the fabric programmed: two independent readings of what Calico does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use support::{Guard, can_run, unique_prefix};
use verifier::intent::files;
use verifier_core::{
    intent::{Cluster, ExpectedDevice, ExpectedRoute, NodeIntent, RouteClass},
    names::{NodeName, UnixNs},
    verdict::CauseCode,
};
use verifier_tests::{
    fabric::{Fabric, FabricSpec, Overrides},
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
            let device = r.dev.unwrap_or_else(|| "-".to_owned());
            format!(
                "{blackhole}{} via {gateway} dev {device} proto {} onlink {}",
                r.dst, r.protocol, r.onlink
            )
        })
        .collect()
}

fn layer2(intent: &NodeIntent) -> Lines {
    let neighbors = intent.neighbors.iter().map(|n| format!("neigh {} {}", n.ip, n.mac));
    let fdb = intent.fdb.iter().map(|f| format!("fdb {} {}", f.mac, f.dst));
    neighbors.chain(fdb).collect()
}

fn kernel_layer2(rtnl: &mut Rtnl) -> Lines {
    let device = rtnl.index("vxlan.calico").unwrap();
    let mac = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(":");
    let neighbours = rtnl.neighbours().unwrap();
    let neighbours = neighbours.iter().filter(|n| n.link == device);
    let mut lines: Lines = neighbours
        .map(|n| format!("neigh {} {}", n.address, mac(n.mac.as_ref().unwrap())))
        .collect();
    let fdb = rtnl.fdb().unwrap();
    lines.extend(
        fdb.iter()
            .filter(|f| f.link == device)
            .map(|f| format!("fdb {} {}", mac(&f.mac), f.remote)),
    );
    lines
}

#[test]
fn every_node() {
    if !can_run("every_node") {
        return;
    }
    for version in ["v3.28.5", "v3.30.7", "v3.31.7"] {
        let spec = FabricSpec {
            prefix: unique_prefix(),
            calico_version: version.to_owned(),
            vni: 4097,
            port: 4790,
            ..FabricSpec::default()
        };
        let guard = Guard::up(spec);
        let fabric = &guard.0;
        let cluster = cluster_of(fabric);
        for node in fabric.nodes() {
            let intent = cluster.node_intent(&NodeName::from(node.name.as_str())).unwrap();
            assert_eq!(intent.gaps, [], "{version}");
            assert_eq!(intent.contradictions, [], "{version}");
            assert_eq!(intent.host_ip, Some(IpAddr::V4(node.host_ip)));
            assert_eq!(intent.blocks.len(), node.blocks.len());
            let what = format!("{version} {}", node.name);
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
                    compare_tunnel(&intent, &mut rtnl, &what);
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

fn compare_tunnel(intent: &NodeIntent, rtnl: &mut Rtnl, what: &str) {
    let [tunnel] = intent.tunnels.as_slice() else {
        panic!("{what}: {:?}", intent.tunnels);
    };
    let link = rtnl.link(&tunnel.device).unwrap().unwrap();
    let vxlan = link.vxlan.unwrap();
    assert_eq!(Some(vxlan.vni), tunnel.vni, "{what}");
    assert_eq!(Some(vxlan.port), tunnel.port, "{what}");
    assert_eq!(vxlan.local.map(IpAddr::V4), tunnel.local, "{what}");
    assert_eq!(link.mac, tunnel.mac.unwrap().0, "{what}");
    let addresses: Vec<Ipv4Addr> = rtnl
        .addresses()
        .unwrap()
        .into_iter()
        .filter(|(index, _)| *index == link.index)
        .map(|(_, net)| net.addr())
        .collect();
    assert_eq!(
        addresses.into_iter().map(IpAddr::V4).collect::<Vec<_>>(),
        [tunnel.address.unwrap()],
        "{what}"
    );
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
            let (block, name) = (nodes[1].block(), nodes[2].name.clone());
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
