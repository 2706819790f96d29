use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use verifier_ebpf::address::mask;

use super::*;

fn owned(name: &str, last: u8) -> Owned {
    Owned {
        peer: Some(name.into()),
        vtep: Ipv4Addr::new(192, 168, 0, last).into(),
        encapsulation: Encapsulation::Vxlan,
    }
}

fn owned6(name: &str, last: u16) -> Owned {
    Owned {
        vtep: Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, 0, last).into(),
        ..owned(name, 0)
    }
}

fn table(owners: &[(&str, Owned)]) -> Table {
    Table {
        owners: owners
            .iter()
            .map(|(prefix, owned)| (prefix.parse().unwrap(), owned.clone()))
            .collect(),
        ..Table::default()
    }
}

/// What the program does, on the entries.
fn look_up(entries: &Entries, config: &Config, address: u32) -> Option<Owner> {
    let get = |prefix: u8| {
        let key = OwnerKey {
            address: address & mask(prefix),
            prefix: u32::from(prefix),
        };
        entries.four.get(&key.to_bytes()).copied()
    };
    for prefix in config.block_prefix.into_iter().take_while(|prefix| *prefix != 0) {
        if let Some(owner) = get(prefix) {
            return if owner.flags & Owner::EXCEPTIONS == 0 {
                Some(owner)
            } else {
                get(32).or(Some(owner))
            };
        }
    }
    get(32)
}

/// The same of IPv6.
fn look_up6(entries: &Entries, config: &Config, address: [u64; 2]) -> Option<Owner6> {
    let get = |prefix: u8, mask: [u64; 2]| {
        let key = Owner6Key {
            address: [address[0] & mask[0], address[1] & mask[1]],
            prefix: u32::from(prefix),
            reserved: 0,
        };
        entries.six.get(&key.to_bytes()).copied()
    };
    let exact = || get(128, [u64::MAX; 2]);
    let blocks = config.block6_prefix.into_iter().zip(config.block6_mask);
    for (prefix, mask) in blocks.take_while(|(prefix, _)| *prefix != 0) {
        if let Some(owner) = get(prefix, mask) {
            return if owner.flags & Owner::EXCEPTIONS == 0 {
                Some(owner)
            } else {
                exact().or(Some(owner))
            };
        }
    }
    exact()
}

#[test]
fn an_exception_marks_its_block_and_agreement_is_none() {
    let table = table(&[
        ("10.0.0.0/26", owned("b", 2)),
        ("10.0.0.5/32", owned("c", 3)),
        ("10.0.0.6/32", owned("b", 2)),
        ("10.0.0.64/26", owned("c", 3)),
        ("fd00::/122", owned6("c", 3)),
        ("fd00::5/128", owned6("b", 2)),
        ("fd00::6/128", owned6("c", 3)),
        ("fd00::40/122", owned6("b", 2)),
    ]);
    let number = [("b".into(), 1), ("c".into(), 2)].into();
    let entries = table.entries(&number);
    assert_eq!((entries.four.len(), entries.six.len(), entries.len()), (3, 3, 6));
    let marked = |flags: u32| flags & Owner::EXCEPTIONS != 0;
    let four: Vec<u32> = entries
        .four
        .values()
        .filter(|owner| marked(owner.flags))
        .map(|owner| owner.peer)
        .collect();
    let six: Vec<u32> = entries
        .six
        .values()
        .filter(|owner| marked(owner.flags))
        .map(|owner| owner.peer)
        .collect();
    assert_eq!((four, six), (vec![1], vec![2]));
}

#[test]
fn too_many_block_sizes_are_a_gap_not_a_wrong_answer() {
    let mut table = table(&[
        ("10.0.0.0/24", owned("a", 1)),
        ("10.1.0.0/25", owned("a", 1)),
        ("10.2.0.0/26", owned("a", 1)),
        ("10.3.0.0/27", owned("a", 1)),
        ("10.4.0.0/28", owned("a", 1)),
        ("fd00::/122", owned6("a", 1)),
    ]);
    table.limit();
    assert_eq!(table.gaps.len(), 1);
    assert_eq!(table.owners.len(), 5);
}

#[test]
fn each_family_has_its_own_room() {
    let pools: Vec<IpNet> = (0..5)
        .flat_map(|n| [format!("10.{n}.0.0/16").parse().unwrap(), format!("fd00:{n}::/48").parse().unwrap()])
        .collect();
    let mut table = table(&[("fd00:1::/110", owned6("a", 1))]);
    table.pools = pools[..8].to_vec();
    table.limit();
    assert_eq!(table.gaps, []);
    let config = table.configure(Config::NOTHING);
    let inside = |address: &str| match address.parse().unwrap() {
        IpAddr::V4(address) => config.in_pool(address.to_bits()),
        IpAddr::V6(address) => config.in_pool6(words_of(address.octets())),
    };
    assert!(inside("10.3.1.1") && inside("fd00:3::1") && !inside("10.4.1.1") && !inside("fd00:4::1") && !inside("::"));
    assert_eq!((config.block_prefix, config.block6_prefix), ([0; PREFIXES], [110, 0, 0, 0]));
    table.pools = pools;
    table.limit();
    assert_eq!((table.gaps.len(), table.pools.len()), (2, 8));
}

/// Prefixes as a cluster has them, on few addresses so that they meet: place, length, node.
fn any_prefixes(single: u8) -> impl Strategy<Value = BTreeMap<(u32, u8), u8>> {
    prop::collection::btree_map(
        (0u32..64, prop::sample::select(vec![single - 6, single - 4, single])),
        1u8..4,
        1..12,
    )
}

fn numbers() -> BTreeMap<NodeName, u32> {
    (1..4u32).map(|node| (node.to_string().into(), node)).collect()
}

/// The tunnel endpoint that the longest prefix gives.
fn longest(table: &Table, address: IpAddr) -> Option<IpAddr> {
    let holding = table.owners.iter().filter(|(prefix, _)| prefix.contains(&address));
    holding.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, owned)| owned.vtep)
}

proptest! {
    #[test]
    fn the_lookup_finds_the_longest_prefix_first_and_exact_before_that(prefixes in any_prefixes(32), address in 0u32..4096) {
        let base = u32::from_be_bytes([10, 0, 0, 0]);
        let mut table = Table::default();
        for ((place, length), node) in prefixes {
            let network = IpNet::new(Ipv4Addr::from_bits(base + place * 16).into(), length).unwrap().trunc();
            table.owners.insert(network, owned(&node.to_string(), node));
        }
        let entries = table.entries(&numbers());
        let config = table.configure(Config::NOTHING);
        let address = Ipv4Addr::from_bits(base + address);
        let found = look_up(&entries, &config, address.to_bits()).map(|owner| IpAddr::from(Ipv4Addr::from_bits(owner.vtep)));
        prop_assert_eq!(found, longest(&table, address.into()));
    }

    #[test]
    fn the_lookup_of_ipv6_does_the_same(prefixes in any_prefixes(128), address in 0u16..4096) {
        let mut table = Table::default();
        for ((place, length), node) in prefixes {
            let network = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, (place * 16) as u16);
            table.owners.insert(IpNet::new(network.into(), length).unwrap().trunc(), owned6(&node.to_string(), node.into()));
        }
        let entries = table.entries(&numbers());
        let config = table.configure(Config::NOTHING);
        let address = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, address);
        let found = look_up6(&entries, &config, words_of(address.octets())).map(|owner| owner.vtep);
        let want = longest(&table, address.into()).map(|vtep| match vtep {
            IpAddr::V6(vtep) => words_of(vtep.octets()),
            IpAddr::V4(_) => [0; 2],
        });
        prop_assert_eq!(found, want);
    }
}
