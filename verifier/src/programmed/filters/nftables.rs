//! nf_tables by nfnetlink: `include/uapi/linux/netfilter/nf_tables.h`. Attributes are in network byte order.

use super::Filters;
use crate::programmed::{
    netlink::{
        Channel, Malformed, Request,
        attr::{self, attrs},
    },
    netns::Netns,
};
use verifier_core::{
    evidence::Evidence,
    programmed::{BaseChain, FilterBackend, FilterRule, FilterVerdict},
};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_NFTABLES << 8`.
const NFTABLES: u16 = 10 << 8;
const NEW_CHAIN: u16 = NFTABLES | 3;
const GET_CHAIN: u16 = NFTABLES | 4;
const NEW_RULE: u16 = NFTABLES | 6;
const GET_RULE: u16 = NFTABLES | 7;
/// `struct nfgenmsg`: family unspecified, version 0, resource 0.
const ANY_FAMILY: [u8; 4] = [0; 4];
/// Chains of endpoints, of which every rule with a counter is kept (`cali-tw-…`, `filter-cali-fw-…`).
const ENDPOINT: [&str; 2] = ["cali-tw-", "cali-fw-"];

pub(super) fn look(ns: &Netns) -> Filters {
    let mut channel = match Channel::open(ns, NETLINK_NETFILTER) {
        Ok(channel) => channel,
        Err(error) => {
            return Filters {
                rules: Evidence::unavailable("programmed/filters", error.to_string()),
                base_chains: Evidence::unavailable("programmed/base-chains", error.to_string()),
            };
        }
    };
    let chains = channel
        .dump(&Request::dump(GET_CHAIN, &ANY_FAMILY), chain)
        .into_evidence("programmed/base-chains");
    let rules = channel
        .dump(&Request::dump(GET_RULE, &ANY_FAMILY), rule)
        .into_evidence("programmed/filters");
    let policies: Vec<FilterRule> = chains
        .seen()
        .into_iter()
        .flatten()
        .filter_map(|(_, policy)| policy.clone())
        .collect();
    Filters {
        rules: rules.map(|mut rules| {
            rules.extend(policies);
            rules
        }),
        base_chains: chains.map(|chains| chains.into_iter().map(|(chain, _)| chain).collect()),
    }
}

/// Names of families as nft prints them (`NFPROTO_*`).
fn family(number: u8) -> String {
    match number {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        3 => "arp".to_owned(),
        5 => "netdev".to_owned(),
        7 => "bridge".to_owned(),
        10 => "ip6".to_owned(),
        other => format!("family {other}"),
    }
}

/// Names of hooks (`NF_INET_*`, `NF_NETDEV_*`).
fn hook(family: u8, number: u32) -> String {
    let name = match (family, number) {
        (5, 0) | (1, 5) => "ingress",
        (5, 1) => "egress",
        (3, 0) => "input",
        (3, 1) => "output",
        (_, 0) => "prerouting",
        (_, 1) => "input",
        (_, 2) => "forward",
        (_, 3) => "output",
        (_, 4) => "postrouting",
        (_, other) => return format!("hook {other}"),
    };
    name.to_owned()
}

/// A base chain, with its policy as a rule if that drops; none for a chain that is no base chain.
pub(crate) fn chain(kind: u16, message: &[u8]) -> Result<Option<(BaseChain, Option<FilterRule>)>, Malformed> {
    if kind != NEW_CHAIN {
        return Ok(None);
    }
    let [number, ..] = attr::head::<4>("nfgenmsg", message)?;
    let (mut table, mut name, mut at, mut policy, mut packets) = (String::new(), String::new(), None, None, None);
    for attribute in attrs(message.get(4..).unwrap_or_default()) {
        let (kind, value) = attribute?;
        match kind {
            1 => table = attr::name_of(value),
            3 => name = attr::name_of(value),
            4 => at = Some(hook_of(number, value)?),
            5 => policy = Some(attr::be32_of("chain policy", value)?),
            8 => packets = counter(value)?,
            _ => {}
        }
    }
    let Some((hook, priority, device)) = at else { return Ok(None) };
    // NF_DROP is 0.
    let policy_drop = policy == Some(0);
    let chain = BaseChain {
        backend: FilterBackend::Nftables,
        family: family(number),
        table: table.clone(),
        chain: name.clone(),
        hook,
        priority,
        device,
        policy_drop,
    };
    let policy = policy_drop.then(|| FilterRule {
        backend: FilterBackend::Nftables,
        family: family(number),
        table,
        chain: name,
        handle: None,
        verdict: FilterVerdict::Drop,
        packets,
        moved: None,
        comment: Some("policy drop".to_owned()),
    });
    Ok(Some((chain, policy)))
}

fn hook_of(family: u8, value: &[u8]) -> Result<(String, i32, Option<String>), Malformed> {
    let (mut number, mut priority, mut device) = (0, 0, None);
    for attribute in attrs(value) {
        let (kind, value) = attribute?;
        match kind {
            1 => number = attr::be32_of("hook number", value)?,
            2 => priority = attr::head::<4>("hook priority", value).map(i32::from_be_bytes)?,
            3 => device = Some(attr::name_of(value)),
            // Several devices: NFTA_HOOK_DEVS, a list of NFTA_DEVICE_NAME. The chain stands under the first, the others in its name.
            4 => {
                let mut names = Vec::new();
                for attribute in attrs(value) {
                    names.push(attr::name_of(attribute?.1));
                }
                device = names.into_iter().next().or(device);
            }
            _ => {}
        }
    }
    Ok((hook(family, number), priority, device))
}

/// `NFTA_COUNTER_PACKETS`.
fn counter(value: &[u8]) -> Result<Option<u64>, Malformed> {
    for attribute in attrs(value) {
        if let (2, value) = attribute? {
            return attr::be64_of("counter packets", value).map(Some);
        }
    }
    Ok(None)
}

/// A rule, if it is worth knowing.
pub(crate) fn rule(kind: u16, message: &[u8]) -> Result<Option<FilterRule>, Malformed> {
    if kind != NEW_RULE {
        return Ok(None);
    }
    let [number, ..] = attr::head::<4>("nfgenmsg", message)?;
    let mut out = FilterRule {
        backend: FilterBackend::Nftables,
        family: family(number),
        table: String::new(),
        chain: String::new(),
        handle: None,
        verdict: FilterVerdict::Other,
        packets: None,
        moved: None,
        comment: None,
    };
    for attribute in attrs(message.get(4..).unwrap_or_default()) {
        let (kind, value) = attribute?;
        match kind {
            1 => out.table = attr::name_of(value),
            2 => out.chain = attr::name_of(value),
            3 => out.handle = Some(attr::be64_of("rule handle", value)?),
            4 => {
                for element in attrs(value) {
                    expression(element?.1, &mut out)?;
                }
            }
            7 => out.comment = comment(value),
            _ => {}
        }
    }
    let endpoint = ENDPOINT.iter().any(|part| out.chain.contains(part)) && out.packets.is_some();
    Ok((out.verdict != FilterVerdict::Other || endpoint).then_some(out))
}

/// One expression: its name and data.
fn expression(value: &[u8], out: &mut FilterRule) -> Result<(), Malformed> {
    let (mut name, mut data) = (String::new(), &[][..]);
    for attribute in attrs(value) {
        match attribute? {
            (1, value) => name = attr::name_of(value),
            (2, value) => data = value,
            _ => {}
        }
    }
    match name.as_str() {
        "counter" => out.packets = counter(data)?.or(out.packets),
        "immediate" if drops(data)? => out.verdict = FilterVerdict::Drop,
        "reject" => out.verdict = FilterVerdict::Reject,
        "masq" => out.verdict = FilterVerdict::SourceNat,
        "redir" => out.verdict = FilterVerdict::DestinationNat,
        "nat" => {
            for attribute in attrs(data) {
                if let (1, value) = attribute? {
                    // NFT_NAT_SNAT is 0.
                    let source = attr::be32_of("nat type", value)? == 0;
                    out.verdict = if source {
                        FilterVerdict::SourceNat
                    } else {
                        FilterVerdict::DestinationNat
                    };
                }
            }
        }
        // iptables-nft keeps targets of x_tables as they are.
        "target" => {
            for attribute in attrs(data) {
                if let (1, value) = attribute? {
                    out.verdict = target(&attr::name_of(value)).unwrap_or(out.verdict.clone());
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// What a target of x_tables does, by its name.
pub(super) fn target(name: &str) -> Option<FilterVerdict> {
    match name {
        "DROP" => Some(FilterVerdict::Drop),
        "REJECT" => Some(FilterVerdict::Reject),
        "MASQUERADE" | "SNAT" | "NETMAP" => Some(FilterVerdict::SourceNat),
        "DNAT" | "REDIRECT" => Some(FilterVerdict::DestinationNat),
        _ => None,
    }
}

/// Whether an immediate puts the verdict drop into the verdict register.
fn drops(data: &[u8]) -> Result<bool, Malformed> {
    for attribute in attrs(data) {
        let (2, value) = attribute? else { continue };
        for attribute in attrs(value) {
            let (2, value) = attribute? else { continue };
            for attribute in attrs(value) {
                if let (1, value) = attribute? {
                    return Ok(attr::be32_of("verdict", value)? == 0);
                }
            }
        }
    }
    Ok(false)
}

/// The comment in a rule's user data: entries of type, length, text; type 0 is the comment (`NFTNL_UDATA_RULE_COMMENT`).
fn comment(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let value = rest.get(..usize::from(*length))?;
        if *kind == 0 {
            return Some(attr::name_of(value));
        }
        data = rest.get(usize::from(*length)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn comments_are_found_and_bad_lengths_end_the_search() {
        assert_eq!(comment(&[1, 1, 9, 0, 3, b'h', b'i', 0]), Some("hi".to_owned()));
        assert_eq!(comment(&[0, 9, b'h']), None);
        assert_eq!(comment(&[]), None);
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = rule(NEW_RULE, &bytes);
            let _ = chain(NEW_CHAIN, &bytes);
        }
    }
}
