//! Each contradiction of the objects, and what no longer follows from them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use serde_json::{Value, json};
use support::{affinity, block, node, pod, routes, worked_example};
use verifier_core::{
    intent::{Cluster, ConformanceTable, Contradiction},
    verdict::CauseCode,
};

const CP: &str = "kind-control-plane";
const W: &str = "kind-worker";
const W2: &str = "kind-worker2";

/// The worked example with objects of the same name replaced, others added.
fn with(changes: &[Value]) -> Cluster {
    let mut all = worked_example("Always");
    for change in changes {
        let same = |v: &Value| v["kind"] == change["kind"] && v["metadata"]["name"] == change["metadata"]["name"];
        all.retain(|v| !same(v));
        all.push(change.clone());
    }
    support::cluster(&all)
}

fn contradictions(cluster: &Cluster) -> Vec<Contradiction> {
    cluster.node_intent(&CP.into()).unwrap().contradictions
}

fn only(cluster: &Cluster) -> Contradiction {
    match contradictions(cluster).as_slice() {
        [one] => one.clone(),
        all => panic!("{all:?}"),
    }
}

#[test]
fn two_pods_with_one_address() {
    let mut other = pod("default", "web-1", W2, "10.244.110.140");
    let found = only(&with(std::slice::from_ref(&other)));
    assert_eq!((found.code, found.node), (CauseCode::DuplicatePodIp, None));
    assert_eq!(found.subject, "10.244.110.140");
    assert_eq!(found.pods, ["default/web-0".parse().unwrap(), "default/web-1".parse().unwrap()]);

    // On one node it is that node's.
    let found = only(&with(&[pod("default", "web-1", W, "10.244.110.140")]));
    assert_eq!(found.node, Some(W.into()));

    // Who is leaving or has left holds no address.
    other["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    assert_eq!(contradictions(&with(&[other.clone()])), []);
    other["metadata"]["deletionTimestamp"] = Value::Null;
    other["status"]["phase"] = json!("Failed");
    assert_eq!(contradictions(&with(&[other.clone()])), []);
    // Nor has who lives in the node's namespace.
    other["status"]["phase"] = json!("Running");
    other["spec"]["hostNetwork"] = json!(true);
    assert_eq!(contradictions(&with(&[other])), []);
}

#[test]
fn of_two_pods_with_one_address_no_route_is_demanded() {
    let cluster = with(&[pod("default", "web-1", W2, "10.244.110.140")]);
    let intent = cluster.node_intent(&W2.into()).unwrap();
    let lines = routes(&intent);
    assert!(lines.iter().any(|r| r.starts_with("? 10.244.110.140/32 dev cali")), "{lines:?}");
}

#[test]
fn a_block_with_two_owners() {
    for changes in [
        // The affinity object disagrees with the block.
        vec![
            affinity("10.244.162.128/26", W2),
            json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BlockAffinity",
                   "metadata": {"name": format!("{W}-10-244-162-128-26")},
                   "spec": {"state": "pending", "node": W, "type": "host", "cidr": "10.244.162.128/26", "deleted": "false"}}),
        ],
        // The block disagrees with the affinity object.
        vec![block("10.244.162.128/26", W2, &[(0, W)])],
    ] {
        let cluster = with(&changes);
        let found = only(&cluster);
        assert_eq!((found.code, &found.node), (CauseCode::BlockTwoOwners, &None), "{found:?}");
        assert_eq!(found.subject, "10.244.162.128/26");
        assert!(found.evidence.contains(W) && found.evidence.contains(W2), "{}", found.evidence);
        for name in [CP, W, W2] {
            let intent = cluster.node_intent(&name.into()).unwrap();
            let demanded = intent
                .routes
                .iter()
                .filter(|r| r.required && r.dst == "10.244.162.128/26".parse().unwrap());
            assert_eq!(demanded.count(), 0, "{name}");
            let inside = intent
                .routes
                .iter()
                .filter(|r| r.required && r.dst == "10.244.162.128/32".parse().unwrap());
            assert_eq!(inside.count(), 0, "{name}");
        }
        // Nobody's packets are judged by it.
        let table = ConformanceTable::of(&cluster.node_intent(&CP.into()).unwrap());
        assert_eq!(table.contested, ["10.244.162.128/26".parse().unwrap()]);
        assert_eq!(table.owner_of("10.244.162.130".parse().unwrap()), None);
    }
}

#[test]
fn a_pending_affinity_contradicts_nothing() {
    let mut pending = affinity("10.244.162.128/26", W2);
    pending["spec"]["state"] = json!("pending");
    assert_eq!(contradictions(&with(&[pending.clone()])), []);
    pending["spec"]["state"] = json!("confirmed");
    pending["spec"]["deleted"] = json!("true");
    assert_eq!(contradictions(&with(&[pending])), []);
}

#[test]
fn a_node_without_a_tunnel_address() {
    for bad in [None, Some("10.244.162.1280")] {
        let cluster = with(&[node(W, "172.18.0.3/16", bad)]);
        let found = only(&cluster);
        assert_eq!((found.code, found.node), (CauseCode::TunnelAddressMissing, Some(W.into())));
        // Others demand nothing of it …
        let intent = cluster.node_intent(&CP.into()).unwrap();
        assert!(intent.neighbors.iter().all(|n| n.peer != W.into()));
        assert!(intent.fdb.iter().all(|f| f.peer != W.into()));
        assert!(!routes(&intent).iter().any(|r| r.contains("10.244.162")), "{:?}", routes(&intent));
        // … know it all the same …
        let peer = &intent.peers[&W.into()];
        assert_eq!((peer.tunnel_ip, peer.pods.len()), (None, 1));
        assert_eq!(peer.prefixes.len(), 2);
        // … and nothing is demanded of its device.
        let own = cluster.node_intent(&W.into()).unwrap();
        assert!(!own.tunnels[0].required && own.tunnels[0].address.is_none());
        assert_eq!((own.neighbors.len(), own.fdb.len()), (0, 0));
    }
}

#[test]
fn a_node_without_an_address() {
    let mut lost = node(W, "172.18.0.3/16", Some("10.244.162.128"));
    lost["metadata"]["annotations"]["projectcalico.org/IPv4Address"] = Value::Null;
    lost["metadata"]["annotations"]
        .as_object_mut()
        .unwrap()
        .remove("projectcalico.org/IPv4Address");
    lost["status"]["addresses"] = json!([{"type": "InternalIP", "address": "172.18.0.3"}]);
    let found = only(&with(&[lost]));
    assert_eq!((found.code, found.node), (CauseCode::TunnelAddressMissing, Some(W.into())));
    assert!(found.evidence.contains("IPv4Address"), "{}", found.evidence);
}

#[test]
fn no_tunnel_is_missed_where_none_is_given() {
    let bare = node(W, "172.18.0.3/16", None);
    // A pool of some nodes only: whether this one is among them is not evaluated.
    let mut pool = support::pool("default-ipv4-ippool", "10.244.0.0/16", "Always", "Never");
    pool["spec"]["nodeSelector"] = json!("zone == 'x'");
    assert_eq!(contradictions(&with(&[bare.clone(), pool.clone()])), []);
    pool["spec"]["nodeSelector"] = json!("all()");
    pool["spec"]["vxlanMode"] = json!("Never");
    assert_eq!(contradictions(&with(&[bare.clone(), pool.clone()])), []);
    let off = support::felix("default", &json!({"vxlanEnabled": false}));
    assert_eq!(contradictions(&with(&[bare, off])), []);
}

#[test]
fn two_nodes_with_one_tunnel_address() {
    let cluster = with(&[node(W, "172.18.0.3/16", Some("10.244.110.128"))]);
    let found = only(&cluster);
    // IPAM has it allocated to worker2, so worker is to blame.
    assert_eq!((found.code, found.node), (CauseCode::DuplicateTunnelAddress, Some(W.into())));
    let intent = cluster.node_intent(&CP.into()).unwrap();
    assert_eq!(intent.neighbors, [], "which of the two MACs wins cannot be told");
    assert_eq!(intent.fdb.len(), 2);

    let unallocated = block("10.244.110.128/26", W2, &[(12, W)]);
    let cluster = with(&[node(W, "172.18.0.3/16", Some("10.244.110.128")), unallocated]);
    assert_eq!(only(&cluster).node, None);
}

#[test]
fn two_nodes_with_one_address() {
    let found = only(&with(&[node(W, "172.18.0.4/16", Some("10.244.162.128"))]));
    assert_eq!((found.code, found.node), (CauseCode::DuplicateNodeAddress, None));
    assert_eq!(found.subject, "172.18.0.4");
}

#[test]
fn a_pod_with_an_address_it_was_not_given() {
    let free = block("10.244.110.128/26", W2, &[(0, W2)]);
    let found = only(&with(&[free]));
    assert_eq!((found.code, found.node), (CauseCode::PodAddressNotAllocated, Some(W.into())));
    assert_eq!(found.pods, ["default/web-0".parse().unwrap()]);
    let others = block("10.244.110.128/26", W2, &[(0, W2), (12, CP)]);
    let found = only(&with(&[others]));
    assert!(found.evidence.contains(CP), "{}", found.evidence);

    // Nothing is said of an address whose block is not known, nor of one whose allocation names no node.
    assert_eq!(contradictions(&with(&[pod("default", "web-0", W, "10.244.200.1")])), []);
    let mut silent = block("10.244.110.128/26", W2, &[(0, W2), (12, W)]);
    silent["spec"]["attributes"][1]["secondary"] = json!({});
    assert_eq!(contradictions(&with(&[silent])), []);
    // Nor while the pod is being made.
    let mut young = pod("default", "web-0", W, "10.244.110.140");
    young["status"]["phase"] = json!("Pending");
    let free = block("10.244.110.128/26", W2, &[(0, W2)]);
    assert_eq!(contradictions(&with(&[free, young])), []);
}

/// The worked example on IPIP or bare pools, with who programs routes as told, by a Calico that can be told.
fn owned(ipip: &str, version: &str, felix: Option<&str>, bird: Option<&str>, more: &[Value]) -> Cluster {
    let mut all = worked_example("Never");
    for value in &mut all {
        match value["kind"].as_str().unwrap() {
            "IPPool" => value["spec"]["ipipMode"] = json!(ipip),
            "Node" if ipip != "Never" => {
                let tunnel = value["metadata"]["annotations"]["projectcalico.org/IPv4VXLANTunnelAddr"].clone();
                value["metadata"]["annotations"]["projectcalico.org/IPv4IPIPTunnelAddr"] = tunnel;
            }
            // No pod of Felix's tells a version of its own.
            "Pod" if value["metadata"]["name"].as_str().unwrap().starts_with("calico-node") => {
                value["spec"]["containers"][0]["image"] = json!("calico/node@sha256:00");
            }
            _ => {}
        }
    }
    all.retain(|v| v["kind"] != "ClusterInformation");
    all.push(support::version(version));
    if felix.is_some() {
        all.retain(|v| v["kind"] != "FelixConfiguration");
    }
    all.extend(felix.map(|text| support::felix("default", &json!({"programClusterRoutes": text}))));
    all.extend(bird.map(|text| bgp("default", text)));
    all.extend_from_slice(more);
    support::cluster(&all)
}

fn owners(ipip: &str, version: &str, felix: Option<&str>, bird: Option<&str>, more: &[Value]) -> Vec<Contradiction> {
    contradictions(&owned(ipip, version, felix, bird, more))
}

fn bgp(name: &str, program: &str) -> Value {
    json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "BGPConfiguration", "metadata": {"name": name},
           "spec": {"programClusterRoutes": program}})
}

#[test]
fn felix_and_bird_must_not_both_program_routes_nor_neither() {
    let conflict = |ipip, version, felix, bird| {
        let found = owners(ipip, version, felix, bird, &[]);
        assert!(found.iter().all(|c| c.code == CauseCode::RouteOwnerConflict), "{found:?}");
        found.first().map(|c| (c.node.clone(), c.evidence.clone()))
    };
    // By their defaults they agree, in every version.
    for version in ["v3.30.7", "v3.31.7", "v3.32.1", "v3.33.0"] {
        assert_eq!(conflict("Always", version, None, None), None, "{version}");
        assert_eq!(conflict("Never", version, None, None), None, "{version}");
    }
    let (node, evidence) = conflict("Always", "v3.32.1", Some("Enabled"), None).unwrap();
    assert_eq!(node, None);
    assert_eq!(
        evidence,
        "Felix (by programClusterRoutes of FelixConfiguration default) and BIRD (by its default in this version) both program the routes \
         of IPIP pools"
    );
    assert_eq!(conflict("Always", "v3.32.1", Some("Enabled"), Some("Disabled")), None);
    assert_eq!(
        conflict("Always", "v3.33.0", Some("EnabledNoEncapOnly"), Some("EnabledIPIPOnly")),
        None
    );
    assert_eq!(
        conflict("Never", "v3.33.0", Some("EnabledNoEncapOnly"), Some("EnabledIPIPOnly")),
        None
    );
    // 3.33's BIRD leaves IPIP to Felix, which was told not to.
    let (_, evidence) = conflict("Always", "v3.33.0", Some("Disabled"), None).unwrap();
    assert!(
        evidence.starts_with("neither Felix") && evidence.contains("IPIP pools"),
        "{evidence}"
    );
    let (_, evidence) = conflict("Never", "v3.32.1", Some("Disabled"), Some("Disabled")).unwrap();
    assert!(evidence.contains("pools without encapsulation"), "{evidence}");
    // Where BIRD cannot be told, Felix's setting contradicts nothing.
    assert_eq!(conflict("Always", "v3.31.7", Some("Enabled"), None), None);
    // Nor does BIRD's where its version does not read it, though a newer CRD keeps it.
    assert_eq!(conflict("Never", "v3.31.7", None, Some("Disabled")), None);
    // What a later version may say is not guessed, and said to be unknown.
    assert_eq!(conflict("Never", "v3.32.1", Some("Enabled"), Some("Perhaps")), None);
    let unknown = owned("Never", "v3.32.1", None, Some("Perhaps"), &[]);
    let gaps = unknown.node_intent(&W.into()).unwrap().gaps;
    assert!(gaps.iter().any(|gap| gap.source == "intent/route-owner"), "{gaps:?}");
    // VXLAN's routes are nobody else's.
    let vxlan = with(&[
        support::version("v3.32.1"),
        support::felix("default", &json!({"programClusterRoutes": "Enabled"})),
    ]);
    assert_eq!(contradictions(&vxlan), []);
}

#[test]
fn a_node_with_its_own_settings_conflicts_alone() {
    let own = support::felix(&format!("node.{W}"), &json!({"programClusterRoutes": "Enabled"}));
    let found = owners("Always", "v3.32.1", None, None, std::slice::from_ref(&own));
    let nodes: Vec<_> = found.iter().map(|c| (c.code, c.node.clone(), c.subject.clone())).collect();
    assert_eq!(nodes, [(CauseCode::RouteOwnerConflict, Some(W.into()), W.to_owned())]);
    // Both sides told on that node, and all is well.
    assert_eq!(
        owners("Always", "v3.32.1", None, None, &[own, bgp(&format!("node.{W}"), "Disabled")]),
        []
    );
}

#[test]
fn a_conflict_comes_and_goes_with_its_objects() {
    use verifier_core::{
        intent::objects::{Change, Kind, ObjectKey},
        names::UnixNs,
    };
    let mut all = worked_example("Never");
    all.retain(|v| v["kind"] != "ClusterInformation" && v["kind"] != "Pod");
    all.push(support::version("v3.32.1"));
    let mut cluster = support::cluster(&all);
    let codes = |cluster: &Cluster| contradictions(cluster).iter().map(|c| c.code).collect::<Vec<_>>();
    assert_eq!(codes(&cluster), []);
    let told = support::object(&support::felix("default", &json!({"programClusterRoutes": "Enabled"})));
    drop(cluster.apply(Change::Upsert(told), UnixNs(1)));
    assert_eq!(codes(&cluster), [CauseCode::RouteOwnerConflict]);
    let key = ObjectKey {
        kind: Kind::FelixConfiguration,
        namespace: String::new(),
        name: "default".to_owned(),
    };
    drop(cluster.apply(Change::Delete(key), UnixNs(2)));
    assert_eq!(codes(&cluster), []);
}

#[test]
fn a_node_whose_tunnel_has_a_vni_or_a_port_of_its_own_contradicts_the_others() {
    let found = |changes: &[Value]| -> Vec<_> {
        let all = contradictions(&with(changes)).into_iter();
        all.map(|c| (c.code, c.node, c.evidence)).collect()
    };
    let own = |name: &str, spec: Value| support::felix(name, &spec);
    let evidence = |has: &str| format!("{W} is to have {has}, {CP} and 1 more VNI 4096 and UDP port 4789");
    for (spec, has) in [
        (json!({"vxlanVNI": 7}), "VNI 7 and UDP port 4789"),
        (json!({"vxlanPort": 8472}), "VNI 4096 and UDP port 8472"),
    ] {
        let told = found(&[own(&format!("node.{W}"), spec)]);
        assert_eq!(told, [(CauseCode::TunnelSettingsConflict, Some(W.into()), evidence(has))]);
    }
    // By calico-node's environment as well.
    let env = json!([{"name": "FELIX_VXLANVNI", "value": "7"}]);
    let told = found(&[support::calico_node(W, &env)]);
    assert_eq!(
        told,
        [(
            CauseCode::TunnelSettingsConflict,
            Some(W.into()),
            evidence("VNI 7 and UDP port 4789")
        )]
    );
    // A node whose calico-node pod is being made anew has told nothing, where no DaemonSet tells it for all.
    let told_by_pods = |nodes: &[&str]| {
        let mut all = worked_example("Always");
        all.retain(|v| {
            v["kind"] != "DaemonSet" && (v["kind"] != "Pod" || !v["metadata"]["name"].as_str().unwrap().starts_with("calico-node"))
        });
        all.extend(nodes.iter().map(|node| support::calico_node(node, &env)));
        contradictions(&support::cluster(&all))
    };
    assert_eq!(told_by_pods(&[CP, W, W2]), []);
    assert_eq!(told_by_pods(&[CP, W]), []);
    // All the same, however it came about, is no contradiction; nor is what a node is to have without a tunnel.
    let everywhere = [own("default", json!({"vxlanVNI": 7}))];
    assert_eq!(found(&everywhere), []);
    let each: Vec<Value> = [CP, W, W2].map(|node| own(&format!("node.{node}"), json!({"vxlanVNI": 7}))).into();
    assert_eq!(found(&each), []);
    let mut bare = worked_example("Never");
    bare.push(own(&format!("node.{W}"), json!({"vxlanVNI": 7})));
    assert_eq!(contradictions(&support::cluster(&bare)), []);
}
