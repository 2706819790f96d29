//! Policy rules: `fib_rules_lookup`, `fib_rule_match`, and what to do with a selector that the tables cannot decide.

use super::{Decision, Fib, Flow, index::Found};
use crate::programmed::{RouteKind, Rule, RuleAction};
use alloc::{format, string::String, vec::Vec};

/// Whether a rule takes a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Match {
    Yes,
    No,
    /// It depends on something that is not known here.
    Perhaps,
}

impl Fib {
    /// Follow the rules from position `at`. Jumps only go forward (the kernel refuses others), so this ends.
    pub(super) fn walk(&self, rules: &[Rule], mut at: usize, flow: &Flow) -> Decision {
        while let Some(rule) = rules.get(at) {
            let matched = self.matches(rule, flow);
            at += 1;
            if matched == Match::No {
                continue;
            }
            let taken = match rule.action {
                RuleAction::Goto(priority) => {
                    let target = rules.partition_point(|r| r.priority < priority);
                    if rules.get(target).is_none_or(|r| r.priority != priority) {
                        continue;
                    }
                    // A rule that jumps backwards cannot exist; should one be read all the same, the search goes on behind it.
                    let target = target.max(at);
                    if matched == Match::Yes {
                        at = target;
                        continue;
                    }
                    Some(self.walk(rules, target, flow))
                }
                _ => self.act(rule, flow),
            };
            let Some(taken) = taken else { continue };
            if matched == Match::Yes {
                return taken;
            }
            // It only matters what is not known if it makes a difference.
            let passed_over = self.walk(rules, at, flow);
            return if taken == passed_over {
                taken
            } else {
                Decision::Unknown {
                    why: format!(
                        "rule {} selects by {}, which the tables do not tell",
                        rule.priority,
                        rule.unknown.join(", ")
                    ),
                }
            };
        }
        Decision::NoRoute
    }

    /// What a rule that matches decides; none to go on with the next.
    fn act(&self, rule: &Rule, flow: &Flow) -> Option<Decision> {
        let discard = |kind| {
            Some(Decision::Discard {
                kind,
                route: None,
                table: 0,
            })
        };
        let table = match rule.action {
            RuleAction::Table(table) => table,
            RuleAction::Goto(_) | RuleAction::Nop => return None,
            RuleAction::Unreachable => return discard(RouteKind::Unreachable),
            RuleAction::Prohibit => return discard(RouteKind::Prohibit),
            // `fib4_rule_action` treats what it does not know as a blackhole.
            RuleAction::Blackhole | RuleAction::Other(_) => return discard(RouteKind::Blackhole),
        };
        let (route, decision) = match self.tables.lookup(table, flow)? {
            Found::Unicast(route, next_hops) => (
                route,
                Decision::Forward {
                    next_hops,
                    route: route.clone(),
                    table,
                },
            ),
            Found::Opaque(route) => (
                route,
                Decision::Unknown {
                    why: format!("the next hops of {} in table {table} are not known", route.dst),
                },
            ),
            Found::Special(route) => match route.kind {
                // `fib4_rule_suppress` sees successful lookups only, so these are never suppressed.
                kind @ (RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit) => {
                    return Some(Decision::Discard {
                        kind,
                        route: Some(route.clone()),
                        table,
                    });
                }
                RouteKind::Throw => return None,
                RouteKind::Other(kind) => (
                    route,
                    Decision::Unknown {
                        why: format!("{} in table {table} has the unknown type {kind}", route.dst),
                    },
                ),
                RouteKind::Local | RouteKind::Unicast | RouteKind::Broadcast | RouteKind::Anycast | RouteKind::Multicast => {
                    (route, Decision::Local { route: route.clone() })
                }
            },
        };
        let suppressed = rule
            .suppress_prefix_length
            .is_some_and(|longest| u32::from(route.dst.prefix_len()) <= longest);
        if suppressed { None } else { Some(decision) }
    }

    fn matches(&self, rule: &Rule, flow: &Flow) -> Match {
        let known = self.known_selectors(rule, flow);
        let undecided: Vec<_> = rule
            .unknown
            .iter()
            .filter(|name| name.as_str() != "l3mdev" || self.has_vrf)
            .collect();
        // An l3mdev rule without a VRF in the namespace never matches.
        let impossible = undecided.len() < rule.unknown.len();
        match (known && !impossible, undecided.is_empty(), rule.invert) {
            (false, _, false) | (true, true, true) => Match::No,
            (false, _, true) | (true, true, false) => Match::Yes,
            (true, false, _) => Match::Perhaps,
        }
    }

    /// Whether all selectors that can be decided match.
    fn known_selectors(&self, rule: &Rule, flow: &Flow) -> bool {
        // `ip_route_output_key_hash`: a packet of this host comes in on `lo`.
        let iif = match flow.iif {
            None => Some("lo"),
            Some(index) => self.name(index),
        };
        let oif = flow.oif.and_then(|index| self.name(index));
        let on = |selector: &Option<String>, device: Option<&str>| selector.as_deref().is_none_or(|name| device == Some(name));
        on(&rule.iif, iif)
            && on(&rule.oif, oif)
            && rule.fwmark.is_none_or(|(mark, mask)| (mark ^ flow.mark) & mask == 0)
            && rule
                .src
                .is_none_or(|net| flow.src.map_or(net.prefix_len() == 0, |ip| net.contains(&ip)))
            && rule.dst.is_none_or(|dst| dst.contains(&flow.dst))
            && (rule.tos == 0 || rule.tos == flow.tos)
            && rule.ip_protocol.is_none_or(|protocol| protocol == flow.protocol)
    }
}
