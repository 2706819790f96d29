//! The worked example of calico.md 3.9.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use support::{routes, worked_example};

#[test]
fn control_plane_always() {
    let cluster = support::cluster(&worked_example("Always"));
    let intent = cluster.node_intent(&"kind-control-plane".into()).unwrap();
    assert_eq!(
        routes(&intent),
        [
            "10.244.110.128/26 via 10.244.110.128 dev vxlan.calico onlink mtu 1450",
            "10.244.110.140/32 via 10.244.162.128 dev vxlan.calico onlink mtu 1450",
            "10.244.162.128/26 via 10.244.162.128 dev vxlan.calico onlink mtu 1450",
            "? 10.244.110.128/32 dev vxlan.calico scope link mtu 1450",
            "? 10.244.162.128/32 dev vxlan.calico scope link mtu 1450",
            "blackhole 10.244.82.0/26 proto 80",
            "10.244.82.5/32 dev cali3d5d6ab04b5 scope link",
        ]
    );
    let neighbors: Vec<_> = intent.neighbors.iter().map(|n| format!("{} lladdr {}", n.ip, n.mac)).collect();
    assert_eq!(
        neighbors,
        ["10.244.162.128 lladdr 66:46:b3:ce:05:5d", "10.244.110.128 lladdr 66:03:c5:fc:0f:e5"]
    );
    let fdb: Vec<_> = intent.fdb.iter().map(|f| format!("{} dst {}", f.mac, f.dst)).collect();
    assert_eq!(fdb, ["66:46:b3:ce:05:5d dst 172.18.0.3", "66:03:c5:fc:0f:e5 dst 172.18.0.4"]);
    let tunnel = &intent.tunnels[0];
    assert_eq!(
        (tunnel.device.as_str(), tunnel.mac.unwrap().to_string().as_str()),
        ("vxlan.calico", "66:07:01:14:06:90")
    );
    assert_eq!(
        (tunnel.vni, tunnel.port, tunnel.mtu, tunnel.required),
        (Some(4096), Some(4789), Some(1450), true)
    );
    assert_eq!(tunnel.local, Some("172.18.0.2".parse().unwrap()));
    assert_eq!(tunnel.address, Some("10.244.82.0".parse().unwrap()));
    assert_eq!(
        intent.sets[0].members,
        ["172.18.0.3/32".parse().unwrap(), "172.18.0.4/32".parse().unwrap()]
    );
    assert_eq!(intent.claim.calico_node.as_deref(), Some("Running"));
    assert_eq!((intent.claim.restarts, intent.claim.ready), (Some(3), Some(true)));
    assert_eq!(intent.contradictions, []);
    assert_eq!(intent.gaps, []);
}

#[test]
fn borrower_and_lender_always() {
    let cluster = support::cluster(&worked_example("Always"));
    let worker = cluster.node_intent(&"kind-worker".into()).unwrap();
    let required: Vec<_> = routes(&worker).into_iter().filter(|r| !r.starts_with('?')).collect();
    assert_eq!(
        required,
        [
            "10.244.82.0/26 via 10.244.82.0 dev vxlan.calico onlink mtu 1450",
            "10.244.110.128/26 via 10.244.110.128 dev vxlan.calico onlink mtu 1450",
            "blackhole 10.244.162.128/26 proto 80",
            "10.244.110.140/32 dev cali0d7763386da scope link",
        ]
    );
    let owner = cluster.node_intent(&"kind-worker2".into()).unwrap();
    assert!(routes(&owner).contains(&"10.244.110.140/32 via 10.244.162.128 dev vxlan.calico onlink mtu 1450".into()));
    assert!(routes(&owner).contains(&"blackhole 10.244.110.128/26 proto 80".into()));
}

#[test]
fn cross_subnet_in_one_subnet_routes_directly_and_keeps_layer_2() {
    let cluster = support::cluster(&worked_example("CrossSubnet"));
    let intent = cluster.node_intent(&"kind-control-plane".into()).unwrap();
    assert_eq!(
        routes(&intent),
        [
            "10.244.110.128/26 via 172.18.0.4 dev PARENT proto 80 onlink",
            "10.244.110.140/32 via 172.18.0.3 dev PARENT proto 80 onlink",
            "10.244.162.128/26 via 172.18.0.3 dev PARENT proto 80 onlink",
            "? 10.244.110.128/32 via 172.18.0.4 dev PARENT proto 80 onlink",
            "? 10.244.162.128/32 via 172.18.0.3 dev PARENT proto 80 onlink",
            "blackhole 10.244.82.0/26 proto 80",
            "10.244.82.5/32 dev cali3d5d6ab04b5 scope link",
        ]
    );
    assert_eq!((intent.neighbors.len(), intent.fdb.len()), (2, 2));
}
