//! x_tables (iptables-legacy) by socket options: `include/uapi/linux/netfilter_ipv4/ip_tables.h` and `netfilter/x_tables.h`.
//!
//! Only tables that the kernel already has are read (`/proc/net/ip_tables_names`): asking for another one would load its module.

use super::{Filters, nftables::target};
use crate::programmed::netns::Netns;
use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};
use verifier_core::{
    evidence::{Evidence, Gap},
    programmed::{BaseChain, FilterBackend, FilterRule, FilterVerdict},
};

const IPT_SO_GET_INFO: i32 = 64;
const IPT_SO_GET_ENTRIES: i32 = 65;
/// `struct ipt_getinfo`: name, valid hooks, five entries, five underflows, number of entries, size.
pub(crate) const INFO_BYTES: usize = 32 + 4 + 20 + 20 + 4 + 4;
/// `struct ipt_get_entries` up to its entries, which are aligned to 8.
const ENTRIES_HEAD_BYTES: usize = 40;
/// `struct ipt_entry` up to its matches.
pub(crate) const ENTRY_BYTES: usize = 112;
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

pub(super) fn look(ns: &Netns) -> Filters {
    let names = match ns.run_in(|| std::fs::read_to_string("/proc/thread-self/net/ip_tables_names")) {
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
            let raw = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::from(255)));
            match ns.open_in("a raw socket", raw) {
                Ok(opened) => socket = Some(OwnedFd::from(opened)),
                Err(error) => return failed(&error.to_string()),
            }
        }
        let Some(socket) = &socket else { continue };
        match read(socket, table) {
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

/// `getsockopt(SOL_IP, option)` into `buffer`.
fn get(socket: &OwnedFd, option: i32, buffer: &mut [u8]) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(buffer.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the kernel reads and writes at most `length` bytes at the pointer, which are the buffer's, and writes the length back.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            option,
            buffer.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn read(socket: &OwnedFd, table: &str) -> Result<(Vec<FilterRule>, Vec<BaseChain>), LegacyError> {
    let refused = |source| LegacyError::Refused {
        table: table.to_owned(),
        source,
    };
    // Between the two questions the table may change: then the size is wrong, and the kernel says EAGAIN.
    let mut last = None;
    for _ in 0..4 {
        let mut info = [0; INFO_BYTES];
        name_into(&mut info, table);
        get(socket, IPT_SO_GET_INFO, &mut info).map_err(refused)?;
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
        match get(socket, IPT_SO_GET_ENTRIES, &mut entries) {
            Ok(()) => return parse(table, &info, &entries[ENTRIES_HEAD_BYTES..]),
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
pub(crate) fn parse(table: &str, info: &[u8], blob: &[u8]) -> Result<(Vec<FilterRule>, Vec<BaseChain>), LegacyError> {
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
        let entry = blob.get(at..at + ENTRY_BYTES).ok_or_else(|| bad(at))?;
        let target_at = usize::from(half(entry, 88).ok_or_else(|| bad(at))?);
        let next = usize::from(half(entry, 90).ok_or_else(|| bad(at))?);
        // The walk must go forward, or it would not end.
        if next < ENTRY_BYTES + 32 || target_at < ENTRY_BYTES || target_at + 32 > next {
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
        let packets = long(entry, 96);
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
            chains.push(base(table, *hook, drop));
        }
        if verdict.is_some() || endpoint {
            rules.push(FilterRule {
                backend: FilterBackend::Legacy,
                family: "ip".to_owned(),
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

fn base(table: &str, hook: usize, policy_drop: bool) -> BaseChain {
    BaseChain {
        backend: FilterBackend::Legacy,
        family: "ip".to_owned(),
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
    use proptest::prelude::*;

    /// An entry as the kernel lays it out: no matches, one target.
    fn entry(name: &str, tail: &[u8], packets: u64) -> Vec<u8> {
        let next = (ENTRY_BYTES + 32 + tail.len()).next_multiple_of(8);
        let mut bytes = vec![0; next];
        bytes[88..90].copy_from_slice(&(ENTRY_BYTES as u16).to_ne_bytes());
        bytes[90..92].copy_from_slice(&(next as u16).to_ne_bytes());
        bytes[96..104].copy_from_slice(&packets.to_ne_bytes());
        bytes[ENTRY_BYTES + 2..ENTRY_BYTES + 2 + name.len()].copy_from_slice(name.as_bytes());
        bytes[ENTRY_BYTES + 32..ENTRY_BYTES + 32 + tail.len()].copy_from_slice(tail);
        bytes
    }

    #[test]
    fn chains_positions_and_policies() {
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
        let (rules, chains) = parse("filter", &info, &blob).unwrap();
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
            let _ = parse("filter", &info, &blob);
        }
    }
}
