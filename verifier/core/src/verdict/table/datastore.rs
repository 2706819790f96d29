//! Causes of class datastore: intent contradicts itself. They need no kernel to be seen.

use crate::verdict::{Cause, CauseCode::*, Class, Repairs, Scope, Severity};

/// Shorthand: what these share.
const DATA: Cause = Cause {
    code: DuplicatePodIp,
    class: Class::Datastore,
    severity: Severity::Error,
    scope: Scope::Cluster,
    title: "",
    meaning: "",
    detected: "Comparison of Kubernetes and Calico objects with each other.",
    remedy: "",
    verify: "`verifier inspect` shows no contradiction.",
    persist: None,
    repairs: Repairs::Never,
    hold_off_seconds: 0,
    explains: &[],
    explains_at_peers: &[],
    incidents: &[],
};

/// The part of the table.
pub const CAUSES: &[Cause] = &[
    Cause {
        code: DuplicatePodIp,
        title: "Two running pods have one address",
        meaning: "Traffic to the address reaches one of them, or neither; which one depends on the node it comes from.",
        remedy: "Delete the pod that IPAM does not know by that address (`calicoctl ipam show --ip=ADDRESS`, annotation cni.projectcalico.org/podIP), then `calicoctl ipam check`.",
        explains: &[
            PodRouteMissing,
            PodIpMismatch,
            PodUnresponsive,
            PodAddressNotAllocated,
            PodVethMissing,
            WrongOwnerSeen,
            SpoofedSourceSeen,
        ],
        explains_at_peers: &[WrongOwnerSeen, SpoofedSourceSeen],
        incidents: &[
            "projectcalico/calico#13858",
            "projectcalico/calico#12257",
            "projectcalico/calico#5044",
        ],
        ..DATA
    },
    Cause {
        code: BlockTwoOwners,
        title: "A block has two owners",
        meaning: "The block's affinity and a confirmed BlockAffinity name different nodes (or two affinities claim it): Felix, which reads blocks, and BIRD, which reads affinities, send its traffic to different nodes.",
        remedy: "`calicoctl ipam check -o report.json`, then with the datastore locked correct or delete the wrong BlockAffinity; pods of the losing node in that block must be recreated.",
        explains: &[
            RouteMissing,
            RouteWrong,
            BlackholeMissing,
            PodAddressNotAllocated,
            WrongOwnerSeen,
            SpoofedSourceSeen,
        ],
        explains_at_peers: &[RouteMissing, RouteWrong, WrongOwnerSeen, SpoofedSourceSeen],
        incidents: &["projectcalico/calico#6486", "projectcalico/calico#9618"],
        ..DATA
    },
    Cause {
        code: TunnelAddressMissing,
        scope: Scope::Node,
        title: "A node has no tunnel address",
        meaning: "The annotation that carries it is absent, so the node has no VTEP: the others program neither route nor neighbour nor FDB for it (Felix logs it at debug level only), and it cannot address its own device.",
        remedy: "Delete the node's calico-node pod: allocate-tunnel-addrs assigns one at start. If it does not, look for a full or wrongly owned block (`calicoctl ipam show --show-blocks`).",
        explains: &[
            TunnelDeviceMissing,
            TunnelDeviceDown,
            TunnelAddressMissingOnDevice,
            TunnelAddressWrong,
            RouteMissing,
            NeighborMissing,
            FdbMissing,
            RouteWrong,
            UnencapsulatedLeak,
            SpoofedSourceSeen,
            WrongOwnerSeen,
        ],
        explains_at_peers: &[
            RouteMissing,
            RouteWrong,
            NeighborMissing,
            FdbMissing,
            UnencapsulatedLeak,
            SpoofedSourceSeen,
            WrongOwnerSeen,
        ],
        incidents: &["projectcalico/calico#7192", "projectcalico/calico#5595"],
        ..DATA
    },
    Cause {
        code: DuplicateTunnelAddress,
        title: "Two nodes have one tunnel address",
        meaning: "Each of the others keeps only one of the two in its neighbour table; traffic to one of them dies at the other.",
        remedy: "Remove the annotation from the node whose block does not hold the address and restart its calico-node, so that a new one is assigned.",
        explains: &[
            TunnelAddressWrong,
            NeighborMissing,
            NeighborWrongMac,
            RouteWrong,
            WrongOwnerSeen,
            SpoofedSourceSeen,
        ],
        explains_at_peers: &[NeighborMissing, NeighborWrongMac, RouteWrong, WrongOwnerSeen, SpoofedSourceSeen],
        incidents: &["projectcalico/node#12", "projectcalico/felix#1833", "projectcalico/calicoctl#1866"],
        ..DATA
    },
    Cause {
        code: DuplicateNodeAddress,
        title: "Two nodes have one node address",
        meaning: "Felix logs a warning and picks one by name: tunnel packets for the other go to the wrong node.",
        remedy: "Correct the annotation projectcalico.org/IPv4Address of the wrong one (IP autodetection method), then restart its calico-node.",
        explains: &[
            FdbWrongVtep,
            RouteWrong,
            TunnelDeviceMisconfigured,
            WrongOwnerSeen,
            SpoofedSourceSeen,
        ],
        explains_at_peers: &[FdbWrongVtep, RouteWrong, WrongOwnerSeen, SpoofedSourceSeen],
        incidents: &["projectcalico/calico#8700", "projectcalico/calico#6954"],
        ..DATA
    },
    Cause {
        code: PodAddressNotAllocated,
        severity: Severity::Warning,
        scope: Scope::Pod,
        title: "A running pod's address is not allocated to it",
        meaning: "Nothing fails yet: IPAM may give the address to another pod at any time, on any node.",
        remedy: "Recreate the pod; `calicoctl ipam check` lists others.",
        incidents: &[
            "projectcalico/calico#5044",
            "projectcalico/calico#3940",
            "projectcalico/calico#6244",
        ],
        ..DATA
    },
    Cause {
        code: TunnelSettingsConflict,
        scope: Scope::Node,
        title: "A node's tunnel is to have another VNI or port than the others'",
        meaning: "A FelixConfiguration of the node's own, or its calico-node's environment, differs from what the other nodes have. Felix builds the device by it without a word, and the node and the others throw each other's packets away.",
        detected: "vxlanVNI and vxlanPort as they apply to each node (environment, FelixConfiguration `node.NAME`, then `default`); what most nodes have is taken for right.",
        remedy: "Give all nodes the same: take `vxlanVNI` and `vxlanPort` out of FelixConfiguration `node.NODE`, and FELIX_VXLANVNI and FELIX_VXLANPORT out of its calico-node's environment; what differs from Calico's defaults belongs into FelixConfiguration `default`.",
        verify: "`verifier validate --node NODE`.",
        explains: &[TunnelDeviceMisconfigured, VniMismatchSeen],
        explains_at_peers: &[VniMismatchSeen],
        ..DATA
    },
    Cause {
        code: RouteOwnerConflict,
        title: "Felix and BIRD disagree on who programs the routes between nodes",
        meaning: "FelixConfiguration and BGPConfiguration each have a programClusterRoutes. Set to the same side both write the same routes and take them from each other, or nobody writes any, and pods reach no other node.",
        detected: "The two settings, with each one's default in this Calico version, held against the pools; or a route that the journal has seen two programs write in turn.",
        remedy: "Set FelixConfiguration `programClusterRoutes` to Enabled and BGPConfiguration's to Disabled, or the reverse, for both kinds of pool (`EnabledIPIPOnly` on one side goes with `EnabledNoEncapOnly` on the other).",
        verify: "`verifier inspect` shows no contradiction, and `ip route show proto bird` and `proto 80` have no block in common.",
        explains: &[
            RouteMissing,
            RouteWrong,
            BlackholeMissing,
            UnencapsulatedLeak,
            UnexpectedEncapsulation,
        ],
        explains_at_peers: &[
            RouteMissing,
            RouteWrong,
            BlackholeMissing,
            UnencapsulatedLeak,
            UnexpectedEncapsulation,
        ],
        incidents: &["projectcalico/calico#4869"],
        ..DATA
    },
];
