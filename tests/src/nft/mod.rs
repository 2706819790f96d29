//! A small nf_tables client over nfnetlink: tables, chains, sets, maps and rules, in one batch.
//!
//! The machine may have no `nft` binary, and `netlink-packet-netfilter` has no counter, conntrack,
//! masquerade, notrack or fib expression, so messages are built here (uapi/linux/netfilter/
//! nf_tables.h). Everything that names a chain in userspace's eyes (comments, key types) is set the
//! way `nft` sets it, so `nft list ruleset` prints these tables properly.

pub mod conntrack;
mod expr;

use std::io;

use anyhow::{Context, Result, bail};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::nl::{Connection, errno};

pub use expr::{Cmp, Expr, META_MARK, Verdict, ifname, rules};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const GETRULE: u16 = 7;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;

/// Protocol family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// IPv4 and IPv6
    Inet,
    /// IPv4
    Ip,
    /// IPv6
    Ip6,
    /// one device's ingress or egress
    Netdev,
    /// a bridge's frames
    Bridge,
}

impl Family {
    fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
        }
    }
}

/// Where a base chain hangs.
#[derive(Debug, Clone)]
pub struct Hook {
    /// `filter`, `nat` or `route`
    pub kind: &'static str,
    /// `NF_INET_*` or `NF_NETDEV_*`
    pub number: u32,
    /// priority
    pub priority: i32,
    /// the device, for netdev chains
    pub device: Option<String>,
}

/// `NF_INET_PRE_ROUTING` and the others (uapi/linux/netfilter.h).
pub mod hook {
    /// before routing
    pub const PREROUTING: u32 = 0;
    /// to the host itself
    pub const INPUT: u32 = 1;
    /// passing through
    pub const FORWARD: u32 = 2;
    /// from the host itself
    pub const OUTPUT: u32 = 3;
    /// after routing
    pub const POSTROUTING: u32 = 4;
    /// `NF_NETDEV_INGRESS`
    pub const NETDEV_INGRESS: u32 = 0;
}

/// An attribute being built.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Raw bytes.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A string with its terminating zero.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// A number, big-endian as nf_tables wants it.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// The encoded bytes.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Nested attributes (`NLA_F_NESTED`).
    pub fn nest(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | 0x8000, &inner.0)
    }
}

/// A transaction: all of it takes effect, or none.
#[derive(Debug, Default)]
pub struct Batch {
    messages: Vec<(u16, u16, u8, Vec<u8>)>,
}

impl Batch {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, kind: u16, flags: u16, family: Family, attributes: Attributes) {
        self.messages.push((kind, flags, family.number(), attributes.0));
    }

    /// A table; existing is fine.
    pub fn table(&mut self, family: Family, table: &str) {
        self.push(NEWTABLE, NLM_F_CREATE, family, Attributes::default().text(1, table).number(2, 0));
    }

    /// Deletes a table and all that is in it.
    pub fn delete_table(&mut self, family: Family, table: &str) {
        self.push(DELTABLE, 0, family, Attributes::default().text(1, table));
    }

    /// A chain; with a hook, a base chain with policy accept.
    pub fn chain(&mut self, family: Family, table: &str, chain: &str, hook: Option<&Hook>) {
        let mut attributes = Attributes::default().text(1, table).text(3, chain);
        if let Some(hook) = hook {
            let mut place = Attributes::default().number(1, hook.number).bytes(2, &hook.priority.to_be_bytes());
            if let Some(device) = &hook.device {
                place = place.text(3, device);
            }
            // NF_ACCEPT
            attributes = attributes.nest(4, &place).number(5, 1).text(7, hook.kind);
        }
        self.push(NEWCHAIN, NLM_F_CREATE, family, attributes);
    }

    /// Deletes an empty chain.
    pub fn delete_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.push(DELCHAIN, 0, family, Attributes::default().text(1, table).text(3, chain));
    }

    /// Deletes all rules of a chain.
    pub fn flush_chain(&mut self, family: Family, table: &str, chain: &str) {
        self.push(DELRULE, 0, family, Attributes::default().text(1, table).text(2, chain));
    }

    /// Appends a rule, or puts it at the head of the chain.
    pub fn rule(&mut self, family: Family, (table, chain): (&str, &str), at_head: bool, expressions: &[Expr], comment: Option<&str>) {
        let mut list = Attributes::default();
        for expression in expressions {
            list = list.nest(1, &expression.encode());
        }
        let mut attributes = Attributes::default().text(1, table).text(2, chain).nest(4, &list);
        if let Some(comment) = comment {
            // libnftnl's user data: type 0 is a comment, then its length, then the string.
            let mut data = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
            data.extend_from_slice(comment.as_bytes());
            data.push(0);
            attributes = attributes.bytes(7, &data);
        }
        let place = if at_head { 0 } else { NLM_F_APPEND };
        self.push(NEWRULE, NLM_F_CREATE | place, family, attributes);
    }

    /// Deletes one rule by its handle.
    pub fn delete_rule(&mut self, family: Family, table: &str, chain: &str, handle: u64) {
        self.push(
            DELRULE,
            0,
            family,
            Attributes::default().text(1, table).text(2, chain).bytes(3, &handle.to_be_bytes()),
        );
    }

    /// A set of addresses: of IPv6 in a table of that family, else of IPv4.
    pub fn address_set(&mut self, family: Family, table: &str, set: &str) {
        // Key types 7 and 8 are `ipv4_addr` and `ipv6_addr` to the nft program; the kernel does not look at it.
        let (kind, length) = if family == Family::Ip6 { (8, 16) } else { (7, 4) };
        self.push(
            NEWSET,
            NLM_F_CREATE,
            family,
            Attributes::default()
                .text(1, table)
                .text(2, set)
                .number(3, 0)
                .number(4, kind)
                .number(5, length)
                .number(10, 1),
        );
    }

    /// A map from interface names to verdicts.
    pub fn verdict_map(&mut self, family: Family, table: &str, map: &str) {
        // NFT_SET_MAP; key type 41 is `ifname`; NFT_DATA_VERDICT.
        self.push(
            NEWSET,
            NLM_F_CREATE,
            family,
            Attributes::default()
                .text(1, table)
                .text(2, map)
                .number(3, 8)
                .number(4, 41)
                .number(5, 16)
                .number(6, 0xffff_ff00)
                .number(7, 0)
                .number(10, 2),
        );
    }

    /// Adds elements to a set or a map.
    pub fn elements(&mut self, family: Family, (table, set): (&str, &str), elements: &[(Vec<u8>, Option<Verdict>)]) {
        self.element_message(NEWSETELEM, NLM_F_CREATE, family, (table, set), elements);
    }

    /// Takes elements out of a set or a map.
    pub fn delete_elements(&mut self, family: Family, place: (&str, &str), keys: &[Vec<u8>]) {
        let elements: Vec<_> = keys.iter().map(|key| (key.clone(), None)).collect();
        self.element_message(DELSETELEM, 0, family, place, &elements);
    }

    fn element_message(
        &mut self,
        kind: u16,
        flags: u16,
        family: Family,
        (table, set): (&str, &str),
        elements: &[(Vec<u8>, Option<Verdict>)],
    ) {
        let mut list = Attributes::default();
        for (key, verdict) in elements {
            let mut element = Attributes::default().nest(1, &Attributes::default().bytes(1, key));
            if let Some(verdict) = verdict {
                element = element.nest(2, &verdict.encode());
            }
            list = list.nest(1, &element);
        }
        self.push(
            kind,
            flags,
            family,
            Attributes::default().text(1, table).text(2, set).nest(3, &list),
        );
    }

    /// Sends the transaction in the calling thread's namespace and waits for its result.
    pub fn commit(self) -> Result<()> {
        if self.messages.is_empty() {
            return Ok(());
        }
        let mut connection = Connection::open(NETLINK_NETFILTER)?;
        let mut bytes = Vec::new();
        let begin = connection.next_sequence();
        put(&mut bytes, NFNL_MSG_BATCH_BEGIN, 0, begin, 0, NFNL_SUBSYS_NFTABLES, &[]);
        let mut last = begin;
        let count = self.messages.len();
        for (at, (kind, flags, family, payload)) in self.messages.into_iter().enumerate() {
            last = connection.next_sequence();
            // One acknowledgement, of the last message, says that the whole batch was taken.
            let ack = if at + 1 == count { NLM_F_ACK } else { 0 };
            let kind = (NFNL_SUBSYS_NFTABLES << 8) | kind;
            put(&mut bytes, kind, flags | ack, last, family, 0, &payload);
        }
        let end = connection.next_sequence();
        put(&mut bytes, NFNL_MSG_BATCH_END, 0, end, 0, NFNL_SUBSYS_NFTABLES, &[]);
        connection.send(&bytes).context("send an nf_tables batch")?;
        loop {
            for frame in connection.receive()? {
                match frame.errno() {
                    Some(0) if frame.sequence == last => return Ok(()),
                    Some(0) | None => {}
                    Some(number) => {
                        return Err(io::Error::from_raw_os_error(number))
                            .with_context(|| format!("nf_tables refused message {} of {count}", frame.sequence - begin));
                    }
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16, payload: &[u8]) {
    let length = u32::try_from(20 + payload.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes());
    // nfgenmsg: family, version, resource id (big-endian)
    bytes.push(family);
    bytes.push(0);
    bytes.extend_from_slice(&resource.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Deletes a table; not being there is fine.
pub fn drop_table(family: Family, table: &str) -> Result<()> {
    let mut batch = Batch::new();
    batch.delete_table(family, table);
    match batch.commit() {
        Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// One rule as it stands in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleState {
    /// family number
    pub family: u8,
    /// table
    pub table: String,
    /// chain
    pub chain: String,
    /// handle, unique in the table
    pub handle: u64,
    /// the encoded expressions, with counters (their values change)
    pub expressions: Vec<u8>,
    /// packets of the rule's first counter
    pub packets: Option<u64>,
}

impl RuleState {
    /// The expressions with their counters' values left out.
    #[must_use]
    pub fn shape(&self) -> String {
        let mut shape = String::new();
        for (_, element) in attributes(&self.expressions) {
            for (kind, value) in attributes(element) {
                match kind {
                    1 => shape.push_str(&text(value)),
                    _ if shape.ends_with("counter") => {}
                    _ => shape.push_str(&format!("({})", crate::fabric::plan::hex(value))),
                }
            }
            shape.push(' ');
        }
        shape
    }
}

/// All rules of all tables in the calling thread's namespace, in order.
pub fn dump_rules() -> Result<Vec<RuleState>> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    let sequence = connection.next_sequence();
    let mut bytes = Vec::new();
    let kind = (NFNL_SUBSYS_NFTABLES << 8) | GETRULE;
    put(&mut bytes, kind, NLM_F_DUMP, sequence, 0, 0, &[]);
    connection.send(&bytes)?;
    let mut all = Vec::new();
    loop {
        for frame in connection.receive()? {
            if frame.is_done() {
                return Ok(all);
            }
            if let Some(number) = frame.errno() {
                return Err(io::Error::from_raw_os_error(number)).context("dump nf_tables rules");
            }
            if frame.flags & 0x10 != 0 {
                bail!("the rule set changed while it was read");
            }
            all.push(parse_rule(&frame.payload)?);
        }
    }
}

fn parse_rule(payload: &[u8]) -> Result<RuleState> {
    let family = *payload.first().context("short rule message")?;
    let mut rule = RuleState {
        family,
        table: String::new(),
        chain: String::new(),
        handle: 0,
        expressions: Vec::new(),
        packets: None,
    };
    for (kind, value) in attributes(payload.get(4..).unwrap_or_default()) {
        match kind {
            1 => rule.table = text(value),
            2 => rule.chain = text(value),
            3 => rule.handle = value.try_into().map(u64::from_be_bytes)?,
            4 => {
                rule.expressions = value.to_vec();
                rule.packets = first_counter(value);
            }
            _ => {}
        }
    }
    Ok(rule)
}

fn first_counter(list: &[u8]) -> Option<u64> {
    for (_, element) in attributes(list) {
        let parts: Vec<_> = attributes(element).collect();
        let name = parts.iter().find(|(kind, _)| *kind == 1)?.1;
        if text(name) != "counter" {
            continue;
        }
        let data = parts.iter().find(|(kind, _)| *kind == 2)?.1;
        let packets = attributes(data).find(|(kind, _)| *kind == 2)?.1;
        let packets = packets.first_chunk::<8>()?;
        return Some(u64::from_be_bytes(*packets));
    }
    None
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// Walks netlink attributes; stops at the first that does not fit.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        if bytes.len() < 4 {
            return None;
        }
        let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
        let kind = u16::from_ne_bytes([bytes[2], bytes[3]]) & 0x3fff;
        if length < 4 || length > bytes.len() {
            return None;
        }
        let value = &bytes[4..length];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((kind, value))
    })
}
