//! A batch of probes in flight: events in, results out. It opens no socket and reads no clock.
//!
//! What is known of a probe is the *set* of what happened to it, so the outcome does not depend on the order in which it was heard of:
//!
//! - Evidence ranks. An answer outranks everything: the packet got through and back. Then a port-unreachable from the destination
//!   itself (delivered, nobody reflected it), then any other ICMP error, then a refusal of the far reflector, then the failure to send,
//!   then silence.
//! - Of several of one rank the earliest counts, so a duplicate changes nothing (and is counted).
//! - Silence is a loss at the deadline, provisionally; finally 4 s later, because NEIGH_FAILED and the host-unreachable that follows
//!   come about 3 s after the packet (`mcast_solicit` 3 times `retrans_time` 1 s, `net/ipv4/arp.c` and `net/ipv6/ndisc.c`).
//! - An ICMP error belongs to the probe whose id it quotes. One that quotes only ports belongs to the probe that had them, if
//!   there is only one; else it is counted, not guessed.
//!
//! What cannot be matched is counted in [`SessionCounters`], never dropped in silence.

mod counters;
mod track;

use super::{
    config::smallest_bytes,
    id::{incarnation, low},
    result::{Probe, ProbeResult, Transport},
};
use crate::names::UnixNs;
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
pub use counters::SessionCounters;
use track::{Rejection, Track};

/// How long late neighbour failures are waited for after the deadline, ns.
pub const LATE_NS: u64 = 4_000_000_000;

/// Times of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Without an answer after this long a probe is lost, ns.
    pub deadline_ns: u64,
    /// For how long after that evidence may still arrive, ns.
    pub late_ns: u64,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            deadline_ns: 1_000_000_000,
            late_ns: LATE_NS,
        }
    }
}

/// What an ICMP error says of the packet it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Transport of the packet.
    pub transport: Transport,
    /// Where it went.
    pub to: IpAddr,
    /// Its source port, or the identifier of an echo, if quoted.
    pub src_port: Option<u16>,
    /// Low 32 bits of its id, if enough was quoted.
    pub id_low: Option<u32>,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The kernel took the packet.
    Sent {
        /// Id of the probe.
        id: u64,
        /// Wall clock.
        at: UnixNs,
        /// Monotonic clock, ns.
        mono_ns: u64,
    },
    /// The kernel did not take it.
    NotSent {
        /// Id of the probe.
        id: u64,
        /// Wall clock.
        at: UnixNs,
        /// Monotonic clock, ns.
        mono_ns: u64,
        /// `errno`, if a system call failed.
        errno: Option<i32>,
        /// Why, for a person.
        why: String,
        /// Whether the failure speaks of the dataplane.
        of_dataplane: bool,
    },
    /// A UDP or ICMP reply whose tag was verified.
    Reply {
        /// Id it carries.
        id: u64,
        /// Sequence it carries.
        seq: u32,
        /// Where it came from.
        from: IpAddr,
        /// When, on the monotonic clock, ns.
        mono_ns: u64,
    },
    /// A RST or SYN-ACK from the probed port to a reserved port.
    TcpReply {
        /// Its acknowledgement number less one: the low half of the probe's id (`verifier/src/probe/packet.rs` says how).
        id_low: u32,
        /// RST; else SYN-ACK.
        reset: bool,
        /// Our port.
        src_port: u16,
        /// Where it came from.
        from: IpAddr,
        /// When, on the monotonic clock, ns.
        mono_ns: u64,
    },
    /// An ICMP error.
    IcmpError {
        /// About what.
        quote: Quote,
        /// Who sent it.
        from: IpAddr,
        /// ICMP type.
        icmp_type: u8,
        /// ICMP code.
        icmp_code: u8,
        /// MTU of a fragmentation-needed, of IPv6 a packet-too-big.
        mtu: Option<u32>,
        /// When, on the monotonic clock, ns.
        mono_ns: u64,
    },
    /// The far reflector says that it refused the probe.
    Refused {
        /// Id of the probe.
        id: u64,
        /// Why.
        reason: String,
    },
    /// Something arrived on a probe's socket that is no probe: shorter than its header.
    Truncated,
    /// A reply whose tag does not match, or of an unknown key or version.
    Forged,
    /// A reply whose ICMP or TCP checksum does not hold. An application would never see it, so it is no answer.
    BadChecksum,
}

/// A batch of probes.
#[derive(Clone, Debug)]
pub struct Session {
    options: SessionOptions,
    tracks: BTreeMap<u64, Track>,
    /// Low 32 bits to ids: unique unless two probes of the batch coincide, then nothing is guessed from them.
    by_low: BTreeMap<u32, Vec<u64>>,
    /// Ids by transport and source port, for what names no id.
    by_port: BTreeMap<(Transport, u16), Vec<u64>>,
    counters: SessionCounters,
}

impl Session {
    /// A session for these probes.
    pub fn new(probes: impl IntoIterator<Item = Probe>, options: SessionOptions) -> Self {
        let tracks: BTreeMap<u64, Track> = probes.into_iter().map(|probe| (probe.id, Track::new(probe))).collect();
        let mut by_low: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        let mut by_port: BTreeMap<(Transport, u16), Vec<u64>> = BTreeMap::new();
        for (id, track) in &tracks {
            by_low.entry(low(*id)).or_default().push(*id);
            by_port.entry((track.probe.transport, track.probe.src_port)).or_default().push(*id);
        }
        Self {
            options,
            tracks,
            by_low,
            by_port,
            counters: SessionCounters::default(),
        }
    }

    /// Takes an event; gives the id of the probe that it was about, if it was about one.
    pub fn handle(&mut self, event: Event) -> Option<u64> {
        match event {
            Event::Sent { id, at, mono_ns } => self.with(id, |track, _| track.sent(at, mono_ns)),
            Event::NotSent {
                id,
                at,
                mono_ns,
                errno,
                why,
                of_dataplane,
            } => self.with(id, |track, _| track.not_sent(at, mono_ns, errno, why, of_dataplane)),
            Event::Reply { id, seq, from, mono_ns } => self.reply(id, seq, from, mono_ns),
            Event::TcpReply {
                id_low,
                reset,
                src_port,
                from,
                mono_ns,
            } => self.tcp_reply(id_low, reset, src_port, from, mono_ns),
            Event::IcmpError {
                quote,
                from,
                icmp_type,
                icmp_code,
                mtu,
                mono_ns,
            } => {
                let Some(id) = self.quoted(&quote) else {
                    self.counters.unmatched_errors += 1;
                    return None;
                };
                self.with(id, |track, _| {
                    track.rejected(Rejection {
                        mono_ns,
                        icmp_type,
                        icmp_code,
                        from,
                        mtu,
                    });
                })
            }
            Event::Refused { id, reason } => self.with(id, |track, _| track.refused(reason)),
            Event::Truncated => {
                self.counters.truncated += 1;
                None
            }
            Event::Forged => {
                self.counters.forged += 1;
                None
            }
            Event::BadChecksum => {
                self.counters.bad_checksum += 1;
                None
            }
        }
    }

    fn with(&mut self, id: u64, change: impl FnOnce(&mut Track, &mut SessionCounters)) -> Option<u64> {
        if let Some(track) = self.tracks.get_mut(&id) {
            change(track, &mut self.counters);
            Some(id)
        } else {
            self.counters.unknown += 1;
            None
        }
    }

    fn reply(&mut self, id: u64, seq: u32, from: IpAddr, mono_ns: u64) -> Option<u64> {
        match self.tracks.get(&id) {
            Some(track) if track.probe.seq == seq && track.probe.transport != Transport::Tcp => self.with(id, |track, counters| {
                counters.duplicates += u64::from(!track.answered(from, mono_ns))
            }),
            // Ours by tag and of this start of the program, or of an earlier one: an old packet sent again, or a very late one.
            _ if self.tracks.keys().next().is_some_and(|own| incarnation(*own) != incarnation(id)) => {
                self.counters.other_incarnation += 1;
                None
            }
            _ => {
                self.counters.unknown += 1;
                None
            }
        }
    }

    fn tcp_reply(&mut self, id_low: u32, reset: bool, src_port: u16, from: IpAddr, mono_ns: u64) -> Option<u64> {
        let of_port = self.by_port.get(&(Transport::Tcp, src_port)).map_or(&[][..], Vec::as_slice);
        // A listening port acknowledges the SYN and not the padding behind it.
        let padding = |track: &Track| {
            track
                .probe
                .length_bytes
                .saturating_sub(smallest_bytes(Transport::Tcp, track.probe.to.ip))
        };
        let named = |id: &&u64| low(**id) == id_low;
        let unpadded = |id: &&u64| {
            let track = self.tracks.get(*id);
            !reset && track.is_some_and(|track| low(**id).wrapping_sub(padding(track)) == id_low)
        };
        let matching = of_port.iter().find(named).or_else(|| of_port.iter().find(unpadded)).copied();
        match matching {
            Some(id) => self.with(id, |track, counters| {
                counters.duplicates += u64::from(!track.answered(from, mono_ns))
            }),
            None => {
                self.counters.unknown += 1;
                None
            }
        }
    }

    /// The one probe that a quote can be about.
    fn quoted(&self, quote: &Quote) -> Option<u64> {
        let possible = match (quote.id_low, quote.src_port) {
            (Some(wanted), _) => self.by_low.get(&wanted),
            (None, Some(port)) => self.by_port.get(&(quote.transport, port)),
            (None, None) => None,
        };
        let fits = |id: &&u64| {
            self.tracks.get(*id).is_some_and(|track| {
                track.probe.transport == quote.transport
                    && track.probe.to.ip == quote.to
                    && quote.src_port.is_none_or(|port| track.probe.src_port == port)
            })
        };
        let mut candidates = possible.into_iter().flatten().filter(fits).copied();
        let first = candidates.next();
        if candidates.next().is_some() { None } else { first }
    }

    /// Whether nothing that may still arrive is waited for at `mono_ns`.
    pub fn finished(&self, mono_ns: u64) -> bool {
        self.tracks.values().all(|track| !track.open(mono_ns, &self.options))
    }

    /// Whether this probe's end is known, so that nothing has to be listened to on its behalf.
    pub fn settled(&self, id: u64) -> bool {
        self.tracks.get(&id).is_none_or(Track::settled)
    }

    /// When time alone next changes a result: the nearest deadline after `mono_ns`, on the monotonic clock.
    pub fn next_deadline(&self, mono_ns: u64) -> Option<u64> {
        self.tracks
            .values()
            .filter_map(|track| track.next_deadline(mono_ns, &self.options))
            .min()
    }

    /// The result of one probe as of `mono_ns`; none while it is still under way.
    pub fn result(&self, id: u64, mono_ns: u64) -> Option<ProbeResult> {
        self.tracks.get(&id)?.result(mono_ns, &self.options)
    }

    /// Every result known at `mono_ns`, in order of id.
    pub fn results(&self, mono_ns: u64) -> Vec<ProbeResult> {
        self.tracks
            .values()
            .filter_map(|track| track.result(mono_ns, &self.options))
            .collect()
    }

    /// Ends the session: every probe gets a result. One that was never handed to the kernel was not sent, because of `why`; one still
    /// under way is lost, provisionally.
    pub fn close(self, mono_ns: u64, at: UnixNs, why: &str) -> (Vec<ProbeResult>, SessionCounters) {
        let options = self.options;
        let results = self
            .tracks
            .into_values()
            .map(|track| track.close(mono_ns, at, why.to_string(), &options))
            .collect();
        (results, self.counters)
    }

    /// What was counted.
    pub const fn counters(&self) -> &SessionCounters {
        &self.counters
    }
}

#[cfg(test)]
mod tests;
