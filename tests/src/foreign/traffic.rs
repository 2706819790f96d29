//! Packets that somebody on a node sends against intent: real ones, for as long as their sender lives.
//!
//! They are made here byte by byte and sent by ordinary sockets of the node, so that no state on any node tells of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::netns::Netns;

/// Fifty packets a second: enough to be counted within any window of the verifier.
const PACE: Duration = Duration::from_millis(20);
/// Three minutes of that, should nobody stop it.
const PACKETS_MAX: u32 = 9000;
/// IP in IP.
const IPPROTO_IPIP: i32 = 4;

/// A sender at work. Dropping it stops it.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<()>>,
}

impl Traffic {
    /// `inner` in VXLAN, from a node to another's tunnel.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn in_vxlan(node: &Netns, to: SocketAddr, vni: u32, inner: &[u8]) -> Result<Self> {
        let mut payload = vec![8, 0, 0, 0];
        payload.extend((vni << 8).to_be_bytes());
        // MACs that nobody has: whoever unpacks it throws it away as somebody else's.
        payload.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2]);
        // The version says which EtherType it is.
        let is_v6 = inner.first().is_some_and(|first| first >> 4 == 6);
        payload.extend(if is_v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        payload.extend(inner);
        let socket = node.run(|| Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).context("make a UDP socket"))?;
        Self::start(socket, to, payload)
    }

    /// `inner` in IP, from a node to another.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn in_ip(node: &Netns, to: Ipv4Addr, inner: &[u8]) -> Result<Self> {
        let socket = node.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_IPIP))).context("make a raw socket"))?;
        Self::start(socket, SocketAddr::new(to.into(), 0), inner.to_vec())
    }

    /// Datagrams to a pod that leave by `device`, whatever the routes to its block say.
    ///
    /// # Errors
    /// The socket cannot be made, or not be bound to the device.
    pub fn bare(node: &Netns, device: &str, pod: impl Into<IpAddr>) -> Result<Self> {
        let to = SocketAddr::new(pod.into(), 7);
        let socket = node.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP)).context("make a UDP socket")?;
            socket.bind_device(Some(device.as_bytes())).context("bind it to a device")?;
            Ok(socket)
        })?;
        Self::start(socket, to, b"not by this way".to_vec())
    }

    fn start(socket: Socket, to: SocketAddr, payload: Vec<u8>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let to = SockAddr::from(to);
        let sender = thread::Builder::new()
            .name("traffic".to_owned())
            .spawn(move || {
                for _ in 0..PACKETS_MAX {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    // An ICMP error about the one before is no reason to stop.
                    drop(socket.send_to(&payload, &to));
                    thread::park_timeout(PACE);
                }
            })
            .context("start a sender")?;
        Ok(Self {
            stop,
            sender: Some(sender),
        })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(sender) = self.sender.take() {
            sender.thread().unpark();
            // It only sends: it has nothing to tell.
            drop(sender.join());
        }
    }
}

/// A UDP datagram between two pods, checksums and all, to a port where nobody listens.
#[must_use]
pub fn datagram(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    const LENGTH: u16 = 20 + 8 + 16;
    let mut packet = vec![0x45, 0];
    packet.extend(LENGTH.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    // Without a UDP checksum, which IPv4 allows.
    packet.extend([0x9c, 0x40, 0x13, 0x88, 0, 24, 0, 0]);
    packet.extend([0; 16]);
    packet
}

/// The same of IPv6, which does not allow to leave the checksum out (RFC 8200, 8.1).
#[must_use]
pub fn datagram_v6(source: Ipv6Addr, destination: Ipv6Addr) -> Vec<u8> {
    const LENGTH: u16 = 8 + 16;
    const UDP: u8 = 17;
    let [high, low] = LENGTH.to_be_bytes();
    let mut addresses = source.octets().to_vec();
    addresses.extend(destination.octets());
    let mut udp = vec![0x9c, 0x40, 0x13, 0x88, high, low, 0, 0];
    udp.extend([0; 16]);
    // The pseudo-header: addresses, length, protocol.
    let summed = [&addresses[..], &[0, 0, high, low, 0, 0, 0, UDP], &udp].concat();
    udp[6..8].copy_from_slice(&checksum(&summed).to_be_bytes());
    let mut packet = vec![0x60, 0, 0, 0, high, low, UDP, 64];
    packet.extend(addresses);
    packet.extend(udp);
    packet
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagrams_header_sums_to_nothing() {
        let packet = datagram(Ipv4Addr::new(10, 244, 1, 2), Ipv4Addr::new(10, 244, 2, 3));
        assert_eq!(packet.len(), 44);
        assert_eq!(checksum(&packet[..20]), 0);
    }

    #[test]
    fn a_datagram_of_ipv6_sums_to_nothing_with_its_pseudo_header() {
        let packet = datagram_v6("fd00::1".parse().unwrap(), "fd00::2:3".parse().unwrap());
        assert_eq!(packet.len(), 64);
        let summed = [&packet[8..40], &[0, 0, 0, 24, 0, 0, 0, 17], &packet[40..]].concat();
        assert_eq!(checksum(&summed), 0);
    }
}
