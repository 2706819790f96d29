//! A remedy is copied into a shell at night: its commands must name the device, the family and the route that are wrong, not those that the
//! table has for an example.

use super::{
    change,
    dual::{healthy, list, node, node_state},
    golden::Cluster,
};
use verifier_core::{
    intent::Owner,
    programmed::{LinkKind, Route},
    report::{CauseJson, JsonReport},
    verdict::CauseCode,
};

const DEVICES: [(bool, &str); 2] = [(false, "vxlan.calico"), (true, "vxlan-v6.calico")];

fn index_of(cluster: &mut Cluster, device: &str) -> u32 {
    let links = list(&mut node_state(cluster, "node-b").links);
    links.iter().find(|link| link.name == device).unwrap().index
}

/// What the report says of this cause at node-b, and nowhere else.
fn told(cluster: &Cluster, code: CauseCode) -> CauseJson {
    let mut report = cluster.judge().cluster;
    // One that notices a route that was changed in place.
    report.calico.0 = Some((3, 32, 1));
    let report = JsonReport::new(&report);
    let mut found: Vec<CauseJson> = report.nodes.into_iter().flat_map(|node| node.causes).collect();
    found.retain(|cause| cause.code == code && cause.node == Some("node-b".into()));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.remove(0)
}

/// The commands of a remedy, which stand between backticks.
fn commands(cause: &CauseJson) -> Vec<&str> {
    cause
        .remedy
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("ip "))
        .collect()
}

#[test]
fn the_device_that_is_wrong_is_named_and_no_other() {
    for (v6, device) in DEVICES {
        let mut cluster = healthy();
        let links = list(&mut node_state(&mut cluster, "node-b").links);
        links.iter_mut().find(|link| link.name == device).unwrap().up = false;
        let cause = told(&cluster, CauseCode::TunnelDeviceDown);
        assert_eq!(commands(&cause), [format!("ip link set {device} up")]);

        let mut cluster = healthy();
        let links = list(&mut node_state(&mut cluster, "node-b").links);
        match &mut links.iter_mut().find(|link| link.name == device).unwrap().kind {
            LinkKind::Vxlan { vni, .. } => *vni = 1,
            other => panic!("{other:?}"),
        }
        let cause = told(&cluster, CauseCode::TunnelDeviceMisconfigured);
        assert_eq!(commands(&cause), [format!("ip link del {device}")]);

        let mut cluster = healthy();
        let index = index_of(&mut cluster, device);
        let addresses = list(&mut node_state(&mut cluster, "node-b").addresses);
        let own = addresses.iter().find(|a| a.index == index).unwrap().ip;
        addresses.retain(|a| a.index != index);
        let cause = told(&cluster, CauseCode::TunnelAddressMissingOnDevice);
        // A prefix of the other family's length would capture half the network.
        assert_eq!(own.prefix_len(), if v6 { 128 } else { 32 });
        assert_eq!(commands(&cause), [format!("ip addr add {own} dev {device}")]);
    }
}

/// A route of node-b to another node's block, led out of another device; with who owns it, by intent. Returns what it was.
fn misled(cluster: &mut Cluster, v6: bool, owner: Owner) -> Route {
    let snapshot = node(cluster, "node-b");
    let intent = change::value(&mut snapshot.intent).unwrap();
    let of_family = |r: &&mut verifier_core::intent::ExpectedRoute| r.dst.addr().is_ipv6() == v6 && r.required && r.gateway.is_some();
    let want = intent.routes.iter_mut().find(of_family).unwrap();
    want.owner = owner;
    let dst = want.dst;
    let links = list(&mut node_state(cluster, "node-b").links);
    let underlay = links.iter().find(|link| link.name == "eth0").unwrap().index;
    let routes = list(&mut node_state(cluster, "node-b").routes);
    let route = routes.iter_mut().find(|route| route.dst == dst).unwrap();
    let was = route.clone();
    route.next_hops[0].oif = Some(underlay);
    was
}

#[test]
fn a_route_is_put_back_as_its_owner_wants_it() {
    for (v6, device) in DEVICES {
        let mut cluster = healthy();
        let was = misled(&mut cluster, v6, Owner::Felix);
        let (dst, via) = (was.dst, was.next_hops[0].gateway.unwrap());
        let protocol = was.protocol;
        let right = format!("{dst} via {via} dev {device} proto {protocol} onlink");
        let cause = told(&cluster, CauseCode::RouteWrong);
        // The kernel does not take a new route of IPv6 in place of one that leads elsewhere and covers its gateway.
        let command = if v6 {
            format!("ip -6 route del {dst} && ip -6 route add {right}")
        } else {
            format!("ip route replace {right}")
        };
        assert_eq!(commands(&cause), [command]);
        assert_eq!(cause.calico_repairs.automatic, !v6, "{:?}", cause.calico_repairs);

        let mut cluster = healthy();
        misled(&mut cluster, v6, Owner::Bird);
        let cause = told(&cluster, CauseCode::RouteWrong);
        let ip = if v6 { "ip -6" } else { "ip" };
        assert_eq!(
            commands(&cause),
            [format!("{ip} route del {dst}")],
            "another's route keeps BIRD's out"
        );
        assert!(!cause.remedy.contains("restarting calico-node"), "{}", cause.remedy);
    }
}
