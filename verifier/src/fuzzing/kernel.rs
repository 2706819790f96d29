//! What the kernel answers.

use crate::{
    observed::{btf::Btf, foreign, layout, symbols},
    programmed::{
        conntrack,
        decode::{AF_BRIDGE, AF_INET, AF_INET6, address, link, neighbor, netconf, route, rule},
        filters::{legacy, nftables},
        netlink::{Malformed, attrs, dump::Assembly},
    },
};
use verifier_ebpf::{config::Layout, plain::Field as _};

/// Bytes of the smallest message: its header.
const MESSAGE_BYTES_MIN: usize = 16;

/// One datagram of a dump, through every decoder of rtnetlink.
pub(super) fn netlink(bytes: &[u8]) {
    datagram(bytes, |kind, message| {
        let mut first = None;
        for family in [AF_INET, AF_INET6, AF_BRIDGE] {
            let found = [
                link::decode(kind, message).map(|found| found.is_some()),
                address::decode(family, kind, message).map(|found| found.is_some()),
                route::decode(family, kind, message).map(|found| found.is_some()),
                rule::decode(family, kind, message).map(|found| found.is_some()),
                neighbor::decode(family, kind, message).map(|found| found.is_some()),
                neighbor::decode_fdb(kind, message).map(|found| found.is_some()),
                netconf::decode(family, kind, message).map(|found| found.is_some()),
            ];
            for found in found {
                if found? {
                    first = Some(());
                }
            }
        }
        Ok(first)
    });
}

/// One datagram of nf_tables' chains and rules.
pub(super) fn nftables(bytes: &[u8]) {
    datagram(bytes, |kind, message| {
        let chain = nftables::chain(kind, message)?.map(|_| ());
        Ok(nftables::rule(kind, message)?.map(|_| ()).or(chain))
    });
}

/// One datagram of ctnetlink.
pub(super) fn conntrack(bytes: &[u8]) {
    datagram(bytes, |kind, message| {
        let flow = conntrack::flow(kind, message)?.map(|_| ());
        Ok(conntrack::per_cpu(kind, message)?.map(|_| ()).or(flow))
    });
}

/// One datagram of the filters of an interface.
pub(super) fn tc_filter(bytes: &[u8]) {
    let interface = bytes.get(20..).and_then(|rest| rest.first_chunk()).copied();
    datagram(bytes, |kind, message| {
        let own = foreign::filter(u32::from_ne_bytes(interface.unwrap_or_default()), kind, message)?;
        Ok(own.map(|_| ()))
    });
}

/// Assembles a dump of one datagram, which carries its own sequence number.
fn datagram(bytes: &[u8], decode: impl Fn(u16, &[u8]) -> Result<Option<()>, Malformed>) {
    let sequence = bytes.get(8..).and_then(|rest| rest.first_chunk()).copied();
    let mut assembly = Assembly::new(u32::from_ne_bytes(sequence.unwrap_or_default()), decode);
    let fault = assembly.feed(bytes).err();
    let whole = assembly.finish(fault);
    let messages = whole.values.len() as u64 + whole.undecodable;
    assert!(messages <= (bytes.len() / MESSAGE_BYTES_MIN) as u64, "more messages than bytes");
    assert_eq!(
        whole.undecodable > 0,
        whole.first_undecodable.is_some(),
        "a message that did not decode is told"
    );
    assert!(
        whole.is_whole() || !whole.into_evidence("test").is_complete(),
        "less than whole is never complete"
    );
    // The walk by itself ends, whatever the lengths say.
    assert!(
        attrs(bytes).take_while(Result::is_ok).count() <= bytes.len() / 4 + 1,
        "more attributes than bytes"
    );
}

/// The table of x_tables: what is known of it, then its entries.
pub(super) fn iptables_legacy(bytes: &[u8]) {
    let Some((info, entries)) = bytes.split_at_checked(legacy::INFO_BYTES) else {
        return;
    };
    for layout in [&legacy::IPV4, &legacy::IPV6] {
        if let Ok((rules, chains)) = legacy::parse(layout, "filter", info, entries) {
            assert!(rules.len() <= entries.len() / layout.entry_bytes, "more rules than bytes");
            assert!(chains.len() <= entries.len() / layout.entry_bytes, "more policies than entries");
        }
    }
}

/// Type information, and the questions that are asked of it.
pub(super) fn btf(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes.to_vec()) else { return };
    for (structure, path) in [
        ("sk_buff", &["network_header"] as &[&str]),
        ("sock", &["__sk_common", "skc_net"]),
        ("outer", &["b", "y"]),
        ("", &["", "", ""]),
    ] {
        let _: Result<u32, _> = btf.offset(structure, path);
    }
    for name in ["skb_drop_reason", "reason", ""] {
        if let Ok(values) = btf.enumerators(name) {
            assert!(values.len() <= bytes.len() / 8, "more enumerators than bytes");
        }
    }
    let _: Result<Layout, _> = layout::resolve(&btf);
}

/// The kernel's symbols.
pub(super) fn kallsyms(bytes: &[u8]) {
    let addresses = [1, 0xffff_ffff_8100_02a0, 0xffff_ffff_c000_0123, u64::MAX].into();
    if let Ok(found) = symbols::resolve(bytes, &addresses) {
        assert!(
            found.keys().all(|address| addresses.contains(address)),
            "an address that nobody asked for"
        );
    }
}

/// The fields of a tracepoint, as tracefs prints them.
pub(super) fn tracepoint_format(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(layout) = layout::add_tracepoint(Layout::ZERO, text)
    {
        assert!(text.contains("skbaddr") && text.contains("location"), "{layout:?} from nothing");
    }
}
