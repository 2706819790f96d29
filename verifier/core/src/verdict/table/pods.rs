//! Causes that are one pod's. They make the pod stale (or policy-blocked) and leave its node's verdict alone.

use crate::verdict::{Cause, CauseCode::*, Class, Repairs, Scope, Severity};

/// Shorthand: what most pod causes share.
const POD: Cause = Cause {
    code: PodUnresponsive,
    class: Class::NotProgrammed,
    severity: Severity::Error,
    scope: Scope::Pod,
    title: "",
    meaning: "",
    detected: "",
    remedy: "Delete the pod so that its controller makes a new one: `kubectl delete pod NAME -n NAMESPACE` (see safe_to_delete).",
    verify: "The new pod is fresh: `verifier validate --node NODE`.",
    persist: None,
    repairs: Repairs::Never,
    hold_off_seconds: 30,
    explains: &[],
    explains_at_peers: &[],
    incidents: &[],
};

/// The part of the table.
pub const CAUSES: &[Cause] = &[
    Cause {
        code: PodRouteMissing,
        title: "The node has no route to its own pod",
        meaning: "The pod's /32 (or /128) is gone from the node's main table or goes elsewhere. The pod still sends; answers and everything addressed to it fall into the block's blackhole.",
        detected: "A complete dump of the main table has no such route through the pod's device.",
        remedy: "Wait for Felix's refresh. If Typha or Felix serves a stale view, restart Typha, then calico-node; else delete the pod.",
        repairs: Repairs::RouteRefresh,
        incidents: &[
            "projectcalico/calico#6169",
            "projectcalico/calico#11161",
            "projectcalico/calico#5173",
            "projectcalico/calico#2471",
        ],
        ..POD
    },
    Cause {
        code: PodVethMissing,
        title: "The host side of the pod's veth is gone",
        meaning: "The pod runs, and nothing connects it to the node. Calico does not make the veth again: only a new sandbox does.",
        detected: "A complete dump of links has no device of the pod's name.",
        explains: &[
            PodRouteMissing,
            PodGatewayMissing,
            PodGatewayUnanswered,
            PodIpMismatch,
            PodVethDown,
            PodUnresponsive,
        ],
        incidents: &["projectcalico/calico#11161", "containerd/containerd#13332"],
        ..POD
    },
    Cause {
        code: PodVethDown,
        title: "The pod's veth is down",
        meaning: "The host side (or the pod's eth0) is switched off; the kernel removed the pod's route with it.",
        detected: "The link lacks IFF_UP on the host side, or eth0 inside the pod does.",
        remedy: "`ip link set CALI_DEVICE up`; Felix restores the route on the up event. Find who switched it off (udev rules, NetworkManager).",
        explains: &[PodRouteMissing, PodGatewayMissing, PodGatewayUnanswered, PodUnresponsive],
        incidents: &["projectcalico/calico#9648"],
        ..POD
    },
    Cause {
        code: PodIpMismatch,
        title: "The pod's address differs from the API's",
        meaning: "The interface in the pod carries another address than status.podIP says. Traffic to the announced address is not answered, traffic from the pod has a source that anti-spoofing drops.",
        detected: "A complete dump of the pod's addresses lacks the API's.",
        explains: &[PodUnresponsive, PodGatewayUnanswered],
        incidents: &["projectcalico/calico#13858", "projectcalico/calico#12257"],
        ..POD
    },
    Cause {
        code: PodGatewayMissing,
        title: "The pod has no route to its gateway",
        meaning: "The default route through 169.254.1.1 (or the link route to it), of IPv6 the one through the link-local address of the host side of its veth, is gone inside the pod: it can answer nobody. UDP probes are answered at the pod's door and still pass.",
        detected: "A complete dump of the pod's routes has no default route through eth0 of a family of which the pod has an address.",
        explains: &[PodUnresponsive, PodGatewayUnanswered],
        incidents: &["projectcalico/calico#4779"],
        ..POD
    },
    Cause {
        code: PodGatewayUnanswered,
        title: "Nobody answers for the pod's gateway",
        meaning: "The pod asks for 169.254.1.1 by ARP; the node answers by proxy ARP only if proxy_arp and forwarding are on for the device and the node has a route to that address through another device, normally its default route. A pod with a warm neighbour entry works on until it expires. Of IPv6 the gateway is the link-local address of the host side of the veth, which answers as long as it is there.",
        detected: "proxy_arp of the device, and a FIB lookup of the gateway from it; of IPv6 a complete dump of the device's addresses. The pod's neighbour entry corroborates.",
        remedy: "`sysctl -w net.ipv4.conf.CALI_DEVICE.proxy_arp=1`; or give the node a default route. Of IPv6, `sysctl -w net.ipv6.conf.CALI_DEVICE.disable_ipv6=0`, and delete the pod where its gateway is another address.",
        repairs: Repairs::InterfaceUp,
        explains: &[PodUnresponsive],
        incidents: &["projectcalico/calico#3270", "projectcalico/cni-plugin#283"],
        ..POD
    },
    Cause {
        code: PodUnresponsive,
        class: Class::NotForwarded,
        title: "The pod does not answer, though everything up to its door works",
        meaning: "Probes are seen going into the pod's interface and no answer comes out: a filter or program inside the pod, a broken stack, or a process that took its addresses away. The node forwards.",
        detected: "The request was seen at the pod's host-side veth and no reply came out of it, for ICMP and TCP alike, and no state explains it.",
        incidents: &["kubernetes/kubernetes#69925"],
        ..POD
    },
    Cause {
        code: PolicyBlocked,
        class: Class::None,
        severity: Severity::Info,
        title: "A network policy denies the probe",
        meaning: "Not a fault: the packet was dropped in FORWARD by the endpoint's own chain. It says that the probe is not allowed, and therefore that this pod's forwarding could not be verified by it.",
        detected: "The drop lies in FORWARD and the counter that moved stands in the endpoint's own chain (cali-tw-…, cali-fw-… or their nft twins).",
        remedy: "Nothing, or allow the probes (ICMP, and the verifier's UDP and TCP ports) by policy.",
        verify: "`verifier validate --node NODE` reports the pod fresh once the policy allows the probe.",
        persist: None,
        repairs: Repairs::NotCalicos,
        ..POD
    },
];
