//! Which of the two families something is about. IPv4 and IPv6 share devices and nodes, not routes, neighbours and tunnels: what is wrong
//! with one says nothing about packets of the other, and packets of the other say nothing about it.

use super::Reports;
use crate::{
    intent::derive::{IPIP_DEVICE, VXLAN_DEVICE, VXLAN_DEVICE_V6},
    names::NodeName,
    verdict::{CauseCode, Class, Finding, NodeReport, PairTally, Scope, Symptom},
};
use core::net::{Ipv4Addr, Ipv6Addr};
use ipnet::{Ipv4Net, Ipv6Net};

/// Whether a finding is about IPv6 alone (true) or about IPv4 alone (false); none where it is about both or does not say.
pub(super) fn only_ipv6(finding: &Finding) -> Option<bool> {
    let cause = finding.code.cause();
    match finding.code {
        // There is no such setting of IPv6 (Documentation/networking/ip-sysctl.rst).
        CauseCode::RpFilterDrop => return Some(false),
        // Its subject is the node. The annotations it lacks have their family in their names.
        CauseCode::TunnelAddressMissing => {
            let text = finding.evidence.intent.as_deref().unwrap_or("");
            return one(text.contains(".org/IPv4"), text.contains(".org/IPv6"));
        }
        _ => {}
    }
    if !matches!(cause.scope, Scope::Node | Scope::Pair | Scope::Pod) && cause.class != Class::Datastore {
        return None;
    }
    let any = |is: fn(&str) -> bool| finding.subject.split([' ', ',']).any(is);
    let v4 = any(|word| {
        [VXLAN_DEVICE, IPIP_DEVICE].contains(&word)
            || word.starts_with("net.ipv4.")
            || word.parse::<Ipv4Addr>().is_ok()
            || word.parse::<Ipv4Net>().is_ok()
    });
    let v6 = any(|word| {
        word == VXLAN_DEVICE_V6 || word.starts_with("net.ipv6.") || word.parse::<Ipv6Addr>().is_ok() || word.parse::<Ipv6Net>().is_ok()
    });
    one(v4, v6)
}

const fn one(v4: bool, v6: bool) -> Option<bool> {
    match (v4, v6) {
        (true, false) => Some(false),
        (false, true) => Some(true),
        _ => None,
    }
}

/// A node's probes to a peer: of one family, or of both.
pub(super) fn tally(report: &NodeReport, peer: &NodeName, ipv6: Option<bool>) -> PairTally {
    let of = |pairs: &alloc::collections::BTreeMap<NodeName, PairTally>| pairs.get(peer).copied().unwrap_or_default();
    let (all, v6) = (of(&report.pairs), of(&report.pairs_ipv6));
    match ipv6 {
        None => all,
        Some(true) => v6,
        Some(false) => PairTally {
            passed: all.passed.saturating_sub(v6.passed),
            failed: all.failed.saturating_sub(v6.failed),
            host_passed: all.host_passed.saturating_sub(v6.host_passed),
            host_failed: all.host_failed.saturating_sub(v6.host_failed),
            inconclusive: all.inconclusive.saturating_sub(v6.inconclusive),
        },
    }
}

/// `, IPv6 only` or `, IPv4 only` where these symptoms are all of one family and both were probed; else nothing.
pub(super) fn only_text(reports: &Reports<'_>, symptoms: &[&Symptom]) -> &'static str {
    let both = reports.values().any(|report| {
        report.pairs_ipv6.keys().any(|peer| {
            let of_ipv4 = tally(report, peer, Some(false));
            of_ipv4 != PairTally::default()
        })
    });
    let v6 = symptoms.iter().filter(|s| s.to.ip.is_ipv6()).count();
    match v6 {
        _ if !both || symptoms.is_empty() => "",
        0 => ", IPv4 only",
        n if n == symptoms.len() => ", IPv6 only",
        _ => "",
    }
}
