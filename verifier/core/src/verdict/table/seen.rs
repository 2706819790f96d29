//! Causes that conformance sees with real traffic, without a probe: a packet on the underlay that intent does not allow.

use crate::verdict::{Cause, CauseCode::*, Class, Repairs, Scope, Severity};

/// Shorthand: what these share.
const SEEN: Cause = Cause {
    code: WrongOwnerSeen,
    class: Class::NotForwarded,
    severity: Severity::Error,
    scope: Scope::Pair,
    title: "",
    meaning: "",
    detected: "Every tunnel packet on the underlay is checked in the kernel against intent.",
    remedy: "Compare routes, neighbours and FDB of the sending node with intent: `verifier inspect --node SENDER`.",
    verify: "The counter `dataplane_verifier_conformance_packets_total` of this kind stands still.",
    persist: None,
    repairs: Repairs::Never,
    hold_off_seconds: 60,
    explains: &[],
    explains_at_peers: &[],
    incidents: &[],
};

/// The part of the table.
pub const CAUSES: &[Cause] = &[
    Cause {
        code: WrongOwnerSeen,
        title: "Tunnel packets go to a node that does not own their destination",
        meaning: "The outer destination is not the owner of the inner one: a wrong route, neighbour or FDB entry, or intent that changed moments ago.",
        incidents: &["projectcalico/calico PR #12959"],
        ..SEEN
    },
    Cause {
        code: SpoofedSourceSeen,
        title: "Tunnel packets come from a node that may not send their source",
        meaning: "The inner source belongs to another node than the outer: traffic in transit through a third node, a rewritten source, or spoofing.",
        incidents: &["projectcalico/calico#13116"],
        ..SEEN
    },
    Cause {
        code: VniMismatchSeen,
        title: "Tunnel packets with another VNI are on the underlay",
        meaning: "A peer sends another VXLAN network identifier than the cluster's: a device left over from another cluster, or nodes of different Calico versions in eBPF mode.",
        incidents: &["projectcalico/calico#11910", "projectcalico/calico#12054"],
        ..SEEN
    },
    Cause {
        code: UnencapsulatedLeak,
        title: "Pod traffic leaves the node without encapsulation",
        meaning: "Packets between pods that intent wants encapsulated are seen bare on the underlay: a missing or captured route sends them to the default gateway.",
        incidents: &["projectcalico/calico#4869"],
        ..SEEN
    },
    Cause {
        code: UnexpectedEncapsulation,
        title: "Pod traffic is encapsulated where intent wants it bare",
        meaning: "Typical of a CrossSubnet pool with a node address mask of /32: every peer looks remote.",
        incidents: &["projectcalico/calico#4254"],
        ..SEEN
    },
];
