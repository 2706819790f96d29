//! Cases by hand, and a reference without an index. The kernel itself is asked in `verifier/src/programmed/fib_oracle.rs`.

use super::*;
use crate::{
    evidence::Evidence,
    names::UnixNs,
    programmed::{Address, LinkKind, Netconf},
};
use alloc::{format, string::ToString, vec};
use core::net::Ipv4Addr;
use proptest::prelude::*;

fn link(index: u32, name: &str) -> super::super::Link {
    super::super::Link {
        index,
        name: name.to_string(),
        mac: None,
        mtu: 1500,
        up: true,
        running: true,
        kind: LinkKind::Plain,
        master: None,
        link: None,
        link_netnsid: None,
        xdp: None,
        counters: BTreeMap::new(),
    }
}

fn hop(oif: u32) -> NextHop {
    NextHop {
        gateway: None,
        oif: Some(oif),
        onlink: false,
        dead: false,
        weight: 1,
    }
}

fn route(dst: &str, oif: u32) -> Route {
    Route {
        table: TABLE_MAIN,
        dst: dst.parse().unwrap(),
        src: None,
        tos: 0,
        priority: 0,
        kind: RouteKind::Unicast,
        next_hops: vec![hop(oif)],
        prefsrc: None,
        protocol: 3,
        scope: 0,
        mtu: None,
    }
}

fn rule(priority: u32, action: RuleAction) -> Rule {
    Rule {
        priority,
        action,
        ..default_rules().remove(0)
    }
}

fn links() -> Vec<super::super::Link> {
    [link(1, "lo"), link(2, "eth0"), link(3, "vxlan.calico"), link(4, "cali1")].into()
}

fn fib(routes: &[Route], more_rules: &[Rule]) -> Fib {
    let rules: Vec<Rule> = default_rules().into_iter().chain(more_rules.iter().cloned()).collect();
    Fib::of(routes, &rules, &links())
}

fn to(dst: &str) -> Flow {
    Flow::to(dst.parse().unwrap())
}

fn oifs(decision: &Decision) -> Vec<u32> {
    match decision {
        Decision::Forward { next_hops, .. } => next_hops.iter().filter_map(|hop| hop.oif).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_longest_prefix_wins_then_tos_then_the_lowest_priority() {
    let routes = [
        route("0.0.0.0/0", 2),
        route("10.0.0.0/8", 3),
        Route {
            priority: 5,
            ..route("10.1.0.0/16", 2)
        },
        Route {
            priority: 1,
            ..route("10.1.0.0/16", 4)
        },
        Route {
            tos: 16,
            priority: 9,
            ..route("10.1.0.0/16", 3)
        },
    ];
    let fib = fib(&routes, &[]);
    assert_eq!(oifs(&fib.lookup(&to("192.0.2.1"))), [2]);
    assert_eq!(oifs(&fib.lookup(&to("10.2.0.1"))), [3]);
    assert_eq!(oifs(&fib.lookup(&to("10.1.0.1"))), [4]);
    assert_eq!(oifs(&fib.lookup(&Flow { tos: 16, ..to("10.1.0.1") })), [3]);
    assert_eq!(fib.lookup(&to("2001:db8::1")), Decision::NoRoute);
    assert_eq!(fib.exact("10.1.0.0/16".parse().unwrap()).count(), 3);
}

#[test]
fn dead_next_hops_and_those_of_links_that_are_down_are_passed_over() {
    let dead = |oif| NextHop { dead: true, ..hop(oif) };
    let routes = [
        route("0.0.0.0/0", 2),
        Route {
            next_hops: vec![dead(2), hop(3), hop(4)],
            ..route("10.0.0.0/8", 2)
        },
        Route {
            next_hops: vec![dead(3)],
            ..route("10.9.0.0/16", 3)
        },
    ];
    let fib_ = fib(&routes, &[]);
    assert_eq!(oifs(&fib_.lookup(&to("10.1.0.1"))), [3, 4]);
    assert_eq!(oifs(&fib_.lookup(&to("10.9.0.1"))), [3, 4]);
    assert_eq!(
        oifs(&fib_.lookup(&Flow {
            oif: Some(2),
            ..to("10.9.0.1")
        })),
        [2]
    );
    let mut down = links();
    down[2].up = false;
    assert_eq!(oifs(&Fib::of(&routes, &default_rules(), &down).lookup(&to("10.1.0.1"))), [4]);
}

#[test]
fn throw_goes_on_with_the_next_rule_and_a_blackhole_does_not() {
    let of = |kind| Route {
        table: 77,
        kind,
        next_hops: vec![],
        ..route("10.1.0.0/16", 2)
    };
    let main = route("10.0.0.0/8", 2);
    let throw = fib(&[of(RouteKind::Throw), main.clone()], &[rule(100, RuleAction::Table(77))]);
    assert_eq!(oifs(&throw.lookup(&to("10.1.0.1"))), [2]);
    let hole = of(RouteKind::Blackhole);
    let holed = fib(&[hole.clone(), main], &[rule(100, RuleAction::Table(77))]);
    assert_eq!(
        holed.lookup(&to("10.1.0.1")),
        Decision::Discard {
            kind: RouteKind::Blackhole,
            route: Some(hole),
            table: 77
        }
    );
}

#[test]
fn a_rule_selects_by_every_selector_and_invert_turns_all_of_them_round() {
    let routes = [
        route("0.0.0.0/0", 2),
        Route {
            table: 77,
            ..route("0.0.0.0/0", 3)
        },
    ];
    let picky = Rule {
        src: Some("10.0.0.0/8".parse().unwrap()),
        iif: Some("cali1".into()),
        fwmark: Some((0x10, 0xf0)),
        ..rule(100, RuleAction::Table(77))
    };
    let flow = Flow {
        src: Some("10.0.0.1".parse().unwrap()),
        iif: Some(4),
        mark: 0x1f,
        ..to("192.0.2.1")
    };
    let plain = fib(&routes, core::slice::from_ref(&picky));
    let inverted = fib(&routes, &[Rule { invert: true, ..picky }]);
    assert_eq!(oifs(&plain.lookup(&flow)), [3]);
    assert_eq!(oifs(&inverted.lookup(&flow)), [2]);
    for other in [
        Flow {
            mark: 0x20,
            ..flow.clone()
        },
        Flow { iif: None, ..flow.clone() },
        Flow { src: None, ..flow },
    ] {
        assert_eq!(oifs(&plain.lookup(&other)), [2]);
        assert_eq!(oifs(&inverted.lookup(&other)), [3]);
    }
}

#[test]
fn iif_lo_is_the_host_itself() {
    let routes = [
        route("0.0.0.0/0", 2),
        Route {
            table: 77,
            ..route("0.0.0.0/0", 3)
        },
    ];
    let fib = fib(
        &routes,
        &[Rule {
            iif: Some("lo".into()),
            ..rule(100, RuleAction::Table(77))
        }],
    );
    assert_eq!(oifs(&fib.lookup(&to("192.0.2.1"))), [3]);
    assert_eq!(
        oifs(&fib.lookup(&Flow {
            iif: Some(4),
            ..to("192.0.2.1")
        })),
        [2]
    );
}

#[test]
fn suppression_passes_over_short_prefixes_only() {
    let routes = [
        route("0.0.0.0/0", 2),
        Route {
            table: 77,
            ..route("0.0.0.0/0", 3)
        },
        Route {
            table: 77,
            ..route("10.0.0.0/8", 3)
        },
    ];
    let fib = fib(
        &routes,
        &[Rule {
            suppress_prefix_length: Some(0),
            ..rule(100, RuleAction::Table(77))
        }],
    );
    assert_eq!(oifs(&fib.lookup(&to("192.0.2.1"))), [2]);
    assert_eq!(oifs(&fib.lookup(&to("10.0.0.1"))), [3]);
}

#[test]
fn a_goto_jumps_forward_and_one_without_a_target_is_passed_over() {
    let routes = [route("0.0.0.0/0", 2)];
    let prohibit = rule(150, RuleAction::Prohibit);
    let jump = fib(
        &routes,
        &[rule(100, RuleAction::Goto(200)), prohibit.clone(), rule(200, RuleAction::Nop)],
    );
    assert_eq!(oifs(&jump.lookup(&to("10.0.0.1"))), [2]);
    let nowhere = fib(&routes, &[rule(100, RuleAction::Goto(199)), prohibit]);
    assert!(matches!(
        nowhere.lookup(&to("10.0.0.1")),
        Decision::Discard {
            kind: RouteKind::Prohibit,
            route: None,
            ..
        }
    ));
}

#[test]
fn an_unknown_selector_makes_the_answer_unknown_only_where_it_matters() {
    let routes = [
        route("0.0.0.0/0", 2),
        Route {
            table: 77,
            ..route("10.0.0.0/8", 3)
        },
        Route {
            table: 78,
            ..route("0.0.0.0/0", 2)
        },
    ];
    let by_port = |table| Rule {
        unknown: vec!["destination ports".into()],
        ..rule(100, RuleAction::Table(table))
    };
    let fib_ = fib(&routes, &[by_port(77)]);
    assert!(matches!(fib_.lookup(&to("10.0.0.1")), Decision::Unknown { .. }));
    assert_eq!(oifs(&fib_.lookup(&to("192.0.2.1"))), [2]);
    // Whether it matches or not, somebody else's selector that does not match settles it.
    let elsewhere = Rule {
        iif: Some("cali1".into()),
        ..by_port(77)
    };
    assert_eq!(oifs(&fib(&routes, &[elsewhere]).lookup(&to("10.0.0.1"))), [2]);
    // An l3mdev rule without a VRF never matches.
    let vrf = Rule {
        unknown: vec!["l3mdev".into()],
        ..by_port(77)
    };
    assert_eq!(oifs(&fib(&routes, &[vrf]).lookup(&to("10.0.0.1"))), [2]);
}

fn state(routes: Vec<Route>, mode: u8) -> NodeState {
    let nothing = || Evidence::unavailable("programmed", "not asked for");
    NodeState {
        taken_at: UnixNs(0),
        links: Evidence::complete(links()),
        addresses: Evidence::complete(vec![Address {
            index: 2,
            ip: "172.16.0.1/24".parse().unwrap(),
            scope: 0,
        }]),
        routes: Evidence::complete(routes),
        rules: Evidence::complete(default_rules()),
        neighbors: Evidence::complete(vec![]),
        fdb: Evidence::complete(vec![]),
        netconf: Evidence::complete(vec![Netconf {
            scope: NetconfScope::All,
            v6: false,
            forwarding: Some(true),
            rp_filter: Some(mode),
            proxy_neigh: None,
        }]),
        conntrack: Evidence::unavailable("programmed/conntrack", "not asked for"),
        filters: nothing().map(|()| vec![]),
        base_chains: nothing().map(|()| vec![]),
        hooks: nothing().map(|()| vec![]),
        offloads: None,
        pods: BTreeMap::new(),
        journal: vec![],
        journal_from: UnixNs(0),
    }
}

#[test]
fn the_reverse_path_is_strict_loose_or_off() {
    let routes = vec![route("10.0.0.0/24", 4), route("10.9.0.0/24", 3), route("192.0.2.0/24", 2)];
    let arrives = |src: &str, iif| Flow {
        src: Some(src.parse().unwrap()),
        iif: Some(iif),
        ..to("192.0.2.1")
    };
    let ask = |mode, src, iif| {
        let state = state(routes.clone(), mode);
        Fib::new(&state).unwrap().reverse_path(&arrives(src, iif), &state)
    };
    for mode in 0..=2 {
        assert_eq!(ask(mode, "10.0.0.5", 4), ReversePath::Passes, "the right interface");
    }
    assert_eq!(ask(0, "10.9.0.5", 2), ReversePath::Passes);
    assert!(matches!(ask(1, "10.9.0.5", 2), ReversePath::Dropped { .. }));
    assert_eq!(ask(2, "10.9.0.5", 2), ReversePath::Passes);
    // An interface without an address of its own has no benefit of looseness.
    assert!(matches!(ask(2, "10.9.0.5", 4), ReversePath::Dropped { .. }));
    assert!(matches!(ask(2, "203.0.113.1", 2), ReversePath::Dropped { by: Decision::NoRoute }));
}

#[test]
fn a_gap_is_an_error_and_not_an_empty_table() {
    let mut state = state(vec![], 0);
    state.routes = Evidence::unavailable("programmed/routes", "interrupted");
    assert_eq!(Fib::new(&state).unwrap_err()[0].source, "programmed/routes");
}

/// The same without an index: of all routes that cover the destination the best.
fn reference(routes: &[Route], dst: Ipv4Addr) -> Option<&Route> {
    routes
        .iter()
        .filter(|r| r.tos == 0 && r.dst.contains(&IpAddr::V4(dst)))
        .min_by_key(|r| (core::cmp::Reverse(r.dst.prefix_len()), r.priority))
}

proptest! {
    #[test]
    fn the_index_finds_what_a_search_through_all_finds(
        prefixes in proptest::collection::btree_map((0u32..64, 0u8..=32), (1u32..5, 0u32..3), 0..40),
        low in 0u32..64,
    ) {
        let routes: Vec<Route> = prefixes
            .iter()
            .map(|((bits, length), (oif, priority))| {
                let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(bits << 26), *length).unwrap().trunc();
                Route { priority: *priority, ..route(&format!("{net}"), *oif) }
            })
            .collect();
        // Two of the same prefix and priority cannot be: the kernel refuses the second.
        let mut unique = routes.clone();
        unique.sort_by_key(|r| (r.dst, r.priority));
        unique.dedup_by_key(|r| (r.dst, r.priority));
        let dst = Ipv4Addr::from_bits(low << 26 | 1);
        let decision = fib(&unique, &[]).lookup(&Flow::to(dst.into()));
        match reference(&unique, dst) {
            None => prop_assert_eq!(decision, Decision::NoRoute),
            Some(best) => prop_assert_eq!(oifs(&decision), vec![best.next_hops[0].oif.unwrap()]),
        }
    }
}
