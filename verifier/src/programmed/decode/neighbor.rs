//! Neighbours and bridge forwarding entries: both are `RTM_NEWNEIGH`, told apart by the family in `struct ndmsg`.

use super::{AF_BRIDGE, AF_INET, AF_INET6};
use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use verifier_core::{
    names::Mac,
    programmed::{FdbEntry, Neighbor},
};

/// `RTM_NEWNEIGH`.
pub const NEW: u16 = 28;
const GET: u16 = 30;

/// Dump of the entries of one family; of one interface if `index` is not 0.
pub fn request(family: u8, index: u32) -> Request {
    let mut header = [0; 12];
    header[0] = family;
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    // Strict checking wants an interface filter of ARP and NDP entries as an attribute, that of bridge entries in the header.
    match (family, index) {
        (AF_BRIDGE, _) | (_, 0) => Request::dump(GET, &header),
        (_, index) => {
            header[4..8].fill(0);
            // NDA_IFINDEX
            Request::dump(GET, &header).attr(8, &index.to_ne_bytes())
        }
    }
}

struct Fields {
    family: u8,
    index: u32,
    state: u16,
    flags: u8,
    dst: Option<std::net::IpAddr>,
    mac: Option<Mac>,
    port: Option<u16>,
    vni: Option<u32>,
}

fn fields(message: &[u8]) -> Result<Fields, Malformed> {
    let header = attr::head::<12>("ndmsg", message)?;
    let mut fields = Fields {
        family: header[0],
        index: attr::u32_of("ndmsg index", &header[4..])?,
        state: attr::u16_of("ndmsg state", &header[8..])?,
        flags: header[10],
        dst: None,
        mac: None,
        port: None,
        vni: None,
    };
    for attr in attrs(&message[12..]) {
        let (kind, value) = attr?;
        match kind {
            // An entry of another link layer than Ethernet has no address that matters here.
            1 if value.len() == 4 || value.len() == 16 => fields.dst = Some(attr::ip_of("NDA_DST", value)?),
            2 => fields.mac = attr::mac_of(value),
            6 => fields.port = Some(attr::be16_of("NDA_PORT", value)?),
            7 => fields.vni = Some(attr::u32_of("NDA_VNI", value)?),
            _ => {}
        }
    }
    Ok(fields)
}

/// Decode an ARP or NDP entry of `family`.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(family: u8, kind: u16, message: &[u8]) -> Result<Option<Neighbor>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let found = fields(message)?;
    if found.family != family || !matches!(family, AF_INET | AF_INET6) {
        return Ok(None);
    }
    Ok(Some(Neighbor {
        index: found.index,
        ip: found.dst.ok_or(Malformed::Missing { part: "NDA_DST" })?,
        mac: found.mac,
        state: found.state,
    }))
}

/// Decode a bridge forwarding entry.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode_fdb(kind: u16, message: &[u8]) -> Result<Option<FdbEntry>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let found = fields(message)?;
    if found.family != AF_BRIDGE {
        return Ok(None);
    }
    // Entries of devices with longer or shorter addresses are of no concern.
    Ok(found.mac.map(|mac| FdbEntry {
        index: found.index,
        mac,
        dst: found.dst,
        state: found.state,
        flags: found.flags,
        vni: found.vni,
        port: found.port,
    }))
}
