//! A bad network: the kernel's `netem` queueing discipline on a link, which delays, loses, damages, reorders and repeats what is sent there.

use std::time::Duration;

use anyhow::{Context, Result};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use crate::{
    nft::Attributes,
    nl::{Rtnl, absent_is_fine, errno},
};

/// `TC_H_ROOT` (uapi/linux/pkt_sched.h).
const ROOT: TcHandle = TcHandle {
    major: 0xffff,
    minor: 0xffff,
};
/// `TCA_OPTIONS`. Not marked as nested: attributes follow a structure.
const OPTIONS: u16 = 2;
/// `TCA_NETEM_REORDER`, `TCA_NETEM_CORRUPT`, `TCA_NETEM_LATENCY64`.
const REORDER: u16 = 3;
const CORRUPT: u16 = 4;
const LATENCY64: u16 = 10;
/// Packets that may wait.
const LIMIT: u32 = 10_000;

/// What a link does to packets; zero is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Netem {
    /// how long each packet waits
    pub delay: Duration,
    /// how many of a hundred are lost
    pub loss_percent: u32,
    /// how many of a hundred have one bit turned
    pub corrupt_percent: u32,
    /// how many of a hundred do not wait, and so overtake those that do
    pub reorder_percent: u32,
    /// how many of a hundred come twice
    pub duplicate_percent: u32,
}

fn message(index: u32) -> Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).context("an interface index")?;
    message.header.parent = ROOT;
    Ok(message)
}

/// A share of `u32::MAX`, as netem has its probabilities.
fn probability(percent: u32) -> u32 {
    u32::try_from(u64::from(u32::MAX) * u64::from(percent.min(100)) / 100).unwrap_or(u32::MAX)
}

/// `struct tc_netem_qopt` and the attributes after it.
fn options(netem: &Netem) -> Vec<u8> {
    // Every packet that is not picked for overtaking waits.
    let gap = u32::from(netem.reorder_percent > 0);
    let fields = [
        0,
        LIMIT,
        probability(netem.loss_percent),
        gap,
        probability(netem.duplicate_percent),
        0,
    ];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field: &u32| field.to_ne_bytes()).collect();
    // A probability and its correlation with the packet before, which is none.
    let pair = |percent: u32| [probability(percent).to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    let delay = i64::try_from(netem.delay.as_nanos()).unwrap_or(i64::MAX);
    let mut attributes = Attributes::default().bytes(LATENCY64, &delay.to_ne_bytes());
    if netem.reorder_percent > 0 {
        attributes = attributes.bytes(REORDER, &pair(netem.reorder_percent));
    }
    if netem.corrupt_percent > 0 {
        attributes = attributes.bytes(CORRUPT, &pair(netem.corrupt_percent));
    }
    bytes.extend(attributes.into_bytes());
    bytes
}

/// Impairs what is sent by `link`. None if this kernel cannot.
///
/// # Errors
/// The kernel refuses for another reason than that it has no netem.
pub fn impair(link: &str, netem: &Netem) -> Result<Option<()>> {
    let mut nl = Rtnl::open()?;
    let mut qdisc = message(nl.index(link)?)?;
    qdisc.header.handle = TcHandle { major: 1, minor: 0 };
    qdisc.attributes.push(TcAttribute::Kind("netem".to_owned()));
    qdisc.attributes.push(TcAttribute::Other(DefaultNla::new(OPTIONS, options(netem))));
    match nl.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc), NLM_F_CREATE | NLM_F_REPLACE) {
        Ok(()) => Ok(Some(())),
        // What the kernel says of a kind that it does not know.
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("impair {link}")),
    }
}

/// Takes the impairment off `link`.
///
/// # Errors
/// The kernel refuses.
pub fn relieve(link: &str) -> Result<()> {
    let mut nl = Rtnl::open()?;
    let index = nl.index(link)?;
    absent_is_fine(nl.request(RouteNetlinkMessage::DelQueueDiscipline(message(index)?), 0)).with_context(|| format!("relieve {link}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_a_structure_and_attributes() {
        let bytes = options(&Netem {
            delay: Duration::from_millis(1),
            loss_percent: 50,
            corrupt_percent: 100,
            ..Netem::default()
        });
        assert_eq!(bytes.len(), 24 + 12 + 12);
        assert_eq!(bytes[8..12], (u32::MAX / 2).to_ne_bytes());
        assert_eq!(bytes[28..36], 1_000_000i64.to_ne_bytes());
        assert_eq!(bytes[40..44], u32::MAX.to_ne_bytes());
        assert_eq!(options(&Netem::default()).len(), 24 + 12);
    }
}
