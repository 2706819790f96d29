//! What is to blame for failing probes that no state explains: by place, by what fails together, by what sits at that place.

use super::{
    Reports, Settled, attribute,
    network::{merge_fabric, of_network},
    take,
};
use crate::{
    names::{NodeName, PodRef},
    observed::DropStage,
    probe::Size,
    programmed::HookPoint,
    verdict::{
        CauseCode, Finding, FindingEvidence, NodeReport, Pattern, PeerContact, Place, Segment, Suspect, SuspectPlace, Symptom, UnknownCheck,
    },
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};

/// What a symptom is put down to. Equal ones are one root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Blame {
    pub(super) code: CauseCode,
    /// The node to blame; for the fabric the node the packet left.
    pub(super) node: Option<NodeName>,
    /// For the fabric, the node the packet did not reach.
    pub(super) towards: Option<NodeName>,
    pub(super) pod: Option<PodRef>,
    /// Empty where the symptoms themselves make it.
    pub(super) subject: String,
    pub(super) programmed: Option<String>,
}

/// Settles the symptoms that no root explains.
pub(super) fn settle_rest(reports: &Reports<'_>, rest: &[&Symptom], out: &mut Settled) {
    let mut groups: BTreeMap<Blame, Vec<&Symptom>> = BTreeMap::new();
    for symptom in rest {
        groups.entry(blame(reports, symptom)).or_default().push(symptom);
    }
    for (blame, symptoms) in merge_fabric(reports, groups) {
        for gap in symptoms.iter().flat_map(|s| &s.gaps) {
            let unknown = UnknownCheck::new("place of a loss", format!("{}: {}", gap.source, gap.why));
            if !out.unknown.contains(&unknown) {
                out.unknown.push(unknown);
            }
        }
        let mut root = finding(&blame, &symptoms);
        take(&mut root, &symptoms);
        if blame.code == CauseCode::PolicyBlocked {
            if let Some(pod) = &blame.pod {
                out.policy_blocked.insert(pod.clone(), root);
            }
            continue;
        }
        out.roots.push(root);
        let index = out.roots.len() - 1;
        for symptom in symptoms {
            attribute(out, symptom, Some(index));
        }
    }
}

fn blame(reports: &Reports<'_>, symptom: &Symptom) -> Blame {
    let Some(place) = &symptom.place else {
        return unexplained(None, symptom);
    };
    let seen = place.segment;
    let place = correct(reports, symptom, place);
    let waited = symptom.waited_on.is_some() && place.segment != seen;
    // A packet that was seen with a wrong checksum is not judged by where it is thrown away at last: connection tracking calls it invalid,
    // and any filter may then drop it.
    if symptom.checksum_bad.is_none()
        && let Some(blame) = by_suspects(reports, symptom, &place).filter(|blame| fits(symptom, blame))
    {
        return blame;
    }
    // What waited in vain for the other node's link-layer address was lost for that, whatever found it before or after.
    if waited && place.segment == Segment::Underlay && !cut_off(reports, symptom) {
        return fabric(CauseCode::UnderlayDropsTunnel, &place, symptom);
    }
    // Inside a node nothing is lost by chance, and one that damages packets does not do it by chance either.
    if by_chance(symptom) && (place.segment == Segment::Underlay || damaged(symptom)) && symptom.gaps.is_empty() {
        return fabric(CauseCode::PartialLoss, &place, symptom);
    }
    // A place that rests on a node's silence is not a place.
    if !symptom.gaps.is_empty() {
        return if cut_off(reports, symptom) {
            fabric(CauseCode::PairCutOff, &place, symptom)
        } else {
            unexplained(None, symptom)
        };
    }
    match symptom.pattern {
        Pattern::LargeOnly if crosses(symptom) => return fabric(CauseCode::MtuBlackhole, &place, symptom),
        Pattern::SomePorts if crosses(symptom) => return fabric(CauseCode::PartialLoss, &place, symptom),
        Pattern::Mixed | Pattern::UnreflectedOnly if place.segment == Segment::Underlay && by_path(symptom) => {
            return fabric(CauseCode::PartialLoss, &place, symptom);
        }
        _ => {}
    }
    if let Some((good, bad)) = &symptom.checksum_bad {
        let node_of = |text: &String| text.split('/').next().map(NodeName::from);
        let blame = fabric(CauseCode::ChecksumCorrupt, &place, symptom);
        return Blame {
            node: good.as_ref().and_then(node_of).or(blame.node),
            towards: node_of(bad),
            ..blame
        };
    }
    let by_exclusion = match place.segment {
        Segment::Underlay if cut_off(reports, symptom) => return fabric(CauseCode::PairCutOff, &place, symptom),
        Segment::Underlay => fabric(CauseCode::UnderlayDropsTunnel, &place, symptom),
        Segment::InsideReceiver => match &symptom.to.pod {
            Some(pod) if place.leg == crate::observed::Leg::Reply => pods(CauseCode::PodUnresponsive, &symptom.to.node, pod),
            _ => unexplained(Some(&place), symptom),
        },
        Segment::InsideSender => match &symptom.from.pod {
            Some(pod) => pods(CauseCode::PodUnresponsive, &symptom.from.node, pod),
            None => unexplained(Some(&place), symptom),
        },
        _ => return filter_by_drop(reports, symptom, &place).unwrap_or_else(|| unexplained(Some(&place), symptom)),
    };
    // That nothing else is to blame holds only where all that could be was looked at.
    match unseen(reports, &place, by_exclusion.pod.as_ref()) {
        Some(why) => Blame {
            programmed: Some(why),
            ..unexplained(Some(&place).filter(|p| p.segment != Segment::Underlay), symptom)
        },
        None => by_exclusion,
    }
}

/// Why a cause at this place may have been missed.
fn unseen(reports: &Reports<'_>, place: &Place, pod: Option<&PodRef>) -> Option<String> {
    for node in [Some(&place.node), place.towards.as_ref()].into_iter().flatten() {
        let Some(report) = reports.get(node) else {
            // A node that judges by itself has nobody else's report, and says what it can.
            if reports.len() > 1 {
                return Some(format!("{node}: no report"));
            }
            continue;
        };
        if let Some(gap) = report.unseen.first() {
            return Some(format!("{}: {}: {}", report.node, gap.source, gap.why));
        }
        if let Some(pod) = pod.filter(|pod| report.unseen_pods.contains(*pod)) {
            return Some(format!("{}: the inside of {pod} was not seen", report.node));
        }
    }
    None
}

/// A program or a policy takes all of a kind of packets; of what passes now and then only a filter with a limit and a counter is to blame.
fn fits(symptom: &Symptom, blame: &Blame) -> bool {
    symptom.pattern != Pattern::Lossy || (blame.code == CauseCode::FilterDrop && !blame.subject.contains("cali-"))
}

/// Whether a packet arrived with a wrong checksum: seen by a tap within the tunnel, or, of what is around it, thrown away by the kernel for it
/// (`SKB_DROP_REASON_UDP_CSUM` and its like in `include/net/dropreason-core.h`).
fn damaged(symptom: &Symptom) -> bool {
    let reason = symptom.drop.as_ref().and_then(|drop| drop.reason.as_deref());
    symptom.checksum_bad.is_some() || reason.is_some_and(|reason| reason.ends_with("_CSUM"))
}

/// Whether what is lost between two nodes is now this and now that.
pub(super) fn by_chance(symptom: &Symptom) -> bool {
    symptom.pattern == Pattern::Lossy && crosses(symptom)
}

fn crosses(symptom: &Symptom) -> bool {
    symptom.from.node != symptom.to.node
}

/// Whether small packets of one tunnel fared differently. All that a network can tell apart inside a tunnel is the outer source port, so
/// what passed took another path than what was lost.
fn by_path(symptom: &Symptom) -> bool {
    let small = || symptom.tallies.iter().filter(|t| t.size == Size::Small);
    let tunnelled = small().any(|t| t.outer_ports.iter().any(|port| *port != 0));
    crosses(symptom) && tunnelled && small().any(|t| t.passed > t.failed)
}

/// A packet waiting for ARP or neighbour discovery shows at the tap before the device it waits for: the tunnel's, or without one the
/// workload's. If that neighbour does not resolve, the place is beyond it.
fn correct(reports: &Reports<'_>, symptom: &Symptom, place: &Place) -> Place {
    let Some(report) = reports.get(&place.node) else {
        return place.clone();
    };
    let other = if place.node == symptom.from.node {
        &symptom.to
    } else {
        &symptom.from
    };
    let egress = |device: &str| format!("{}/{device}/egress", place.node);
    let next_is = |device: &str| place.expected_next.as_deref() == Some(&*egress(device));
    let waited = symptom.waited_on.as_deref();
    let waits_for = |ip: core::net::IpAddr| report.unresolved.iter().any(|(_, x)| *x == ip);
    let hosts = if symptom.to.ip.is_ipv6() {
        &report.host_ips6
    } else {
        &report.host_ips
    };
    // Without a tunnel the next tap is that of the device on which the neighbour is.
    let next_waits = || {
        let mut unresolved = report.unresolved.iter();
        waited.is_some_and(next_is) || unresolved.any(|(device, ip)| hosts.get(&other.node) == Some(ip) && next_is(device))
    };
    match place.segment {
        Segment::SenderRouting if next_waits() => Place {
            segment: Segment::Underlay,
            towards: Some(other.node.clone()),
            ..place.clone()
        },
        Segment::SenderEncap if waited.is_some_and(next_is) || hosts.get(&other.node).copied().is_some_and(waits_for) => Place {
            segment: Segment::Underlay,
            towards: Some(other.node.clone()),
            ..place.clone()
        },
        Segment::ReceiverRouting if place.node == symptom.to.node && (waited.is_some_and(next_is) || waits_for(symptom.to.ip)) => Place {
            segment: Segment::InsideReceiver,
            leg: crate::observed::Leg::Reply,
            ..place.clone()
        },
        _ => place.clone(),
    }
}

/// Whether the two ends do not reach each other in any other way either, and neither was seen only in part: what was not seen of a node may
/// be what cuts it off.
fn cut_off(reports: &Reports<'_>, symptom: &Symptom) -> bool {
    let mut seen = [&symptom.from.node, &symptom.to.node]
        .into_iter()
        .filter_map(|node| reports.get(node));
    unreachable(reports, symptom) && seen.all(|report| report.unseen.is_empty())
}

/// Whether the two ends do not reach each other in any other way either.
fn unreachable(reports: &Reports<'_>, symptom: &Symptom) -> bool {
    let silent = |a: &NodeName, b: &NodeName| {
        reports
            .get(a)
            .is_some_and(|r: &&NodeReport| matches!(r.contacts.get(b), Some(PeerContact::Silent { .. })))
    };
    let (from, to) = (&symptom.from.node, &symptom.to.node);
    // An agent that does not answer in time over a lossy way is no proof where a probe came through.
    let reached = |a: &NodeName, b: &NodeName| {
        let tally = reports.get(a).and_then(|r| r.pairs.get(b));
        tally.is_some_and(|tally| super::passed(tally) > 0)
    };
    crosses(symptom) && (silent(from, to) || silent(to, from)) && !reached(from, to) && !reached(to, from)
}

/// The suspects that sit where the packets die.
fn by_suspects(reports: &Reports<'_>, symptom: &Symptom, place: &Place) -> Option<Blame> {
    let mut found: Vec<(&NodeName, &Suspect)> = Vec::new();
    for node in [Some(&place.node), place.towards.as_ref()].into_iter().flatten() {
        for suspect in reports.get(node).into_iter().flat_map(|r| &r.suspects) {
            if at_place(symptom, place, node, suspect) && agrees(symptom, suspect) {
                found.push((node, suspect));
            }
        }
    }
    // One whose counter moved is a witness; one that merely sits there is not, so witnesses go first. Policies before filters: the
    // endpoint's own chain is more particular than any other.
    found.sort_by_key(|(_, s)| (s.moved.is_none(), s.code != CauseCode::PolicyBlocked, s.subject.clone()));
    let (node, first) = found.first()?;
    // One that merely sits there is no suspect while a filter may have been missed, unless the kernel says that no filter did it.
    let acquitted = symptom
        .drop
        .as_ref()
        .and_then(|d| filtered(d.location.as_deref(), d.reason.as_deref()))
        == Some(false);
    if first.moved.is_none() && !acquitted && reports.get(*node).is_some_and(|r| !r.unseen.is_empty()) {
        return None;
    }
    let same: Vec<&str> = found
        .iter()
        .filter(|(n, s)| n == node && s.code == first.code)
        .map(|(_, s)| s.subject.as_str())
        .collect();
    // Several programs between two taps cannot be told apart: all are named. Of counters one is enough.
    let subject = if first.code == CauseCode::ForeignHookDrop {
        same.join(", ")
    } else {
        first.subject.clone()
    };
    let pod = match (&first.place, first.code) {
        (SuspectPlace::Endpoint { pod }, CauseCode::PolicyBlocked) => Some(pod.clone()),
        _ => None,
    };
    let programmed = match first.moved {
        Some(n) if first.code == CauseCode::FilterDrop => Some(format!("{subject}: its counter rose by {n} while probes were lost")),
        Some(n) => Some(format!("{subject}: its counter rose by {n}")),
        None => Some(format!("{subject} is attached")),
    };
    let subject = match (&first.code, stage_text(symptom, place, first)) {
        (CauseCode::FilterDrop, Some(hook)) => format!("{hook}, {subject}"),
        _ => subject,
    };
    Some(Blame {
        code: first.code,
        node: Some((*node).clone()),
        towards: None,
        pod,
        subject,
        programmed,
    })
}

fn stage_text(symptom: &Symptom, place: &Place, suspect: &Suspect) -> Option<String> {
    match &suspect.place {
        SuspectPlace::Stage { stage } => Some(stage_name(*stage).to_string()),
        SuspectPlace::Device { device, point } => Some(format!(
            "netdev {} of {device}",
            if *point == HookPoint::TcEgress { "egress" } else { "ingress" }
        )),
        _ => symptom
            .drop
            .as_ref()
            .filter(|d| d.stage != DropStage::Unknown)
            .map(|d| stage_name(d.stage).to_string())
            .or_else(|| stages(place.segment, symptom).first().map(|s| stage_name(*s).to_string())),
    }
}

const fn stage_name(stage: DropStage) -> &'static str {
    match stage {
        DropStage::Prerouting => "PREROUTING",
        DropStage::Input => "INPUT",
        DropStage::Forward => "FORWARD",
        DropStage::Output => "OUTPUT",
        DropStage::Postrouting => "POSTROUTING",
        DropStage::Unknown => "unknown hook",
    }
}

/// Netfilter hooks between the taps of a segment, the likeliest first.
fn stages(segment: Segment, symptom: &Symptom) -> &'static [DropStage] {
    use DropStage::{Forward, Input, Output, Postrouting, Prerouting};
    match segment {
        Segment::SenderRouting if symptom.from.pod.is_none() => &[Output, Postrouting],
        Segment::SenderRouting => &[Forward, Prerouting, Postrouting],
        Segment::SenderEncap => &[Output, Postrouting],
        Segment::ReceiverDecap => &[Input, Prerouting],
        Segment::ReceiverRouting if symptom.from.pod.is_none() && !crosses(symptom) => &[Output, Postrouting],
        Segment::ReceiverRouting => &[Forward, Prerouting, Postrouting],
        _ => &[],
    }
}

/// Whether a suspect sits between the taps of the place.
fn at_place(symptom: &Symptom, place: &Place, node: &NodeName, suspect: &Suspect) -> bool {
    let device_of = |hop: &Option<String>| hop.as_deref().and_then(|h| split(h, node)).map(|(d, p)| (d.to_string(), p));
    match &suspect.place {
        SuspectPlace::Stage { stage } => node == &place.node && stages(place.segment, symptom).contains(stage),
        SuspectPlace::Anywhere => node == &place.node && !stages(place.segment, symptom).is_empty(),
        SuspectPlace::Endpoint { pod } => {
            let ends = symptom.from.pod.as_ref() == Some(pod) || symptom.to.pod.as_ref() == Some(pod);
            let routed = matches!(place.segment, Segment::SenderRouting | Segment::ReceiverRouting);
            let inside = matches!(place.segment, Segment::InsideReceiver | Segment::InsideSender);
            ends && node == &place.node
                && if suspect.code == CauseCode::PolicyBlocked {
                    routed
                } else {
                    inside || routed
                }
        }
        SuspectPlace::Device { device, point } => {
            // After the tap that saw it, on the same device and direction; before the tap that missed it, on its device and direction.
            let after = device_of(&place.hop)
                .is_some_and(|(d, ingress)| d == *device && ingress == (*point != HookPoint::TcEgress) && *point != HookPoint::Xdp);
            let before =
                device_of(&place.expected_next).is_some_and(|(d, ingress)| d == *device && ingress == (*point != HookPoint::TcEgress));
            // On the underlay the missing tap lies on the other node; a packet that waits for ARP has passed no device yet.
            let waiting =
                place.segment == Segment::Underlay && node == &place.node && *point == HookPoint::TcEgress && underlay(place, device);
            after || before || waiting
        }
    }
}

fn underlay(place: &Place, device: &str) -> bool {
    // The tap missed at the far end names the underlay device; nodes of a cluster mostly use the same name.
    place.expected_next.as_deref().is_some_and(|next| next.contains(device))
}

/// Device and whether it is ingress, of a hop text, if it lies on `node` and outside pods.
fn split<'t>(hop: &'t str, node: &NodeName) -> Option<(&'t str, bool)> {
    let rest = hop.strip_prefix(node.as_str())?.strip_prefix('/')?;
    let (device, direction) = rest.rsplit_once('/')?;
    (!device.starts_with("pod:")).then_some((device, direction == "ingress"))
}

/// Whether the kernel's record of the drop, where there is one, does not contradict the suspect.
fn agrees(symptom: &Symptom, suspect: &Suspect) -> bool {
    if suspect.ipv6.is_some_and(|v6| v6 != symptom.to.ip.is_ipv6()) {
        return false;
    }
    let Some(drop) = &symptom.drop else { return true };
    let by_filter = filtered(drop.location.as_deref(), drop.reason.as_deref());
    match suspect.code {
        CauseCode::PolicyBlocked => by_filter != Some(false) && matches!(drop.stage, DropStage::Forward | DropStage::Unknown),
        CauseCode::FilterDrop => by_filter != Some(false),
        CauseCode::ForeignHookDrop => by_filter != Some(true),
        _ => true,
    }
}

/// Whether netfilter made the drop, as far as function and reason tell.
fn filtered(location: Option<&str>, reason: Option<&str>) -> Option<bool> {
    const FILTER: &[&str] = &[
        "nft_do_chain",
        "nf_hook_slow",
        "ipt_do_table",
        "nft_reject",
        "nf_reject",
        "nf_send_unreach",
        "reject_tg",
    ];
    if reason == Some("NETFILTER_DROP") {
        return Some(true);
    }
    location.map(|l| FILTER.iter().any(|f| l.starts_with(f)))
}

/// A drop made by netfilter whose rule has no counter.
fn filter_by_drop(reports: &Reports<'_>, symptom: &Symptom, place: &Place) -> Option<Blame> {
    let drop = symptom.drop.as_ref()?;
    if filtered(drop.location.as_deref(), drop.reason.as_deref()) != Some(true) || drop.node != place.node {
        return None;
    }
    let hook = match drop.stage {
        DropStage::Unknown => stages(place.segment, symptom).first().copied().unwrap_or(DropStage::Unknown),
        stage => stage,
    };
    if let Some(why) = unseen(reports, place, None) {
        // The rule may be the endpoint's own policy, which is no fault.
        return Some(Blame {
            programmed: Some(why),
            ..unexplained(Some(place), symptom)
        });
    }
    Some(Blame {
        code: CauseCode::FilterDrop,
        node: Some(place.node.clone()),
        towards: None,
        pod: None,
        subject: format!("{}, rule without a counter", stage_name(hook)),
        programmed: Some(NO_COUNTER.to_string()),
    })
}

/// What is said of a filter that only the kernel's record of a drop tells of.
const NO_COUNTER: &str = "no counter moved: table and chain cannot be named";

/// Whether nothing but the place where packets were thrown away speaks for a blame: no state, and no counter.
pub(super) fn only_by_place(blame: &Blame) -> bool {
    match blame.code {
        CauseCode::UnexplainedLoss => true,
        CauseCode::FilterDrop => blame.programmed.as_deref() == Some(NO_COUNTER),
        _ => false,
    }
}

pub(super) fn fabric(code: CauseCode, place: &Place, symptom: &Symptom) -> Blame {
    let forth = place.leg != crate::observed::Leg::Reply;
    let (from, to) = if forth {
        (&symptom.from.node, &symptom.to.node)
    } else {
        (&symptom.to.node, &symptom.from.node)
    };
    let towards = place.towards.clone().unwrap_or_else(|| to.clone());
    let node = if place.towards.is_some() {
        place.node.clone()
    } else {
        from.clone()
    };
    Blame {
        code,
        node: Some(node),
        towards: Some(towards),
        pod: None,
        subject: String::new(),
        programmed: None,
    }
}

fn pods(code: CauseCode, node: &NodeName, pod: &PodRef) -> Blame {
    Blame {
        code,
        node: Some(node.clone()),
        towards: None,
        pod: Some(pod.clone()),
        subject: pod.to_string(),
        programmed: None,
    }
}

fn unexplained(place: Option<&Place>, symptom: &Symptom) -> Blame {
    let between = |p: &Place| match (&p.hop, &p.expected_next) {
        (Some(hop), Some(next)) => format!("between {hop} and {next}"),
        (None, Some(next)) => format!("before {next}"),
        _ => p.node.to_string(),
    };
    let subject = place.map_or_else(|| format!("between {} and {}", symptom.from.node, symptom.to.node), between);
    Blame {
        code: CauseCode::UnexplainedLoss,
        node: place.map(|p| p.node.clone()),
        towards: None,
        pod: None,
        subject,
        programmed: None,
    }
}

fn finding(blame: &Blame, symptoms: &[&Symptom]) -> Finding {
    let fabric = of_network(blame.code);
    let hop = if blame.code == CauseCode::ChecksumCorrupt {
        symptoms.iter().find_map(|s| s.checksum_bad.clone())
    } else {
        None
    };
    let peer = if fabric {
        blame.towards.clone()
    } else {
        other_end(blame, symptoms)
    };
    Finding {
        code: blame.code,
        node: blame.node.clone(),
        peer,
        pod: blame.pod.clone(),
        subject: blame.subject.clone(),
        expected_next: hop.as_ref().map(|(_, bad)| bad.clone()),
        hop: hop.and_then(|(good, _)| good),
        severity: blame.code.cause().severity,
        evidence: FindingEvidence {
            intent: None,
            programmed: blame.programmed.clone(),
            observed: None,
            ..FindingEvidence::default()
        },
        transient: false,
        since: None,
        consequences: Vec::new(),
        owner: None,
        recognised_by: None,
        values: Default::default(),
    }
}

/// The one other node, if all symptoms concern the same.
fn other_end(blame: &Blame, symptoms: &[&Symptom]) -> Option<NodeName> {
    let node = blame.node.as_ref()?;
    let others: BTreeSet<&NodeName> = symptoms
        .iter()
        .flat_map(|s| [&s.from.node, &s.to.node])
        .filter(|n| *n != node)
        .collect();
    match (others.len(), others.first()) {
        (1, Some(only)) => Some((*only).clone()),
        _ => None,
    }
}
