//! Intent as the kernel programs need it: who has which addresses.
//!
//! Computed from [`NodeIntent`] by a pure function; [`super::Observer::set_table`] brings the map from one table to the next by their
//! difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use verifier_core::{
    evidence::Gap,
    intent::{ConformanceTable, Encapsulation, NodeIntent},
    names::NodeName,
};
use verifier_ebpf::{
    config::{Config, POOLS, PREFIXES},
    conformance::{Owner, OwnerKey, mask},
};

/// Owner of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The node; `None` is this one.
    pub peer: Option<NodeName>,
    /// Outer address of its tunnel endpoint.
    pub vtep: Ipv4Addr,
    /// How traffic with it is meant to travel.
    pub encapsulation: Encapsulation,
}

/// Who has which addresses, and what a tap needs besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// By prefix: blocks, borrowed addresses, tunnel addresses.
    pub owners: BTreeMap<Ipv4Net, Owned>,
    /// Pools: where pods' addresses may come from.
    pub pools: Vec<Ipv4Net>,
    /// VXLAN network identifier, if intent knows it.
    pub vni: Option<u32>,
    /// Tunnel port, if intent knows it.
    pub vxlan_port: Option<u16>,
    /// What of intent the programs cannot hold: packets concerned are not judged.
    pub gaps: Vec<Gap>,
}

impl Table {
    /// The table of one node.
    pub fn of(intent: &NodeIntent) -> Self {
        let known = ConformanceTable::of(intent);
        let mut table = Self {
            vni: known.vni,
            vxlan_port: known.port,
            pools: known.pools.iter().copied().filter_map(v4).collect(),
            ..Self::default()
        };
        for owned in known.owners {
            if let (Some(prefix), IpAddr::V4(vtep)) = (v4(owned.prefix), owned.host_ip) {
                let owner = Owned {
                    encapsulation: owned.encapsulation,
                    peer: owned.peer,
                    vtep,
                };
                table.owners.insert(prefix, owner);
            }
        }
        table.limit();
        table
    }

    /// Cuts what the programs cannot hold, and says so.
    fn limit(&mut self) {
        let lengths = self.prefix_lengths();
        if let Some(kept) = lengths.get(PREFIXES - 1)
            && lengths.len() > PREFIXES
        {
            let kept = *kept;
            self.gaps.push(Gap::new(
                "observed/conformance",
                format!(
                    "{} block sizes, the programs look up {PREFIXES}: blocks larger than /{kept} are not judged",
                    lengths.len()
                ),
            ));
            self.owners.retain(|prefix, _| prefix.prefix_len() >= kept);
        }
        if self.pools.len() > POOLS {
            self.gaps.push(Gap::new(
                "observed/conformance",
                format!("{} pools, the programs look at {POOLS} for bare packets", self.pools.len()),
            ));
            self.pools.truncate(POOLS);
        }
    }

    /// Prefix lengths of blocks, longest first, single addresses not counted.
    fn prefix_lengths(&self) -> Vec<u8> {
        let lengths: BTreeSet<u8> = self.owners.keys().map(Ipv4Net::prefix_len).filter(|length| *length < 32).collect();
        lengths.into_iter().rev().collect()
    }

    /// All nodes but this one.
    pub fn peers(&self) -> BTreeSet<&NodeName> {
        self.owners.values().filter_map(|owned| owned.peer.as_ref()).collect()
    }

    /// `config` with this table's part of it.
    pub(super) fn configure(&self, config: Config) -> Config {
        let mut config = Config {
            vni: self.vni.unwrap_or(config.vni),
            vxlan_port: self.vxlan_port.unwrap_or(config.vxlan_port),
            pool_address: Config::NOTHING.pool_address,
            pool_mask: Config::NOTHING.pool_mask,
            block_prefix: [0; PREFIXES],
            ..config
        };
        for ((address, mask), pool) in config.pool_address.iter_mut().zip(&mut config.pool_mask).zip(&self.pools) {
            *address = pool.network().to_bits();
            *mask = pool.netmask().to_bits();
        }
        for (place, length) in config.block_prefix.iter_mut().zip(self.prefix_lengths()) {
            *place = length;
        }
        config
    }

    /// Entries of the map, peers by number. A block within which an address has another owner is marked, so that the program looks twice
    /// only there.
    pub(super) fn entries(&self, number: &BTreeMap<NodeName, u32>) -> BTreeMap<[u8; OwnerKey::SIZE], Owner> {
        let mut entries: BTreeMap<[u8; OwnerKey::SIZE], Owner> = BTreeMap::new();
        let key = |prefix: &Ipv4Net| {
            OwnerKey {
                address: prefix.network().to_bits(),
                prefix: u32::from(prefix.prefix_len()),
            }
            .to_bytes()
        };
        let lengths = self.prefix_lengths();
        for (prefix, owned) in &self.owners {
            let peer = owned.peer.as_ref().and_then(|name| number.get(name)).copied().unwrap_or(0);
            let mut flags = 0;
            if owned.peer.is_none() {
                flags |= Owner::LOCAL;
            }
            flags |= match owned.encapsulation {
                Encapsulation::Vxlan => Owner::VXLAN,
                Encapsulation::Ipip => Owner::IPIP,
                Encapsulation::None => 0,
            };
            let owner = Owner {
                vtep: owned.vtep.to_bits(),
                peer,
                flags,
                reserved: 0,
            };
            if prefix.prefix_len() == 32 && self.block_of(prefix.addr(), &lengths).is_some_and(|(_, block)| block == owned) {
                // The same as its block says: no exception.
                continue;
            }
            entries.insert(key(prefix), owner);
        }
        let exceptions: Vec<Ipv4Addr> = self
            .owners
            .keys()
            .filter(|prefix| prefix.prefix_len() == 32 && entries.contains_key(&key(prefix)))
            .map(Ipv4Net::addr)
            .collect();
        for address in exceptions {
            if let Some((block, _)) = self.block_of(address, &lengths)
                && let Some(owner) = entries.get_mut(&key(&block))
            {
                owner.flags |= Owner::EXCEPTIONS;
            }
        }
        entries
    }

    /// The block that the program would find for an address.
    fn block_of(&self, address: Ipv4Addr, lengths: &[u8]) -> Option<(Ipv4Net, &Owned)> {
        lengths.iter().find_map(|&length| {
            let Ok(prefix) = Ipv4Net::new(Ipv4Addr::from_bits(address.to_bits() & mask(length)), length) else {
                return None;
            };
            self.owners.get(&prefix).map(|owned| (prefix, owned))
        })
    }
}

fn v4(prefix: IpNet) -> Option<Ipv4Net> {
    match prefix {
        IpNet::V4(prefix) => Some(prefix.trunc()),
        IpNet::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owned(name: &str, last: u8) -> Owned {
        Owned {
            peer: Some(name.into()),
            vtep: Ipv4Addr::new(192, 168, 0, last),
            encapsulation: Encapsulation::Vxlan,
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
    fn look_up(entries: &BTreeMap<[u8; OwnerKey::SIZE], Owner>, config: &Config, address: u32) -> Option<Owner> {
        let get = |prefix: u8| {
            let key = OwnerKey {
                address: address & mask(prefix),
                prefix: u32::from(prefix),
            };
            entries.get(&key.to_bytes()).copied()
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

    #[test]
    fn an_exception_marks_its_block_and_agreement_is_none() {
        let table = table(&[
            ("10.0.0.0/26", owned("b", 2)),
            ("10.0.0.5/32", owned("c", 3)),
            ("10.0.0.6/32", owned("b", 2)),
            ("10.0.0.64/26", owned("c", 3)),
        ]);
        let number = [("b".into(), 1), ("c".into(), 2)].into();
        let entries = table.entries(&number);
        assert_eq!(entries.len(), 3);
        let marked: Vec<u32> = entries
            .values()
            .filter(|owner| owner.flags & Owner::EXCEPTIONS != 0)
            .map(|owner| owner.peer)
            .collect();
        assert_eq!(marked, [1]);
    }

    #[test]
    fn too_many_block_sizes_are_a_gap_not_a_wrong_answer() {
        let mut table = table(&[
            ("10.0.0.0/24", owned("a", 1)),
            ("10.1.0.0/25", owned("a", 1)),
            ("10.2.0.0/26", owned("a", 1)),
            ("10.3.0.0/27", owned("a", 1)),
            ("10.4.0.0/28", owned("a", 1)),
        ]);
        table.limit();
        assert_eq!(table.gaps.len(), 1);
        assert_eq!(table.owners.len(), 4);
    }

    proptest! {
        #[test]
        fn the_lookup_finds_the_longest_prefix_first_and_exact_before_that(
            prefixes in prop::collection::btree_map((0u32..64, prop::sample::select(vec![26u8, 28, 32])), 1u8..4, 1..12),
            address in 0u32..4096,
        ) {
            let base = u32::from_be_bytes([10, 0, 0, 0]);
            let mut table = Table::default();
            for ((place, length), node) in prefixes {
                let network = Ipv4Addr::from_bits((base + place * 16) & mask(length));
                table.owners.insert(Ipv4Net::new(network, length).unwrap(), owned(&node.to_string(), node));
            }
            let number: BTreeMap<NodeName, u32> = (1..4u32).map(|node| (node.to_string().into(), node)).collect();
            let entries = table.entries(&number);
            let config = table.configure(Config::NOTHING);
            let address = base + address;
            let want = table
                .owners
                .iter()
                .filter(|(prefix, _)| prefix.contains(&Ipv4Addr::from_bits(address)))
                .max_by_key(|(prefix, _)| prefix.prefix_len())
                .map(|(_, owned)| owned.vtep.to_bits());
            prop_assert_eq!(look_up(&entries, &config, address).map(|owner| owner.vtep), want);
        }
    }
}
