//! The sockets of a visit.
//!
//! All are of one family, unconnected (a connected UDP socket would get another outer source port with every connect, `kernel.md`), bound
//! to the probe's source address, non-blocking, with
//!
//! - `IP_RECVERR`, `IPV6_RECVERR`: ICMP errors, and neighbour failures on this node, arrive in the error queue with a quote of the packet.
//! - `IP_MTU_DISCOVER = IP_PMTUDISC_PROBE`: DF is set, and the path MTU that the kernel remembers is neither consulted nor imposed. With
//!   `IP_PMTUDISC_DO` a remembered value would refuse a large probe before it is sent, up to ten minutes after the path was healed
//!   (`mtu_expires`), and would hide a black hole that came after it. What is larger than the device's own MTU is still refused.
//!   `IPV6_MTU_DISCOVER` likewise, with `IPV6_DONTFRAG`: of IPv6 the sender alone could fragment, and must not.
//!
//! There is no `SO_TIMESTAMPNS`: the first socket that asks for it makes the kernel read the clock for every packet of the whole machine
//! (`net_enable_timestamp`), and the taps have better times anyway.

use super::{
    filter,
    keys::ProbeKeys,
    packet::{self, Read},
};
use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvfrom, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};
use verifier_core::probe::{Event, Probe, ProbeConfig, Quote, Transport};

/// `SO_EE_ORIGIN_ICMP` and `SO_EE_ORIGIN_ICMP6` of include/uapi/linux/errqueue.h. Errors of local origin are those that the send
/// reported already.
const ORIGIN_ICMP: [u8; 2] = [2, 3];

/// Which socket a probe uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// UDP from this address and port.
    Udp(IpAddr, u16),
    /// ICMP echo from this address with this identifier.
    Icmp(IpAddr, u16),
    /// TCP from this address.
    Tcp(IpAddr),
}

impl Key {
    pub(super) const fn of(probe: &Probe, from: IpAddr) -> Self {
        match probe.transport {
            Transport::Udp => Self::Udp(from, probe.src_port),
            Transport::Icmp => Self::Icmp(from, probe.src_port),
            Transport::Tcp => Self::Tcp(from),
        }
    }
}

/// How an ICMP socket was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Udp,
    /// A datagram ICMP socket: needs no privilege, where `ping_group_range` allows it, and leaves no NO_SOCKET drop behind.
    Ping(u16),
    RawIcmp(u16),
    RawTcp,
}

/// An open socket.
#[derive(Debug)]
pub(super) struct ProbeSocket {
    socket: Socket,
    kind: Kind,
    from: IpAddr,
}

impl ProbeSocket {
    /// Opens it in the namespace of the calling thread.
    pub(super) fn open(key: Key, config: &ProbeConfig) -> io::Result<Self> {
        match key {
            Key::Udp(from, port) => Self::bound(Type::DGRAM, Protocol::UDP, from, port, Kind::Udp, |_| Ok(())),
            Key::Icmp(from, identifier) => {
                let protocol = if from.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
                let ping = Self::bound(Type::DGRAM, protocol, from, identifier, Kind::Ping(identifier), |_| Ok(()));
                match ping {
                    // The group is not in ping_group_range, or somebody else uses the identifier: a raw socket can share it.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EADDRINUSE)) => {
                        Self::bound(Type::RAW, protocol, from, 0, Kind::RawIcmp(identifier), |socket| {
                            socket.attach_filter(&filter::echo_replies(identifier, from.is_ipv6()))
                        })
                    }
                    opened => opened,
                }
            }
            Key::Tcp(from) => Self::bound(Type::RAW, Protocol::TCP, from, 0, Kind::RawTcp, |socket| {
                socket.attach_filter(&filter::tcp_replies(config.tcp_sources, config.tcp_port, from.is_ipv6()))
            }),
        }
    }

    fn bound(
        kind: Type,
        protocol: Protocol,
        from: IpAddr,
        port: u16,
        ours: Kind,
        before_bind: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let v6 = from.is_ipv6();
        let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, kind.nonblocking().cloexec(), Some(protocol))?;
        before_bind(&socket)?;
        if v6 {
            setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?;
            setsockopt(&socket, sockopt::Ipv6DontFrag, &true)?;
        } else {
            setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        }
        probe_path_mtu(socket.as_fd(), v6)?;
        socket.bind(&SocketAddr::new(from, port).into())?;
        Ok(Self { socket, kind: ours, from })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a probe. An ICMP error about an earlier packet makes the next send fail once (`sk_err`), so a failure counts only when it
    /// stands after pending errors were taken away.
    pub(super) fn send(&self, probe: &Probe, to: IpAddr, keys: &ProbeKeys, realtime_ns: u64) -> io::Result<()> {
        let (bytes, port) = match self.kind {
            Kind::Udp => (packet::udp_payload(probe, keys, realtime_ns), probe.dst_port),
            Kind::Ping(_) | Kind::RawIcmp(_) => (packet::echo_request(probe, keys, realtime_ns), 0),
            Kind::RawTcp => (packet::tcp_syn(probe, self.from, to), 0),
        };
        let to = SockAddr::from(SocketAddr::new(to, port));
        let mut result = Ok(());
        for _ in 0..3 {
            self.forget_error()?;
            result = self.socket.send_to(&bytes, &to).map(|_| ());
            match &result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted || pending_kind(error) => {}
                _ => break,
            }
        }
        result
    }

    /// Takes the pending error away; the error queue keeps what it was about.
    fn forget_error(&self) -> io::Result<()> {
        self.socket.take_error().map(|_| ())
    }

    /// Reads one packet; none when there is no more.
    pub(super) fn receive(&self, buffer: &mut [u8], config: &ProbeConfig, keys: &ProbeKeys, now: impl Fn() -> u64) -> Option<Read> {
        let (length, from) = match recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), buffer) {
            Ok((length, from)) => (length, from.as_ref().and_then(address).unwrap_or_else(|| self.unspecified())),
            // A pending error is reported by the next receive too, once; the error queue has it.
            Err(Errno::EAGAIN) => return None,
            Err(_) => return Some(Read::Foreign),
        };
        let bytes = buffer.get(..length)?;
        Some(match self.kind {
            Kind::Udp => packet::udp_reply(bytes, from, keys, now()),
            Kind::Ping(identifier) => packet::echo_reply(bytes, identifier, from, keys, now()),
            Kind::RawIcmp(identifier) if self.from.is_ipv6() => packet::echo_reply(bytes, identifier, from, keys, now()),
            Kind::RawIcmp(identifier) => packet::raw_echo_reply(bytes, identifier, keys, now()),
            Kind::RawTcp if self.from.is_ipv6() => packet::tcp_segment(bytes, from, self.from, config, now()),
            Kind::RawTcp => packet::tcp_reply(bytes, config, now()),
        })
    }

    /// Reads one ICMP error; none when there is no more.
    pub(super) fn receive_error(&self, buffer: &mut [u8], config: &ProbeConfig, keys: &ProbeKeys, now: impl Fn() -> u64) -> Option<Read> {
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let (length, to, error) = match recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Ok(message) => {
                let error = message.cmsgs().ok()?.find_map(|control| match control {
                    ControlMessageOwned::Ipv4RecvErr(error, offender) => {
                        let ip = offender.map(|from| Ipv4Addr::from(u32::from_be(from.sin_addr.s_addr)).into());
                        Some((error, ip))
                    }
                    ControlMessageOwned::Ipv6RecvErr(error, offender) => {
                        Some((error, offender.map(|from| Ipv6Addr::from(from.sin6_addr.s6_addr).into())))
                    }
                    _ => None,
                });
                (message.bytes, message.address.as_ref().and_then(address), error)
            }
            Err(_) => return None,
        };
        let (Some(to), Some((error, offender))) = (to, error) else {
            return Some(Read::Foreign);
        };
        if !ORIGIN_ICMP.contains(&error.ee_origin) {
            return Some(Read::Foreign);
        }
        let quoted = buffer.get(..length)?;
        let Some(quote) = self.quote(quoted, to, config, keys) else {
            return Some(Read::Foreign);
        };
        // RFC 1191: type 3 code 4 carries the MTU of the next hop; 0 from routers that do not know it. RFC 4443: type 2 always does.
        let says_mtu = match self.from {
            IpAddr::V4(_) => (error.ee_type, error.ee_code) == (3, 4),
            IpAddr::V6(_) => error.ee_type == 2,
        };
        Some(Read::Event(Event::IcmpError {
            quote,
            from: offender.unwrap_or_else(|| self.unspecified()),
            icmp_type: error.ee_type,
            icmp_code: error.ee_code,
            mtu: (says_mtu && error.ee_info != 0).then_some(error.ee_info),
            mono_ns: now(),
        }))
    }

    /// The address that stands for one that the kernel did not tell.
    const fn unspecified(&self) -> IpAddr {
        match self.from {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Which probe the quote of an ICMP error is about; none if it is about somebody else's packet.
    fn quote(&self, quoted: &[u8], to: IpAddr, config: &ProbeConfig, keys: &ProbeKeys) -> Option<Quote> {
        let (transport, src_port, id_low) = match self.kind {
            Kind::Udp => {
                let port = self.socket.local_addr().ok()?.as_socket()?.port();
                (Transport::Udp, port, packet::quoted_udp(quoted, keys))
            }
            Kind::Ping(ours) | Kind::RawIcmp(ours) => {
                let (identifier, id_low) = packet::quoted_echo(quoted, keys).filter(|(identifier, _)| *identifier == ours)?;
                (Transport::Icmp, identifier, id_low)
            }
            Kind::RawTcp => (Transport::Tcp, packet::quoted_tcp(quoted, config)?, None),
        };
        Some(Quote {
            transport,
            to,
            src_port: Some(src_port),
            id_low,
        })
    }
}

/// Address of the other end, as a system call tells it.
fn address(from: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = from.as_sockaddr_in().map(|from| from.ip().into());
    v4.or_else(|| from.as_sockaddr_in6().map(|from| from.ip().into()))
}

/// Errors that may be a pending ICMP error rather than this send's own (`icmp_err_convert`, net/ipv4/icmp.c; `icmpv6_err_convert`,
/// net/ipv6/icmp.c).
fn pending_kind(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EMSGSIZE
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EPROTO
                | libc::EACCES
        )
    )
}

/// Sets `IP_MTU_DISCOVER` to `IP_PMTUDISC_PROBE`, or the same of IPv6.
fn probe_path_mtu(socket: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let (level, option, value): (_, _, libc::c_int) = if v6 {
        (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_PROBE)
    } else {
        (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
    };
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's life, and the kernel reads `length` bytes of `value`, which outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
