//! From probe results to symptoms: which probes of a pair fail together, and where.

use super::{
    Detour, NodeSnapshot, PairTally, Pattern, PeerContact, Place, Policy, Segment, Slow, Symptom, Tally, detour, discovery,
    spread::{self, Sample, Spread},
};
use crate::{
    evidence::Gap,
    intent::{NodeIntent, PodPhase},
    names::{NodeName, UnixNs},
    observed::{Checksum, Drop, Hop, Leg, TapKind},
    path::{Journey, Taps, Waypoint, Witness, itinerary},
    probe::{Endpoint, Outcome, PairKind, ProbeResult, Size, Transport},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// What the probes of a node say.
#[derive(Default)]
pub(super) struct Symptoms {
    /// Pairs with something failing.
    pub symptoms: Vec<Symptom>,
    /// Every peer's tally.
    pub pairs: BTreeMap<NodeName, PairTally>,
    /// The share of IPv6 in them.
    pub pairs_ipv6: BTreeMap<NodeName, PairTally>,
    /// Ends that were proven to answer by their own stack (ICMP or TCP): pods by address.
    pub answering: BTreeSet<core::net::IpAddr>,
    /// Peers to whom round trips take long.
    pub slow: BTreeMap<NodeName, Slow>,
    /// Answered probes that went by other nodes.
    pub detours: Vec<Detour>,
}

/// Everything that was seen of this node's probes, by whomever, indexed once.
pub(super) struct Index<'a> {
    hops: BTreeMap<u32, Vec<&'a Hop>>,
    drops: BTreeMap<u32, Vec<&'a Drop>>,
    witness: Witness,
    taps: Taps,
    started: BTreeMap<NodeName, UnixNs>,
    tapped: BTreeMap<(NodeName, String), UnixNs>,
}

impl<'a> Index<'a> {
    pub(super) fn new(snapshot: &'a NodeSnapshot) -> Self {
        let mut index = Self {
            hops: BTreeMap::new(),
            drops: BTreeMap::new(),
            witness: Witness::new(),
            taps: Taps::new(),
            started: BTreeMap::new(),
            tapped: BTreeMap::new(),
        };
        match snapshot.observed.seen() {
            Some(o) => {
                let gaps = o.hops.gaps().iter().chain(snapshot.observed.gaps()).cloned().collect();
                index.witness.insert(snapshot.node.clone(), gaps);
                index.taps.insert(snapshot.node.clone(), o.taps.clone());
                index.add_taps(&snapshot.node, &o.taps_since);
                index.add(o.hops.seen(), o.drops.seen());
            }
            None => {
                index.witness.insert(snapshot.node.clone(), snapshot.observed.gaps().to_vec());
            }
        }
        for (node, evidence) in &snapshot.remote {
            let mut gaps: Vec<Gap> = evidence.gaps().to_vec();
            if let Some(remote) = evidence.seen() {
                gaps.extend(remote.hops.gaps().iter().cloned());
                index.taps.insert(node.clone(), remote.taps.clone());
                index.add_taps(node, &remote.taps_since);
                index.started.insert(node.clone(), remote.agent_started_at);
                index.add(remote.hops.seen(), remote.drops.seen());
            }
            index.witness.insert(node.clone(), gaps);
        }
        // Records arrive in any order, and twice where an agent was asked twice.
        for hops in index.hops.values_mut() {
            hops.sort();
            hops.dedup();
        }
        for drops in index.drops.values_mut() {
            drops.sort();
            drops.dedup();
        }
        index
    }

    fn add_taps(&mut self, node: &NodeName, since: &BTreeMap<String, UnixNs>) {
        let entries = since.iter().map(|(device, since)| ((node.clone(), device.clone()), *since));
        self.tapped.extend(entries);
    }

    /// Whether this tap came into force only after the probe was sent: then that it saw nothing means nothing.
    fn tapped_late(&self, waypoint: &Waypoint, result: &ProbeResult) -> bool {
        let key = (waypoint.node.clone(), waypoint.device.clone());
        self.tapped.get(&key).is_some_and(|since| *since >= result.sent_at)
    }

    fn add(&mut self, hops: Option<&'a Vec<Hop>>, drops: Option<&'a Vec<Drop>>) {
        for hop in hops.into_iter().flatten() {
            self.hops.entry(hop.probe).or_default().push(hop);
        }
        for drop in drops.into_iter().flatten() {
            self.drops.entry(drop.probe).or_default().push(drop);
        }
    }

    pub(super) fn hops_of(&self, result: &ProbeResult) -> &[&'a Hop] {
        self.hops.get(&low(result.probe.id)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn journey(&self, intent: &NodeIntent, result: &ProbeResult) -> Journey<'a> {
        let waypoints = itinerary(intent, &result.probe, &self.taps);
        Journey::assemble(&result.probe, waypoints, self.hops_of(result).iter().copied())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "taps carry the low 32 bits of a probe's identity")]
const fn low(id: u64) -> u32 {
    id as u32
}

/// Sorts a node's probe results into symptoms.
pub(super) fn symptoms(snapshot: &NodeSnapshot, intent: &NodeIntent, policy: &Policy) -> Symptoms {
    let mut out = Symptoms::default();
    let Some(results) = snapshot.probes.seen() else { return out };
    let index = Index::new(snapshot);
    // In the order of their identities, whatever the order in which they came back.
    let mut results: Vec<&ProbeResult> = results.iter().collect();
    results.sort();
    out.slow = spread::slow_peers(&snapshot.node, results.iter().copied(), policy);
    out.detours = detour::detours(&index, intent, results.iter().copied().filter(|r| r.outcome.passed()));
    let mut groups: BTreeMap<Ends<'_>, Vec<Sample<'_>>> = BTreeMap::new();
    // A fault of one family is no chance of the other: by peer and family.
    let mut by_peer: BTreeMap<(&NodeName, bool), Vec<Sample<'_>>> = BTreeMap::new();
    for result in results {
        let standing = standing(&index, snapshot, intent, result);
        if standing == Standing::Passed && result.probe.transport != Transport::Udp {
            out.answering.insert(result.probe.to.ip);
            out.answering.insert(result.probe.from.ip);
        }
        if result.probe.to.node != snapshot.node {
            let v6 = result.probe.is_ipv6();
            tally_pair(out.pairs.entry(result.probe.to.node.clone()).or_default(), result, standing);
            if v6 {
                tally_pair(out.pairs_ipv6.entry(result.probe.to.node.clone()).or_default(), result, standing);
            }
            by_peer.entry((&result.probe.to.node, v6)).or_default().push((result, standing));
        }
        groups
            .entry((result.probe.pair, &result.probe.from, &result.probe.to))
            .or_default()
            .push((result, standing));
    }
    let spreads: BTreeMap<(&NodeName, bool), Spread> = by_peer
        .iter()
        .map(|(peer, samples)| (*peer, spread::spread(samples, policy)))
        .collect();
    for (ends, group) in groups {
        let towards = (&ends.2.node, ends.2.ip.is_ipv6());
        let spread = spreads.get(&towards).copied().unwrap_or(Spread::Settled);
        out.symptoms.extend(symptom(&index, intent, policy, ends, spread, &group));
    }
    out
}

fn tally_pair(tally: &mut PairTally, result: &ProbeResult, standing: Standing) {
    let pods = result.probe.pair == PairKind::PodToRemotePod;
    match standing {
        Standing::Passed if pods => tally.passed += 1,
        Standing::Passed => tally.host_passed += 1,
        Standing::Failed if pods => tally.failed += 1,
        Standing::Failed => tally.host_failed += 1,
        Standing::Silent => tally.inconclusive += 1,
    }
}

/// Whose probes belong together.
type Ends<'a> = (PairKind, &'a Endpoint, &'a Endpoint);
/// What tells one kernel record of a loss from another.
type DropKind<'a> = (Option<&'a str>, Option<&'a str>, crate::observed::DropStage);

/// What one result says of forwarding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Passed,
    Failed,
    /// Nothing.
    Silent,
}

fn standing(index: &Index<'_>, snapshot: &NodeSnapshot, intent: &NodeIntent, result: &ProbeResult) -> Standing {
    if result.outcome.passed() {
        return Standing::Passed;
    }
    let there = |end| still_there(intent, end, result.sent_at);
    if result.outcome.inconclusive() || !there(&result.probe.from) || !there(&result.probe.to) {
        return Standing::Silent;
    }
    // Only a living reflector answers UDP. A peer whose agent is down, restarted in the window or has no tap there says nothing by silence.
    if result.probe.transport == Transport::Udp && !reflecting(index, snapshot, intent, result) {
        return Standing::Silent;
    }
    Standing::Failed
}

/// Whether the other end can be taken to run a reflector since before the probe was sent.
fn reflecting(index: &Index<'_>, snapshot: &NodeSnapshot, intent: &NodeIntent, result: &ProbeResult) -> bool {
    let node = &result.probe.to.node;
    let waypoints = itinerary(intent, &result.probe, &index.taps);
    let door = waypoints.iter().rfind(|w| w.leg == Leg::Request && w.tap == TapKind::Workload);
    if door.is_some_and(|door| index.tapped_late(door, result)) {
        return false;
    }
    if *node == snapshot.node {
        return true;
    }
    match snapshot.contacts.get(node) {
        Some(PeerContact::NoAgent | PeerContact::Refused { .. }) => return false,
        Some(PeerContact::Answered { .. } | PeerContact::Silent { .. } | PeerContact::NotAsked) | None => {}
    }
    match snapshot.remote.get(node).and_then(|e| e.seen()) {
        Some(remote) => remote.agent_started_at < result.sent_at && remote.taps.values().any(|t| *t == TapKind::Workload),
        // Nothing came back at all: ICMP and TCP fail with it if the path is dead, and decide.
        None => false,
    }
}

/// Whether an end is, by the intent of now, still what it was when the probe was sent. Pods come and go.
fn still_there(intent: &NodeIntent, end: &Endpoint, sent_at: UnixNs) -> bool {
    let Some(pod) = &end.pod else { return true };
    // One that became known after the probe was sent is another one, under the same name and even the same address.
    let was = |known_since: Option<UnixNs>| known_since.is_none_or(|since| since <= sent_at);
    if end.node == intent.node {
        intent.workloads.get(pod).is_some_and(|w| {
            w.phase == PodPhase::Running && !w.terminating && !w.sandbox_pending && w.addresses.contains(&end.ip) && was(w.known_since)
        })
    } else {
        intent.peers.get(&end.node).is_some_and(|p| {
            p.pods
                .iter()
                .any(|r| r.pod == *pod && r.addresses().any(|ip| ip == end.ip) && r.phase == PodPhase::Running && was(r.known_since))
        })
    }
}

fn symptom(
    index: &Index<'_>,
    intent: &NodeIntent,
    policy: &Policy,
    (pair, from, to): Ends<'_>,
    spread: Spread,
    group: &[Sample<'_>],
) -> Option<Symptom> {
    let tallies = tallies(index, group);
    let counts = |t: &&Tally| match spread {
        Spread::Settled => fails(t, policy),
        // What was lost of a kind of which others passed was lost by chance.
        Spread::Sparse => fails(t, policy) && t.passed == 0,
        Spread::Lossy(_) => t.failed > 0,
    };
    let failing: Vec<&Tally> = tallies.iter().filter(counts).collect();
    if failing.is_empty() {
        return None;
    }
    let (pattern, lossy) = match spread {
        Spread::Lossy(share) => (Pattern::Lossy, Some(share)),
        Spread::Settled | Spread::Sparse => (pattern(&tallies, policy), None),
    };
    let lost: Vec<&ProbeResult> = group
        .iter()
        .filter(|(_, s)| *s == Standing::Failed)
        .map(|(r, _)| *r)
        .filter(|r| {
            failing
                .iter()
                .any(|t| t.transport == r.probe.transport && t.size == r.probe.size && t.src_port == tallied_port(&r.probe))
        })
        .collect();
    let (place, gaps) = place(index, intent, &lost);
    let drop = place.as_ref().and_then(|p| drop_at(index, &lost, p));
    let passed_bytes = group
        .iter()
        .filter(|(_, s)| *s == Standing::Passed)
        .map(|(r, _)| r.probe.length_bytes)
        .max();
    let failed_bytes = lost
        .iter()
        .filter(|r| r.probe.size != Size::Small)
        .map(|r| r.probe.length_bytes)
        .min();
    Some(Symptom {
        from: from.clone(),
        to: to.clone(),
        pair,
        pattern,
        place,
        waited_on: waited_on(index, intent, &lost),
        drop,
        checksum_bad: lost.iter().find_map(|r| checksum_bad(&index.journey(intent, r))),
        off_path: detour::off_path(index, intent, &lost),
        largest_passing_bytes: (pattern == Pattern::LargeOnly).then_some(passed_bytes).flatten(),
        smallest_failing_bytes: failed_bytes,
        lossy,
        gaps,
        tallies,
    })
}

/// At least `port_loss_min` of `port_loss_of`, in proportion.
fn fails(tally: &Tally, policy: &Policy) -> bool {
    let conclusive = tally.passed + tally.failed;
    let times = |a: u32, b: u32| u64::from(a) * u64::from(b);
    tally.failed > 0 && times(tally.failed, policy.port_loss_of) >= times(policy.port_loss_min, conclusive)
}

/// The port under which a probe is tallied. ICMP's identifier and TCP's reserved port differ from probe to probe without meaning a path;
/// only UDP's ports are pinned.
pub(super) fn tallied_port(probe: &crate::probe::Probe) -> u16 {
    if probe.transport == Transport::Udp { probe.src_port } else { 0 }
}

fn tallies(index: &Index<'_>, group: &[Sample<'_>]) -> Vec<Tally> {
    let mut by: BTreeMap<(Transport, Size, u16), (Tally, BTreeSet<u16>)> = BTreeMap::new();
    for (result, standing) in group {
        let probe = &result.probe;
        let port = tallied_port(probe);
        let (tally, outer) = by.entry((probe.transport, probe.size, port)).or_insert_with(|| {
            let tally = Tally {
                transport: probe.transport,
                size: probe.size,
                src_port: port,
                outer_ports: Vec::new(),
                passed: 0,
                failed: 0,
                inconclusive: 0,
            };
            (tally, BTreeSet::new())
        });
        match standing {
            Standing::Passed => tally.passed += 1,
            Standing::Failed => tally.failed += 1,
            Standing::Silent => tally.inconclusive += 1,
        }
        let requests = index
            .hops_of(result)
            .iter()
            .filter(|h| h.leg == Leg::Request && h.tap == TapKind::Underlay && h.is_of(&result.probe));
        outer.extend(requests.filter_map(|h| h.outer.as_ref()).map(|o| o.src_port));
    }
    by.into_values()
        .map(|(tally, outer)| Tally {
            outer_ports: outer.into_iter().collect(),
            ..tally
        })
        .collect()
}

fn pattern(tallies: &[Tally], policy: &Policy) -> Pattern {
    let conclusive = |t: &&Tally| t.passed + t.failed > 0;
    let of = |transport, size: fn(Size) -> bool| {
        let mut passing = 0;
        let mut failing = 0;
        for t in tallies
            .iter()
            .filter(conclusive)
            .filter(|t| t.transport == transport && size(t.size))
        {
            if fails(t, policy) { failing += 1 } else { passing += 1 }
        }
        (passing, failing)
    };
    let small = |t| of(t, |s| s == Size::Small);
    let (udp, icmp, tcp) = (small(Transport::Udp), small(Transport::Icmp), small(Transport::Tcp));
    let passes = |(passing, failing): (u32, u32)| passing > 0 && failing == 0;
    let dead = |(passing, failing): (u32, u32)| passing == 0 && failing > 0;
    let any_small_fails = udp.1 + icmp.1 + tcp.1 > 0;
    if udp.0 > 0 && udp.1 > 0 {
        Pattern::SomePorts
    } else if !any_small_fails {
        Pattern::LargeOnly
    } else if passes(icmp) && dead(udp) && dead(tcp) {
        Pattern::ChecksummedOnly
    } else if passes(udp) && !passes(icmp) && !passes(tcp) {
        Pattern::UnreflectedOnly
    } else if udp.0 + icmp.0 + tcp.0 == 0 {
        Pattern::All
    } else {
        Pattern::Mixed
    }
}

/// The place most of the lost probes have, among equals the first.
fn place(index: &Index<'_>, intent: &NodeIntent, lost: &[&ProbeResult]) -> (Option<Place>, Vec<Gap>) {
    let mut places: BTreeMap<Place, (u32, Vec<Gap>)> = BTreeMap::new();
    for result in lost {
        let (place, gaps) = match &result.outcome {
            // Nothing was sent: the sender's own stack said no.
            Outcome::NotSent { .. } => {
                let first = itinerary(intent, &result.probe, &index.taps).first().map(ToString::to_string);
                let segment = if result.probe.from.pod.is_some() {
                    Segment::InsideSender
                } else {
                    Segment::SenderRouting
                };
                let node = result.probe.from.node.clone();
                (
                    Place {
                        node,
                        towards: None,
                        segment,
                        leg: Leg::Request,
                        hop: None,
                        expected_next: first,
                    },
                    Vec::new(),
                )
            }
            _ => {
                let journey = index.journey(intent, result);
                let (place, mut gaps) = journey.divergence(&index.witness);
                if let Some(missed) = journey.missed().filter(|missed| index.tapped_late(missed, result)) {
                    gaps.push(Gap::new(
                        format!("observed/hops of {}", missed.node),
                        format!("its tap on {} was attached after the probe was sent", missed.device),
                    ));
                }
                for node in [Some(&place.node), place.towards.as_ref()].into_iter().flatten() {
                    if index.started.get(node).is_some_and(|started| *started >= result.sent_at) {
                        gaps.push(Gap::new(
                            format!("observed/hops of {node}"),
                            "its agent started after the probe was sent",
                        ));
                    }
                }
                (place, gaps)
            }
        };
        let entry = places.entry(place).or_insert((0, gaps));
        entry.0 += 1;
    }
    let mut best: Option<(Place, (u32, Vec<Gap>))> = None;
    for (place, (count, gaps)) in places {
        if best.as_ref().is_none_or(|(_, (most, _))| count > *most) {
            best = Some((place, (count, gaps)));
        }
    }
    match best {
        Some((place, (_, gaps))) => (Some(place), gaps),
        None => (None, Vec::new()),
    }
}

/// The kernel's record of most of the losses on the place's node. Only probes that were lost are asked, so a drop of an answered one
/// never counts.
fn drop_at(index: &Index<'_>, lost: &[&ProbeResult], place: &Place) -> Option<Drop> {
    let mut counts: BTreeMap<DropKind<'_>, (u32, &Drop)> = BTreeMap::new();
    for result in lost {
        for drop in index.drops.get(&low(result.probe.id)).into_iter().flatten() {
            let here = drop.node == place.node || place.towards.as_ref() == Some(&drop.node);
            if here && drop.leg == place.leg {
                counts
                    .entry((drop.location.as_deref(), drop.reason.as_deref(), drop.stage))
                    .or_insert((0, drop))
                    .0 += 1;
            }
        }
    }
    counts.into_values().max_by_key(|(n, _)| *n).map(|(_, d)| Drop {
        at_ns: 0,
        probe: 0,
        seq: 0,
        ..d.clone()
    })
}

/// Where most of the lost ones waited for a link-layer address in vain.
fn waited_on(index: &Index<'_>, intent: &NodeIntent, lost: &[&ProbeResult]) -> Option<String> {
    let drops = |result: &&ProbeResult| index.drops.get(&low(result.probe.id)).map(Vec::as_slice);
    let waited = lost
        .iter()
        .filter_map(|result| drops(result)?.iter().find_map(|drop| discovery::waited_on(drop, intent)));
    let waited: Vec<String> = waited.collect();
    (waited.len() * 2 > lost.len()).then(|| waited.into_iter().next()).flatten()
}

fn checksum_bad(journey: &Journey<'_>) -> Option<(Option<String>, String)> {
    let mut good = None;
    for (w, hop) in journey.waypoints.iter().zip(&journey.seen) {
        match hop.map(|h| h.checksum) {
            Some(Checksum::Bad) => return Some((good, w.to_string())),
            Some(_) => good = Some(w.to_string()),
            None => {}
        }
    }
    None
}
