//! Questions that many checks ask of a state.

use super::{Address, FdbEntry, Link, NUD_FAILED, NUD_INCOMPLETE, NUD_PERMANENT, Neighbor, Netconf, NetconfScope, NodeState};
use crate::evidence::Gap;
use alloc::vec::Vec;

/// `NUD_NONE` to `NUD_NOARP`: the states in which the kernel uses an entry (`NUD_VALID` of `include/net/neighbour.h`).
const NUD_VALID: u16 = NUD_PERMANENT | 0x40 | 0x02 | 0x10 | 0x04 | 0x08;

impl Neighbor {
    /// Whether the kernel sends to it: it has an address, confirmed or not.
    pub const fn is_valid(&self) -> bool {
        self.state & NUD_VALID != 0 && self.mac.is_some()
    }

    /// Whether resolving failed or has not ended: such an entry counts as missing.
    pub const fn is_unresolved(&self) -> bool {
        self.state & (NUD_FAILED | NUD_INCOMPLETE) != 0
    }

    /// Whether somebody put it there to stay.
    pub const fn is_permanent(&self) -> bool {
        self.state & NUD_PERMANENT != 0
    }
}

impl FdbEntry {
    /// Whether somebody put it there to stay. `bridge fdb … permanent` sets `NUD_NOARP` beside it.
    pub const fn is_permanent(&self) -> bool {
        self.state & NUD_PERMANENT != 0
    }
}

/// What is in force on one interface, of its own setting and that of `all` (`include/linux/inetdevice.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveNetconf {
    /// The interface's own (`IN_DEV_FORWARD`); writing `all` writes every interface.
    pub forwarding: Option<bool>,
    /// The maximum of both (`IN_DEV_MAXCONF`).
    pub rp_filter: Option<u8>,
    /// Either (`IN_DEV_ORCONF`).
    pub proxy_neigh: Option<bool>,
}

impl NodeState {
    /// The link of this name, as far as links were seen.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.seen()?.iter().find(|link| link.name == name)
    }

    /// The link of this index, as far as links were seen.
    pub fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.seen()?.iter().find(|link| link.index == index)
    }

    /// The addresses of a link, as far as they were seen.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses
            .seen()
            .into_iter()
            .flat_map(|all| all.iter())
            .filter(move |address| address.index == index)
    }

    /// What is in force on an interface.
    ///
    /// # Errors
    /// The gaps of netconf.
    pub fn effective_netconf(&self, index: u32, v6: bool) -> Result<EffectiveNetconf, Vec<Gap>> {
        let all = self.netconf.all()?;
        let of = |scope| all.iter().find(move |n: &&Netconf| n.v6 == v6 && n.scope == scope);
        let (every, own) = (of(NetconfScope::All), of(NetconfScope::Link(index)));
        Ok(EffectiveNetconf {
            forwarding: own.and_then(|n| n.forwarding),
            rp_filter: every.and_then(|n| n.rp_filter).max(own.and_then(|n| n.rp_filter)),
            proxy_neigh: every.and_then(|n| n.proxy_neigh).max(own.and_then(|n| n.proxy_neigh)),
        })
    }
}
