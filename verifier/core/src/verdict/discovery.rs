//! Packets that the kernel threw away because nobody answered for the next hop's link-layer address. A dump of neighbours says the same
//! while the entry fails; the loss says it for as long as its probe counts, also when the entry has been found meanwhile.

use crate::{intent::NodeIntent, observed::Drop};
use alloc::string::String;

/// Where the kernel frees what waited in vain (net/core/neighbour.c, net/ipv4/arp.c, net/ipv6/ndisc.c); `neigh_invalidate` may be inlined
/// into the two that call it.
const FUNCTIONS: &[&str] = &[
    "neigh_invalidate",
    "neigh_timer_handler",
    "__neigh_update",
    "arp_error_report",
    "ndisc_error_report",
];

/// SKB_DROP_REASON_NEIGH_FAILED, and NEIGH_QUEUEFULL of what came when too much waited already (include/net/dropreason-core.h).
const REASONS: &[&str] = &["NEIGH_FAILED", "NEIGH_QUEUEFULL"];

/// The device out of which a lost packet should have gone, if it waited there for a link-layer address in vain. Not of tunnels: their
/// neighbours are permanent, and what is wrong with them is a matter of what was programmed.
pub(super) fn waited_on(drop: &Drop, intent: &NodeIntent) -> Option<String> {
    // A compiler names its variants of a function after it: `neigh_invalidate.isra.0`.
    let is_of = |list: &[&str], what: &Option<String>| {
        let base = what.as_deref().and_then(|what| what.split('.').next());
        base.is_some_and(|base| list.contains(&base))
    };
    let in_vain = is_of(FUNCTIONS, &drop.location) || is_of(REASONS, &drop.reason);
    let device = drop.device.as_ref().filter(|_| in_vain)?;
    let of_tunnel = intent.tunnels.iter().any(|tunnel| tunnel.device == *device);
    (!of_tunnel).then(|| device.clone())
}
