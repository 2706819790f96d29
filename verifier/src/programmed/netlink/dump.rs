//! The dump loop that cannot be fooled.
//!
//! A dump counts as whole only if every message belongs to it (sequence number, sent by the kernel), `NLMSG_DONE` came and carries no
//! error, no message had `NLM_F_DUMP_INTR` (the table changed under the dump, so entries may be missing or double), no datagram was
//! cut off, and everything decoded. An interrupted or overrun dump is taken again, a bounded number of times. Anything less than whole
//! becomes `Partial` with what is missing, or `Unavailable`.
//!
//! [`Assembly`] is the part without I/O, fed with datagrams: the tests replay bytes that no kernel gives on demand.

use super::{attr::Malformed, request::Request};
use crate::programmed::netns::{Netns, NetnsError};
use netlink_packet_core::{NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer};
use nix::sys::socket::{setsockopt, sockopt};
use std::{collections::BTreeMap, io, time::Duration};
use verifier_core::evidence::{Evidence, Gap};

/// Attempts at a dump that the kernel marks as interrupted, or whose socket overran.
const ATTEMPTS: u32 = 8;
/// The kernel builds dump datagrams of at most 32 KiB (`netlink_recvmsg`, `max_recvmsg_len`); one larger than this buffer is noticed.
const BUFFER_BYTES: usize = 64 * 1024;
/// A dump is answered by the kernel itself, in the same system call or the next; longer than this means that something is wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why a dump is not whole.
#[derive(Debug, thiserror::Error)]
pub enum DumpFault {
    /// The kernel refused.
    #[error("the kernel refused: {source}")]
    Refused {
        /// Its error.
        source: io::Error,
    },
    /// A system call failed.
    #[error("netlink socket: {source}")]
    Socket {
        /// The error.
        source: io::Error,
    },
    /// `NLM_F_DUMP_INTR` at every attempt.
    #[error("the table changed during each of {attempts} dumps")]
    Interrupted {
        /// Attempts.
        attempts: u32,
    },
    /// The socket's buffer overran at every attempt.
    #[error("the socket overran during each of {attempts} dumps")]
    Overrun {
        /// Attempts.
        attempts: u32,
    },
    /// `NLMSG_DONE` did not come.
    #[error("the dump stopped without its end marker")]
    NoEnd,
    /// A datagram larger than the buffer.
    #[error("a datagram of {bytes} bytes was cut off")]
    CutOff {
        /// Its size.
        bytes: usize,
    },
    /// The framing is broken, so that the rest of the datagram cannot be read.
    #[error("a message with a broken header")]
    Framing,
}

/// What a dump gave, and in what it falls short.
#[derive(Debug)]
pub struct Dumped<T> {
    /// What was decoded in the last attempt.
    pub values: Vec<T>,
    /// Why it is not whole.
    pub fault: Option<DumpFault>,
    /// Messages that did not decode in the last attempt, and why the first did not.
    pub undecodable: u64,
    /// See `undecodable`.
    pub first_undecodable: Option<Malformed>,
    /// Dumps that had to be taken again.
    pub retries: u32,
    /// Datagrams of the last attempt. Tables without a generation counter (neighbours, FDB) are consistent only within one.
    pub datagrams: u32,
}

impl<T> Dumped<T> {
    /// Nothing could be asked for.
    pub const fn failed(fault: DumpFault) -> Self {
        Self {
            values: Vec::new(),
            fault: Some(fault),
            undecodable: 0,
            first_undecodable: None,
            retries: 0,
            datagrams: 0,
        }
    }

    /// Everything there was.
    pub const fn is_whole(&self) -> bool {
        self.fault.is_none() && self.undecodable == 0
    }

    /// As evidence of `source`: `programmed/routes`.
    pub fn into_evidence(self, source: &str) -> Evidence<Vec<T>> {
        let mut missing = Vec::new();
        match self.fault {
            None => {}
            Some(fault @ (DumpFault::Refused { .. } | DumpFault::Socket { .. })) => {
                return Evidence::unavailable(source, fault.to_string());
            }
            Some(fault) => missing.push(Gap::new(source, fault.to_string())),
        }
        if let (count @ 1.., Some(first)) = (self.undecodable, self.first_undecodable) {
            missing.push(Gap::new(
                source,
                format!("{count} messages could not be decoded, the first: {first}"),
            ));
        }
        Evidence::partial(self.values, missing)
    }
}

/// What a datagram did to an [`Assembly`].
#[derive(Debug)]
pub enum Progress {
    /// More is to come.
    More,
    /// That was the end marker.
    Ended,
}

/// A dump under assembly.
pub struct Assembly<T, D> {
    decode: D,
    sequence: u32,
    values: Vec<T>,
    interrupted: bool,
    undecodable: u64,
    first_undecodable: Option<Malformed>,
    datagrams: u32,
    ours: u64,
}

impl<T, D: FnMut(u16, &[u8]) -> Result<Option<T>, Malformed>> Assembly<T, D> {
    /// An empty one. `decode` gets message type and payload and says `None` to a message that is none of its concern.
    pub const fn new(sequence: u32, decode: D) -> Self {
        Self {
            decode,
            sequence,
            values: Vec::new(),
            interrupted: false,
            undecodable: 0,
            first_undecodable: None,
            datagrams: 0,
            ours: 0,
        }
    }

    /// Take one datagram.
    ///
    /// # Errors
    /// If the kernel refuses, or the framing is broken.
    pub fn feed(&mut self, mut datagram: &[u8]) -> Result<Progress, DumpFault> {
        self.datagrams += 1;
        while !datagram.is_empty() {
            let message = NetlinkBuffer::new_checked(datagram).map_err(|_| DumpFault::Framing)?;
            // The crate checks that the length fits the buffer and covers the header.
            let length = message.length() as usize;
            let payload = datagram.get(16..length).ok_or(DumpFault::Framing)?;
            datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
            // The rest of an abandoned dump of the same socket.
            if message.sequence_number() != self.sequence {
                continue;
            }
            self.ours += 1;
            self.interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
            match message.message_type() {
                NLMSG_NOOP => {}
                NLMSG_DONE => {
                    // `netlink_dump_done` puts the dump's own result into the end marker.
                    let result = super::attr::i32_of("end marker", payload).map_err(|_| DumpFault::Framing)?;
                    return match result {
                        0.. => Ok(Progress::Ended),
                        negative => Err(refused(negative)),
                    };
                }
                NLMSG_ERROR => {
                    let code = super::attr::i32_of("error", payload).map_err(|_| DumpFault::Framing)?;
                    return Err(if code == 0 { DumpFault::NoEnd } else { refused(code) });
                }
                NLMSG_OVERRUN => return Err(DumpFault::Overrun { attempts: 1 }),
                kind => match (self.decode)(kind, payload) {
                    Ok(Some(value)) => self.values.push(value),
                    Ok(None) => {}
                    Err(why) => {
                        self.undecodable += 1;
                        self.first_undecodable.get_or_insert(why);
                    }
                },
            }
        }
        Ok(Progress::More)
    }

    /// Whether a message said that the table changed meanwhile.
    pub const fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// The result of this one attempt.
    pub fn finish(self, fault: Option<DumpFault>) -> Dumped<T> {
        Dumped {
            values: self.values,
            fault,
            undecodable: self.undecodable,
            first_undecodable: self.first_undecodable,
            retries: 0,
            datagrams: self.datagrams,
        }
    }
}

/// Takes a dump again while it is disturbed, a bounded number of times. An attempt says what it gave and whether the table changed under it.
fn repeated<T>(mut attempt: impl FnMut() -> (Dumped<T>, bool)) -> Dumped<T> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (mut dumped, interrupted) = attempt();
        let again = match &dumped.fault {
            None => interrupted,
            Some(DumpFault::Overrun { .. }) => true,
            // A dump that was abandoned may still be running on this socket (EBUSY); the kernel ends it as it is read.
            Some(DumpFault::Refused { source }) => source.raw_os_error() == Some(libc::EBUSY),
            Some(_) => false,
        };
        if again && attempts < ATTEMPTS {
            continue;
        }
        dumped.fault = match dumped.fault {
            None if interrupted => Some(DumpFault::Interrupted { attempts }),
            Some(DumpFault::Overrun { .. }) => Some(DumpFault::Overrun { attempts }),
            fault => fault,
        };
        dumped.retries = attempts - 1;
        return dumped;
    }
}

fn refused(code: i32) -> DumpFault {
    DumpFault::Refused {
        source: io::Error::from_raw_os_error(code.saturating_neg()),
    }
}

/// A netlink socket for questions.
pub struct Channel {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// A socket of `ns`, with strict checking of requests where the kernel knows it (4.20): without it, filters in a request are
    /// silently ignored.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the socket not be opened.
    pub fn open(ns: &Netns, protocol: isize) -> Result<Self, NetnsError> {
        ns.open_in("a netlink socket", || Self::here(protocol))
    }

    /// A socket of the calling thread's namespace.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn here(protocol: isize) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(protocol)?;
        socket.bind_auto()?;
        if let Err(error) = socket.set_netlink_get_strict_chk(true) {
            tracing::debug!(%error, "no strict checking of netlink requests");
        }
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeval(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Dump, and dump again if it was disturbed. Never fails: what went wrong stands in the result.
    pub fn dump<T>(&mut self, request: &Request, mut decode: impl FnMut(u16, &[u8]) -> Result<Option<T>, Malformed>) -> Dumped<T> {
        repeated(|| {
            self.sequence = self.sequence.wrapping_add(1);
            let mut assembly = Assembly::new(self.sequence, &mut decode);
            let fault = self.attempt(request, &mut assembly).err();
            let interrupted = assembly.interrupted();
            (assembly.finish(fault), interrupted)
        })
    }

    /// Dump a table without a generation counter (neighbours, FDB): the kernel walks its buckets anew for each datagram and marks nothing
    /// if they changed, so an entry can be missed or come twice. If it took several datagrams, dump it twice and take what either saw: what
    /// was removed in between is announced, and leads to the next dump.
    pub fn dump_loose<T, K: Ord>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(u16, &[u8]) -> Result<Option<T>, Malformed>,
        key: impl Fn(&T) -> K,
    ) -> Dumped<T> {
        let first = self.dump(request, &mut decode);
        // One of entries and one of the end marker.
        if first.datagrams <= 2 || !first.is_whole() {
            return first;
        }
        let mut second = self.dump(request, &mut decode);
        let mut all: BTreeMap<K, T> = first.values.into_iter().map(|value| (key(&value), value)).collect();
        all.extend(second.values.into_iter().map(|value| (key(&value), value)));
        second.values = all.into_values().collect();
        second.retries += first.retries;
        second
    }

    fn attempt<T, D: FnMut(u16, &[u8]) -> Result<Option<T>, Malformed>>(
        &mut self,
        request: &Request,
        assembly: &mut Assembly<T, D>,
    ) -> Result<(), DumpFault> {
        self.send(request)?;
        loop {
            let length = self.receive()?;
            if let Progress::Ended = assembly.feed(&self.buffer[..length])? {
                return Ok(());
            }
        }
    }

    /// Ask for one thing. `Ok(None)` if the answer was of no concern to `decode`.
    ///
    /// # Errors
    /// The kernel's refusal, a socket error, or an answer that does not decode.
    pub fn ask<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(u16, &[u8]) -> Result<Option<T>, Malformed>,
    ) -> Result<Option<T>, DumpFault> {
        self.sequence = self.sequence.wrapping_add(1);
        self.send(request)?;
        loop {
            let length = self.receive()?;
            let mut assembly = Assembly::new(self.sequence, &mut decode);
            match assembly.feed(&self.buffer[..length]) {
                // The answer to a request without a dump has no end marker; the first datagram with our number is all of it.
                Ok(_) if assembly.undecodable > 0 => return Err(DumpFault::Framing),
                Ok(_) if assembly.ours == 0 => continue,
                Ok(_) => return Ok(assembly.values.pop()),
                // An acknowledgement: all was said.
                Err(DumpFault::NoEnd) => return Ok(assembly.values.pop()),
                Err(fault) => return Err(fault),
            }
        }
    }

    fn send(&self, request: &Request) -> Result<(), DumpFault> {
        match self.socket.send(&request.numbered(self.sequence), 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(DumpFault::Socket { source }),
        }
    }

    /// One datagram from the kernel into the buffer. Those of other senders are ignored: any process may send to a netlink port.
    fn receive(&mut self) -> Result<usize, DumpFault> {
        loop {
            let (length, from) = match receive(&self.socket, &mut self.buffer) {
                Ok(received) => received,
                Err(error) => {
                    return Err(match error.raw_os_error() {
                        Some(libc::EINTR) => continue,
                        Some(libc::ENOBUFS) => DumpFault::Overrun { attempts: 1 },
                        Some(libc::EAGAIN) => DumpFault::NoEnd,
                        _ => DumpFault::Socket { source: error },
                    });
                }
            };
            if length > self.buffer.len() {
                return Err(DumpFault::CutOff { bytes: length });
            }
            if from == 0 {
                return Ok(length);
            }
        }
    }
}

/// Receive one datagram: its true length, which may exceed the buffer's (`MSG_TRUNC`), and the sender's port (0 is the kernel).
pub(crate) fn receive(socket: &netlink_sys::Socket, mut buffer: &mut [u8]) -> io::Result<(usize, u32)> {
    let (length, from) = socket.recv_from(&mut buffer, libc::MSG_TRUNC)?;
    Ok((length, from.port_number()))
}

fn timeval(duration: Duration) -> nix::sys::time::TimeVal {
    use nix::sys::time::TimeValLike;
    nix::sys::time::TimeVal::milliseconds(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests;
