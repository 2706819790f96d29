//! The kernel's forwarding decision as a pure function of its tables: `fib_lookup` with policy rules and input interface.
//!
//! ```text
//! Flow ──► rules in order ──► table ──► longest prefix ──► tos, lowest priority ──► next hops that are alive ──► Decision
//!              ▲                                │ nothing, or throw
//!              └────────────────────────────────┘ next rule
//! ```
//!
//! Follows `net/core/fib_rules.c` (`fib_rules_lookup`), `net/ipv4/fib_rules.c`, `net/ipv4/fib_trie.c` (`fib_table_lookup`),
//! `net/ipv4/fib_frontend.c` (`__fib_validate_source`, in [`reverse`]) and their IPv6 counterparts. The kernel's own answer to
//! `RTM_GETROUTE` is the oracle of the tests.
//!
//! What the tables do not say (a rule on ports or users) makes the decision [`Decision::Unknown`], but only where it would change it.

mod index;
mod reverse;
mod rules;

use super::{NetconfScope, NextHop, NodeState, Route, RouteKind, Rule, RuleAction, TABLE_DEFAULT, TABLE_LOCAL, TABLE_MAIN};
use crate::evidence::Gap;
use alloc::{collections::BTreeMap, string::String, vec::Vec};
use core::net::IpAddr;
use index::Tables;

/// What is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Source; none leaves the choice to the kernel and matches no source selector but `0/0`.
    pub src: Option<IpAddr>,
    /// Destination.
    pub dst: IpAddr,
    /// Input interface; none for a packet of the host itself (`iif lo`).
    pub iif: Option<u32>,
    /// Output interface demanded by the sender, if any.
    pub oif: Option<u32>,
    /// `skb->mark`.
    pub mark: u32,
    /// Type of service, without the two ECN bits.
    pub tos: u8,
    /// IP protocol, 0 for unspecified.
    pub protocol: u8,
}

impl Flow {
    /// A packet of the host itself to `dst`.
    pub const fn to(dst: IpAddr) -> Self {
        Self {
            src: None,
            dst,
            iif: None,
            oif: None,
            mark: 0,
            tos: 0,
            protocol: 0,
        }
    }
}

/// What the kernel would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send it on. With several live next hops any of them may be taken.
    Forward {
        /// Live next hops.
        next_hops: Vec<NextHop>,
        /// The route.
        route: Route,
        /// Its table.
        table: u32,
    },
    /// It is for this host. `route.kind` tells broadcast, anycast and multicast apart.
    Local {
        /// The route.
        route: Route,
    },
    /// A route or rule throws it away.
    Discard {
        /// How.
        kind: RouteKind,
        /// The route, none if it was a rule.
        route: Option<Route>,
        /// The table, 0 for a rule.
        table: u32,
    },
    /// Nothing matches.
    NoRoute,
    /// A rule that may or may not match stands before the answer.
    Unknown {
        /// Which and why.
        why: String,
    },
}

/// Verdict of reverse path filtering.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// It passes, or nobody checks.
    Passes,
    /// It would be dropped; the decision for the way back tells why.
    Dropped {
        /// The way back.
        by: Decision,
    },
    /// It cannot be told.
    Unknown {
        /// Why.
        why: String,
    },
}

/// Rules and routes of one namespace, indexed once for many lookups.
#[derive(Clone, Debug)]
pub struct Fib {
    tables: Tables,
    /// In the kernel's order, IPv4 and IPv6 apart.
    v4: Vec<Rule>,
    v6: Vec<Rule>,
    /// Names of interfaces by index.
    names: BTreeMap<u32, String>,
    /// Whether there is a VRF, without which an l3mdev rule never matches.
    has_vrf: bool,
}

impl Fib {
    /// Indexes a state.
    ///
    /// # Errors
    /// The gaps, where links, routes or rules are not complete: a decision would be a guess.
    pub fn new(state: &NodeState) -> Result<Self, Vec<Gap>> {
        Ok(Self::of(state.routes.all()?, state.rules.all()?, state.links.all()?))
    }

    /// The FIB of any namespace, of its parts. Among rules of one priority their order is the kernel's.
    pub fn of(routes: &[Route], rules: &[Rule], links: &[super::Link]) -> Self {
        let of_family = |v6: bool| {
            let mut rules: Vec<_> = rules.iter().filter(|rule| rule.v6 == v6).cloned().collect();
            rules.sort_by_key(|rule| rule.priority);
            rules
        };
        Self {
            tables: Tables::new(routes, links),
            v4: of_family(false),
            v6: of_family(true),
            names: links.iter().map(|link| (link.index, link.name.clone())).collect(),
            has_vrf: links
                .iter()
                .any(|link| matches!(&link.kind, super::LinkKind::Other { name } if name == "vrf")),
        }
    }

    /// The decision for a flow.
    pub fn lookup(&self, flow: &Flow) -> Decision {
        let rules = if flow.dst.is_ipv6() { &self.v6 } else { &self.v4 };
        self.walk(rules, 0, flow)
    }

    /// Every route to exactly this prefix, in every table.
    pub fn exact(&self, prefix: ipnet::IpNet) -> impl Iterator<Item = &Route> {
        self.tables.exact(prefix)
    }

    fn name(&self, index: u32) -> Option<&str> {
        self.names.get(&index).map(String::as_str)
    }
}

/// The effective rp_filter of a device: the maximum of all and its own (`IN_DEV_RPFILTER`).
///
/// # Errors
/// The gaps, where netconf is not complete.
pub fn rp_filter(state: &NodeState, index: u32) -> Result<u8, Vec<Gap>> {
    let conf = state.netconf.all()?;
    let of = |scope| {
        conf.iter()
            .find(|n| !n.v6 && n.scope == scope)
            .and_then(|n| n.rp_filter)
            .unwrap_or(0)
    };
    Ok(of(NetconfScope::All).max(of(NetconfScope::Link(index))))
}

/// The rules of a namespace in which nobody has touched them.
pub fn default_rules() -> Vec<Rule> {
    let rule = |v6, priority, table| Rule {
        priority,
        v6,
        invert: false,
        src: None,
        dst: None,
        iif: None,
        oif: None,
        fwmark: None,
        tos: 0,
        ip_protocol: None,
        action: RuleAction::Table(table),
        suppress_prefix_length: None,
        unknown: Vec::new(),
    };
    [
        rule(false, 0, TABLE_LOCAL),
        rule(false, 32766, TABLE_MAIN),
        rule(false, 32767, TABLE_DEFAULT),
        rule(true, 0, TABLE_LOCAL),
        rule(true, 32766, TABLE_MAIN),
    ]
    .into()
}

#[cfg(test)]
mod tests;
