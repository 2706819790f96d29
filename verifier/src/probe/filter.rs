//! Which packets a raw socket is given: classic BPF, run before a packet is queued.
//!
//! A raw socket is offered every packet of its protocol that arrives in its namespace, an application's too. The filters let only
//! answers to probes through, so that a busy pod's traffic cannot fill the socket's buffer. A raw IPv4 socket's packets begin with the
//! IP header (`raw_rcv`, net/ipv4/raw.c), a raw IPv6 socket's with what follows it (`rawv6_rcv`, net/ipv6/raw.c).

use socket2::SockFilter;
use verifier_core::probe::PortRange;

const DROP: u32 = 0;
const TAKE: u32 = u32::MAX;

/// `X = 4 * (first byte & 0x0f)`: length of the IPv4 header.
const LOAD_HEADER_LENGTH: u16 = (libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH) as u16;
/// `X = k`.
const SET_INDEX: u16 = (libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM) as u16;
/// `A = ` two bytes at `X + k`.
const LOAD_SHORT: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_IND) as u16;
/// `A = ` one byte at `X + k`.
const LOAD_BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_IND) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// `X = ` where the transport header begins.
fn find_transport(v6: bool) -> SockFilter {
    let code = if v6 { SET_INDEX } else { LOAD_HEADER_LENGTH };
    SockFilter::new(code, 0, 0, 0)
}

/// TCP segments to a reserved port, from the probed port.
pub(super) fn tcp_replies(sources: PortRange, probed: u16, v6: bool) -> [SockFilter; 8] {
    [
        find_transport(v6),
        SockFilter::new(LOAD_SHORT, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 4, u32::from(probed)),
        SockFilter::new(LOAD_SHORT, 0, 0, 2),
        SockFilter::new(JUMP_GREATER_OR_EQUAL, 0, 2, u32::from(sources.first)),
        SockFilter::new(JUMP_GREATER, 1, 0, u32::from(sources.last())),
        SockFilter::new(RETURN, 0, 0, TAKE),
        SockFilter::new(RETURN, 0, 0, DROP),
    ]
}

/// ICMP echo replies with this identifier.
pub(super) fn echo_replies(identifier: u16, v6: bool) -> [SockFilter; 7] {
    // Echo reply is type 0 (RFC 792), of ICMPv6 129 (RFC 4443).
    let reply = if v6 { 129 } else { 0 };
    [
        find_transport(v6),
        SockFilter::new(LOAD_BYTE, 0, 0, 0),
        SockFilter::new(JUMP_EQUAL, 0, 3, reply),
        SockFilter::new(LOAD_SHORT, 0, 0, 4),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(identifier)),
        SockFilter::new(RETURN, 0, 0, TAKE),
        SockFilter::new(RETURN, 0, 0, DROP),
    ]
}
