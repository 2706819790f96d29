//! Connection tracking by ctnetlink: how full the table is, what was lost to it, and flows that are translated.
//!
//! `include/uapi/linux/netfilter/nfnetlink_conntrack.h`; attributes are in network byte order. The statistics are kept per CPU and summed here.

use super::{
    netlink::{
        Channel, Malformed, Request,
        attr::{self, attrs},
    },
    netns::Netns,
};
use std::net::IpAddr;
use verifier_core::{
    evidence::{Evidence, Gap},
    programmed::{ConntrackFlow, ConntrackStats},
};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK << 8`, and its messages.
const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = CTNETLINK;
const GET: u16 = CTNETLINK | 1;
const GET_STATS_CPU: u16 = CTNETLINK | 4;
const GET_STATS: u16 = CTNETLINK | 5;
const ANY_FAMILY: [u8; 4] = [0; 4];
/// A table larger than this is not dumped, only counted: the dump would cost more than it tells.
const FLOWS_DUMP_MAX: u64 = 50_000;
/// Translated flows that are kept.
const FLOWS_MAX: usize = 256;
const SOURCE: &str = "programmed/conntrack";

/// One look.
pub fn look(ns: &Netns) -> Evidence<ConntrackStats> {
    let mut channel = match Channel::open(ns, NETLINK_NETFILTER) {
        Ok(channel) => channel,
        Err(error) => return Evidence::unavailable(SOURCE, error.to_string()),
    };
    let cpus = channel
        .dump(&Request::dump(GET_STATS_CPU, &ANY_FAMILY), per_cpu)
        .into_evidence(SOURCE);
    let mut missing: Vec<Gap> = cpus.gaps().to_vec();
    let mut stats = ConntrackStats::default();
    for cpu in match &cpus {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => value,
        Evidence::Unavailable { gap } => return Evidence::Unavailable { gap: gap.clone() },
    } {
        stats.insert_failed += cpu.insert_failed;
        stats.drop += cpu.drop;
        stats.early_drop += cpu.early_drop;
        stats.invalid += cpu.invalid;
    }
    // Not a dump by its nature, but the kernel answers a dump request for it with one message and the end marker or refuses it; the files
    // say the same.
    match ns.run_in(|| (number("nf_conntrack_count"), number("nf_conntrack_max"))) {
        Ok((entries, entries_max)) => {
            stats.entries = entries;
            stats.entries_max = entries_max;
        }
        Err(error) => missing.push(Gap::new(SOURCE, error.to_string())),
    }
    if stats.entries.is_some_and(|entries| entries <= FLOWS_DUMP_MAX) {
        let flows = channel.dump(&Request::dump(GET, &ANY_FAMILY), flow).into_evidence(SOURCE);
        missing.extend(flows.gaps().iter().cloned());
        if let Evidence::Complete { mut value } | Evidence::Partial { mut value, .. } = flows {
            value.sort();
            value.truncate(FLOWS_MAX);
            stats.flows = value;
        }
    }
    Evidence::partial(stats, missing)
}

/// [`look`] from a runtime.
pub async fn look_async(ns: &Netns) -> Evidence<ConntrackStats> {
    let ns = match ns.try_clone() {
        Ok(ns) => ns,
        Err(error) => return Evidence::unavailable(SOURCE, error.to_string()),
    };
    match tokio::task::spawn_blocking(move || look(&ns)).await {
        Ok(stats) => stats,
        Err(error) => Evidence::unavailable(SOURCE, format!("internal fault: {error}")),
    }
}

/// A number under /proc/sys/net/netfilter, in the calling thread's namespace.
fn number(name: &str) -> Option<u64> {
    match std::fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")) {
        Ok(text) => text.trim().parse().ok(),
        Err(error) => {
            tracing::debug!(name, %error, "conntrack");
            None
        }
    }
}

/// `CTA_STATS_*` of one CPU.
pub(crate) fn per_cpu(kind: u16, message: &[u8]) -> Result<Option<ConntrackStats>, Malformed> {
    if kind != GET_STATS_CPU && kind != GET_STATS {
        return Ok(None);
    }
    let mut stats = ConntrackStats::default();
    for attribute in attrs(message.get(4..).unwrap_or_default()) {
        let (kind, value) = attribute?;
        let slot = match kind {
            4 => &mut stats.invalid,
            9 => &mut stats.insert_failed,
            10 => &mut stats.drop,
            11 => &mut stats.early_drop,
            _ => continue,
        };
        *slot = u64::from(attr::be32_of("conntrack statistics", value)?);
    }
    Ok(Some(stats))
}

/// A flow, if it is translated: its reply is not the mirror of its original direction.
pub(crate) fn flow(kind: u16, message: &[u8]) -> Result<Option<ConntrackFlow>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let (mut original, mut reply) = (None, None);
    for attribute in attrs(message.get(4..).unwrap_or_default()) {
        match attribute? {
            (1, value) => original = tuple(value)?,
            (2, value) => reply = tuple(value)?,
            _ => {}
        }
    }
    let (Some((protocol, original)), Some((_, reply))) = (original, reply) else {
        return Ok(None);
    };
    let mirrored = original.0 == reply.1 && original.1 == reply.0;
    Ok((!mirrored).then_some(ConntrackFlow { protocol, original, reply }))
}

type Tuple = (IpAddr, IpAddr, u16, u16);

/// `CTA_TUPLE_*`: addresses and ports.
fn tuple(value: &[u8]) -> Result<Option<(u8, Tuple)>, Malformed> {
    let (mut src, mut dst, mut protocol, mut ports) = (None, None, 0, (0, 0));
    for attribute in attrs(value) {
        match attribute? {
            (1, value) => {
                for attribute in attrs(value) {
                    match attribute? {
                        (1 | 3, value) => src = Some(attr::ip_of("conntrack source", value)?),
                        (2 | 4, value) => dst = Some(attr::ip_of("conntrack destination", value)?),
                        _ => {}
                    }
                }
            }
            (2, value) => {
                for attribute in attrs(value) {
                    match attribute? {
                        (1, value) => protocol = attr::u8_of("conntrack protocol", value)?,
                        (2, value) => ports.0 = attr::be16_of("conntrack source port", value)?,
                        (3, value) => ports.1 = attr::be16_of("conntrack destination port", value)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(match (src, dst) {
        (Some(src), Some(dst)) => Some((protocol, (src, dst, ports.0, ports.1))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = flow(NEW, &bytes);
            let _ = per_cpu(GET_STATS_CPU, &bytes);
        }
    }
}
