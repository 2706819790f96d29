//! Causes of class not-forwarded: the kernel was told, and packets still do not pass.

use crate::verdict::{Cause, CauseCode::*, Class, Repairs, Scope, Severity};

/// Shorthand: what most of these share.
const BASE: Cause = Cause {
    code: UnexplainedLoss,
    class: Class::NotForwarded,
    severity: Severity::Error,
    scope: Scope::Pair,
    title: "",
    meaning: "",
    detected: "",
    remedy: "",
    verify: "`verifier validate --node NODE` passes.",
    persist: None,
    repairs: Repairs::NotCalicos,
    hold_off_seconds: 0,
    explains: &[],
    explains_at_peers: &[],
    incidents: &[],
};

/// What stands when nothing else does.
pub const UNEXPLAINED: Cause = Cause {
    code: UnexplainedLoss,
    title: "Packets vanish at a known place for an unknown reason",
    meaning: "The probes die between two taps, the state there is as intended, no filter counter moved and no foreign program is attached. The place is certain, the cause is not.",
    detected: "The first divergence of the hops, with every other check of that place passed.",
    remedy: "Run `verifier trace SRC DST` and the tcpdump or pwru line it prints for the failing hop.",
    incidents: &["projectcalico/calico#13960", "projectcalico/calico#9688"],
    ..BASE
};

/// The part of the table.
pub const CAUSES: &[Cause] = &[
    Cause {
        code: IpForwardDisabled,
        scope: Scope::Node,
        title: "The node does not forward",
        meaning: "net.ipv4.ip_forward (or forwarding of the interfaces concerned) is 0. Nothing passes between pods and tunnel; pods with a cold neighbour table do not even get an answer for their gateway. Of IPv6 net.ipv6.conf.all.forwarding alone decides. Felix writes it once, at its start.",
        detected: "RTM_GETNETCONF: forwarding is off for all, for the tunnel or for the underlay device.",
        remedy: "`sysctl -w net.ipv4.ip_forward=1` (of IPv6 `net.ipv6.conf.all.forwarding=1`), and make it last in /etc/sysctl.d; find what resets it (hardening scripts, `systemd-sysctl`, a VPN's down hook).",
        persist: Some(
            "Put `net.ipv4.ip_forward=1` into a file of /etc/sysctl.d that is read last, and remove what sets it to 0: `verifier host` names the file.",
        ),
        repairs: Repairs::Never,
        explains: &[PodGatewayUnanswered, PodUnresponsive],
        incidents: &["projectcalico/cni-plugin#283"],
        ..BASE
    },
    Cause {
        code: RpFilterDrop,
        scope: Scope::Node,
        title: "Strict reverse path filtering drops pod traffic",
        meaning: "rp_filter is 1 (strict) for the device packets arrive on, and the way back to their source leads through another device, so the kernel takes them for spoofed. Strict mode alone drops nothing on a healthy node.",
        detected: "The effective rp_filter (maximum of all and the device) is 1 and the reverse FIB lookup of a peer's source ends at another device. The drop reason IP_RPFILTER corroborates.",
        remedy: "`sysctl -w net.ipv4.conf.all.rp_filter=2` (loose) and of the device, or remove the route or rule that makes the way back another one.",
        persist: Some(
            "Put `net.ipv4.conf.all.rp_filter=2` into a file of /etc/sysctl.d that is read last; a route or rule that was removed comes back with the network configuration that made it.",
        ),
        repairs: Repairs::Never,
        explains: &[],
        incidents: &["projectcalico/calico#4630"],
        ..BASE
    },
    Cause {
        code: FilterDrop,
        title: "A packet filter drops it",
        meaning: "A rule or policy of nftables or iptables that is not the endpoint's own policy drops pod traffic or the tunnel's packets: Docker's FORWARD policy, a firewall service, a rule for UDP 4789, a netdev hook.",
        detected: "Place and stage of the loss, and where a counter moved its table and chain; the drop's location (nft_do_chain, nf_hook_slow) corroborates.",
        remedy: "Look at the named chain (`nft list chain …`, `iptables-legacy -L CHAIN -v -n`) and remove or reorder the rule; stop the service that writes it.",
        persist: Some(
            "Change what writes the rule (firewalld's zones, Docker's `iptables` option, a hardening role), or it comes back with the next start of that service.",
        ),
        repairs: Repairs::Never,
        incidents: &[
            "projectcalico/calico#875",
            "projectcalico/calico#2230",
            "projectcalico/calico#6342",
            "projectcalico/calico#8243",
            "projectcalico/calico#3665",
        ],
        ..BASE
    },
    Cause {
        code: UnderlayDropsTunnel,
        scope: Scope::Fabric,
        title: "The network between the nodes drops the tunnel's packets",
        meaning: "They leave one node and do not arrive at the other, while the nodes reach each other otherwise: a security group, firewall or ACL without UDP 4789 (VXLAN) or protocol 4 (IPIP); without encapsulation one without the pods' addresses (a source/destination check); or one that loses ARP or neighbour discovery, so that a node has no link-layer address of the other.",
        detected: "Seen leaving the underlay device of one node and not entering that of the other, in all sizes and from all ports, with no program or filter at either end; the agents reach each other over TCP.",
        remedy: "Allow the tunnel's protocol between the two node addresses, in both directions, in the cloud's or switch's rules; without encapsulation the pods' addresses. Where a link-layer address is missing: ARP, for IPv6 ICMPv6 types 133 to 136.",
        incidents: &[
            "projectcalico/calico#3665",
            "projectcalico/calico#1996",
            "projectcalico/calico#1357",
        ],
        ..BASE
    },
    Cause {
        code: MtuBlackhole,
        scope: Scope::Fabric,
        title: "Packets over a certain size vanish",
        meaning: "Small packets pass, the largest that the configured MTU allows do not, and nobody says so. Connections open and then hang. The network's MTU is smaller than pods' MTU plus the tunnel's overhead.",
        detected: "With DF set, small probes pass and large ones die; the search for the largest size that passes ends below the intended MTU.",
        remedy: "Lower the MTU: FelixConfiguration `vxlanMTU`/`ipipMTU` and the CNI's `mtu` to the largest inner size that passes, then recreate pods (they keep the MTU they were made with); or raise it in the network.",
        incidents: &[
            "projectcalico/calico#1709",
            "projectcalico/calico#12432",
            "projectcalico/calico#8674",
            "kubernetes-sigs/cluster-api-provider-azure#1353",
        ],
        ..BASE
    },
    Cause {
        code: PartialLoss,
        scope: Scope::Fabric,
        title: "Some of the packets between the nodes are lost",
        meaning: "Either packets from some source ports die every time and others never: one of several equal paths is bad (ECMP, a bond member, a line card), or a stale entry catches one flow. One ping in several fails, one connection in several hangs. Or any packet may be lost, now this one and now that one: a congested or broken link, damaged packets that the receiver throws away. Connections are slow and stall.",
        detected: "Several pinned inner source ports, each with its outer port read at the underlay: some fail at least 2 of 3 times, the others pass. Or losses at random (between them others of the same kind pass) that come to at least 10 % of the probes to a peer, and 6 of them; fewer are no fault. The subject says which of the two, with ports or figure.",
        remedy: "Of some ports: give the network's operators the outer source ports, addresses and direction: they identify the path. Check bond members (`ip -s link`) and ECMP next hops. At random: look for errors and drops on the way (`ip -s link`, `ethtool -S`, the switches' counters), for a cable or a transceiver, for a saturated link.",
        incidents: &["google/cloudprober#612", "projectcalico/calico#6386"],
        ..BASE
    },
    Cause {
        code: LatencyDegraded,
        severity: Severity::Warning,
        scope: Scope::Fabric,
        title: "Packets between the nodes take long",
        meaning: "Everything passes, and nine in ten round trips between two nodes take at least 250 ms longer than those within a node. Applications that ask each other several times for one answer become slow; the API and etcd may lose their leaders.",
        detected: "The round trip that nine in ten small probes to a peer exceed (a busy machine delays some, a slow network all), less the median within the node, is 250 ms or more, and still is when a quarter of them was sent again.",
        remedy: "Compare with `ping` between the node addresses: if that is as slow, it is the network's (a detour, a full queue, a rate limit, a VPN); if not, look at the tunnel's way on both nodes: queues (`tc -s qdisc`), CPU and softirq load.",
        incidents: &[],
        ..BASE
    },
    Cause {
        code: ChecksumCorrupt,
        scope: Scope::Node,
        title: "Inner checksums arrive corrupted",
        meaning: "ICMP passes, UDP and TCP do not: the inner transport checksum is wrong on arrival. The sending node's NIC or hypervisor computes offloaded checksums of tunnelled packets wrongly, or something on the way does.",
        detected: "ICMP passes and UDP and TCP fail, and a tap sees a wrong inner checksum where the tap before saw a right one.",
        remedy: "On the sending node `ethtool -K vxlan.calico tx-checksum-ip-generic off` (and on the underlay device `tx-udp_tnl-csum-segmentation off`); lasting: FelixConfiguration `featureDetectOverride: ChecksumOffloadBroken=true`, or a fixed driver.",
        persist: Some(
            "`ethtool -K` is gone after a reboot, and when Felix makes the device anew: set FelixConfiguration `featureDetectOverride: ChecksumOffloadBroken=true`, and a udev rule or `.link` file for the underlay device; the lasting cure is a kernel or driver without the fault.",
        ),
        incidents: &[
            "projectcalico/calico#4727",
            "projectcalico/calico#4865",
            "projectcalico/calico#3145",
            "projectcalico/calico#9433",
            "projectcalico/calico#7040",
        ],
        ..BASE
    },
    Cause {
        code: ForeignHookDrop,
        title: "Somebody's TC or XDP program drops it",
        meaning: "A program that is neither Calico's nor ours is attached at the place where packets die: another CNI's leftovers, a security agent, an experiment.",
        detected: "Last tap seen and first tap missed, and the programs attached between them (TCX query, filters, XDP). Several: all are named. The drop's location corroborates.",
        remedy: "Find its owner (`bpftool prog show id ID`, `bpftool net`) and detach it (`bpftool net detach …`, `tc filter del …`, `ip link set DEV xdp off`).",
        persist: Some("Change or remove the program's owner (its DaemonSet, its service): it attaches itself again at its next start."),
        repairs: Repairs::Never,
        incidents: &["projectcalico/calico#8867"],
        ..BASE
    },
    Cause {
        code: SourceRewritten,
        scope: Scope::Node,
        title: "Pod traffic arrives with another source",
        meaning: "Every probe passes, and the far node sees another address than the pod's: a MASQUERADE or SNAT rule catches pod to pod traffic, or the destination is missing from Calico's pool set. Policies that select by source then drop or admit the wrong traffic.",
        detected: "The inner source at the far taps differs from the one at the pod's own tap.",
        remedy: "Find the rule (`nft list ruleset | grep -i masq`, `iptables-save -t nat`): exclude the pod pools as destination, or remove it.",
        persist: Some("Change what writes the rule (a script of the host, an agent of the cloud), or it comes back with the next boot."),
        repairs: Repairs::Never,
        explains: &[SpoofedSourceSeen],
        explains_at_peers: &[SpoofedSourceSeen],
        incidents: &["projectcalico/calico#3440", "projectcalico/calico#6235"],
        ..BASE
    },
    Cause {
        code: ConntrackFull,
        scope: Scope::Node,
        title: "The connection tracking table is full",
        meaning: "New flows are dropped while established ones go on.",
        detected: "As many entries as the limit allows. An error where probes of the node die, a warning where all of them pass; the kernel's count of dropped packets is shown.",
        remedy: "`sysctl -w net.netfilter.nf_conntrack_max=…`; find the flows that fill it (`conntrack -S`, `conntrack -L`).",
        persist: Some(
            "Put `net.netfilter.nf_conntrack_max` into /etc/sysctl.d, and kube-proxy's `conntrack.maxPerCore` and `min` to match: kube-proxy writes its own value at every start.",
        ),
        repairs: Repairs::Never,
        incidents: &["kubernetes/kubernetes#106274"],
        ..BASE
    },
    Cause {
        code: NodeCutOff,
        scope: Scope::Node,
        title: "The node is cut off altogether",
        meaning: "At least two other nodes reach each other and neither reaches this one, by tunnel or by any other way.",
        detected: "No agent gets an answer from its host and no probe from or to it passes, while the others pass among themselves (three nodes at least).",
        remedy: "Look at the node's own network first: link, address, switch port, host firewall. Use its console.",
        explains: &[UnderlayDropsTunnel, PairCutOff],
        explains_at_peers: &[UnderlayDropsTunnel, PairCutOff],
        incidents: &["projectcalico/calico#12847"],
        ..BASE
    },
    Cause {
        code: PairCutOff,
        scope: Scope::Fabric,
        title: "Two nodes do not reach each other at all",
        meaning: "Neither the tunnel nor any other packet passes between the two; both may reach others.",
        detected: "The agents get no answer from each other and all probes between them die, in both directions.",
        remedy: "Check routing and filters between the two node addresses, and the neighbour entry each has of the other (`ip neigh`).",
        incidents: &["projectcalico/calico#1996"],
        ..BASE
    },
    UNEXPLAINED,
];
