//! Settling: which findings are roots, which roots explain which failing probes, what is to blame for the rest.
//!
//! The same code settles one node's report by itself (the continuous verdict) and all nodes' reports together.

pub(super) mod absorb;
mod blame;
mod cutoff;
mod family;
mod latency;
mod network;
mod residual;

pub(super) use absorb::absorb;
pub(super) use blame::verdict_of;

use super::{CauseCode, Consequence, Detour, Finding, NodeReport, PairTally, Pattern, Scope, Segment, Severity, Symptom, UnknownCheck};
use crate::{
    names::{NodeName, PodRef},
    observed::Leg,
    probe::{Size, Transport},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

/// Reports by node.
pub(super) type Reports<'a> = BTreeMap<NodeName, &'a NodeReport>;

/// The outcome.
#[derive(Default)]
pub(super) struct Settled {
    /// Roots with their consequences, in a fixed order.
    pub roots: Vec<Finding>,
    /// For every failing pair of nodes, the roots that explain it, by index.
    pub blamed: Vec<(NodeName, NodeName, Option<usize>)>,
    /// Pods whose own policy denies the probe.
    pub policy_blocked: BTreeMap<PodRef, Finding>,
    /// Symptoms that no root of a pod explains, by pod.
    pub suffering: BTreeSet<PodRef>,
    /// What could not be told.
    pub unknown: Vec<UnknownCheck>,
}

/// Settles what the reports say.
pub(super) fn settle(reports: &Reports<'_>) -> Settled {
    let mut all: Vec<Finding> = Vec::new();
    for report in reports.values() {
        all.extend(report.findings.iter().cloned());
        for c in &report.contradictions {
            // Every node shows the same contradictions.
            if !all.contains(c) {
                all.push(c.clone());
            }
        }
    }
    all.extend(cutoff::cut_off(reports));
    let mut out = Settled {
        roots: absorb(all),
        ..Settled::default()
    };
    let mut rest: Vec<&Symptom> = Vec::new();
    let mut places: BTreeMap<usize, Vec<&Symptom>> = BTreeMap::new();
    for symptom in reports.values().flat_map(|r| &r.symptoms).filter(|s| both_there(reports, s)) {
        match explainer(&out.roots, symptom) {
            Some(index) => {
                places.entry(index).or_default().push(symptom);
                attribute(&mut out, symptom, Some(index));
            }
            None => rest.push(symptom),
        }
    }
    for (index, symptoms) in &places {
        if let Some(root) = out.roots.get_mut(*index) {
            take(root, symptoms);
        }
    }
    residual::settle_rest(reports, &rest, &mut out);
    out.roots.extend(latency::latency(reports));
    soften(reports, &mut out.roots);
    out
}

/// Whether both ends are pods that their own nodes know too. A pod that its own node does not know any more was deleted while it was
/// probed, and whoever probed it had not heard of that yet.
fn both_there(reports: &Reports<'_>, symptom: &Symptom) -> bool {
    [&symptom.from, &symptom.to].into_iter().all(|end| {
        let (Some(pod), Some(report)) = (&end.pod, reports.get(&end.node)) else {
            return true;
        };
        // A report without intent knows no pods, nor its own node's address.
        let told = report.host_ips.contains_key(&end.node);
        !told || report.pods.iter().any(|known| known.pod == *pod && !known.terminating)
    })
}

fn attribute(out: &mut Settled, symptom: &Symptom, index: Option<usize>) {
    out.blamed.push((symptom.from.node.clone(), symptom.to.node.clone(), index));
    let own = index.and_then(|i| out.roots.get(i)).and_then(|r| r.pod.clone());
    for pod in [&symptom.from.pod, &symptom.to.pod].into_iter().flatten() {
        if own.as_ref() != Some(pod) && own.is_none() {
            out.suffering.insert(pod.clone());
        }
    }
}

/// The root that explains a symptom best: one at the place of the loss before others, a pod's before a pair's before a node's.
fn explainer(roots: &[Finding], symptom: &Symptom) -> Option<usize> {
    let at = symptom.place.as_ref().map(|p| &p.node);
    roots
        .iter()
        .enumerate()
        .filter(|(_, root)| absorb::explains_symptom(root, symptom))
        .min_by_key(|(index, root)| {
            let scope = match root.code.cause().scope {
                Scope::Cluster => 0,
                Scope::Pod => 1,
                Scope::Node => 2,
                Scope::Pair => 3,
                Scope::Fabric => 4,
                Scope::Host => 5,
            };
            (root.node.as_ref() != at, scope, *index)
        })
        .map(|(index, _)| index)
}

/// Attaches symptoms to a root as consequences; the most telling one gives it its hop.
pub(super) fn take(root: &mut Finding, symptoms: &[&Symptom]) {
    let mut ordered: Vec<&&Symptom> = symptoms.iter().collect();
    ordered.sort_by_key(|s| {
        let place = s.place.as_ref();
        let elsewhere = place.is_none_or(|p| root.node.as_ref().is_some_and(|n| *n != p.node));
        let back = place.is_none_or(|p| p.leg != Leg::Request);
        // A wrong MAC throws away what arrives; that nothing leaves either follows from the neighbours that the change flushed.
        let indirect = root.code == CauseCode::VtepMacMismatch && place.is_none_or(|p| p.segment != Segment::ReceiverRouting);
        (
            elsewhere,
            indirect,
            back,
            s.pair,
            root.node.as_ref() != Some(&s.from.node),
            s.from.clone(),
            s.to.clone(),
        )
    });
    if let Some(first) = ordered.first() {
        if root.hop.is_none()
            && root.expected_next.is_none()
            && let Some(place) = &first.place
        {
            root.hop.clone_from(&place.hop);
            root.expected_next.clone_from(&place.expected_next);
        }
        if root.evidence.observed.is_none() {
            root.evidence.observed = Some(observed_text(first));
        }
    }
    root.consequences.extend(symptoms.iter().map(|s| Consequence::Probes {
        from: s.from.clone(),
        to: s.to.clone(),
        failing: failing_text(s),
    }));
    root.consequences.sort();
    root.consequences.dedup();
}

/// State that differs while everything it could affect was probed and passes, by the way it should, is a warning.
fn soften(reports: &Reports<'_>, roots: &mut [Finding]) {
    for root in roots {
        let scope = root.code.cause().scope;
        let detour = detour(reports, root);
        if let Some(detour) = detour
            && root.evidence.observed.is_none()
        {
            root.evidence.observed = Some(format!(
                "{} of the probes to {} arrived by another node: seen at {}",
                detour.probes,
                detour.ip,
                detour.at.join(", ")
            ));
        }
        let suffers = root.consequences.iter().any(|c| match c {
            Consequence::Probes { .. } => true,
            Consequence::Cause { code, .. } => matches!(code, CauseCode::WrongOwnerSeen),
        });
        if suffers || root.severity != Severity::Error || !matches!(scope, Scope::Node | Scope::Pair | Scope::Host) || root.hop.is_some() {
            continue;
        }
        // They arrive as long as that other node sends them on, which nobody has asked it to do.
        if detour.is_some() {
            continue;
        }
        let Some(node) = &root.node else { continue };
        // That probes of IPv4 pass says nothing about IPv6, nor the reverse.
        let ipv6 = family::only_ipv6(root);
        let mut seen = 0;
        let mut failed = 0;
        for (a, report) in reports {
            for b in report.pairs.keys() {
                let concerned = match &root.peer {
                    Some(peer) => (a == node && b == peer) || (a == peer && b == node),
                    None => a == node || b == node,
                };
                if concerned {
                    let tally = family::tally(report, b, ipv6);
                    seen += passed(&tally);
                    failed += tally.failed + tally.host_failed;
                }
            }
        }
        if seen > 0 && failed == 0 {
            root.severity = Severity::Warning;
        }
    }
}

/// Packets that went by another node though this root's route, neighbour or FDB entry should have led them straight to its peer.
fn detour<'a>(reports: &Reports<'a>, root: &Finding) -> Option<&'a Detour> {
    let (Some(node), Some(peer), Scope::Pair) = (&root.node, &root.peer, root.code.cause().scope) else {
        return None;
    };
    let led = |ip: core::net::IpAddr| match root.subject.parse::<ipnet::IpNet>() {
        Ok(block) => block.contains(&ip),
        Err(_) => family::only_ipv6(root).is_none_or(|v6| v6 == ip.is_ipv6()),
    };
    let report: &'a NodeReport = reports.get(node)?;
    report.detours.iter().find(|d| d.to == *peer && led(d.ip))
}

pub(super) const fn passed(tally: &PairTally) -> u32 {
    tally.passed + tally.host_passed
}

/// What packets did, for a person.
pub(super) fn observed_text(s: &Symptom) -> String {
    let mut text = format!("{} from {} to {} fail", failing_text(s), end(&s.from), end(&s.to));
    if let Some(place) = &s.place {
        let leg = if place.leg == Leg::Request { "the request" } else { "the answer" };
        match (&place.hop, &place.expected_next) {
            (Some(hop), Some(next)) => text.push_str(&format!(": {leg} was last seen at {hop} and missed at {next}")),
            (None, Some(next)) => text.push_str(&format!(": nothing was sent, {leg} was expected at {next}")),
            _ => {}
        }
    }
    if !s.off_path.is_empty() {
        text.push_str(&format!("; seen off the path at {}", s.off_path.join(", ")));
    }
    if let Some(drop) = &s.drop {
        let reason = drop.reason.as_deref().unwrap_or("no reason given");
        let place = drop.location.as_deref().unwrap_or("an unknown function");
        text.push_str(&format!("; the kernel dropped it: {reason} in {place}"));
    }
    text
}

fn end(e: &crate::probe::Endpoint) -> String {
    match &e.pod {
        Some(pod) => format!("{pod} ({})", e.ip),
        None => format!("host {} ({})", e.node, e.ip),
    }
}

/// `udp, icmp and tcp, all sizes`.
pub(super) fn failing_text(s: &Symptom) -> String {
    let failing = |t: Transport| s.tallies.iter().any(|x| x.transport == t && x.failed > x.passed);
    let names: Vec<&str> = [(Transport::Udp, "udp"), (Transport::Icmp, "icmp"), (Transport::Tcp, "tcp")]
        .into_iter()
        .filter(|(t, _)| failing(*t))
        .map(|(_, n)| n)
        .collect();
    let sizes = match s.pattern {
        Pattern::LargeOnly => "large packets only",
        _ if s.tallies.iter().any(|t| t.size == Size::Small && t.failed > t.passed) => "small and large",
        _ => "some",
    };
    if s.pattern == Pattern::Lossy {
        let lost: u32 = s.tallies.iter().map(|t| t.failed).sum();
        let of: u32 = s.tallies.iter().map(|t| t.failed + t.passed).sum();
        return format!("{lost} of {of}, whichever they are,");
    }
    if s.pattern == Pattern::SomePorts {
        let ports: Vec<String> = s
            .tallies
            .iter()
            .filter(|t| t.transport == Transport::Udp && t.failed > t.passed)
            .map(|t| match t.outer_ports.first() {
                Some(outer) => format!("{} (outer {outer})", t.src_port),
                None => format!("{}", t.src_port),
            })
            .collect();
        return format!("udp from source ports {}", ports.join(", "));
    }
    format!("{}, {sizes}", names.join(", "))
}
