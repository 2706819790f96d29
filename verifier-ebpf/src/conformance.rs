//! Does a packet on the underlay do what intent says? Judged in the kernel for every tunnel packet.
//!
//! Intent comes as one hash map: a block, or a single address that is an exception within one (borrowed, or a node's tunnel
//! address), to its owner. A block that has exceptions says so in its flags, so that most packets need one lookup.

use crate::config::Config;
use crate::plain;
use crate::record::Direction;

plain! {
    /// Key of the map `OWNERS`.
    pub struct OwnerKey {
        /// Network address, in host order.
        pub address: u32,
        /// Length of the prefix, 32 for a single address.
        pub prefix: u32,
    }
}

plain! {
    /// Value of the map `OWNERS`: who has these addresses.
    pub struct Owner {
        /// Outer address of the owner's tunnel endpoint, in host order.
        pub vtep: u32,
        /// Index of the owner in user space's list of peers; zero is "unknown".
        pub peer: u32,
        /// [`Owner::LOCAL`] and the others.
        pub flags: u32,
        /// Zero.
        pub reserved: u32,
    }
}

impl Owner {
    /// This very node.
    pub const LOCAL: u32 = 1;
    /// Traffic to and from the owner is meant to travel in VXLAN.
    pub const VXLAN: u32 = 2;
    /// Within this block are addresses with another owner, as entries of their own.
    pub const EXCEPTIONS: u32 = 4;
    /// Traffic to and from the owner is meant to travel in IPIP.
    pub const IPIP: u32 = 8;
    /// It is meant to travel in some tunnel; without it, bare.
    pub const TUNNELLED: u32 = Self::VXLAN | Self::IPIP;

    #[inline(always)]
    const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What a packet did against intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Conformance {
    /// As intended.
    Conforming = 0,
    /// Sent to a node that does not own the inner destination.
    WrongOwner = 1,
    /// With another network identifier than intended.
    WrongVni = 2,
    /// Received from a node that may not send the inner source.
    SpoofedSource = 3,
    /// Should be encapsulated and is bare.
    BareLeak = 4,
    /// Should be bare and is encapsulated.
    UnexpectedEncapsulation = 5,
    /// Intent was not settled, or does not know the address.
    Unjudged = 6,
}

/// How many kinds of [`Conformance`] there are.
pub const KINDS: u32 = 7;

impl Conformance {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; KINDS as usize] = [
        Self::Conforming,
        Self::WrongOwner,
        Self::WrongVni,
        Self::SpoofedSource,
        Self::BareLeak,
        Self::UnexpectedEncapsulation,
        Self::Unjudged,
    ];

    /// Whether a packet of this kind is worth a sample.
    #[inline(always)]
    pub const fn deviates(self) -> bool {
        !matches!(self, Self::Conforming | Self::Unjudged)
    }
}

/// Place of a count in the map `CONFORMANCE`.
#[inline(always)]
pub const fn slot(peer: u32, direction: Direction, kind: Conformance) -> u32 {
    (peer * 2 + direction.index()) * KINDS + kind as u32
}

/// Entries that `peers` peers need in the map `CONFORMANCE`.
pub const fn slots(peers: u32) -> u32 {
    peers * 2 * KINDS
}

/// What a packet is encapsulated in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Carrier {
    /// VXLAN.
    Vxlan = 1,
    /// IP in IP.
    Ipip = 2,
}

impl Carrier {
    /// The owner's flag that intends it.
    #[inline(always)]
    const fn flag(self) -> u32 {
        match self {
            Self::Vxlan => Owner::VXLAN,
            Self::Ipip => Owner::IPIP,
        }
    }
}

/// An encapsulated packet as the underlay tap sees it, addresses in host order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnelled {
    /// What it is encapsulated in.
    pub carrier: Carrier,
    /// Outer source.
    pub outer_source: u32,
    /// Outer destination.
    pub outer_destination: u32,
    /// Network identifier, of VXLAN.
    pub vni: u32,
    /// Inner source.
    pub source: u32,
    /// Inner destination.
    pub destination: u32,
}

/// The address whose owner decides: where it goes to when sent, where it comes from when received.
#[inline(always)]
pub const fn decisive(direction: Direction, source: u32, destination: u32) -> u32 {
    match direction {
        Direction::Ingress => source,
        Direction::Egress => destination,
    }
}

/// Judges an encapsulated packet, given the owner of its [`decisive`] address.
#[inline(always)]
pub const fn judge_tunnelled(config: &Config, direction: Direction, packet: &Tunnelled, owner: Option<&Owner>) -> Conformance {
    if config.flags & Config::JUDGE == 0 {
        return Conformance::Unjudged;
    }
    let Some(owner) = owner else {
        return Conformance::Unjudged;
    };
    let (other_end, foreign) = match direction {
        Direction::Egress => (packet.outer_destination, Conformance::WrongOwner),
        Direction::Ingress => (packet.outer_source, Conformance::SpoofedSource),
    };
    // A packet to or from the node itself has no business in the tunnel, whatever the outer address.
    if owner.vtep != other_end || owner.has(Owner::LOCAL) {
        return foreign;
    }
    // Bare by intent, or in the other kind of tunnel: then its network identifier matters to nobody.
    if !owner.has(packet.carrier.flag()) {
        return Conformance::UnexpectedEncapsulation;
    }
    if matches!(packet.carrier, Carrier::Vxlan) && packet.vni != config.vni {
        return Conformance::WrongVni;
    }
    Conformance::Conforming
}

/// Judges a bare packet, given the owner of its [`decisive`] address. `None` when it is none of our business: the owner is
/// unknown, or this node.
#[inline(always)]
pub const fn judge_bare(config: &Config, owner: Option<&Owner>) -> Option<Conformance> {
    match owner {
        Some(owner) if owner.has(Owner::LOCAL) => None,
        Some(_) if config.flags & Config::JUDGE == 0 => Some(Conformance::Unjudged),
        Some(owner) if owner.flags & Owner::TUNNELLED != 0 => Some(Conformance::BareLeak),
        Some(_) => Some(Conformance::Conforming),
        None => None,
    }
}

/// The mask of a prefix length of at most 32.
#[inline(always)]
pub const fn mask(prefix: u8) -> u32 {
    // One shift by 64 - prefix of a 64-bit value: no special case for zero.
    !((u32::MAX as u64) >> (prefix as u64 & 63)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        vni: 4096,
        flags: Config::JUDGE,
        ..Config::NOTHING
    };
    const PACKET: Tunnelled = Tunnelled {
        carrier: Carrier::Vxlan,
        outer_source: 1,
        outer_destination: 2,
        vni: 4096,
        source: 11,
        destination: 12,
    };

    const fn owner(vtep: u32, flags: u32) -> Owner {
        Owner {
            vtep,
            peer: 1,
            flags,
            reserved: 0,
        }
    }

    #[test]
    fn each_kind_has_its_case() {
        let far = owner(2, Owner::VXLAN);
        let judge = |packet: &Tunnelled, owner: &Owner| judge_tunnelled(&CONFIG, Direction::Egress, packet, Some(owner));
        assert_eq!(judge(&PACKET, &far), Conformance::Conforming);
        assert_eq!(judge(&PACKET, &owner(3, Owner::VXLAN)), Conformance::WrongOwner);
        assert_eq!(judge(&Tunnelled { vni: 1, ..PACKET }, &far), Conformance::WrongVni);
        assert_eq!(judge(&PACKET, &owner(2, 0)), Conformance::UnexpectedEncapsulation);
        let in_ip = Tunnelled {
            carrier: Carrier::Ipip,
            vni: 0,
            ..PACKET
        };
        assert_eq!(judge(&in_ip, &owner(2, Owner::IPIP)), Conformance::Conforming);
        assert_eq!(judge(&in_ip, &owner(3, Owner::IPIP)), Conformance::WrongOwner);
        assert_eq!(judge(&in_ip, &far), Conformance::UnexpectedEncapsulation);
        assert_eq!(judge(&PACKET, &owner(2, Owner::IPIP)), Conformance::UnexpectedEncapsulation);
        assert_eq!(judge(&PACKET, &owner(2, Owner::LOCAL | Owner::VXLAN)), Conformance::WrongOwner);
        assert_eq!(
            judge_tunnelled(&CONFIG, Direction::Ingress, &PACKET, Some(&owner(1, Owner::VXLAN))),
            Conformance::Conforming
        );
        assert_eq!(
            judge_tunnelled(&CONFIG, Direction::Ingress, &PACKET, Some(&far)),
            Conformance::SpoofedSource
        );
        assert_eq!(judge_tunnelled(&CONFIG, Direction::Egress, &PACKET, None), Conformance::Unjudged);
        let unsettled = Config { flags: 0, ..CONFIG };
        assert_eq!(
            judge_tunnelled(&unsettled, Direction::Egress, &PACKET, Some(&far)),
            Conformance::Unjudged
        );
    }

    #[test]
    fn bare_packets_matter_only_where_encapsulation_is_meant() {
        assert_eq!(judge_bare(&CONFIG, Some(&owner(2, Owner::VXLAN))), Some(Conformance::BareLeak));
        assert_eq!(judge_bare(&CONFIG, Some(&owner(2, Owner::IPIP))), Some(Conformance::BareLeak));
        assert_eq!(judge_bare(&CONFIG, Some(&owner(2, 0))), Some(Conformance::Conforming));
        assert_eq!(judge_bare(&CONFIG, Some(&owner(2, Owner::LOCAL))), None);
        assert_eq!(judge_bare(&CONFIG, Some(&owner(2, Owner::VXLAN | Owner::LOCAL))), None);
        assert_eq!(judge_bare(&CONFIG, None), None);
        assert_eq!(
            judge_bare(&Config { flags: 0, ..CONFIG }, Some(&owner(2, Owner::VXLAN))),
            Some(Conformance::Unjudged)
        );
    }

    #[test]
    fn masks_have_as_many_ones_as_the_prefix_says() {
        for prefix in 0..=32 {
            assert_eq!(mask(prefix).leading_ones(), u32::from(prefix));
            assert_eq!(mask(prefix).count_ones(), u32::from(prefix));
        }
    }

    #[test]
    fn no_two_counts_share_a_slot() {
        let mut seen = std::collections::BTreeSet::new();
        for peer in 0..3 {
            for direction in [Direction::Ingress, Direction::Egress] {
                for kind in Conformance::ALL {
                    assert!(seen.insert(slot(peer, direction, kind)));
                }
            }
        }
        assert_eq!(seen.last(), Some(&(slots(3) - 1)));
    }
}
