//! Multicast messages of the kernel, as hints: which tables may have changed, never what.
//!
//! The kernel does not announce every loss (routes go silently with a link, a last address, a veth), so a hint names every table that
//! the event may have touched, and the table is dumped again. The content of a message is not used: there is one decoder of state and one
//! way in which it can be wrong.

use crate::programmed::{
    decode::AF_BRIDGE,
    netns::{Netns, NetnsError},
};
use netlink_packet_core::NetlinkBuffer;
use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};
use std::{
    collections::BTreeSet,
    io,
    ops::{BitOr, BitOrAssign},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

/// Bytes that may wait while a dump runs: some seconds of 5,000 changes a second.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
/// Datagrams that one call of [`Hints::drain`] takes, so that it ends under any flood.
const DRAIN_AT_MOST: usize = 65_536;

/// A set of tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty(u8);

impl Dirty {
    /// Links.
    pub const LINKS: Self = Self(1);
    /// Addresses.
    pub const ADDRESSES: Self = Self(2);
    /// Routes.
    pub const ROUTES: Self = Self(4);
    /// Rules.
    pub const RULES: Self = Self(8);
    /// ARP and NDP entries.
    pub const NEIGHBORS: Self = Self(16);
    /// Forwarding entries.
    pub const FDB: Self = Self(32);
    /// Interface configuration.
    pub const NETCONF: Self = Self(64);
    /// Every table.
    pub const ALL: Self = Self(127);

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Dirty {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Dirty {
    fn bitor_assign(&mut self, other: Self) {
        *self = *self | other;
    }
}

/// What an event of the kernel may have touched.
fn touched(kind: u16, payload: &[u8]) -> Dirty {
    /// With a link, an address or a neighbour, routes and neighbours may have gone without a word (`fib_sync_down_dev`,
    /// `neigh_ifdown`).
    const FOLLOWS: Dirty = Dirty(Dirty::ROUTES.0 | Dirty::NEIGHBORS.0 | Dirty::FDB.0);
    match kind {
        16 | 17 => Dirty::LINKS | Dirty::ADDRESSES | Dirty::NETCONF | FOLLOWS,
        20 | 21 => Dirty::ADDRESSES | FOLLOWS,
        // A forwarding entry takes nothing else with it.
        28 | 29 if payload.first() == Some(&AF_BRIDGE) => Dirty::FDB,
        28 | 29 => FOLLOWS,
        // Routes, and the next hop objects that they may lean on.
        24 | 25 | 104 | 105 => Dirty::ROUTES,
        32 | 33 => Dirty::RULES,
        80 | 81 => Dirty::NETCONF,
        _ => Dirty::default(),
    }
}

/// What was heard since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Tables that may have changed.
    pub dirty: Dirty,
    /// Messages.
    pub messages: u64,
    /// Times the socket overran: something was missed, and everything may have changed.
    pub overruns: u64,
    /// Numbers of other namespaces that something happened in ([`Hints::of_peers`] only).
    pub peers: BTreeSet<i32>,
}

/// A subscription.
pub struct Hints {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Hints {
    /// Subscribe to everything that concerns the tables of `ns`.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the socket not be opened.
    pub fn of(ns: &Netns) -> Result<Self, NetnsError> {
        // Links, neighbours, then addresses, routes, rules and configuration of both families, next hops (`RTNLGRP_*`).
        ns.open_in("a subscription", || Self::here(&[1, 3, 5, 7, 8, 9, 11, 19, 24, 25, 32], false))
    }

    /// Subscribe to links, addresses, routes and neighbours of the namespaces that `ns` has a number for: those of its pods among them.
    /// Listening from here keeps none of them alive, as a socket inside would.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the socket not be opened.
    pub fn of_peers(ns: &Netns) -> Result<Self, NetnsError> {
        ns.open_in("a subscription", || Self::here(&[1, 3, 5, 7, 9, 11], true))
    }

    fn here(groups: &[u32], peers: bool) -> io::Result<Self> {
        let mut socket = Socket::new(libc::NETLINK_ROUTE as isize)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        // Beyond `rmem_max`, with CAP_NET_ADMIN; without it, as far as it goes. An overrun is counted in any case.
        if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER_BYTES)?;
        }
        if peers {
            socket.set_listen_all_namespaces(true)?;
        }
        for group in groups {
            match socket.add_membership(*group) {
                Ok(()) => {}
                // A group that this kernel does not have (next hops came with 5.3).
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                    tracing::debug!(group, "the kernel has no such netlink group");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            socket,
            buffer: vec![0; 64 * 1024],
        })
    }

    /// A smaller buffer, to make it overrun.
    #[cfg(test)]
    pub(crate) fn shrink(&self, bytes: usize) {
        setsockopt(&self.socket, sockopt::RcvBuf, &bytes).unwrap();
    }

    /// To wait on.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Take everything that waits.
    ///
    /// # Errors
    /// If the socket is broken. An overrun is not that.
    pub fn drain(&mut self) -> io::Result<Heard> {
        let mut heard = Heard::default();
        for _ in 0..DRAIN_AT_MOST {
            match receive(&self.socket, &mut self.buffer) {
                Ok(received) => heard.take(&self.buffer[..received.length.min(self.buffer.len())], &received),
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => break,
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) => {
                        heard.overruns += 1;
                        heard.dirty = Dirty::ALL;
                    }
                    _ => return Err(error),
                },
            }
        }
        Ok(heard)
    }
}

impl Heard {
    fn take(&mut self, mut datagram: &[u8], received: &Received) {
        // Any process may send to a netlink port; only the kernel's word counts.
        if received.sender != 0 {
            return;
        }
        while !datagram.is_empty() {
            let Ok(message) = NetlinkBuffer::new_checked(datagram) else {
                // Something was said that cannot be read.
                self.dirty = Dirty::ALL;
                return;
            };
            let length = message.length() as usize;
            let touched = touched(message.message_type(), datagram.get(16..length).unwrap_or(&[]));
            self.messages += 1;
            match received.peer {
                Some(peer) if !touched.is_empty() => {
                    self.peers.insert(peer);
                }
                Some(_) => {}
                None => self.dirty |= touched,
            }
            datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
        }
    }
}

/// A datagram in the buffer.
struct Received {
    length: usize,
    sender: u32,
    /// The number of the namespace it is from, if that is another.
    peer: Option<i32>,
}

/// `recvmsg(2)`, for the control message that `NETLINK_LISTEN_ALL_NSID` puts beside a datagram of another namespace.
fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<Received> {
    const CONTROL_BYTES: usize = 64;
    #[repr(align(8))]
    struct Control([u8; CONTROL_BYTES]);
    let mut control = Control([0; CONTROL_BYTES]);
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid value of these plain C structs.
    let (mut from, mut message) = unsafe { (std::mem::zeroed::<libc::sockaddr_nl>(), std::mem::zeroed::<libc::msghdr>()) };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    // SAFETY: every pointer in `message` is to a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    let mut peer = None;
    // SAFETY: the kernel filled `message`; CMSG_FIRSTHDR and CMSG_NXTHDR stay within its control buffer, and the data of this control
    // message is one int (`netlink_cmsg_listen_all_nsid`), read unaligned.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_NETLINK && (*header).cmsg_type == libc::NETLINK_LISTEN_ALL_NSID {
                peer = Some(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok(Received {
        length,
        sender: from.nl_pid,
        peer,
    })
}
