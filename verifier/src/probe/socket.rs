//! The sockets of a visit.
//!
//! All are IPv4, unconnected (a connected UDP socket would get another outer source port with every connect, `kernel.md`), bound to
//! the probe's source address, non-blocking, with
//!
//! - `IP_RECVERR`: ICMP errors, and neighbour failures on this node, arrive in the error queue with a quote of the packet.
//! - `IP_MTU_DISCOVER = IP_PMTUDISC_PROBE`: DF is set, and the path MTU that the kernel remembers is neither consulted nor imposed. With
//!   `IP_PMTUDISC_DO` a remembered value would refuse a large probe before it is sent, up to ten minutes after the path was healed
//!   (`mtu_expires`), and would hide a black hole that came after it. What is larger than the device's own MTU is still refused.
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
    sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvfrom, recvmsg, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    io::{self, IoSliceMut},
    mem,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};
use verifier_core::probe::{Event, Probe, ProbeConfig, Quote, Transport};

/// `SO_EE_ORIGIN_ICMP` of include/uapi/linux/errqueue.h. Errors of local origin are those that the send reported already.
const ORIGIN_ICMP: u8 = 2;

/// Which socket a probe uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// UDP from this address and port.
    Udp(Ipv4Addr, u16),
    /// ICMP echo from this address with this identifier.
    Icmp(Ipv4Addr, u16),
    /// TCP from this address.
    Tcp(Ipv4Addr),
}

impl Key {
    pub(super) const fn of(probe: &Probe, from: Ipv4Addr) -> Self {
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
    from: Ipv4Addr,
}

impl ProbeSocket {
    /// Opens it in the namespace of the calling thread.
    pub(super) fn open(key: Key, config: &ProbeConfig) -> io::Result<Self> {
        match key {
            Key::Udp(from, port) => Self::bound(Type::DGRAM, Protocol::UDP, from, port, Kind::Udp, |_| Ok(())),
            Key::Icmp(from, identifier) => {
                let ping = Self::bound(Type::DGRAM, Protocol::ICMPV4, from, identifier, Kind::Ping(identifier), |_| Ok(()));
                match ping {
                    // The group is not in ping_group_range, or somebody else uses the identifier: a raw socket can share it.
                    Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EADDRINUSE)) => {
                        Self::bound(Type::RAW, Protocol::ICMPV4, from, 0, Kind::RawIcmp(identifier), |socket| {
                            socket.attach_filter(&filter::echo_replies(identifier))
                        })
                    }
                    opened => opened,
                }
            }
            Key::Tcp(from) => Self::bound(Type::RAW, Protocol::TCP, from, 0, Kind::RawTcp, |socket| {
                socket.attach_filter(&filter::tcp_replies(config.tcp_sources, config.tcp_port))
            }),
        }
    }

    fn bound(
        kind: Type,
        protocol: Protocol,
        from: Ipv4Addr,
        port: u16,
        ours: Kind,
        before_bind: impl FnOnce(&Socket) -> io::Result<()>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, kind.nonblocking().cloexec(), Some(protocol))?;
        before_bind(&socket)?;
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?;
        probe_path_mtu(socket.as_fd())?;
        socket.bind(&SocketAddrV4::new(from, port).into())?;
        Ok(Self { socket, kind: ours, from })
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a probe. An ICMP error about an earlier packet makes the next send fail once (`sk_err`), so a failure counts only when it
    /// stands after pending errors were taken away.
    pub(super) fn send(&self, probe: &Probe, to: Ipv4Addr, keys: &ProbeKeys, realtime_ns: u64) -> io::Result<()> {
        let (bytes, port) = match self.kind {
            Kind::Udp => (packet::udp_payload(probe, keys, realtime_ns), probe.dst_port),
            Kind::Ping(_) | Kind::RawIcmp(_) => (packet::echo_request(probe, keys, realtime_ns), 0),
            Kind::RawTcp => (packet::tcp_syn(probe, self.from, to), 0),
        };
        let to = SockAddr::from(SocketAddrV4::new(to, port));
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
        let (length, from) = match recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), buffer) {
            Ok((length, from)) => (length, from.map_or(Ipv4Addr::UNSPECIFIED, |address| address.ip())),
            // A pending error is reported by the next receive too, once; the error queue has it.
            Err(Errno::EAGAIN) => return None,
            Err(_) => return Some(Read::Foreign),
        };
        let bytes = buffer.get(..length)?;
        Some(match self.kind {
            Kind::Udp => packet::udp_reply(bytes, from, keys, now()),
            Kind::Ping(identifier) => packet::echo_reply(bytes, identifier, from, keys, now()),
            Kind::RawIcmp(identifier) => packet::raw_echo_reply(bytes, identifier, keys, now()),
            Kind::RawTcp => packet::tcp_reply(bytes, config, now()),
        })
    }

    /// Reads one ICMP error; none when there is no more.
    pub(super) fn receive_error(&self, buffer: &mut [u8], config: &ProbeConfig, keys: &ProbeKeys, now: impl Fn() -> u64) -> Option<Read> {
        let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in);
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let (length, to, error) = match recvmsg::<SockaddrIn>(self.socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Ok(message) => {
                let error = message.cmsgs().ok()?.find_map(|control| match control {
                    ControlMessageOwned::Ipv4RecvErr(error, offender) => Some((error, offender)),
                    _ => None,
                });
                (message.bytes, message.address, error)
            }
            Err(_) => return None,
        };
        let (Some(to), Some((error, offender))) = (to, error) else {
            return Some(Read::Foreign);
        };
        if error.ee_origin != ORIGIN_ICMP {
            return Some(Read::Foreign);
        }
        let quoted = buffer.get(..length)?;
        let Some(quote) = self.quote(quoted, to.ip(), config, keys) else {
            return Some(Read::Foreign);
        };
        let from = offender.map_or(Ipv4Addr::UNSPECIFIED, |address| {
            Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr))
        });
        // RFC 1191: type 3 code 4 carries the MTU of the next hop; 0 from routers that do not know it.
        let needs_fragmentation = (error.ee_type, error.ee_code) == (3, 4);
        Some(Read::Event(Event::IcmpError {
            quote,
            from: from.into(),
            icmp_type: error.ee_type,
            icmp_code: error.ee_code,
            mtu: (needs_fragmentation && error.ee_info != 0).then_some(error.ee_info),
            mono_ns: now(),
        }))
    }

    /// Which probe the quote of an ICMP error is about; none if it is about somebody else's packet.
    fn quote(&self, quoted: &[u8], to: Ipv4Addr, config: &ProbeConfig, keys: &ProbeKeys) -> Option<Quote> {
        let (transport, src_port, id_low) = match self.kind {
            Kind::Udp => {
                let port = self.socket.local_addr().ok()?.as_socket_ipv4()?.port();
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
            to: to.into(),
            src_port: Some(src_port),
            id_low,
        })
    }
}

/// Errors that may be a pending ICMP error rather than this send's own (`icmp_err_convert`, net/ipv4/icmp.c).
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
        )
    )
}

/// Sets `IP_MTU_DISCOVER` to `IP_PMTUDISC_PROBE`.
fn probe_path_mtu(socket: BorrowedFd<'_>) -> io::Result<()> {
    let value: libc::c_int = libc::IP_PMTUDISC_PROBE;
    let length = mem::size_of_val(&value) as libc::socklen_t;
    // SAFETY: the descriptor is open for the borrow's life, and the kernel reads `length` bytes of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
