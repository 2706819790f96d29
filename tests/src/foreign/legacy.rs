//! Rules of iptables-legacy, written with the ABI that `iptables-legacy` itself uses: one
//! setsockopt replaces a whole table (uapi/linux/netfilter_ipv4/ip_tables.h). No binary needed.

use std::{ffi::c_int, io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// `IPT_SO_SET_REPLACE` and `IPT_SO_GET_INFO`.
const SET_REPLACE: c_int = 64;
const GET_INFO: c_int = 64;
/// `struct ipt_getinfo`: name, valid hooks, two arrays of five, number of entries, size.
const INFO_BYTES: usize = 32 + 4 + 20 + 20 + 4 + 4;
const NUM_ENTRIES_AT: usize = 76;
/// `struct ipt_entry` and the two targets, padded.
const ENTRY_BYTES: u16 = 112;
const STANDARD_BYTES: u16 = 40;
const ERROR_BYTES: u16 = 64;
/// Verdicts as they stand in a standard target: `-NF_DROP - 1`, `-NF_ACCEPT - 1`.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
/// INPUT, FORWARD and OUTPUT.
const FILTER_HOOKS: u32 = 0b1110;

/// Interface patterns of a rule; empty matches any, a trailing `+` matches a prefix.
#[derive(Debug, Clone, Copy)]
struct Interfaces<'a> {
    input: &'a str,
    output: &'a str,
}

const ANY: Interfaces<'_> = Interfaces { input: "", output: "" };

/// Name and mask, sixteen bytes each.
fn interface(pattern: &str) -> ([u8; 16], [u8; 16]) {
    let mut name = [0; 16];
    let mut mask = [0; 16];
    // An exact name is compared with its terminating zero.
    let (text, compared) = match pattern.strip_suffix('+') {
        Some(prefix) => (prefix, prefix.len()),
        None if pattern.is_empty() => ("", 0),
        None => (pattern, pattern.len() + 1),
    };
    for (slot, byte) in name.iter_mut().zip(text.bytes()) {
        *slot = byte;
    }
    for slot in mask.iter_mut().take(compared) {
        *slot = 0xff;
    }
    (name, mask)
}

fn entry(blob: &mut Vec<u8>, interfaces: Interfaces<'_>, target_bytes: u16) {
    let (input, input_mask) = interface(interfaces.input);
    let (output, output_mask) = interface(interfaces.output);
    // struct ipt_ip: addresses and masks, interfaces and masks, protocol, flags, inverted flags
    blob.extend_from_slice(&[0; 16]);
    for part in [input, output, input_mask, output_mask] {
        blob.extend_from_slice(&part);
    }
    blob.extend_from_slice(&[0; 4]);
    // nfcache, target_offset, next_offset, comefrom, counters
    blob.extend_from_slice(&[0; 4]);
    blob.extend_from_slice(&ENTRY_BYTES.to_ne_bytes());
    blob.extend_from_slice(&(ENTRY_BYTES + target_bytes).to_ne_bytes());
    blob.extend_from_slice(&[0; 4 + 16]);
}

/// `struct xt_entry_target`: size, name, revision.
fn target(blob: &mut Vec<u8>, size: u16, name: &str) {
    blob.extend_from_slice(&size.to_ne_bytes());
    let mut bytes = [0u8; 30];
    for (slot, byte) in bytes.iter_mut().zip(name.bytes()) {
        *slot = byte;
    }
    blob.extend_from_slice(&bytes);
}

fn standard(blob: &mut Vec<u8>, interfaces: Interfaces<'_>, verdict: i32) -> u32 {
    let at = u32::try_from(blob.len()).unwrap_or(0);
    entry(blob, interfaces, STANDARD_BYTES);
    target(blob, STANDARD_BYTES, "");
    blob.extend_from_slice(&verdict.to_ne_bytes());
    blob.extend_from_slice(&[0; 4]);
    at
}

/// Every table ends with this entry.
fn end(blob: &mut Vec<u8>) {
    entry(blob, ANY, ERROR_BYTES);
    target(blob, ERROR_BYTES, "ERROR");
    let mut name = [0u8; 32];
    name[..5].copy_from_slice(b"ERROR");
    blob.extend_from_slice(&name);
}

/// Puts `-A FORWARD -i INPUT -o OUTPUT -j DROP` into the filter table of the calling thread's
/// namespace, as its only rule.
pub fn drop_forwarded(input: &str, output: &str) -> Result<()> {
    replace_filter(Some(Interfaces { input, output }))
}

/// Empties the filter table. The table itself stays, as after `iptables -F`.
pub fn flush_filter() -> Result<()> {
    replace_filter(None)
}

fn replace_filter(dropped: Option<Interfaces<'_>>) -> Result<()> {
    let mut rules = Vec::new();
    let input = standard(&mut rules, ANY, ACCEPT);
    let dropped = dropped.map(|interfaces| standard(&mut rules, interfaces, DROP));
    let forward_policy = standard(&mut rules, ANY, ACCEPT);
    let output = standard(&mut rules, ANY, ACCEPT);
    end(&mut rules);
    let entries = 4 + u32::from(dropped.is_some());

    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).context("open a raw socket")?;
    let old_entries = number_of_entries(&socket)?;
    let mut counters = vec![0u8; old_entries as usize * 16];

    // struct ipt_replace
    let mut blob = vec![0u8; 32];
    blob[..6].copy_from_slice(b"filter");
    blob.extend_from_slice(&FILTER_HOOKS.to_ne_bytes());
    blob.extend_from_slice(&entries.to_ne_bytes());
    blob.extend_from_slice(&u32::try_from(rules.len()).unwrap_or(0).to_ne_bytes());
    // Where each hook's rules begin, then where each hook's policy stands.
    for hooks in [
        [0, input, dropped.unwrap_or(forward_policy), output, 0],
        [0, input, forward_policy, output, 0],
    ] {
        for at in hooks {
            blob.extend_from_slice(&at.to_ne_bytes());
        }
    }
    blob.extend_from_slice(&old_entries.to_ne_bytes());
    blob.extend_from_slice(&(counters.as_mut_ptr() as usize as u64).to_ne_bytes());
    blob.extend_from_slice(&rules);
    // SAFETY: the descriptor is open; `blob` is a whole ipt_replace with its entries, and the
    // counters it points to are large enough for the table's old entries and outlive the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            SET_REPLACE,
            blob.as_ptr().cast(),
            libc::socklen_t::try_from(blob.len()).context("the table's length")?,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).context("replace the iptables-legacy filter table")
    }
}

/// Asking makes the table exist.
fn number_of_entries(socket: &Socket) -> Result<u32> {
    let mut info = [0u8; INFO_BYTES];
    info[..6].copy_from_slice(b"filter");
    let mut length = libc::socklen_t::try_from(INFO_BYTES).context("the length of ipt_getinfo")?;
    // SAFETY: the descriptor is open; `info` is a whole ipt_getinfo of `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            GET_INFO,
            info.as_mut_ptr().cast(),
            &mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("ask for the iptables-legacy filter table");
    }
    match info[NUM_ENTRIES_AT..] {
        [a, b, c, d, ..] => Ok(u32::from_ne_bytes([a, b, c, d])),
        _ => Ok(0),
    }
}

/// Number of entries of the filter table of the calling thread's namespace: one for each rule, one
/// for each of three policies, one for the end.
pub fn filter_entries() -> Result<u32> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).context("open a raw socket")?;
    number_of_entries(&socket)
}
