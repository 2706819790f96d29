//! Intent as the kernel programs need it: who has which addresses.
//!
//! Computed from [`NodeIntent`] by a pure function; [`super::Observer::set_table`] brings the map from one table to the next by their
//! difference.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use verifier_core::{
    evidence::Gap,
    intent::{ConformanceTable, Encapsulation, NodeIntent},
    names::NodeName,
};
use verifier_ebpf::{
    address::{mask6, words_of},
    config::{Config, POOLS, PREFIXES},
    conformance::{Owner, Owner6, Owner6Key, OwnerKey},
};

/// Owner of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owned {
    /// The node; `None` is this one.
    pub peer: Option<NodeName>,
    /// Outer address of its tunnel endpoint, of the prefix's family.
    pub vtep: IpAddr,
    /// How traffic with it is meant to travel.
    pub encapsulation: Encapsulation,
}

/// Who has which addresses, and what a tap needs besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// By prefix: blocks, borrowed addresses, tunnel addresses.
    pub owners: BTreeMap<IpNet, Owned>,
    /// How packets from each peer to addresses of each pool are meant to arrive; empty where all pools travel in one way.
    pub arriving: BTreeMap<NodeName, Vec<(IpNet, Encapsulation)>>,
    /// Pools: where pods' addresses may come from.
    pub pools: Vec<IpNet>,
    /// VXLAN network identifier, if intent knows it.
    pub vni: Option<u32>,
    /// Tunnel port, if intent knows it.
    pub vxlan_port: Option<u16>,
    /// What of intent the programs cannot hold: packets concerned are not judged.
    pub gaps: Vec<Gap>,
}

/// The entries of the two maps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Entries {
    /// Of the map `OWNERS`.
    pub(super) four: BTreeMap<[u8; OwnerKey::SIZE], Owner>,
    /// Of the map `OWNERS6`.
    pub(super) six: BTreeMap<[u8; Owner6Key::SIZE], Owner6>,
}

/// What is limited and configured for each family apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

impl Family {
    const fn of(prefix: &IpNet) -> Self {
        match prefix {
            IpNet::V4(_) => Self::Four,
            IpNet::V6(_) => Self::Six,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Four => "IPv4",
            Self::Six => "IPv6",
        }
    }
}

impl Table {
    /// The table of one node.
    pub fn of(intent: &NodeIntent) -> Self {
        let known = ConformanceTable::of(intent);
        let mut table = Self {
            vni: known.vni,
            vxlan_port: known.port,
            pools: known.pools.iter().map(IpNet::trunc).collect(),
            arriving: known.arriving,
            ..Self::default()
        };
        for owned in known.owners {
            if matches!(owned.prefix, IpNet::V4(_)) != owned.host_ip.is_ipv4() {
                // Intent pairs the families; an endpoint of the other one would be no endpoint.
                continue;
            }
            let owner = Owned {
                encapsulation: owned.encapsulation,
                peer: owned.peer,
                vtep: owned.host_ip,
            };
            table.owners.insert(owned.prefix.trunc(), owner);
        }
        table.limit();
        table
    }

    /// Cuts what the programs cannot hold, and says so.
    fn limit(&mut self) {
        for family in [Family::Four, Family::Six] {
            let lengths = self.prefix_lengths(family);
            if let Some(kept) = lengths.get(PREFIXES - 1)
                && lengths.len() > PREFIXES
            {
                let kept = *kept;
                self.gaps.push(Gap::new(
                    "observed/conformance",
                    format!(
                        "{} block sizes of {}, the programs look up {PREFIXES}: blocks larger than /{kept} are not judged",
                        lengths.len(),
                        family.name()
                    ),
                ));
                self.owners
                    .retain(|prefix, _| Family::of(prefix) != family || prefix.prefix_len() >= kept);
            }
            let pools = self.pools_of(family).count();
            if pools > POOLS {
                self.gaps.push(Gap::new(
                    "observed/conformance",
                    format!("{pools} pools of {}, the programs look at {POOLS} for bare packets", family.name()),
                ));
                let mut left = POOLS;
                self.pools.retain(|pool| {
                    let keeps = Family::of(pool) != family || left > 0;
                    if Family::of(pool) == family {
                        left = left.saturating_sub(1);
                    }
                    keeps
                });
            }
        }
    }

    /// Pools of a family, in their order.
    fn pools_of(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.pools.iter().filter(move |pool| Family::of(pool) == family)
    }

    /// Prefix lengths of a family's blocks, longest first, single addresses not counted.
    fn prefix_lengths(&self, family: Family) -> Vec<u8> {
        let blocks = self
            .owners
            .keys()
            .filter(|prefix| Family::of(prefix) == family && !is_single(prefix));
        let lengths: BTreeSet<u8> = blocks.map(IpNet::prefix_len).collect();
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
            pool6_address: Config::NOTHING.pool6_address,
            pool6_mask: Config::NOTHING.pool6_mask,
            block6_mask: Config::NOTHING.block6_mask,
            block_prefix: [0; PREFIXES],
            block6_prefix: [0; PREFIXES],
            flags: (config.flags & !Config::MIXED) | if self.arriving.is_empty() { 0 } else { Config::MIXED },
            ..config
        };
        let four = config.pool_address.iter_mut().zip(&mut config.pool_mask);
        for ((address, mask), pool) in four.zip(self.pools_of(Family::Four)) {
            if let IpNet::V4(pool) = pool {
                *address = pool.network().to_bits();
                *mask = pool.netmask().to_bits();
            }
        }
        let six = config.pool6_address.iter_mut().zip(&mut config.pool6_mask);
        for ((address, mask), pool) in six.zip(self.pools_of(Family::Six)) {
            if let IpNet::V6(pool) = pool {
                *address = words_of(pool.network().octets());
                *mask = mask6(pool.prefix_len());
            }
        }
        for (place, length) in config.block_prefix.iter_mut().zip(self.prefix_lengths(Family::Four)) {
            *place = length;
        }
        let six = config.block6_prefix.iter_mut().zip(&mut config.block6_mask);
        for ((place, mask), length) in six.zip(self.prefix_lengths(Family::Six)) {
            *place = length;
            *mask = mask6(length);
        }
        config
    }

    /// Entries of the maps, peers by number. A block within which an address has another owner is marked, so that the program looks twice
    /// only there.
    pub(super) fn entries(&self, number: &BTreeMap<NodeName, u32>) -> Entries {
        let mut entries = Entries::default();
        let (four, six) = (self.prefix_lengths(Family::Four), self.prefix_lengths(Family::Six));
        let lengths_of = |prefix: &IpNet| match Family::of(prefix) {
            Family::Four => &four,
            Family::Six => &six,
        };
        let mut exceptions: BTreeSet<IpNet> = BTreeSet::new();
        for (prefix, owned) in &self.owners {
            if is_single(prefix)
                && let Some((block, of_block)) = self.block_of(prefix.addr(), lengths_of(prefix))
            {
                if of_block == owned {
                    // The same as its block says: no exception.
                    continue;
                }
                exceptions.insert(block);
            }
            entries.insert(prefix, owned, number, self.arriving_flags(Family::of(prefix), owned));
        }
        for block in exceptions {
            entries.mark(&block);
        }
        entries
    }

    /// How packets from an owner to each pool of a family are meant to arrive, as flags by the pool's place in the configuration.
    fn arriving_flags(&self, family: Family, owned: &Owned) -> u32 {
        let Some(arriving) = owned.peer.as_ref().and_then(|peer| self.arriving.get(peer)) else {
            return 0;
        };
        self.pools_of(family).zip(0..).fold(0, |flags, (pool, place)| {
            let carried = arriving.iter().find(|(of, _)| of.trunc() == *pool).map(|(_, e)| carrier_flags(*e));
            flags | Owner::arriving(place, carried.unwrap_or(0))
        })
    }

    /// The block that the program would find for an address.
    fn block_of(&self, address: IpAddr, lengths: &[u8]) -> Option<(IpNet, &Owned)> {
        lengths.iter().find_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.owners.get(&prefix).map(|owned| (prefix, owned))
        })
    }
}

impl Entries {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.four.len() + self.six.len()
    }

    fn insert(&mut self, prefix: &IpNet, owned: &Owned, number: &BTreeMap<NodeName, u32>, arriving: u32) {
        let peer = owned.peer.as_ref().and_then(|name| number.get(name)).copied().unwrap_or(0);
        let mut flags = carrier_flags(owned.encapsulation) | arriving;
        if owned.peer.is_none() {
            flags |= Owner::LOCAL;
        }
        match (key(prefix), owned.vtep) {
            (Key::Four(key), IpAddr::V4(vtep)) => {
                let owner = Owner {
                    vtep: vtep.to_bits(),
                    peer,
                    flags,
                    reserved: 0,
                };
                self.four.insert(key, owner);
            }
            (Key::Six(key), IpAddr::V6(vtep)) => {
                let vtep = words_of(vtep.octets());
                self.six.insert(key, Owner6 { vtep, peer, flags });
            }
            // `Table::of` lets no other pair in.
            (Key::Four(_) | Key::Six(_), _) => {}
        }
    }

    /// Says that within a block are addresses of another owner.
    fn mark(&mut self, block: &IpNet) {
        let flags = match key(block) {
            Key::Four(key) => self.four.get_mut(&key).map(|owner| &mut owner.flags),
            Key::Six(key) => self.six.get_mut(&key).map(|owner| &mut owner.flags),
        };
        if let Some(flags) = flags {
            *flags |= Owner::EXCEPTIONS;
        }
    }
}

const fn carrier_flags(encapsulation: Encapsulation) -> u32 {
    match encapsulation {
        Encapsulation::Vxlan => Owner::VXLAN,
        Encapsulation::Ipip => Owner::IPIP,
        Encapsulation::None => 0,
    }
}

enum Key {
    Four([u8; OwnerKey::SIZE]),
    Six([u8; Owner6Key::SIZE]),
}

/// The key of a prefix, in the map of its family.
fn key(prefix: &IpNet) -> Key {
    let length = u32::from(prefix.prefix_len());
    match prefix.network() {
        IpAddr::V4(network) => Key::Four(
            OwnerKey {
                address: network.to_bits(),
                prefix: length,
            }
            .to_bytes(),
        ),
        IpAddr::V6(network) => Key::Six(
            Owner6Key {
                address: words_of(network.octets()),
                prefix: length,
                reserved: 0,
            }
            .to_bytes(),
        ),
    }
}

/// Whether a prefix is one address.
fn is_single(prefix: &IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

#[cfg(test)]
mod tests;
