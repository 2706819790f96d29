//! Checks of state against intent: one named function each, in a flat list. They need no probe; what they find stands whether or not
//! traffic suffers yet. Which of the findings is the root of which others is not decided here.

mod forwarding;
mod l2;
mod pods;
mod routes;
mod seen;
mod tunnel;
mod writer;

use super::{CauseCode, Finding, FindingEvidence, NodeSnapshot, UnknownCheck};
use crate::{
    evidence::{Evidence, Gap},
    intent::NodeIntent,
    names::{Mac, PodRef, UnixNs},
    programmed::{Address, ChangeKind, ChangedObject, Fib, Link, NodeState},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// One node's accounts, both there.
pub(super) struct View<'a> {
    pub snapshot: &'a NodeSnapshot,
    pub intent: &'a NodeIntent,
    pub state: &'a NodeState,
    /// Indexed once for all checks; the gaps where a decision would be a guess.
    pub fib: Result<Fib, Vec<Gap>>,
}

/// What the checks say.
#[derive(Default)]
pub(super) struct Out {
    pub findings: Vec<Finding>,
    pub unknown: Vec<UnknownCheck>,
}

type Check = fn(&View<'_>, &mut Out);

/// Every check, by name. The name is what an unknown check is reported under.
pub(super) const CHECKS: &[(&str, Check)] = &[
    ("tunnel-device", tunnel::device),
    ("tunnel-address", tunnel::address),
    ("vtep-mac", tunnel::mac),
    ("remote-routes", routes::remote),
    ("hijacked-routes", routes::hijacked),
    ("route-owners", routes::owners),
    ("blackholes", routes::blackholes),
    ("neighbors", l2::neighbors),
    ("fdb", l2::fdb),
    ("forwarding", forwarding::forwarding),
    ("rp-filter", forwarding::rp_filter),
    ("conntrack", forwarding::conntrack),
    ("pod-veth", pods::veth),
    ("pod-route", pods::route),
    ("pod-address", pods::address),
    ("pod-gateway-route", pods::gateway_route),
    ("pod-gateway-answer", pods::gateway_answer),
    ("pod-gateway-answer-ipv6", pods::gateway_answer6),
    ("conformance", seen::conformance),
    ("source-rewritten", seen::source_rewritten),
];

/// Runs them all.
pub(super) fn run(view: &View<'_>) -> Out {
    let mut out = Out::default();
    for (_, check) in CHECKS {
        check(view, &mut out);
    }
    out
}

impl View<'_> {
    /// A finding of this node.
    pub fn finding(&self, code: CauseCode, subject: impl Into<String>) -> Finding {
        Finding {
            code,
            node: Some(self.intent.node.clone()),
            peer: None,
            pod: None,
            subject: subject.into(),
            hop: None,
            expected_next: None,
            severity: code.cause().severity,
            evidence: FindingEvidence::default(),
            transient: false,
            since: None,
            consequences: Vec::new(),
            owner: None,
            recognised_by: None,
            values: Default::default(),
        }
    }

    /// The same of one of its pods.
    pub fn pod_finding(&self, code: CauseCode, pod: &PodRef, subject: impl Into<String>) -> Finding {
        Finding {
            pod: Some(pod.clone()),
            ..self.finding(code, subject)
        }
    }

    /// Links by name, if the dump was complete or has it.
    pub fn link<'s>(&'s self, name: &str, check: &str, out: &mut Out) -> Looked<&'s Link> {
        look(&self.state.links, check, out, |l| l.name == name)
    }

    /// The device of this index, for texts.
    pub fn device_name(&self, index: u32) -> String {
        self.state
            .links
            .seen()
            .and_then(|l| l.iter().find(|l| l.index == index))
            .map_or_else(|| format!("if{index}"), |l| l.name.clone())
    }

    /// Addresses of a link.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.state.addresses.seen().into_iter().flatten().filter(move |a| a.index == index)
    }

    /// The index of the link that carries the node's Calico address of a family.
    pub fn parent_index(&self, v6: bool) -> Option<u32> {
        let own = self.intent.host_ip_of(v6)?;
        let carriers = self.state.addresses.seen()?.iter().filter(|a| a.ip.addr() == own);
        carriers.map(|a| a.index).min()
    }

    /// When the journal last saw an object removed for which `of` holds.
    pub fn removed_at(&self, of: impl Fn(&ChangedObject) -> bool) -> Option<UnixNs> {
        self.changed_at(ChangeKind::Removed, of)
    }

    /// When the journal last saw an object added for which `of` holds.
    pub fn added_at(&self, of: impl Fn(&ChangedObject) -> bool) -> Option<UnixNs> {
        self.changed_at(ChangeKind::Added, of)
    }

    fn changed_at(&self, kind: ChangeKind, of: impl Fn(&ChangedObject) -> bool) -> Option<UnixNs> {
        self.state
            .journal
            .iter()
            .rev()
            .find(|c| c.change == kind && of(&c.what))
            .map(|c| c.at)
    }
}

/// A look for one thing.
pub(super) enum Looked<T> {
    /// It is there.
    Found(T),
    /// It is certainly not there.
    Absent,
    /// It cannot be told; the reason stands under the unknown checks.
    Unknown,
}

/// Looks for one item in evidence. Absence needs complete evidence.
pub(super) fn look<'e, T>(evidence: &'e Evidence<Vec<T>>, check: &str, out: &mut Out, is: impl Fn(&T) -> bool) -> Looked<&'e T> {
    if let Some(found) = evidence.seen().and_then(|all| all.iter().find(|x| is(x))) {
        return Looked::Found(found);
    }
    match evidence.all() {
        Ok(_) => Looked::Absent,
        Err(gaps) => {
            out.cannot(check, &gaps);
            Looked::Unknown
        }
    }
}

impl Out {
    /// Notes that a check could not be made.
    pub fn cannot(&mut self, check: &str, gaps: &[Gap]) {
        for gap in gaps {
            let entry = UnknownCheck {
                check: check.to_string(),
                why: format!("{}: {}", gap.source, gap.why),
            };
            if !self.unknown.contains(&entry) {
                self.unknown.push(entry);
            }
        }
    }
}

/// `66:…` or `none`.
pub(super) fn mac_text(mac: Option<Mac>) -> String {
    mac.map_or_else(|| "none".to_string(), |m| m.to_string())
}

/// The whole of one address.
pub(super) fn host_net(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}
