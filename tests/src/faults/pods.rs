//! One pod's own network. None of these changes its node's verdict, except where the node as a whole
//! lost its default route.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{Cast, Expectation, Fault, Injection, Outcome, PodState, Step, cast::injected};
use crate::{
    fabric::{
        node::{default_route, pod_default_route, pod_route},
        plan::POD_DEVICE,
        sysctl,
    },
    nl::host_net,
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "pod-route-missing",
        description: "the node has no route to one of its pods",
        incidents: &["projectcalico/calico#5173", "projectcalico/calico#2471"],
        injection: Injection::Fabric(route_missing),
        expect: |cast| Expectation::stale(cast, "pod-route-missing", &cast.pod_b),
    },
    Fault {
        name: "pod-veth-missing",
        description: "a running pod's veth is gone, both ends, and the route with it",
        incidents: &["projectcalico/calico#11161", "containerd/containerd#13332"],
        injection: Injection::Fabric(veth_missing),
        expect: |cast| Expectation::stale(cast, "pod-veth-missing", &cast.pod_b),
    },
    Fault {
        name: "pod-veth-down",
        description: "the host's side of a pod's veth is down (udev, NetworkManager)",
        incidents: &["projectcalico/calico#9648"],
        injection: Injection::Fabric(veth_down),
        expect: |cast| Expectation::stale(cast, "pod-veth-down", &cast.pod_b),
    },
    Fault {
        name: "pod-ip-mismatch",
        description: "a pod's interface has another address than the API says",
        incidents: &["projectcalico/calico#13858"],
        injection: Injection::Fabric(ip_mismatch),
        expect: |cast| Expectation::stale(cast, "pod-ip-mismatch", &cast.pod_b).mentioning(&other_address(cast).to_string()),
    },
    Fault {
        name: "pod-gateway-missing",
        description: "a pod has no default route",
        incidents: &["projectcalico/calico#4779"],
        injection: Injection::Fabric(gateway_missing),
        expect: |cast| Expectation::stale(cast, "pod-gateway-missing", &cast.pod_b),
    },
    Fault {
        name: "pod-gateway-unanswered-proxy-arp",
        description: "proxy ARP is off for a pod: once its neighbour table is cold it finds no gateway",
        incidents: &["projectcalico/cni-plugin#283"],
        injection: Injection::Fabric(proxy_arp_off),
        expect: |cast| Expectation::stale(cast, "pod-gateway-unanswered", &cast.pod_b).mentioning("proxy_arp"),
    },
    Fault {
        name: "pod-gateway-unanswered-no-default-route",
        description: "a node has no default route, so the kernel answers none of its pods' ARP requests for the gateway",
        incidents: &["projectcalico/calico#3270"],
        injection: Injection::Fabric(no_default_route),
        expect: |cast| {
            let mut expectation = Expectation::stale(cast, "pod-gateway-unanswered", &cast.pod_b);
            for pod in cast.pods_of(cast.b) {
                expectation = expectation.pod(&pod, PodState::Stale);
            }
            expectation
        },
    },
];

fn restore(cast: &Cast<'_>) -> Result<Outcome> {
    injected(vec![Step::Pod(cast.pod_b.name.clone())])
}

fn route_missing(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.delete_route(&pod_route(&cast.pod_b)))?;
    restore(cast)
}

fn veth_missing(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.delete_link(&cast.pod_b.host_device))?;
    restore(cast)
}

fn veth_down(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.set_up(&cast.pod_b.host_device, false))?;
    restore(cast)
}

/// An address of the same block that no pod has.
fn other_address(cast: &Cast<'_>) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cast.b.block().network()) + 9)
}

fn ip_mismatch(cast: &Cast<'_>) -> Result<Outcome> {
    cast.inside(&cast.pod_b, |nl| {
        nl.add_address(POD_DEVICE, host_net(other_address(cast)))?;
        nl.delete_address(POD_DEVICE, host_net(cast.pod_b.ip))
    })?;
    restore(cast)
}

fn gateway_missing(cast: &Cast<'_>) -> Result<Outcome> {
    cast.inside(&cast.pod_b, |nl| nl.delete_route(&pod_default_route()))?;
    restore(cast)
}

fn proxy_arp_off(cast: &Cast<'_>) -> Result<Outcome> {
    let key = format!("net/ipv4/conf/{}/proxy_arp", cast.pod_b.host_device);
    cast.fabric.node_netns(cast.b)?.run(|| sysctl::set(&key, "0"))?;
    // The pod still knows the gateway's MAC; the fault is one for as long as it does not.
    cast.inside(&cast.pod_b, |nl| nl.flush_dynamic_neighbours())?;
    restore(cast)
}

fn no_default_route(cast: &Cast<'_>) -> Result<Outcome> {
    cast.on(cast.b, |nl| nl.delete_route(&default_route(cast.b)))?;
    for pod in cast.pods_of(cast.b) {
        cast.inside(&pod, |nl| nl.flush_dynamic_neighbours())?;
    }
    injected(vec![Step::Route {
        netns: cast.b.netns.clone(),
        route: default_route(cast.b),
    }])
}
