//! A synchronous netlink client: one request, its answers, then the acknowledgement.
//!
//! The fabric does one thing at a time on a thread inside a namespace, so a blocking socket is all
//! it needs. Messages are those of `netlink-packet-route`; nf_tables, for which that family of
//! crates lacks most expressions, sends its own bytes through the same socket ([`crate::nft`]).

mod address;
mod link;
mod neighbour;
mod route;
mod rule;

use std::{io, net::IpAddr};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

pub use address::host_net;
pub use link::{LinkState, Vxlan};
pub use neighbour::{FdbEntry, Neighbour};
pub use route::{Route, RouteKind, TABLE_MAIN, proto};
pub use rule::Rule;

/// `NLMSG_ERROR`, `NLMSG_DONE`: uapi/linux/netlink.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The dump was interrupted by a change and is not consistent.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// What the kernel is asked about one after the other.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];
/// How often an interrupted dump is repeated.
const DUMP_ATTEMPTS: usize = 8;

/// A message as it came: type, flags, sequence number, payload.
#[derive(Debug, Clone)]
pub struct Frame {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_flags`
    pub flags: u16,
    /// `nlmsg_seq`
    pub sequence: u32,
    /// what follows the header
    pub payload: Vec<u8>,
}

impl Frame {
    /// The error number of an `NLMSG_ERROR` (0 is an acknowledgement).
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        if self.kind != NLMSG_ERROR {
            return None;
        }
        match self.payload[..] {
            [a, b, c, d, ..] => Some(-i32::from_ne_bytes([a, b, c, d])),
            _ => None,
        }
    }

    /// Whether this ends a dump.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.kind == NLMSG_DONE
    }
}

/// A connected netlink socket in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
}

impl Connection {
    /// Opens a socket of `protocol` (`NETLINK_ROUTE`, `NETLINK_NETFILTER`).
    pub fn open(protocol: isize) -> Result<Self> {
        let mut socket = Socket::new(protocol).context("open a netlink socket")?;
        socket.bind_auto().context("bind a netlink socket")?;
        socket.connect(&SocketAddr::new(0, 0)).context("connect a netlink socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// The next sequence number.
    pub fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    /// Sends bytes that hold one or several whole messages.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let sent = self.socket.send(bytes, 0).context("send a netlink message")?;
        if sent != bytes.len() {
            bail!("netlink took {sent} of {} bytes", bytes.len());
        }
        Ok(())
    }

    /// Receives the messages of one datagram.
    pub fn receive(&self) -> Result<Vec<Frame>> {
        let (datagram, _) = self.socket.recv_from_full().context("receive a netlink message")?;
        split(&datagram)
    }
}

/// Cuts a datagram into messages (`nlmsghdr`: length, type, flags, sequence, port).
fn split(mut bytes: &[u8]) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    while bytes.len() >= 16 {
        let word = |at: usize| -> u32 { u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]) };
        let length = word(0) as usize;
        if length < 16 || length > bytes.len() {
            bail!("netlink message claims {length} of {} bytes", bytes.len());
        }
        frames.push(Frame {
            kind: u16::from_ne_bytes([bytes[4], bytes[5]]),
            flags: u16::from_ne_bytes([bytes[6], bytes[7]]),
            sequence: word(8),
            payload: bytes[16..length].to_vec(),
        });
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Ok(frames)
}

/// An rtnetlink client.
#[derive(Debug)]
pub struct Rtnl {
    connection: Connection,
}

impl Rtnl {
    /// Opens a client in the namespace of the calling thread.
    pub fn open() -> Result<Self> {
        Ok(Self {
            connection: Connection::open(NETLINK_ROUTE)?,
        })
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<u32> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.connection.next_sequence();
        let sequence = header.sequence_number;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.connection.send(&bytes)?;
        Ok(sequence)
    }

    /// One change; returns when the kernel has acknowledged it. A refusal is an [`io::Error`] with
    /// the kernel's error number, see [`errno`].
    pub fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.ask(message, flags | NLM_F_ACK).map(|_| ())
    }

    /// One question that is no dump: the answers before the acknowledgement.
    pub fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<Vec<RouteNetlinkMessage>> {
        let sequence = self.send(message, flags | NLM_F_REQUEST | NLM_F_ACK)?;
        let mut answers = Vec::new();
        loop {
            for frame in self.connection.receive()? {
                if frame.sequence != sequence {
                    continue;
                }
                match frame.errno() {
                    Some(0) => return Ok(answers),
                    Some(number) => return Err(io::Error::from_raw_os_error(number).into()),
                    None => answers.push(parse(&frame)?),
                }
            }
        }
    }

    /// A whole table, consistent: interrupted dumps are repeated, and nothing is returned before
    /// the kernel said that it was all.
    pub fn dump(&mut self, message: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(all) = self.dump_once(message.clone())? {
                return Ok(all);
            }
        }
        bail!("a netlink dump was interrupted {DUMP_ATTEMPTS} times")
    }

    fn dump_once(&mut self, message: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
        let sequence = self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut all = Vec::new();
        let mut consistent = true;
        loop {
            for frame in self.connection.receive()? {
                if frame.sequence != sequence {
                    continue;
                }
                consistent &= frame.flags & NLM_F_DUMP_INTR == 0;
                if frame.is_done() {
                    return Ok(consistent.then_some(all));
                }
                match frame.errno() {
                    Some(number) => return Err(io::Error::from_raw_os_error(number).into()),
                    None => all.push(parse(&frame)?),
                }
            }
        }
    }
}

/// The family of an address.
fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn parse(frame: &Frame) -> Result<RouteNetlinkMessage> {
    use netlink_packet_core::NetlinkDeserializable;
    let mut header = NetlinkHeader::default();
    header.message_type = frame.kind;
    header.flags = frame.flags;
    header.sequence_number = frame.sequence;
    RouteNetlinkMessage::deserialize(&header, &frame.payload).context("decode a netlink message")
}

/// The kernel's error number, when `error` is a refusal by the kernel.
#[must_use]
pub fn errno(error: &anyhow::Error) -> Option<i32> {
    error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())
        .and_then(io::Error::raw_os_error)
}

/// Turns the refusals that mean "it is not there" into success, for deletions.
pub fn absent_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if matches!(errno(&error), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV | libc::EADDRNOTAVAIL)) => Ok(()),
        other => other,
    }
}
