//! The older way to attach a program: a clsact qdisc with a `bpf` classifier in direct-action mode.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcHandle, TcMessage},
};

use super::bpf::Direction;
use crate::{
    nft::Attributes,
    nl::{Rtnl, absent_is_fine},
};

/// `TC_H_CLSACT`, `TC_H_MIN_INGRESS`, `TC_H_MIN_EGRESS` (uapi/linux/pkt_sched.h).
const CLSACT_MAJOR: u16 = 0xffff;
const CLSACT_MINOR: u16 = 0xfff1;
const INGRESS_MINOR: u16 = 0xfff2;
const EGRESS_MINOR: u16 = 0xfff3;
/// `TCA_OPTIONS`, nested.
const OPTIONS: u16 = 2 | 0x8000;
/// `ETH_P_ALL`.
const ALL_PROTOCOLS: u16 = 3;

fn message(index: u32, minor: u16) -> Result<TcMessage> {
    let mut message = TcMessage::default();
    message.header.index = i32::try_from(index).context("an interface index")?;
    message.header.parent = TcHandle {
        major: CLSACT_MAJOR,
        minor,
    };
    Ok(message)
}

fn qdisc(index: u32) -> Result<TcMessage> {
    let mut message = message(index, CLSACT_MINOR)?;
    message.header.handle = TcHandle {
        major: CLSACT_MAJOR,
        minor: 0,
    };
    message.attributes.push(TcAttribute::Kind("clsact".to_owned()));
    Ok(message)
}

/// Adds a clsact qdisc to `link` and a classifier with `program` to it.
pub fn attach(program: &OwnedFd, name: &str, link: &str, direction: Direction) -> Result<()> {
    /// `TCA_BPF_FD`, `TCA_BPF_NAME`, `TCA_BPF_FLAGS`; `TCA_BPF_FLAG_ACT_DIRECT`.
    const FD: u16 = 6;
    const NAME: u16 = 7;
    const FLAGS: u16 = 8;
    const DIRECT_ACTION: u32 = 1;
    let mut nl = Rtnl::open()?;
    let index = nl.index(link)?;
    nl.request(RouteNetlinkMessage::NewQueueDiscipline(qdisc(index)?), NLM_F_CREATE | NLM_F_EXCL)
        .with_context(|| format!("add clsact to {link}"))?;
    let mut filter = message(
        index,
        match direction {
            Direction::Ingress => INGRESS_MINOR,
            Direction::Egress => EGRESS_MINOR,
        },
    )?;
    // Preference 1 in the upper half, protocol (network byte order) in the lower.
    filter.header.info = (1 << 16) | u32::from(ALL_PROTOCOLS.to_be());
    filter.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    let options = Attributes::default()
        .bytes(FD, &program.as_raw_fd().to_ne_bytes())
        .text(NAME, name)
        .bytes(FLAGS, &DIRECT_ACTION.to_ne_bytes());
    filter
        .attributes
        .push(TcAttribute::Other(DefaultNla::new(OPTIONS, options.into_bytes())));
    nl.request(RouteNetlinkMessage::NewTrafficFilter(filter), NLM_F_CREATE | NLM_F_EXCL)
        .with_context(|| format!("add a bpf classifier to {link}"))
}

/// Removes the clsact qdisc, with all classifiers on it. The verifier's own programs are on tcx
/// here and do not mind.
pub fn remove_clsact(link: &str) -> Result<()> {
    let mut nl = Rtnl::open()?;
    let index = nl.index(link)?;
    absent_is_fine(nl.request(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)?), 0))
        .with_context(|| format!("remove clsact from {link}"))
}

/// How many `bpf` classifiers a link's clsact qdisc has, both directions together.
///
/// # Errors
/// The kernel does not tell.
pub fn classifiers(nl: &mut Rtnl, index: u32) -> Result<usize> {
    let mut count = 0;
    for minor in [INGRESS_MINOR, EGRESS_MINOR] {
        for answer in nl.dump(&RouteNetlinkMessage::GetTrafficFilter(message(index, minor)?))? {
            let RouteNetlinkMessage::NewTrafficFilter(filter) = answer else {
                continue;
            };
            // One without a handle stands for the whole chain of a preference.
            let whole = filter.header.handle == TcHandle::default();
            let is_bpf = filter.attributes.contains(&TcAttribute::Kind("bpf".to_owned()));
            count += usize::from(is_bpf && !whole);
        }
    }
    Ok(count)
}

/// Kinds of all qdiscs of `link`.
pub fn qdiscs(nl: &mut Rtnl, index: u32) -> Result<Vec<String>> {
    let dump = nl.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    let mut kinds = Vec::new();
    for answer in dump {
        let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else {
            continue;
        };
        if u32::try_from(qdisc.header.index) != Ok(index) {
            continue;
        }
        for attribute in qdisc.attributes {
            if let TcAttribute::Kind(kind) = attribute {
                kinds.push(kind);
            }
        }
    }
    kinds.sort();
    Ok(kinds)
}
