//! What on a node could lose packets. By itself no finding; where packets are lost at its place, the cause.

use super::{CauseCode, Suspect, SuspectPlace, checks::View};
use crate::{
    names::PodRef,
    observed::DropStage,
    programmed::{FilterRule, FilterVerdict, HookPoint},
};
use alloc::{format, string::String, vec::Vec};

/// Chains of one endpoint's own policy, by their prefix before the device name (calico.md 2.5 and nft mode's twins).
const ENDPOINT_CHAINS: &[&str] = &["cali-tw-", "cali-fw-", "filter-cali-tw-", "filter-cali-fw-"];

/// All of a node's suspects.
pub(super) fn suspects(view: &View<'_>) -> Vec<Suspect> {
    let mut out: Vec<Suspect> = Vec::new();
    for rule in view.state.filters.seen().into_iter().flatten() {
        if matches!(rule.verdict, FilterVerdict::Drop | FilterVerdict::Reject) && rule.moved.is_some_and(|m| m > 0) {
            out.push(filter(view, rule));
        }
    }
    for hook in view.state.hooks.seen().into_iter().flatten() {
        let place = match &hook.pod {
            Some(pod) => SuspectPlace::Endpoint { pod: pod.clone() },
            None => SuspectPlace::Device {
                device: hook.device.clone(),
                point: hook.point,
            },
        };
        let point = match hook.point {
            HookPoint::Xdp => "XDP",
            HookPoint::TcIngress => "TC ingress",
            HookPoint::TcEgress => "TC egress",
        };
        let id = hook.id.map_or_else(String::new, |id| format!(", id {id}"));
        let within = hook.pod.as_ref().map_or_else(String::new, |p| format!(" inside {p}"));
        out.push(Suspect {
            code: CauseCode::ForeignHookDrop,
            place,
            moved: None,
            subject: format!("{} ({point} of {}{within}{id})", hook.program, hook.device),
            ipv6: None,
        });
    }
    out.sort();
    out.dedup();
    out
}

fn filter(view: &View<'_>, rule: &FilterRule) -> Suspect {
    let subject = format!("{} table {} chain {}", family(rule), rule.table, rule.chain);
    let ipv6 = match rule.family.as_str() {
        "ip" | "arp" => Some(false),
        "ip6" => Some(true),
        _ => None,
    };
    if let Some(pod) = endpoint_of(view, &rule.chain) {
        return Suspect {
            code: CauseCode::PolicyBlocked,
            place: SuspectPlace::Endpoint { pod },
            moved: rule.moved,
            subject,
            ipv6,
        };
    }
    let base = view
        .state
        .base_chains
        .seen()
        .into_iter()
        .flatten()
        .find(|c| c.backend == rule.backend && c.family == rule.family && c.table == rule.table && c.chain == rule.chain);
    let place = match base {
        Some(chain) => match (chain.device.clone(), stage(&chain.hook)) {
            (Some(device), _) => {
                let point = if chain.hook == "egress" {
                    HookPoint::TcEgress
                } else {
                    HookPoint::TcIngress
                };
                SuspectPlace::Device { device, point }
            }
            (None, Some(stage)) => SuspectPlace::Stage { stage },
            (None, None) => SuspectPlace::Anywhere,
        },
        None => match stage(&rule.chain.to_lowercase()) {
            Some(stage) => SuspectPlace::Stage { stage },
            None => SuspectPlace::Anywhere,
        },
    };
    Suspect {
        code: CauseCode::FilterDrop,
        place,
        moved: rule.moved,
        subject,
        ipv6,
    }
}

fn family(rule: &FilterRule) -> String {
    match rule.backend {
        crate::programmed::FilterBackend::Nftables => format!("nftables {}", rule.family),
        crate::programmed::FilterBackend::Legacy => format!("iptables-legacy {}", rule.family),
    }
}

fn stage(hook: &str) -> Option<DropStage> {
    match hook {
        "prerouting" => Some(DropStage::Prerouting),
        "input" => Some(DropStage::Input),
        "forward" => Some(DropStage::Forward),
        "output" => Some(DropStage::Output),
        "postrouting" => Some(DropStage::Postrouting),
        _ => None,
    }
}

/// The pod whose own chain this is.
fn endpoint_of(view: &View<'_>, chain: &str) -> Option<PodRef> {
    let device = ENDPOINT_CHAINS.iter().find_map(|prefix| chain.strip_prefix(prefix))?;
    view.intent.workloads.values().find(|w| w.device == device).map(|w| w.pod.clone())
}
