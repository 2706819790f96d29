//! Does a packet on the underlay do what intent says? Judged in the kernel for every tunnel packet.
//!
//! Intent comes as one hash map for each family: a block, or a single address that is an exception within one (borrowed, or a node's
//! tunnel address), to its owner. A block that has exceptions says so in its flags, so that most packets need one lookup.

use crate::address::Address6;
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

plain! {
    /// Key of the map `OWNERS6`.
    pub struct Owner6Key {
        /// Network address.
        pub address: Address6,
        /// Length of the prefix, 128 for a single address.
        pub prefix: u32,
        /// Zero.
        pub reserved: u32,
    }
}

plain! {
    /// Value of the map `OWNERS6`: as [`Owner`].
    pub struct Owner6 {
        /// Outer address of the owner's tunnel endpoint.
        pub vtep: Address6,
        /// Index of the owner in user space's list of peers; zero is "unknown".
        pub peer: u32,
        /// [`Owner::LOCAL`] and the others.
        pub flags: u32,
    }
}

impl Owner {
    /// This very node.
    pub const LOCAL: u32 = 1;
    /// Traffic to the owner is meant to travel in VXLAN, and traffic from it unless [`Config::MIXED`] says otherwise.
    pub const VXLAN: u32 = 2;
    /// Within this block are addresses with another owner, as entries of their own.
    pub const EXCEPTIONS: u32 = 4;
    /// The same in IPIP.
    pub const IPIP: u32 = 8;
    /// It is meant to travel in some tunnel; without it, bare.
    pub const TUNNELLED: u32 = Self::VXLAN | Self::IPIP;

    /// Where the flags of arriving packets begin: for each pool two bits, [`Owner::VXLAN`] and [`Owner::IPIP`].
    const ARRIVING_SHIFT: u32 = 8;

    /// The flags by which packets from the owner to the pool at `place` of the configuration arrive as `carried` says.
    pub const fn arriving(place: u32, carried: u32) -> u32 {
        let bits = (carried & Self::VXLAN != 0) as u32 | ((carried & Self::IPIP != 0) as u32) << 1;
        bits << (Self::ARRIVING_SHIFT + 2 * place)
    }

    /// The flags of an owner with how packets of it to the pool at `place` arrive in place of how packets to it travel. An address in no
    /// pool (`place` past the last one) is reached as it is.
    #[inline(always)]
    pub const fn as_arriving(flags: u32, place: u32) -> u32 {
        let bits = if place < crate::config::POOLS as u32 {
            flags >> (Self::ARRIVING_SHIFT + 2 * place)
        } else {
            0
        };
        let vxlan = (bits & 1) * Self::VXLAN;
        let ipip = ((bits >> 1) & 1) * Self::IPIP;
        (flags & !Self::TUNNELLED) | vxlan | ipip
    }

    /// What [`judge_tunnelled`] is to know, of a packet whose other end is `outer`.
    #[inline(always)]
    pub const fn against(&self, outer: u32) -> Claim {
        Claim {
            flags: self.flags,
            end: if self.vtep == outer { End::Its } else { End::Another },
        }
    }
}

impl Owner6 {
    /// What [`judge_tunnelled`] is to know, of a packet whose other end is `outer`.
    #[inline(always)]
    pub const fn against(&self, outer: Address6) -> Claim {
        Claim {
            flags: self.flags,
            end: if self.vtep[0] == outer[0] && self.vtep[1] == outer[1] {
                End::Its
            } else {
                End::Another
            },
        }
    }
}

/// The other end of a tunnel packet, compared with the owner's tunnel endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The owner's.
    Its,
    /// Somebody else's.
    Another,
    /// An address of the other family: the owner's endpoint cannot be that.
    OtherFamily,
}

/// What intent says of the owner of an address, whatever its family, and where the packet went or came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// [`Owner::LOCAL`] and the others.
    pub flags: u32,
    /// The packet's other end.
    pub end: End,
}

impl Claim {
    /// The same of other flags.
    #[inline(always)]
    pub const fn with(self, flags: u32) -> Self {
        Self { flags, ..self }
    }

    #[inline(always)]
    const fn has(self, flag: u32) -> bool {
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

/// The address whose owner decides: where it goes to when sent, where it comes from when received. The same of outer addresses is the
/// other end of the tunnel.
#[inline(always)]
pub const fn decisive<A: Copy>(direction: Direction, source: A, destination: A) -> A {
    match direction {
        Direction::Ingress => source,
        Direction::Egress => destination,
    }
}

/// Judges an encapsulated packet, given what intent says of its [`decisive`] address. `vni` is not looked at outside VXLAN.
#[inline(always)]
pub const fn judge_tunnelled(config: &Config, direction: Direction, carrier: Carrier, vni: u32, claim: Option<Claim>) -> Conformance {
    if config.flags & Config::JUDGE == 0 {
        return Conformance::Unjudged;
    }
    let Some(claim) = claim else {
        return Conformance::Unjudged;
    };
    // A packet to or from the node itself has no business in the tunnel, whatever the outer address.
    if matches!(claim.end, End::Another) || claim.has(Owner::LOCAL) {
        return match direction {
            Direction::Egress => Conformance::WrongOwner,
            Direction::Ingress => Conformance::SpoofedSource,
        };
    }
    // Bare by intent, or in the other kind of tunnel: then its network identifier matters to nobody.
    if matches!(claim.end, End::OtherFamily) || !claim.has(carrier.flag()) {
        return Conformance::UnexpectedEncapsulation;
    }
    if matches!(carrier, Carrier::Vxlan) && vni != config.vni {
        return Conformance::WrongVni;
    }
    Conformance::Conforming
}

/// Judges a bare packet, given the flags of the owner of its [`decisive`] address. `None` when it is none of our business: the owner is
/// unknown, or this node.
#[inline(always)]
pub const fn judge_bare(config: &Config, flags: Option<u32>) -> Option<Conformance> {
    match flags {
        Some(flags) if flags & Owner::LOCAL != 0 => None,
        Some(_) if config.flags & Config::JUDGE == 0 => Some(Conformance::Unjudged),
        Some(flags) if flags & Owner::TUNNELLED != 0 => Some(Conformance::BareLeak),
        Some(_) => Some(Conformance::Conforming),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config = Config {
        vni: 4096,
        flags: Config::JUDGE,
        ..Config::NOTHING
    };
    const fn its(flags: u32) -> Claim {
        Claim { flags, end: End::Its }
    }

    const fn anothers(flags: u32) -> Claim {
        Claim { flags, end: End::Another }
    }

    #[test]
    fn each_kind_has_its_case() {
        let judge = |carrier, vni, claim| judge_tunnelled(&CONFIG, Direction::Egress, carrier, vni, Some(claim));
        let vxlan = |claim| judge(Carrier::Vxlan, 4096, claim);
        let in_ip = |claim| judge(Carrier::Ipip, 0, claim);
        assert_eq!(vxlan(its(Owner::VXLAN)), Conformance::Conforming);
        assert_eq!(vxlan(anothers(Owner::VXLAN)), Conformance::WrongOwner);
        assert_eq!(judge(Carrier::Vxlan, 1, its(Owner::VXLAN)), Conformance::WrongVni);
        assert_eq!(vxlan(its(0)), Conformance::UnexpectedEncapsulation);
        assert_eq!(in_ip(its(Owner::IPIP)), Conformance::Conforming);
        assert_eq!(in_ip(anothers(Owner::IPIP)), Conformance::WrongOwner);
        assert_eq!(in_ip(its(Owner::VXLAN)), Conformance::UnexpectedEncapsulation);
        assert_eq!(vxlan(its(Owner::IPIP)), Conformance::UnexpectedEncapsulation);
        assert_eq!(vxlan(its(Owner::LOCAL | Owner::VXLAN)), Conformance::WrongOwner);
        let crossed = |flags| {
            vxlan(Claim {
                flags,
                end: End::OtherFamily,
            })
        };
        assert_eq!(crossed(Owner::VXLAN), Conformance::UnexpectedEncapsulation);
        assert_eq!(crossed(Owner::VXLAN | Owner::LOCAL), Conformance::WrongOwner);
        let received = |claim| judge_tunnelled(&CONFIG, Direction::Ingress, Carrier::Vxlan, 4096, claim);
        assert_eq!(received(Some(its(Owner::VXLAN))), Conformance::Conforming);
        assert_eq!(received(Some(anothers(Owner::VXLAN))), Conformance::SpoofedSource);
        assert_eq!(received(None), Conformance::Unjudged);
        let unsettled = Config { flags: 0, ..CONFIG };
        assert_eq!(
            judge_tunnelled(&unsettled, Direction::Egress, Carrier::Vxlan, 4096, Some(its(Owner::VXLAN))),
            Conformance::Unjudged
        );
    }

    #[test]
    fn an_owner_knows_its_endpoint() {
        let four = Owner {
            vtep: 7,
            peer: 1,
            flags: Owner::VXLAN,
            reserved: 0,
        };
        assert_eq!((four.against(7), four.against(8)), (its(Owner::VXLAN), anothers(Owner::VXLAN)));
        let six = Owner6 {
            vtep: [1, 7],
            peer: 1,
            flags: Owner::VXLAN,
        };
        assert_eq!(six.against([1, 7]), its(Owner::VXLAN));
        for other in [[1, 8], [2, 7]] {
            assert_eq!(six.against(other), anothers(Owner::VXLAN));
        }
    }

    #[test]
    fn the_decisive_address_is_that_of_the_other_side() {
        assert_eq!(decisive(Direction::Egress, 1, 2), 2);
        assert_eq!(decisive(Direction::Ingress, [1_u64, 1], [2, 2]), [1, 1]);
    }

    #[test]
    fn bare_packets_matter_only_where_encapsulation_is_meant() {
        assert_eq!(judge_bare(&CONFIG, Some(Owner::VXLAN)), Some(Conformance::BareLeak));
        assert_eq!(judge_bare(&CONFIG, Some(Owner::IPIP)), Some(Conformance::BareLeak));
        assert_eq!(judge_bare(&CONFIG, Some(0)), Some(Conformance::Conforming));
        assert_eq!(judge_bare(&CONFIG, Some(Owner::LOCAL)), None);
        assert_eq!(judge_bare(&CONFIG, Some(Owner::VXLAN | Owner::LOCAL)), None);
        assert_eq!(judge_bare(&CONFIG, None), None);
        assert_eq!(
            judge_bare(&Config { flags: 0, ..CONFIG }, Some(Owner::VXLAN)),
            Some(Conformance::Unjudged)
        );
    }

    #[test]
    fn what_arrives_is_judged_by_the_pool_it_goes_to() {
        // Towards the owner in VXLAN; from it to our pools: bare, in VXLAN, in IPIP, bare.
        let flags = Owner::VXLAN | Owner::arriving(1, Owner::VXLAN) | Owner::arriving(2, Owner::IPIP) | Owner::EXCEPTIONS;
        let expected = [0, Owner::VXLAN, Owner::IPIP, 0, 0, 0];
        for (place, carried) in (0..).zip(expected) {
            let arriving = Owner::as_arriving(flags, place);
            assert_eq!(arriving & Owner::TUNNELLED, carried, "{place}");
            assert_eq!(arriving & Owner::EXCEPTIONS, Owner::EXCEPTIONS);
            let bare = judge_bare(&CONFIG, Some(arriving));
            assert_eq!(bare == Some(Conformance::Conforming), carried == 0, "{place}");
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
