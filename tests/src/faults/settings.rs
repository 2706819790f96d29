//! Kernel settings that keep a correctly programmed node from forwarding.

use std::net::Ipv4Addr;

use anyhow::Result;
use ipnet::Ipv4Net;

use super::{
    Cast, Class, Expectation, Fault, Injection, Outcome, PodState, Step, Verdict,
    cast::{injected, tunnel, underlay},
};
use crate::{
    fabric::{
        plan::{BRIDGE, UNDERLAY_DEVICE},
        sysctl,
    },
    nl::{Route, host_net, proto},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "ip-forward-off",
        description: "net.ipv4.ip_forward of a node was switched off (a hardening script), which Felix never repairs",
        incidents: &["projectcalico/cni-plugin#283"],
        injection: Injection::Fabric(ip_forward_off),
        expect: |cast| {
            // It is IPv4's: where there is IPv6 too, that passes on.
            let verdict = if cast.fabric.spec().encapsulation.is_dual_stack() {
                Verdict::Degraded
            } else {
                Verdict::NotForwarding
            };
            let expectation = Expectation::node(cast, "ip-forward-disabled", Class::NotForwarded, cast.b, &[verdict]);
            let pods = cast.pods_of(cast.b);
            pods.iter()
                .fold(expectation, |expectation, pod| expectation.pod(pod, PodState::FreshOrUnknown))
        },
    },
    Fault {
        name: "rp-filter-strict-asymmetric",
        description: "a node has a second network card through which it routes to a peer, and strict reverse-path filtering on the first: what the peer sends is dropped",
        incidents: &["projectcalico/calico#4234"],
        injection: Injection::Fabric(rp_filter),
        expect: |cast| {
            Expectation::node(
                cast,
                "rp-filter-drop",
                Class::NotForwarded,
                cast.b,
                &[Verdict::Degraded, Verdict::NotForwarding],
            )
            .at(vec![underlay(cast.b, "ingress")], vec![tunnel(cast.b, "ingress")])
        },
    },
];

fn ip_forward_off(cast: &Cast<'_>) -> Result<Outcome> {
    cast.fabric.node_netns(cast.b)?.run(|| sysctl::set("net/ipv4/ip_forward", "0"))?;
    // Switching it on again switches it on for every device, which is how it was.
    injected(vec![Step::Sysctl {
        netns: cast.b.netns.clone(),
        key: "net/ipv4/ip_forward".to_owned(),
        value: "1".to_owned(),
    }])
}

/// The second card, and its port on the switch.
const SECOND: &str = "eth1";
const SECOND_PORT: &str = "sw-second";

/// `node-b` gets a second card in the same network and a route to `node-a` over it. Its way there
/// works; what comes from there on the first card is then, to strict filtering, spoofed.
fn rp_filter(cast: &Cast<'_>) -> Result<Outcome> {
    let mac = [0x02, 0x00, 172, 19, 0, 3];
    let file = cast.fabric.node_netns(cast.b)?.file()?;
    let mtu = cast.fabric.spec().underlay_mtu_bytes;
    cast.on_switch(|nl| {
        nl.add_veth((SECOND_PORT, None), (SECOND, Some(mac)), Some(&file), mtu)?;
        nl.set_controller(SECOND_PORT, BRIDGE)?;
        nl.set_up(SECOND_PORT, true)
    })?;
    cast.on(cast.b, |nl| {
        let conf = |key: &str| format!("net/ipv4/conf/{SECOND}/{key}");
        // The card answers and asks for its own address only.
        sysctl::set(&conf("arp_ignore"), "1")?;
        sysctl::set(&conf("arp_announce"), "2")?;
        nl.add_address(SECOND, Ipv4Net::new(Ipv4Addr::new(172, 19, 0, 3), 24)?)?;
        nl.set_up(SECOND, true)?;
        nl.replace_neighbour(SECOND, cast.a.host_ip, cast.a.underlay_mac)?;
        let mut route = Route::unicast(host_net(cast.a.host_ip), None, SECOND, proto::STATIC);
        route.link_scope = true;
        nl.replace_route(&route)?;
        sysctl::set(&format!("net/ipv4/conf/{UNDERLAY_DEVICE}/rp_filter"), "1")
    })?;
    // Strict filtering stops ARP requests as well. The peer keeps a static entry, so that the
    // fault stays what it is when tables are cold.
    cast.on(cast.a, |nl| {
        nl.replace_neighbour(UNDERLAY_DEVICE, cast.b.host_ip, cast.b.underlay_mac)
    })?;
    injected(vec![
        Step::Sysctl {
            netns: cast.b.netns.clone(),
            key: format!("net/ipv4/conf/{UNDERLAY_DEVICE}/rp_filter"),
            value: "0".to_owned(),
        },
        Step::DeleteLink {
            netns: cast.b.netns.clone(),
            link: SECOND.to_owned(),
        },
        Step::DeleteNeighbour {
            netns: cast.a.netns.clone(),
            link: UNDERLAY_DEVICE.to_owned(),
            address: cast.b.host_ip.into(),
        },
    ])
}
