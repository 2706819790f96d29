use super::*;
use alloc::{format, string::ToString};
use proptest::prelude::*;

fn profile(facts: &[(&str, &str, Weight)]) -> Profile {
    Profile {
        facts: facts
            .iter()
            .map(|(key, value, weight)| {
                let fact = Fact {
                    value: value.to_string(),
                    weight: *weight,
                };
                (key.to_string(), fact)
            })
            .collect(),
        unknown: BTreeMap::new(),
    }
}

fn name(i: usize) -> NodeName {
    NodeName::from(format!("node-{i}"))
}

#[test]
fn what_matters_most_comes_first() {
    let a = profile(&[("host/os", "x", 60), ("programmed/mtu", "1450", 95), ("same", "1", 99)]);
    let b = profile(&[("host/os", "y", 60), ("programmed/mtu", "1500", 95), ("same", "1", 99)]);
    let found = pair((&name(0), &a), (&name(1), &b));
    let keys: Vec<&str> = found.differences.iter().map(|d| d.key.as_str()).collect();
    assert_eq!((keys.as_slice(), found.compared), (["programmed/mtu", "host/os"].as_slice(), 3));
}

#[test]
fn the_odd_one_out_needs_no_rule() {
    let usual = profile(&[("host/kernel", "6.8", 80), ("host/modules", "vxlan", 90)]);
    let odd = profile(&[("host/kernel", "6.9", 80), ("host/modules", "none", 90)]);
    let all = BTreeMap::from([(name(0), usual.clone()), (name(1), odd), (name(2), usual.clone()), (name(3), usual)]);
    let found = majority(&all);
    assert_eq!(found.differences.len(), 2);
    for d in &found.differences {
        assert_eq!((d.usual_nodes, d.odd.len(), d.odd[0].1.as_slice()), (3, 1, [name(1)].as_slice()));
    }
    assert_eq!(found.differences[0].key, "host/modules");
}

#[test]
fn half_and_half_is_undecided() {
    let (a, b) = (profile(&[("k", "1", 50)]), profile(&[("k", "2", 50)]));
    let found = majority(&BTreeMap::from([(name(0), a), (name(1), b)]));
    assert!(found.differences.is_empty());
    assert_eq!(found.undecided.len(), 1);
}

#[test]
fn what_was_not_read_is_no_difference() {
    let a = profile(&[("host/kernel", "6.8", 80), ("programmed/mtu", "1450", 95)]);
    let mut b = profile(&[("programmed/mtu", "1450", 95)]);
    b.unknown.insert("host/".to_string(), alloc::vec![Gap::new("host", "not mounted")]);
    let found = pair((&name(0), &a), (&name(1), &b));
    assert!(found.differences.is_empty());
    assert_eq!(found.unknown[&name(1)].len(), 1);
    // Absent and known to be is a difference.
    b.unknown.clear();
    assert_eq!(pair((&name(0), &a), (&name(1), &b)).differences.len(), 1);
}

fn profiles() -> impl Strategy<Value = Profile> {
    proptest::collection::btree_map("[a-d]", ("[0-2]", 0_u8..100), 0..4).prop_map(|facts| Profile {
        facts: facts
            .into_iter()
            .map(|(key, (value, weight))| (key, Fact { value, weight }))
            .collect(),
        unknown: BTreeMap::new(),
    })
}

proptest! {
    #[test]
    fn nothing_differs_from_itself(a in profiles(), n in 2_usize..6) {
        prop_assert!(pair((&name(0), &a), (&name(1), &a)).differences.is_empty());
        let all: BTreeMap<NodeName, Profile> = (0..n).map(|i| (name(i), a.clone())).collect();
        let found = majority(&all);
        prop_assert!(found.differences.is_empty() && found.undecided.is_empty());
    }

    #[test]
    fn both_ways_find_the_same_facts(a in profiles(), b in profiles()) {
        let keys = |c: Comparison| c.differences.into_iter().map(|d| d.key).collect::<BTreeSet<_>>();
        prop_assert_eq!(keys(pair((&name(0), &a), (&name(1), &b))), keys(pair((&name(1), &b), (&name(0), &a))));
    }

    #[test]
    fn one_odd_node_among_three_is_named(usual in profiles(), odd in profiles()) {
        let all = BTreeMap::from([(name(0), usual.clone()), (name(1), usual.clone()), (name(2), odd.clone())]);
        let found = majority(&all);
        prop_assert!(found.undecided.is_empty());
        prop_assert_eq!(found.differences.len(), pair((&name(0), &usual), (&name(2), &odd)).differences.len());
        for d in found.differences {
            prop_assert_eq!(d.odd.iter().flat_map(|(_, n)| n.clone()).collect::<Vec<_>>(), [name(2)].to_vec());
        }
    }
}
