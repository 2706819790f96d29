//! One dump per kind of object: requests of [`super::decode`] through the loop of [`super::netlink::dump`].

use super::{
    decode::{AF_BRIDGE, AF_INET, AF_INET6, address, link, neighbor, netconf, route, rule},
    netlink::{Channel, DumpFault, Dumped},
    netns::{Netns, NetnsError},
};
use std::net::IpAddr;
use verifier_core::{
    evidence::Evidence,
    names::Mac,
    programmed::{Address, FdbEntry, Link, Neighbor, Netconf, Route, Rule},
};

/// A routing netlink socket of one namespace, with a method per table.
pub struct Tables {
    channel: Channel,
    /// Messages that could not be decoded, over all dumps.
    pub undecodable: u64,
    /// Dumps that had to be taken again because the table changed under them.
    pub retries: u64,
}

impl Tables {
    /// Open one in `ns`.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the socket not be opened.
    pub fn open(ns: &Netns) -> Result<Self, NetnsError> {
        Channel::open(ns, libc::NETLINK_ROUTE as isize).map(Self::over)
    }

    /// Over a channel that is open.
    pub const fn over(channel: Channel) -> Self {
        Self {
            channel,
            undecodable: 0,
            retries: 0,
        }
    }

    /// The socket, for questions that are no dumps.
    pub const fn channel(&mut self) -> &mut Channel {
        &mut self.channel
    }

    fn evidence<T>(&mut self, source: &str, dumped: Dumped<T>) -> Evidence<Vec<T>> {
        self.undecodable += dumped.undecodable;
        self.retries += u64::from(dumped.retries);
        dumped.into_evidence(source)
    }

    /// Two families as one table. A family that the kernel does not have (`ipv6.disable=1`) is empty, not missing.
    fn both<T>(&mut self, source: &str, v4: Dumped<T>, v6: Dumped<T>) -> Evidence<Vec<T>> {
        if v6_is_absent(&v6) {
            return self.evidence(source, v4);
        }
        let v4 = self.evidence(source, v4);
        let v6 = self.evidence(source, v6);
        join(v4, v6)
    }

    /// Links in order of index.
    pub fn links(&mut self) -> Evidence<Vec<Link>> {
        let dumped = self.channel.dump(&link::request(), link::decode);
        self.evidence("programmed/links", dumped).map(sorted)
    }

    /// Addresses.
    pub fn addresses(&mut self) -> Evidence<Vec<Address>> {
        let v4 = self.channel.dump(&address::request(AF_INET), |k, m| address::decode(AF_INET, k, m));
        let v6 = self
            .channel
            .dump(&address::request(AF_INET6), |k, m| address::decode(AF_INET6, k, m));
        self.both("programmed/addresses", v4, v6).map(sorted)
    }

    /// Routes of every table.
    pub fn routes(&mut self) -> Evidence<Vec<Route>> {
        let v4 = self.channel.dump(&route::request(AF_INET), |k, m| route::decode(AF_INET, k, m));
        let v6 = self.channel.dump(&route::request(AF_INET6), |k, m| route::decode(AF_INET6, k, m));
        self.both("programmed/routes", v4, v6).map(sorted)
    }

    /// Rules of both families in the kernel's order: by priority, and among equals as they were inserted.
    pub fn rules(&mut self) -> Evidence<Vec<Rule>> {
        let v4 = self.channel.dump(&rule::request(AF_INET), |k, m| rule::decode(AF_INET, k, m));
        let v6 = self.channel.dump(&rule::request(AF_INET6), |k, m| rule::decode(AF_INET6, k, m));
        self.both("programmed/rules", v4, v6).map(|mut rules| {
            rules.sort_by_key(|rule| (rule.v6, rule.priority));
            rules
        })
    }

    /// ARP and NDP entries.
    pub fn neighbors(&mut self) -> Evidence<Vec<Neighbor>> {
        let mut of = |family| {
            self.channel.dump_loose(
                &neighbor::request(family, 0),
                |k, m| neighbor::decode(family, k, m),
                |n| (n.index, n.ip),
            )
        };
        let (v4, v6) = (of(AF_INET), of(AF_INET6));
        self.both("programmed/neighbors", v4, v6).map(sorted)
    }

    /// Forwarding entries of all bridges and VXLAN devices.
    pub fn fdb(&mut self) -> Evidence<Vec<FdbEntry>> {
        let dumped = self
            .channel
            .dump_loose(&neighbor::request(AF_BRIDGE, 0), neighbor::decode_fdb, fdb_key);
        self.evidence("programmed/fdb", dumped).map(sorted)
    }

    /// Forwarding entries of one device.
    pub fn fdb_of(&mut self, index: u32) -> Evidence<Vec<FdbEntry>> {
        let dumped = self
            .channel
            .dump_loose(&neighbor::request(AF_BRIDGE, index), neighbor::decode_fdb, fdb_key);
        self.evidence("programmed/fdb", dumped).map(sorted)
    }

    /// Interface configuration.
    pub fn netconf(&mut self) -> Evidence<Vec<Netconf>> {
        let v4 = self.channel.dump(&netconf::request(AF_INET), |k, m| netconf::decode(AF_INET, k, m));
        let v6 = self
            .channel
            .dump(&netconf::request(AF_INET6), |k, m| netconf::decode(AF_INET6, k, m));
        self.both("programmed/netconf", v4, v6).map(sorted)
    }
}

/// What makes a forwarding entry one of its own: a MAC may have several destinations.
const fn fdb_key(entry: &FdbEntry) -> (u32, Mac, Option<IpAddr>, u8) {
    (entry.index, entry.mac, entry.dst, entry.flags)
}

fn v6_is_absent<T>(v6: &Dumped<T>) -> bool {
    match &v6.fault {
        Some(DumpFault::Refused { source }) => matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT)),
        _ => false,
    }
}

/// Two parts of one table. What one part lacks, the whole lacks.
pub(crate) fn join<T>(one: Evidence<Vec<T>>, other: Evidence<Vec<T>>) -> Evidence<Vec<T>> {
    let mut values = Vec::new();
    let mut missing = Vec::new();
    let mut seen = false;
    for part in [one, other] {
        match part {
            Evidence::Complete { value } => {
                seen = true;
                values.extend(value);
            }
            Evidence::Partial { value, missing: gaps } => {
                seen = true;
                values.extend(value);
                missing.extend(gaps);
            }
            Evidence::Unavailable { gap } => missing.push(gap),
        }
    }
    match (seen, missing.pop()) {
        (false, Some(gap)) => Evidence::Unavailable { gap },
        (_, None) => Evidence::complete(values),
        (true, Some(gap)) => {
            missing.push(gap);
            Evidence::partial(values, missing)
        }
    }
}

fn sorted<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values
}
