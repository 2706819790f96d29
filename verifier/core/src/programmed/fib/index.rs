//! Routes indexed by table and prefix: built once, asked often. 20,000 routes cost one sort.

use super::Flow;
use crate::programmed::{Link, NextHop, Route, RouteKind};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};
use core::{cmp::Reverse, net::IpAddr};
use ipnet::IpNet;

/// What one table says.
#[derive(Debug)]
pub(super) enum Found<'a> {
    /// A route without next hops that matter: local, blackhole and the like.
    Special(&'a Route),
    /// A route with the next hops that are alive.
    Unicast(&'a Route, Vec<NextHop>),
    /// A route whose next hops are not known (next hop objects without `nexthop_compat_mode`).
    Opaque(&'a Route),
}

#[derive(Clone, Debug)]
struct Entry {
    key: u128,
    route: Route,
}

/// Routes of one table and family and one prefix length, by address.
type Level = Vec<Entry>;

/// All tables.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    /// By family and table: levels by descending prefix length.
    levels: BTreeMap<(bool, u32), BTreeMap<Reverse<u8>, Level>>,
    /// Links that are not up: their next hops are dead, whether the kernel has come to say so or not.
    down: BTreeSet<u32>,
}

impl Tables {
    pub(super) fn new(routes: &[Route], links: &[Link]) -> Self {
        let mut levels: BTreeMap<(bool, u32), BTreeMap<Reverse<u8>, Level>> = BTreeMap::new();
        for route in routes {
            let v6 = route.dst.addr().is_ipv6();
            let entry = Entry {
                key: bits(route.dst.addr()),
                route: route.clone(),
            };
            levels
                .entry((v6, route.table))
                .or_default()
                .entry(Reverse(route.dst.prefix_len()))
                .or_default()
                .push(entry);
        }
        for level in levels.values_mut().flat_map(BTreeMap::values_mut) {
            // `fib_find_alias`: type of service descending, then priority ascending. IPv6 routes have no type of service, but may have a
            // source prefix, of which the longest goes first. The sort is stable: among equals the kernel's order stays.
            level.sort_by_key(|e| {
                (
                    e.key,
                    Reverse(e.route.src.map(|s| s.prefix_len())),
                    Reverse(e.route.tos),
                    e.route.priority,
                )
            });
        }
        let down = links.iter().filter(|link| !link.up).map(|link| link.index).collect();
        Self { levels, down }
    }

    /// `fib_table_lookup`: none if the table has nothing for it, so that the next rule is asked.
    pub(super) fn lookup(&self, table: u32, flow: &Flow) -> Option<Found<'_>> {
        let v6 = flow.dst.is_ipv6();
        for (Reverse(length), level) in self.levels.get(&(v6, table))? {
            let key = masked(bits(flow.dst), *length, v6);
            let start = level.partition_point(|e| e.key < key);
            let same = level[start..].iter().take_while(|e| e.key == key).map(|e| &e.route);
            if let Some(found) = self.pick(same, flow, v6) {
                return match found {
                    Found::Special(route) if route.kind == RouteKind::Throw => None,
                    found => Some(found),
                };
            }
        }
        None
    }

    pub(super) fn exact(&self, prefix: IpNet) -> impl Iterator<Item = &Route> {
        let v6 = prefix.addr().is_ipv6();
        let key = masked(bits(prefix.addr()), prefix.prefix_len(), v6);
        self.levels
            .iter()
            .filter(move |((family, _), _)| *family == v6)
            .filter_map(move |(_, levels)| levels.get(&Reverse(prefix.prefix_len())))
            .flat_map(move |level| {
                let start = level.partition_point(|e| e.key < key);
                level[start..].iter().take_while(move |e| e.key == key).map(|e| &e.route)
            })
    }

    /// The first route that is fit for `flow`. IPv6 routes of one priority to one prefix are one multipath route, however they were added.
    fn pick<'a>(&self, routes: impl Iterator<Item = &'a Route>, flow: &Flow, v6: bool) -> Option<Found<'a>> {
        let mut chosen: Option<(&'a Route, Vec<NextHop>)> = None;
        for route in routes {
            if let Some((first, paths)) = &mut chosen {
                let joins = v6 && route.priority == first.priority && route.src == first.src && route.kind == RouteKind::Unicast;
                match self.alive(route, flow) {
                    _ if !joins => break,
                    Some(more) => paths.extend(more),
                    None => {}
                }
                continue;
            }
            if route.tos != 0 && route.tos != flow.tos {
                continue;
            }
            if route.src.is_some_and(|net| flow.src.is_none_or(|ip| !net.contains(&ip))) {
                continue;
            }
            match route.kind {
                RouteKind::Unicast if route.next_hops.iter().all(|hop| hop.oif.is_none()) => return Some(Found::Opaque(route)),
                RouteKind::Unicast => match self.alive(route, flow) {
                    Some(paths) => chosen = Some((route, paths)),
                    None => continue,
                },
                // `fib_props` has an error for these: they end the search whatever their device does.
                RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Throw => {
                    return Some(Found::Special(route));
                }
                // Local, broadcast and the like have a device too, and count only if that is the one asked for.
                _ if flow.oif.is_none() || self.alive(route, flow).is_some() => return Some(Found::Special(route)),
                _ => {}
            }
        }
        chosen.map(|(route, paths)| Found::Unicast(route, paths))
    }

    /// `fib_lookup_good_nhc`: next hops that are not dead and lie on the device asked for.
    fn alive(&self, route: &Route, flow: &Flow) -> Option<Vec<NextHop>> {
        let hops: Vec<NextHop> = route
            .next_hops
            .iter()
            .filter(|hop| !hop.dead && hop.oif.is_none_or(|oif| !self.down.contains(&oif)))
            .filter(|hop| flow.oif.is_none() || hop.oif == flow.oif)
            .cloned()
            .collect();
        if hops.is_empty() { None } else { Some(hops) }
    }
}

const fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as u128,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn masked(bits: u128, length: u8, v6: bool) -> u128 {
    let host = if v6 { 128 } else { 32 } - u32::from(length);
    match u128::MAX.checked_shl(host) {
        Some(mask) => bits & mask,
        None => 0,
    }
}
