//! Bare packets between two places of the fabric, by ordinary sockets: the oracle of whether a
//! fault really bites, independent of the verifier.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Whether a datagram of `size_bytes` (payload), sent from inside `source` by `from`, arrives at a
/// socket in `target` within `timeout`. Fragmentation is forbidden. `None` as `from` lets the
/// kernel choose.
pub fn udp(
    source: &Netns,
    from: Option<SocketAddr>,
    target: &Netns,
    to: impl Into<IpAddr>,
    size_bytes: usize,
    timeout: Duration,
) -> Result<Option<SocketAddr>> {
    let to = to.into();
    let receiver = target.run(|| {
        let socket = UdpSocket::bind((to, 0)).or_else(|error| {
            // The address may not be the pod's any more: that is one of the faults.
            if error.kind() == ErrorKind::AddrNotAvailable {
                UdpSocket::bind((unspecified(to), 0))
            } else {
                Err(error)
            }
        })?;
        Ok(socket)
    })?;
    let port = receiver.local_addr().context("look up the port")?.port();
    let sender = source.run(|| {
        let from = from.unwrap_or(SocketAddr::new(unspecified(to), 0));
        let socket = UdpSocket::bind(from).context("bind the sender")?;
        forbid_fragments(&socket, to)?;
        Ok(socket)
    })?;
    let payload: Vec<u8> = (0..size_bytes).map(|i| (i % 251) as u8).collect();
    match sender.send_to(&payload, (to, port)) {
        Ok(_) => {}
        // A local refusal is a datagram that did not arrive.
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EMSGSIZE | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::ENETDOWN | libc::EPERM | libc::ENOBUFS)
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error).context("send a datagram"),
    }
    receiver.set_read_timeout(Some(timeout)).context("set a timeout")?;
    let deadline = Instant::now() + timeout;
    let mut buffer = vec![0; 65_536];
    loop {
        match receiver.recv_from(&mut buffer) {
            Ok((length, peer)) if buffer[..length] == payload[..] => return Ok(Some(peer)),
            Ok(_) if Instant::now() < deadline => {}
            Ok(_) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("receive a datagram"),
        }
    }
}

/// Any address of the same family.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn forbid_fragments(socket: &UdpSocket, to: IpAddr) -> Result<()> {
    let (level, option, value): (_, _, libc::c_int) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    };
    // SAFETY: the descriptor is open, and the option's value is one int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error()).context("forbid fragments")
    }
}

/// Whether an echo request (ICMP, or ICMPv6) from inside `source` is answered by `to` within `timeout`.
pub fn icmp(source: &Netns, to: impl Into<IpAddr>, size_bytes: usize, timeout: Duration) -> Result<bool> {
    let to = to.into();
    let identifier = (std::process::id() & 0xffff) as u16;
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut request = vec![request, 0, 0, 0];
    request.extend_from_slice(&identifier.to_be_bytes());
    request.extend_from_slice(&1u16.to_be_bytes());
    request.extend((0..size_bytes).map(|i| (i % 251) as u8));
    // The kernel sums ICMPv6 by itself, with the addresses.
    if to.is_ipv4() {
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    source.run(move || {
        let socket = match to {
            IpAddr::V4(_) => Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)),
            IpAddr::V6(_) => Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)),
        };
        let socket = socket.context("open an ICMP socket")?;
        socket.set_read_timeout(Some(timeout))?;
        let target = SocketAddr::new(to, 0);
        // Connected, it hears nobody else.
        if socket.connect(&target.into()).is_err() || socket.send(&request).is_err() {
            return Ok(false);
        }
        let deadline = Instant::now() + timeout;
        let mut buffer = vec![0u8; 65_536];
        while Instant::now() < deadline {
            let read = match std::io::Read::read(&mut &socket, &mut buffer) {
                Ok(read) => read,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Ok(false);
                }
                // What an ICMP error said about the request.
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EACCES | libc::EMSGSIZE | libc::EPROTO | libc::ECONNREFUSED)
                    ) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error).context("receive an ICMP message"),
            };
            // A raw socket of IPv4 delivers the IP header (20 bytes without options) as well.
            let Some(message) = buffer.get(if to.is_ipv4() { 20 } else { 0 }..read) else {
                continue;
            };
            if message.len() >= 8 && message[0] == reply && message[4..6] == identifier.to_be_bytes() {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Whether a TCP handshake from inside `source` to a port of `to` gets any answer: a refusal
/// proves the path as well as an acceptance.
pub fn tcp(source: &Netns, to: impl Into<IpAddr>, port: u16, timeout: Duration) -> Result<bool> {
    let to = to.into();
    source.run(|| {
        let target = SocketAddr::new(to, port);
        match TcpStream::connect_timeout(&target, timeout) {
            Ok(_) => Ok(true),
            Err(error) => Ok(error.kind() == ErrorKind::ConnectionRefused),
        }
    })
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
