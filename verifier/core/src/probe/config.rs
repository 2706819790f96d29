//! Ports and identifiers of probes: one structure for the prober, the taps and the reflector, so that they cannot disagree.
//!
//! All of them lie above 61000, outside Linux' default `ip_local_port_range` (32768 to 60999, `net/ipv4/af_inet.c`) and outside
//! Kubernetes' node ports (30000 to 32767): an application gets such a port only by asking for it by number. Where a node's
//! range was widened over them, [`ProbeConfig::overlaps_local_range`] says so and other ports must be configured on every node.

use super::result::Transport;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};

/// IPv4 header without options, bytes.
pub const IPV4_HEADER_BYTES: u32 = 20;
/// IPv6 header without extension headers, bytes.
pub const IPV6_HEADER_BYTES: u32 = 40;
/// UDP header, and ICMP echo header: both are 8 bytes.
pub const UDP_HEADER_BYTES: u32 = 8;
/// TCP header without options, bytes.
pub const TCP_HEADER_BYTES: u32 = 20;
/// The smallest UDP or ICMP probe of IPv4: headers and the probe's own header.
pub const SMALL_BYTES: u32 = IPV4_HEADER_BYTES + UDP_HEADER_BYTES + verifier_ebpf::wire::HEADER_BYTES as u32;
/// The smallest TCP probe of IPv4: a bare SYN.
pub const SMALL_TCP_BYTES: u32 = IPV4_HEADER_BYTES + TCP_HEADER_BYTES;
/// The largest IPv4 packet.
pub const MAX_BYTES: u32 = 65_535;

/// Length of the IP header, without options, of packets to this address, bytes.
pub const fn ip_header_bytes(to: IpAddr) -> u32 {
    if to.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES }
}

/// The smallest probe of a transport to this address: a whole IP packet, bytes.
pub const fn smallest_bytes(transport: Transport, to: IpAddr) -> u32 {
    let of_ipv4 = match transport {
        Transport::Udp | Transport::Icmp => SMALL_BYTES,
        Transport::Tcp => SMALL_TCP_BYTES,
    };
    of_ipv4 - IPV4_HEADER_BYTES + ip_header_bytes(to)
}

/// A range of ports or identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// How many, at least 1.
    pub count: u16,
}

impl PortRange {
    /// The last port.
    pub const fn last(self) -> u16 {
        self.first.saturating_add(self.count.saturating_sub(1))
    }

    /// Whether it holds `port`.
    pub const fn contains(self, port: u16) -> bool {
        port >= self.first && port <= self.last()
    }

    /// The port at `index`, counted round and round.
    pub const fn pick(self, index: u64) -> u16 {
        let count = if self.count == 0 { 1 } else { self.count as u64 };
        self.first.saturating_add((index % count) as u16)
    }

    const fn overlaps(self, first: u16, last: u16) -> bool {
        self.first <= last && first <= self.last()
    }
}

/// What makes a packet a probe. The same on every node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeConfig {
    /// Destination port of UDP probes. The reflector answers on it at the pod's door; nothing in a pod may listen there.
    pub udp_port: u16,
    /// Pinned source ports of UDP probes. Each has its own outer source port and so its own path through a fabric that spreads load.
    pub udp_sources: PortRange,
    /// Destination port of TCP SYNs, closed in every pod.
    pub tcp_port: u16,
    /// Source ports reserved for TCP SYNs. The taps take a TCP packet from or to them for a probe, so nothing else may use them.
    /// They are used in turn and the range is wide: conntrack remembers a refused connection for a while, and a second SYN on the same
    /// ports with another sequence number may be invalid to it, which Calico drops.
    pub tcp_sources: PortRange,
    /// Pinned identifiers of ICMP echos: the first of them for pods, the second for the host, then the same for IPv6. The kernel gives
    /// an identifier to one datagram socket of a namespace, whichever its family (`ping_get_port`, net/ipv4/ping.c).
    pub icmp_identifiers: PortRange,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            udp_port: 61_998,
            udp_sources: PortRange { first: 62_000, count: 8 },
            tcp_port: 61_999,
            tcp_sources: PortRange {
                first: 63_000,
                count: 2_000,
            },
            icmp_identifiers: PortRange { first: 62_100, count: 4 },
        }
    }
}

/// A [`ProbeConfig`] that cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadProbeConfig {
    /// A range is empty or runs past 65535.
    #[error("{what}: {count} ports from {first} on do not fit below 65536")]
    Range {
        /// Which.
        what: &'static str,
        /// First.
        first: u16,
        /// How many.
        count: u16,
    },
    /// A port is 0.
    #[error("{what}: port 0 cannot be probed")]
    Zero {
        /// Which.
        what: &'static str,
    },
    /// The TCP destination lies in the reserved source range: a reply could not be told from a request.
    #[error("TCP destination port {port} lies in the range of TCP source ports")]
    TcpOverlap {
        /// The port.
        port: u16,
    },
    /// The UDP destination is one of the pinned source ports: a reply could not be told from a request.
    #[error("UDP destination port {port} is one of the UDP source ports")]
    UdpOverlap {
        /// The port.
        port: u16,
    },
}

impl ProbeConfig {
    /// Whether it can work.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), BadProbeConfig> {
        for (what, range) in [
            ("UDP source ports", self.udp_sources),
            ("TCP source ports", self.tcp_sources),
            ("ICMP identifiers", self.icmp_identifiers),
        ] {
            if range.count == 0 || range.first == 0 || range.first.checked_add(range.count - 1).is_none() {
                return Err(BadProbeConfig::Range {
                    what,
                    first: range.first,
                    count: range.count,
                });
            }
        }
        for (what, port) in [("UDP destination", self.udp_port), ("TCP destination", self.tcp_port)] {
            if port == 0 {
                return Err(BadProbeConfig::Zero { what });
            }
        }
        if self.tcp_sources.contains(self.tcp_port) {
            return Err(BadProbeConfig::TcpOverlap { port: self.tcp_port });
        }
        if self.udp_sources.contains(self.udp_port) {
            return Err(BadProbeConfig::UdpOverlap { port: self.udp_port });
        }
        Ok(())
    }

    /// Whether a node whose `ip_local_port_range` is `first..=last` may give a probe's port to an application.
    pub const fn overlaps_local_range(&self, first: u16, last: u16) -> bool {
        self.udp_sources.overlaps(first, last)
            || self.tcp_sources.overlaps(first, last)
            || (self.udp_port >= first && self.udp_port <= last)
            || (self.tcp_port >= first && self.tcp_port <= last)
    }

    /// The identifier of ICMP echos from a pod or from the host to this address.
    pub const fn icmp_identifier(&self, from_host: bool, to: IpAddr) -> u16 {
        self.icmp_identifiers.pick(from_host as u64 + 2 * to.is_ipv6() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works_and_is_out_of_linux_ephemeral_range() {
        let config = ProbeConfig::default();
        assert_eq!(config.check(), Ok(()));
        assert!(!config.overlaps_local_range(32_768, 60_999));
        assert!(config.overlaps_local_range(1_024, 65_535));
        assert!(config.overlaps_local_range(61_998, 61_998));
    }

    #[test]
    fn every_kind_of_socket_has_its_own_identifier_and_every_family_its_own_size() {
        let config = ProbeConfig::default();
        let (v4, v6) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]));
        let ids = [(false, v4), (true, v4), (false, v6), (true, v6)].map(|(host, to)| config.icmp_identifier(host, to));
        assert_eq!(ids, [62_100, 62_101, 62_102, 62_103]);
        let of = |transport| [smallest_bytes(transport, v4), smallest_bytes(transport, v6)];
        assert_eq!((of(Transport::Udp), of(Transport::Tcp)), ([68, 88], [40, 60]));
    }

    #[test]
    fn what_cannot_work_is_named() {
        let good = ProbeConfig::default();
        let range = |first, count| PortRange { first, count };
        assert!(
            ProbeConfig {
                udp_sources: range(65_530, 8),
                ..good
            }
            .check()
            .is_err()
        );
        assert!(
            ProbeConfig {
                tcp_sources: range(1, 0),
                ..good
            }
            .check()
            .is_err()
        );
        assert_eq!(
            ProbeConfig { tcp_port: 63_001, ..good }.check(),
            Err(BadProbeConfig::TcpOverlap { port: 63_001 })
        );
        assert_eq!(
            ProbeConfig { udp_port: 62_007, ..good }.check(),
            Err(BadProbeConfig::UdpOverlap { port: 62_007 })
        );
        assert!(ProbeConfig { udp_port: 0, ..good }.check().is_err());
    }
}
