//! A remedy is copied into a shell at night: its commands must name the device, the family and the route that are wrong, not those that the
//! table has for an example.

use super::{
    change,
    dual::{healthy, list, node, node_state},
    golden::{ALL, Cluster, named},
    roots,
};
use std::net::{IpAddr, Ipv4Addr};
use verifier_core::{
    intent::Owner,
    observed::{ConformanceCount, ConformanceKind, Direction},
    programmed::{LinkKind, Netconf, NetconfScope, Route},
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
    // One that notices a route that was changed in place.
    told_by(cluster, code, (3, 32, 1))
}

/// The same with this version of Calico.
fn told_by(cluster: &Cluster, code: CauseCode, calico: (u16, u16, u16)) -> CauseJson {
    let mut report = cluster.judge().cluster;
    report.calico.0 = Some(calico);
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

#[test]
fn the_setting_that_is_off_is_named_and_no_other() {
    let settings = |v6: bool| {
        let mut cluster = healthy();
        let off = |n: &&mut Netconf| n.v6 == v6 && n.scope == NetconfScope::All;
        let all = list(&mut node_state(&mut cluster, "node-b").netconf);
        all.iter_mut().find(off).unwrap().forwarding = Some(false);
        told(&cluster, CauseCode::IpForwardDisabled)
    };
    for (v6, key) in [(false, "net.ipv4.ip_forward"), (true, "net.ipv6.conf.all.forwarding")] {
        let cause = settings(v6);
        assert!(cause.remedy.starts_with(&format!("`sysctl -w {key}=1`, and")), "{}", cause.remedy);
        let persist = cause.persist.unwrap();
        assert!(persist.starts_with(&format!("Put `{key}=1` into")), "{persist}");
    }
    // sysctl(8) reads a dot within a device's name as a slash.
    let mut cluster = healthy();
    let index = index_of(&mut cluster, "vxlan.calico");
    let all = list(&mut node_state(&mut cluster, "node-b").netconf);
    let own = all.iter_mut().find(|n| !n.v6 && n.scope == NetconfScope::Link(index)).unwrap();
    own.forwarding = Some(false);
    let cause = told(&cluster, CauseCode::IpForwardDisabled);
    assert!(
        cause.remedy.starts_with("`sysctl -w net.ipv4.conf.vxlan/calico.forwarding=1`, and"),
        "{}",
        cause.remedy
    );
}

#[test]
fn who_wrote_what_stands_there_is_said_and_whether_its_owner_puts_it_right() {
    // As Felix's or BIRD's, out of which device, by what protocol: whom the remedy suspects, who repairs.
    let cases = [
        (
            Owner::Felix,
            "eth0",
            12,
            "BIRD by its protocol",
            "Felix's route refresh repairs it within 100 s",
        ),
        (
            Owner::Felix,
            "eth0",
            16,
            "a DHCP client by its protocol",
            "Felix's route refresh repairs it within 100 s",
        ),
        (Owner::Felix, "eth0", 80, "another CNI", "never: this version does not notice"),
        (
            Owner::Felix,
            "vxlan.calico",
            4,
            "another CNI",
            "never: this version does not notice",
        ),
        (
            Owner::Bird,
            "eth0",
            12,
            "another CNI",
            "BIRD's scan of the kernel's routes changes its own route",
        ),
        (
            Owner::Bird,
            "eth0",
            80,
            "Felix by its protocol",
            "Felix's route refresh removes what stands there",
        ),
        (
            Owner::Bird,
            "vxlan.calico",
            3,
            "another CNI",
            "Felix's route refresh removes what stands there",
        ),
        (
            Owner::Bird,
            "eth0",
            4,
            "another CNI",
            "never: BIRD's scan changes only routes of its own",
        ),
    ];
    for (owner, device, protocol, suspect, repairs) in cases {
        let mut cluster = healthy();
        let dst = misled(&mut cluster, false, owner).dst;
        let index = index_of(&mut cluster, device);
        let routes = list(&mut node_state(&mut cluster, "node-b").routes);
        let route = routes.iter_mut().find(|route| route.dst == dst).unwrap();
        route.protocol = protocol;
        route.next_hops[0].oif = Some(index);
        // A third node's VTEP, or nobody's: wrong out of any device.
        route.next_hops[0].gateway = Some("10.99.0.1".parse().unwrap());
        let cause = told_by(&cluster, CauseCode::RouteWrong, (3, 30, 7));
        let case = format!("{owner:?} {device} {protocol}: {} / {}", cause.remedy, cause.calico_repairs.note);
        assert!(cause.remedy.contains(suspect), "{case}");
        assert!(cause.calico_repairs.note.starts_with(repairs), "{case}");
    }
}

#[test]
fn a_gateway_that_nobody_answers_for_is_cured_where_it_is_ill() {
    let cure_of = |name: &str| {
        let report = named(name).judge().cluster;
        let report = JsonReport::new(&report);
        let mut all = report.pods.into_iter().flat_map(|pod| pod.causes);
        all.find(|cause| cause.code == CauseCode::PodGatewayUnanswered).unwrap().remedy
    };
    let cure = cure_of("pod-gateway-unanswered-proxy-arp");
    assert!(
        cure.starts_with("`sysctl -w net.ipv4.conf.cali") && cure.ends_with(".proxy_arp=1`."),
        "{cure}"
    );
    let cure = cure_of("pod-gateway-unanswered-no-default-route");
    assert!(cure.starts_with("Give the node a default route") && !cure.contains('`'), "{cure}");
}

/// What stands for a phrase of the table's text stands for one that is in it. Single words, as a device's name, may not occur.
#[test]
fn no_value_is_lost_on_its_way_into_a_remedy() {
    let mut values = 0;
    for golden in ALL.iter() {
        let report = golden.cluster().judge().cluster;
        let of_pods = report.pods.iter().flat_map(|pod| &pod.causes);
        for found in roots(&report).chain(of_pods) {
            let cause = found.code.cause();
            let text = format!("{} {}", cause.remedy, cause.persist.unwrap_or_default());
            for phrase in found.values.keys().filter(|key| key.contains(' ')) {
                assert!(text.contains(phrase), "{}: {phrase:?} is not in {text}", found.code);
                values += 1;
            }
        }
    }
    assert!(values >= 6, "{values}");
}

/// What arrives against intent was sent by the other end.
#[test]
fn the_sender_is_to_be_looked_at_and_a_bare_packet_has_nothing_around_it() {
    let bare = |direction| {
        let mut cluster = healthy();
        let observed = change::value(&mut node(&mut cluster, "node-b").observed).unwrap();
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        list(&mut observed.conformance).push(ConformanceCount {
            kind: ConformanceKind::BareLeak,
            direction,
            peer: Some("node-c".into()),
            packets: 9,
            sample: Some((none, none, "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())),
        });
        told(&cluster, CauseCode::UnencapsulatedLeak)
    };
    for (direction, sender) in [(Direction::Egress, "node-b"), (Direction::Ingress, "node-c")] {
        let cause = bare(direction);
        assert!(
            cause.remedy.ends_with(&format!("`verifier inspect --node {sender}`.")),
            "{}",
            cause.remedy
        );
        assert_eq!(
            cause.evidence.observed.as_deref(),
            Some("9 packets, one from 10.0.0.1 to 10.0.0.2 without encapsulation")
        );
    }
}
