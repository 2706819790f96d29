//! Connection tracking over nfnetlink (uapi/linux/netfilter/nfnetlink_conntrack.h): forgetting what is there, and making entries.

use std::io;
use std::net::Ipv4Addr;

use anyhow::{Context, Result};
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{Attributes, Family, NLM_F_ACK, NLM_F_CREATE, put};
use crate::nl::Connection;

/// `NFNL_SUBSYS_CTNETLINK << 8`, and its messages.
const CTNETLINK: u16 = 1 << 8;
const NEW: u16 = CTNETLINK;
const DELETE: u16 = CTNETLINK | 2;

const IPPROTO_TCP: u8 = 6;
/// `TCP_CONNTRACK_ESTABLISHED`.
const ESTABLISHED: u8 = 3;
/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`: an entry that is not given up early when the table is full.
const STATUS: u32 = 2 | 4 | 8;
/// How long an entry lives without a packet.
const TIMEOUT_SECONDS: u32 = 3600;
/// Addresses of nobody (RFC 5737).
const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Forgets all connections in the calling thread's namespace (`IPCTNL_MSG_CT_DELETE` without a tuple).
pub fn flush() -> Result<()> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    ask(&mut connection, DELETE, 0, &[]).context("flush conntrack")
}

/// Makes entries of as many established TCP connections in the calling thread's namespace.
pub fn fill(count: u16) -> Result<()> {
    let mut connection = Connection::open(NETLINK_NETFILTER)?;
    for port in 1..=count {
        ask(&mut connection, NEW, NLM_F_CREATE, &established(port)).with_context(|| format!("make conntrack entry {port} of {count}"))?;
    }
    Ok(())
}

fn established(port: u16) -> Vec<u8> {
    let new = Attributes::default;
    let tuple = |(source, source_port): (Ipv4Addr, u16), (destination, destination_port): (Ipv4Addr, u16)| {
        let addresses = new().bytes(1, &source.octets()).bytes(2, &destination.octets());
        let protocol = new()
            .bytes(1, &[IPPROTO_TCP])
            .bytes(2, &source_port.to_be_bytes())
            .bytes(3, &destination_port.to_be_bytes());
        new().nest(1, &addresses).nest(2, &protocol)
    };
    let (client, server) = ((CLIENT, port), (SERVER, 80));
    // CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_PROTOINFO { CTA_PROTOINFO_TCP { CTA_PROTOINFO_TCP_STATE } }, CTA_TIMEOUT
    new()
        .nest(1, &tuple(client, server))
        .nest(2, &tuple(server, client))
        .number(3, STATUS)
        .nest(4, &new().nest(1, &new().bytes(1, &[ESTABLISHED])))
        .number(7, TIMEOUT_SECONDS)
        .into_bytes()
}

/// One request, and its acknowledgement.
fn ask(connection: &mut Connection, kind: u16, flags: u16, payload: &[u8]) -> Result<()> {
    let sequence = connection.next_sequence();
    let mut bytes = Vec::new();
    put(&mut bytes, kind, flags | NLM_F_ACK, sequence, Family::Ip.number(), 0, payload);
    connection.send(&bytes)?;
    loop {
        for frame in connection.receive()? {
            match frame.errno() {
                Some(0) => return Ok(()),
                Some(number) => return Err(io::Error::from_raw_os_error(number).into()),
                None => {}
            }
        }
    }
}
