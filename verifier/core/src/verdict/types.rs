//! What the judge says: findings, symptoms, reports.

use super::CauseCode;
use crate::{
    evidence::Gap,
    intent::{Claim, Owner},
    names::{NodeName, PodRef, UnixNs},
    observed::{Drop, DropStage, Leg, Loss},
    probe::{Endpoint, PairKind, Size, Transport},
    programmed::HookPoint,
};
use alloc::string::ToString;
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// Whose fault a cause is. A fixed column of the cause table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Intent contradicts itself.
    Datastore,
    /// The kernel was not told, or somebody undid it.
    NotProgrammed,
    /// The kernel was told and packets still do not pass.
    NotForwarded,
    /// Not a fault (a policy that denies).
    None,
}

/// How bad a cause is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// For information.
    Info,
    /// State differs from intent, traffic still passes.
    Warning,
    /// Traffic fails.
    Error,
}

/// What each account says at the place of a finding.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FindingEvidence {
    /// What should be.
    pub intent: Option<String>,
    /// What the kernel was told.
    pub programmed: Option<String>,
    /// What packets did.
    pub observed: Option<String>,
    /// What the machine brings along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// One cause, found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub code: CauseCode,
    /// The node to blame; none if it is the cluster's or the fabric's.
    pub node: Option<NodeName>,
    /// The other node of the pair, where there is one.
    pub peer: Option<NodeName>,
    /// The pod concerned, for causes of a pod.
    pub pod: Option<PodRef>,
    /// What exactly: a device, a prefix, an address, a chain, a program.
    pub subject: String,
    /// Last point where the packet was seen, `NODE/DEVICE/ingress|egress` or `NODE/pod:NS/NAME/eth0`.
    pub hop: Option<String>,
    /// First point where it was missed; none when nothing was sent.
    pub expected_next: Option<String>,
    /// Severity; the table's, lowered to a warning when no probe suffers.
    pub severity: Severity,
    /// What the accounts say.
    pub evidence: FindingEvidence,
    /// Whether Calico's own timers or a known transient may still clear it.
    pub transient: bool,
    /// Since when, as far as the journal knows.
    pub since: Option<UnixNs>,
    /// What it explains.
    pub consequences: Vec<Consequence>,
    /// Who programs what is wrong, where intent tells: who else would repair it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Who takes what stands in the place of a wrong route for its own, and so changes or removes it; none if nobody does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recognised_by: Option<Owner>,
    /// What stands here for the words in capitals of the table's remedy, so that its commands can be copied: `TUNNEL_ADDRESS` to
    /// `10.244.20.128`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, String>,
}

impl Finding {
    /// Says what stands for a word of the remedy.
    pub fn value(&mut self, word: &str, is: impl ToString) {
        self.values.insert(word.to_string(), is.to_string());
    }
}

/// Something that a root explains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum Consequence {
    /// Another deviation of state.
    Cause {
        /// Its code.
        code: CauseCode,
        /// Its node.
        node: Option<NodeName>,
        /// Its subject.
        subject: String,
    },
    /// Probes that fail.
    Probes {
        /// From.
        from: Endpoint,
        /// To.
        to: Endpoint,
        /// In words: `udp, icmp and tcp, all sizes`.
        failing: String,
    },
}

/// How the probes of one pair of endpoints ended, by transport and size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tally {
    /// Transport.
    pub transport: Transport,
    /// Size.
    pub size: Size,
    /// Inner source port.
    pub src_port: u16,
    /// Outer source ports seen at the underlay for it, ascending.
    pub outer_ports: Vec<u16>,
    /// Probes that passed.
    pub passed: u32,
    /// Probes that did not.
    pub failed: u32,
    /// Probes that say nothing.
    pub inconclusive: u32,
}

/// Where on its way a packet was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segment {
    /// It never left the sender's pod: not seen at the host side of its veth.
    InsideSender,
    /// In the sending node, between the workload (or the host) and the tunnel device.
    SenderRouting,
    /// In the sending node, inside the tunnel device or between it and the underlay device.
    SenderEncap,
    /// Between the two nodes.
    Underlay,
    /// In the receiving node, between the underlay device and the tunnel device.
    ReceiverDecap,
    /// In the receiving node, between the tunnel device and the workload.
    ReceiverRouting,
    /// It was seen at the destination's door, and no answer came out.
    InsideReceiver,
    /// It came out at a place that is not on the expected path.
    OffPath,
    /// The evidence does not tell.
    Unknown,
}

/// The first divergence between the path that intent predicts and the path that packets took.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place {
    /// Node in whose kernel (or at whose egress) the packet was lost.
    pub node: NodeName,
    /// The node it was going to, if the loss lies between two.
    pub towards: Option<NodeName>,
    /// Segment, seen from the direction in which the lost packet travelled.
    pub segment: Segment,
    /// Request or reply.
    pub leg: Leg,
    /// Last tap that saw it.
    pub hop: Option<String>,
    /// First tap that missed it.
    pub expected_next: Option<String>,
}

/// Which of the probes of a pair fail together. That is evidence (design: small and large, ports, transports).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Everything.
    All,
    /// Small ones pass, large ones do not.
    LargeOnly,
    /// Some UDP source ports pass, others do not.
    SomePorts,
    /// ICMP passes, UDP and TCP do not.
    ChecksummedOnly,
    /// UDP, answered at the pod's door, passes; ICMP and TCP, answered by the pod, do not.
    UnreflectedOnly,
    /// Any of them, now and then: at random.
    Lossy,
    /// Another combination.
    Mixed,
}

/// So many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Share {
    /// Lost.
    pub lost: u32,
    /// Of all that say something.
    pub of: u32,
}

/// Round trips that take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Slow {
    /// Nine in ten of them take longer, microseconds.
    pub most_us: u64,
    /// Half of those within the node that measured take longer.
    pub within_us: u64,
    /// Of how many probes.
    pub probes: u32,
}

/// Probes of one pair of endpoints that fail, with the place where they do.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Symptom {
    /// From.
    pub from: Endpoint,
    /// To.
    pub to: Endpoint,
    /// What for.
    pub pair: PairKind,
    /// How each kind ended.
    pub tallies: Vec<Tally>,
    /// Which fail together.
    pub pattern: Pattern,
    /// Where, if the evidence tells.
    pub place: Option<Place>,
    /// The kernel's record of the loss that most probes have at that place. Corroborates only.
    pub drop: Option<Drop>,
    /// The device out of which most of them should have gone, if they waited there for a link-layer address that nobody gave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_on: Option<String>,
    /// Taps between which the inner checksum went bad: last good one, first bad one.
    pub checksum_bad: Option<(Option<String>, String)>,
    /// Taps off the expected path that saw these probes.
    pub off_path: Vec<String>,
    /// Largest inner packet that passed, if sizes were searched.
    pub largest_passing_bytes: Option<u32>,
    /// Smallest inner packet that was lost.
    pub smallest_failing_bytes: Option<u32>,
    /// Of [`Pattern::Lossy`]: of all probes from this node to that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lossy: Option<Share>,
    /// Why the place may be uncertain.
    pub gaps: Vec<Gap>,
}

/// State of a pod's network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodVerdict {
    /// Its network works.
    Fresh,
    /// It runs, and its network does not.
    Stale,
    /// A policy denies the probe. Not a fault.
    PolicyBlocked,
    /// Could not be verified.
    Unknown,
}

/// A pod, judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodReport {
    /// The pod.
    pub pod: PodRef,
    /// Its node.
    pub node: NodeName,
    /// Its first address.
    pub ip: Option<IpAddr>,
    /// Verdict.
    pub verdict: PodVerdict,
    /// Causes that are the pod's own.
    pub causes: Vec<Finding>,
    /// Controller as `Kind/name`.
    pub controller: Option<String>,
    /// Whether deleting it is safe: its controller makes a new one.
    pub safe_to_delete: bool,
    /// Why it is unknown.
    pub why: Option<String>,
    /// Whether its deletion has begun.
    #[serde(default)]
    pub terminating: bool,
}

/// Verdict of a node or cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// All that was probed passes.
    Forwarding,
    /// No peer could be probed, or too little is known.
    Unknown,
    /// Some peer, probe kind, size or port fails.
    Degraded,
    /// In one direction every remote peer fails.
    NotForwarding,
}

/// A check that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct UnknownCheck {
    /// The check, and where.
    pub check: String,
    /// Why, with the remedy.
    pub why: String,
}

/// How many probes of a directed pair of nodes passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PairTally {
    /// Pod to pod, passed.
    pub passed: u32,
    /// Pod to pod, failed.
    pub failed: u32,
    /// Host to pod, passed.
    pub host_passed: u32,
    /// Host to pod, failed.
    pub host_failed: u32,
    /// Said nothing.
    pub inconclusive: u32,
}

/// Where a [`Suspect`] could lose a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub enum SuspectPlace {
    /// A netfilter hook of the node's namespace.
    Stage {
        /// Which.
        stage: DropStage,
    },
    /// A device's own hook: netdev chain, TC program, XDP.
    Device {
        /// Device name.
        device: String,
        /// Where on it.
        point: HookPoint,
    },
    /// The endpoint's own policy chain.
    Endpoint {
        /// The pod.
        pod: PodRef,
    },
    /// Anywhere on the node.
    Anywhere,
}

/// Something on a node that could lose or rewrite packets, and would be the cause if packets are lost where it is. By itself it is
/// no finding: a healthy node has drop rules and programs too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Suspect {
    /// The cause it would be.
    pub code: CauseCode,
    /// Where.
    pub place: SuspectPlace,
    /// Packets it counted while probes were lost; none if it does not count.
    pub moved: Option<u64>,
    /// What it is: table and chain, program name.
    pub subject: String,
    /// Whether it sees packets of IPv6 alone (true) or of IPv4 alone (false); none for both, or where that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<bool>,
}

/// One node, judged by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    /// The node.
    pub node: NodeName,
    /// When the snapshot was taken.
    pub taken_at: UnixNs,
    /// Program version of the agent.
    pub version: String,
    /// What the cluster claims.
    pub claim: Claim,
    /// Verdict on what this node alone knows.
    pub verdict: Verdict,
    /// Roots, as far as this node alone can settle them: of itself, and accusations of others.
    pub causes: Vec<Finding>,
    /// Deviations of this node's state from its intent, roots and consequences alike, before settling.
    pub findings: Vec<Finding>,
    /// Failing probes.
    pub symptoms: Vec<Symptom>,
    /// What on this node could lose packets, for symptoms that end here, its own and others'.
    pub suspects: Vec<Suspect>,
    /// State that could not be read, or not all of it. On such a node nothing may be concluded from there being no finding and no suspect.
    #[serde(default)]
    pub unseen: Vec<Gap>,
    /// Pods of this node whose inside was not seen.
    #[serde(default)]
    pub unseen_pods: BTreeSet<PodRef>,
    /// Neighbours on devices other than tunnels that do not resolve: device and address.
    pub unresolved: Vec<(String, IpAddr)>,
    /// Addresses of ends that were proven to answer by their own stack (ICMP or TCP).
    pub answering: BTreeSet<IpAddr>,
    /// Addresses of all nodes, for texts and for matching.
    pub host_ips: BTreeMap<NodeName, IpAddr>,
    /// IPv6 addresses of the nodes that have one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub host_ips6: BTreeMap<NodeName, IpAddr>,
    /// Calico's version and its route refresh in seconds, for what it repairs.
    pub calico: (Option<(u16, u16, u16)>, u32),
    /// Datastore causes this node's intent shows; every node shows the same.
    pub contradictions: Vec<Finding>,
    /// Its pods.
    pub pods: Vec<PodReport>,
    /// Probes to each peer, of both families.
    pub pairs: BTreeMap<NodeName, PairTally>,
    /// Those of them that were of IPv6.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pairs_ipv6: BTreeMap<NodeName, PairTally>,
    /// Peers to whom round trips take long.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub slow: BTreeMap<NodeName, Slow>,
    /// Probes that were answered, though their requests went by nodes that have nothing to do with them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detours: Vec<Detour>,
    /// Checks that could not be made.
    pub unknown: Vec<UnknownCheck>,
    /// Peers whose agents did not answer, and how.
    pub contacts: BTreeMap<NodeName, super::PeerContact>,
    /// All nodes that intent knows, this one included.
    pub nodes: Vec<NodeName>,
    /// Losses.
    pub loss: Loss,
}

/// Answered probes to one address whose requests were seen at a node that is neither of their ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Detour {
    /// Node of the address, by intent.
    pub to: NodeName,
    /// The probes' destination.
    pub ip: IpAddr,
    /// How many of them.
    pub probes: u32,
    /// Where they were seen, `NODE/DEVICE/DIRECTION`, ascending.
    pub at: Vec<String>,
}

/// One node in the cluster's report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeVerdict {
    /// The node.
    pub name: NodeName,
    /// What the cluster claims.
    pub claimed: Claim,
    /// Verdict.
    pub verdict: Verdict,
    /// Roots for which this node is to blame, with their consequences.
    pub causes: Vec<Finding>,
    /// Why it is unknown.
    pub why: Option<String>,
}

/// The cluster, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// Verdict: the worst of the nodes'.
    pub verdict: Verdict,
    /// Roots that are nobody's in particular: datastore, fabric.
    pub causes: Vec<Finding>,
    /// Every node of the expected set, in order of name.
    pub nodes: Vec<NodeVerdict>,
    /// Every pod that was judged, in order of name.
    pub pods: Vec<PodReport>,
    /// Calico's version and its route refresh in seconds, as the first node's intent has it: for what Calico repairs.
    pub calico: (Option<(u16, u16, u16)>, u32),
    /// Losses by node.
    pub loss: BTreeMap<NodeName, Loss>,
    /// Checks that could not be made.
    pub unknown: Vec<UnknownCheck>,
}
