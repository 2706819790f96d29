//! x_tables (iptables-legacy, ip6tables-legacy) by socket options: `include/uapi/linux/netfilter_ipv4/ip_tables.h`,
//! `netfilter_ipv6/ip6_tables.h` and `netfilter/x_tables.h`.
//!
//! Only tables that the kernel already has are read (`/proc/net/ip_tables_names`): asking for another one would load its module.

use super::{Filters, joined, nftables::target};
use crate::programmed::netns::Netns;
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};
use verifier_core::{
    evidence::{Evidence, Gap},
    programmed::{BaseChain, FilterBackend, FilterRule, FilterVerdict},
};

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: i32 = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo` and `struct ip6t_getinfo`: name, valid hooks, five entries, five underflows, number of entries, size.
pub(crate) const INFO_BYTES: usize = 32 + 4 + 20 + 20 + 4 + 4;
/// `struct ipt_get_entries` up to its entries, which are aligned to 8.
const ENTRIES_HEAD_BYTES: usize = 40;

/// Where the two families differ.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Family as nft prints it.
    pub(crate) family: &'static str,
    names: &'static str,
    domain: socket2::Domain,
    level: i32,
    /// Bytes of an entry up to its matches.
    pub(crate) entry_bytes: usize,
    /// Offset of `target_offset`; `next_offset` follows it.
    target_at: usize,
    counters_at: usize,
}

/// `struct ipt_entry`.
pub(crate) const IPV4: Layout = Layout {
    family: "ip",
    names: "/proc/thread-self/net/ip_tables_names",
    domain: socket2::Domain::IPV4,
    level: libc::SOL_IP,
    entry_bytes: 112,
    target_at: 88,
    counters_at: 96,
};

/// `struct ip6t_entry`: `struct ip6t_ip6` has 136 bytes where `struct ipt_ip` has 84.
pub(crate) const IPV6: Layout = Layout {
    family: "ip6",
    names: "/proc/thread-self/net/ip6_tables_names",
    domain: socket2::Domain::IPV6,
    level: libc::SOL_IPV6,
    entry_bytes: 168,
    target_at: 140,
    counters_at: 152,
};

/// A rule set larger than this is refused rather than copied.
const SIZE_MAX: usize = 64 << 20;
const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];
const CHAINS: [&str; 5] = ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"];

/// Why a table could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LegacyError {
    #[error("the kernel refused table {table}: {source}")]
    Refused { table: String, source: io::Error },
    #[error("table {table} is not laid out as expected at byte {at}")]
    Layout { table: String, at: usize },
    #[error("table {table} has {bytes} bytes, more than are read")]
    TooLarge { table: String, bytes: usize },
}

/// The tables of both families.
pub(super) fn look(ns: &Netns) -> Filters {
    let (v4, v6) = (look_at(&IPV4, ns), look_at(&IPV6, ns));
    Filters {
        rules: joined(v4.rules, v6.rules),
        base_chains: joined(v4.base_chains, v6.base_chains),
    }
}

fn look_at(layout: &'static Layout, ns: &Netns) -> Filters {
    let names = match ns.run_in(|| std::fs::read_to_string(layout.names)) {
        Ok(Ok(names)) => names,
        // No such file: the kernel has no x_tables, so there is nothing to miss.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Ok(Err(error)) => return failed(&error.to_string()),
        Err(error) => return failed(&error.to_string()),
    };
    let (mut rules, mut chains, mut missing) = (Vec::new(), Vec::new(), Vec::new());
    let mut socket = None;
    for table in names.lines().filter(|name| !name.is_empty()) {
        if socket.is_none() {
            let raw = || socket2::Socket::new(layout.domain, socket2::Type::RAW, Some(socket2::Protocol::from(255)));
            match ns.open_in("a raw socket", raw) {
                Ok(opened) => socket = Some(OwnedFd::from(opened)),
                Err(error) => return failed(&error.to_string()),
            }
        }
        let Some(socket) = &socket else { continue };
        match read(layout, socket, table) {
            Ok((own_rules, own_chains)) => {
                rules.extend(own_rules);
                chains.extend(own_chains);
            }
            Err(error) => missing.push(Gap::new("programmed/filters", error.to_string())),
        }
    }
    Filters {
        rules: Evidence::partial(rules, missing.clone()),
        base_chains: Evidence::partial(chains, missing),
    }
}

fn failed(why: &str) -> Filters {
    let why = format!("iptables-legacy: {why}");
    Filters {
        rules: Evidence::unavailable("programmed/filters", why.clone()),
        base_chains: Evidence::unavailable("programmed/base-chains", why),
    }
}

/// `getsockopt(level, option)` into `buffer`.
fn get(socket: &OwnedFd, level: i32, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel reads and writes at most `length` bytes at the pointer, which are the buffer's, and writes the length back.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read(layout: &Layout, socket: &OwnedFd, table: &str) -> Result<(Vec<FilterRule>, Vec<BaseChain>), LegacyError> {
    let refused = |source| LegacyError::Refused {
        table: table.to_owned(),
        source,
    };
    // Between the two questions the table may change: then the size is wrong, and the kernel says EAGAIN.
    let mut last = None;
    for _ in 0..4 {
        let mut info = [0; INFO_BYTES];
        name_into(&mut info, table);
        get(socket, layout.level, GET_INFO, &mut info).map_err(refused)?;
        let size = word(&info, 80).unwrap_or(0) as usize;
        if size > SIZE_MAX {
            return Err(LegacyError::TooLarge {
                table: table.to_owned(),
                bytes: size,
            });
        }
        let mut entries = vec![0; ENTRIES_HEAD_BYTES + size];
        name_into(&mut entries, table);
        entries[32..36].copy_from_slice(&(size as u32).to_ne_bytes());
        match get(socket, layout.level, GET_ENTRIES, &mut entries) {
            Ok(()) => return parse(layout, table, &info, &entries[ENTRIES_HEAD_BYTES..]),
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => last = Some(error),
            Err(error) => return Err(refused(error)),
        }
    }
    Err(refused(last.unwrap_or_else(|| io::Error::from(io::ErrorKind::WouldBlock))))
}

fn name_into(buffer: &mut [u8], table: &str) {
    for (slot, byte) in buffer.iter_mut().take(31).zip(table.bytes()) {
        *slot = byte;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.first_chunk::<4>().copied().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.first_chunk::<2>().copied().map(u16::from_ne_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.first_chunk::<8>().copied().map(u64::from_ne_bytes)
}

/// Name in a field of fixed size.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Rules and base chains of a table: `struct ipt_getinfo`, then its entries.
pub(crate) fn parse(layout: &Layout, table: &str, info: &[u8], blob: &[u8]) -> Result<(Vec<FilterRule>, Vec<BaseChain>), LegacyError> {
    let entry_bytes = layout.entry_bytes;
    let bad = |at| LegacyError::Layout {
        table: table.to_owned(),
        at,
    };
    let valid = word(info, 32).ok_or_else(|| bad(0))?;
    let hooks: Vec<(usize, u32, u32)> = (0..5)
        .filter(|hook| valid & (1 << hook) != 0)
        .filter_map(|hook| Some((hook, word(info, 36 + 4 * hook)?, word(info, 56 + 4 * hook)?)))
        .collect();
    let (mut rules, mut chains) = (Vec::new(), Vec::new());
    let mut chain = String::new();
    let (mut at, mut position) = (0_usize, 0_u64);
    while at < blob.len() {
        let entry = blob.get(at..at + entry_bytes).ok_or_else(|| bad(at))?;
        let target_at = usize::from(half(entry, layout.target_at).ok_or_else(|| bad(at))?);
        let next = usize::from(half(entry, layout.target_at + 2).ok_or_else(|| bad(at))?);
        // The walk must go forward, or it would not end.
        if next < entry_bytes + 32 || target_at < entry_bytes || target_at + 32 > next {
            return Err(bad(at));
        }
        let target_bytes = blob.get(at + target_at..at + next).ok_or_else(|| bad(at))?;
        let name = text(target_bytes.get(2..31).ok_or_else(|| bad(at))?);
        position += 1;
        if name == "ERROR" {
            // The head of a user's chain, or the end of the table.
            chain = text(target_bytes.get(32..62.min(target_bytes.len())).unwrap_or_default());
            position = 0;
            at += next;
            continue;
        }
        if let Some((hook, ..)) = hooks.iter().find(|(_, entry, _)| *entry as usize == at) {
            chain = CHAINS.get(*hook).copied().unwrap_or("?").to_owned();
            position = 1;
        }
        let policy = hooks.iter().find(|(_, _, underflow)| *underflow as usize == at);
        let packets = long(entry, layout.counters_at);
        let verdict = if name.is_empty() {
            // The standard target: a verdict below zero, minus one, negated; a jump from zero on.
            match word(target_bytes, 32).map(u32::cast_signed) {
                Some(-1) => Some(FilterVerdict::Drop),
                _ => None,
            }
        } else {
            target(&name)
        };
        let endpoint = chain.starts_with("cali-tw-") || chain.starts_with("cali-fw-");
        if let Some((hook, ..)) = policy {
            let drop = verdict == Some(FilterVerdict::Drop);
            chains.push(base(layout, table, *hook, drop));
        }
        if verdict.is_some() || endpoint {
            rules.push(FilterRule {
                backend: FilterBackend::Legacy,
                family: layout.family.to_owned(),
                table: table.to_owned(),
                chain: chain.clone(),
                handle: if policy.is_some() { None } else { Some(position) },
                verdict: verdict.unwrap_or(FilterVerdict::Other),
                packets,
                moved: None,
                comment: policy.map(|_| "policy drop".to_owned()),
            });
        }
        at += next;
    }
    Ok((rules, chains))
}

fn base(layout: &Layout, table: &str, hook: usize, policy_drop: bool) -> BaseChain {
    BaseChain {
        backend: FilterBackend::Legacy,
        family: layout.family.to_owned(),
        table: table.to_owned(),
        chain: CHAINS.get(hook).copied().unwrap_or("?").to_owned(),
        hook: HOOKS.get(hook).copied().unwrap_or("?").to_owned(),
        priority: 0,
        device: None,
        policy_drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programmed::testing::{TestNs, root};
    use proptest::prelude::*;

    /// An entry as the kernel lays it out: no matches, one target.
    fn entry(layout: &Layout, name: &str, tail: &[u8], packets: u64) -> Vec<u8> {
        let (head, at) = (layout.entry_bytes, layout.target_at);
        let next = (head + 32 + tail.len()).next_multiple_of(8);
        let mut bytes = vec![0; next];
        bytes[at..at + 2].copy_from_slice(&(head as u16).to_ne_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&(next as u16).to_ne_bytes());
        bytes[layout.counters_at..layout.counters_at + 8].copy_from_slice(&packets.to_ne_bytes());
        bytes[head + 2..head + 2 + name.len()].copy_from_slice(name.as_bytes());
        bytes[head + 32..head + 32 + tail.len()].copy_from_slice(tail);
        bytes
    }

    /// Asking for the table makes it: the layout and the walk are held against a real one, with its policies and the entry that ends it.
    #[test]
    fn the_kernels_own_empty_tables_are_read() {
        if !root() {
            return;
        }
        let ns = TestNs::new("legacy");
        for layout in [&IPV4, &IPV6] {
            let raw = || socket2::Socket::new(layout.domain, socket2::Type::RAW, Some(socket2::Protocol::from(255)));
            let socket = OwnedFd::from(ns.netns().open_in("a raw socket", raw).unwrap());
            let (rules, chains) = match read(layout, &socket, "filter") {
                Ok(found) => found,
                // A kernel without x_tables.
                Err(LegacyError::Refused { source, .. }) if matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ENOPROTOOPT)) => {
                    continue;
                }
                Err(error) => panic!("{error}"),
            };
            assert_eq!(rules, []);
            let hooks: Vec<&str> = chains.iter().map(|c| c.hook.as_str()).collect();
            assert_eq!(hooks, ["input", "forward", "output"]);
            assert!(chains.iter().all(|c| c.family == layout.family && !c.policy_drop), "{chains:?}");
            let seen = look(&ns.netns());
            let seen = seen.base_chains.all().unwrap();
            assert_eq!(seen.iter().filter(|c| c.family == layout.family).count(), 3);
        }
    }

    #[test]
    fn chains_positions_and_policies() {
        for layout in [&IPV4, &IPV6] {
            chains_of(layout);
        }
    }

    fn chains_of(layout: &Layout) {
        let entry = |name: &str, tail: &[u8], packets| entry(layout, name, tail, packets);
        let drop = (-1_i32).to_ne_bytes();
        let accept = (-2_i32).to_ne_bytes();
        let mut blob = entry("", &drop, 7);
        let underflow = blob.len() as u32;
        blob.extend(entry("", &accept, 3));
        blob.extend(entry("ERROR", b"cali-tw-x\0", 0));
        blob.extend(entry("", &accept, 1));
        blob.extend(entry("ERROR", b"ERROR\0", 0));
        let mut info = [0; INFO_BYTES];
        info[32..36].copy_from_slice(&(1_u32 << 2).to_ne_bytes());
        info[36 + 8..36 + 12].copy_from_slice(&0_u32.to_ne_bytes());
        info[56 + 8..56 + 12].copy_from_slice(&underflow.to_ne_bytes());
        let (rules, chains) = parse(layout, "filter", &info, &blob).unwrap();
        assert_eq!(chains.len(), 1);
        assert!(!chains[0].policy_drop);
        assert_eq!(rules.len(), 2, "{rules:?}");
        assert_eq!(
            (rules[0].chain.as_str(), rules[0].packets, rules[0].verdict.clone()),
            ("FORWARD", Some(7), FilterVerdict::Drop)
        );
        assert_eq!(rules[1].chain, "cali-tw-x");
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(info in proptest::collection::vec(any::<u8>(), INFO_BYTES), blob in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&IPV4, "filter", &info, &blob);
            let _ = parse(&IPV6, "filter", &info, &blob);
        }
    }
}
