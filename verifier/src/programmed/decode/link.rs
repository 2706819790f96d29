//! Links: `RTM_NEWLINK`, attributes of `include/uapi/linux/if_link.h`.

use crate::programmed::netlink::{
    Malformed, Request,
    attr::{self, attrs},
};
use std::{collections::BTreeMap, net::IpAddr};
use verifier_core::programmed::{Link, LinkKind};

/// `RTM_NEWLINK`.
pub const NEW: u16 = 16;
const GET: u16 = 18;

const IFF_UP: u32 = 0x1;
const IFF_LOOPBACK: u32 = 0x8;
const IFF_RUNNING: u32 = 0x40;

/// The fields of `struct rtnl_link_stats64` by position, as far as they tell of losses or of traffic at all.
const COUNTERS: &[(usize, &str)] = &[
    (0, "rx_packets"),
    (1, "tx_packets"),
    (4, "rx_errors"),
    (5, "tx_errors"),
    (6, "rx_dropped"),
    (7, "tx_dropped"),
    (17, "tx_carrier_errors"),
    (23, "rx_nohandler"),
    // Since Linux 5.19; absent before.
    (24, "rx_otherhost_dropped"),
];

/// Dump of all links.
pub fn request() -> Request {
    Request::dump(GET, &[0; 16])
}

/// One link, asked for by name.
pub fn request_named(name: &str) -> Request {
    let mut value = name.as_bytes().to_vec();
    value.push(0);
    Request::ask(GET, &[0; 16]).attr(3, &value)
}

/// Decode one.
///
/// # Errors
/// If the message contradicts itself.
pub fn decode(kind: u16, message: &[u8]) -> Result<Option<Link>, Malformed> {
    if kind != NEW {
        return Ok(None);
    }
    let header = attr::head::<16>("ifinfomsg", message)?;
    let index = attr::u32_of("ifinfomsg index", &header[4..])?;
    let flags = attr::u32_of("ifinfomsg flags", &header[8..])?;
    let mut link = Link {
        index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        kind: if flags & IFF_LOOPBACK == 0 {
            LinkKind::Plain
        } else {
            LinkKind::Loopback
        },
        master: None,
        link: None,
        link_netnsid: None,
        xdp: None,
        counters: BTreeMap::new(),
    };
    for attr in attrs(&message[16..]) {
        let (kind, value) = attr?;
        match kind {
            // IFLA_ADDRESS. Six bytes are an Ethernet address; `tunl0` has four, which are none.
            1 => link.mac = attr::mac_of(value),
            3 => link.name = attr::name_of(value),
            4 => link.mtu = attr::u32_of("IFLA_MTU", value)?,
            5 => link.link = Some(attr::u32_of("IFLA_LINK", value)?).filter(|i| *i != 0),
            10 => link.master = Some(attr::u32_of("IFLA_MASTER", value)?).filter(|i| *i != 0),
            18 => link.kind = link_kind(value)?.unwrap_or(link.kind),
            23 => link.counters = counters(value),
            37 => link.link_netnsid = Some(attr::i32_of("IFLA_LINK_NETNSID", value)?).filter(|id| *id >= 0),
            43 => link.xdp = xdp(value)?,
            _ => {}
        }
    }
    if link.name.is_empty() {
        return Err(Malformed::Missing { part: "IFLA_IFNAME" });
    }
    Ok(Some(link))
}

fn counters(value: &[u8]) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let (fields, _) = value.as_chunks::<8>();
    for (position, name) in COUNTERS {
        if let Some(field) = fields.get(*position) {
            found.insert((*name).to_string(), u64::from_ne_bytes(*field));
        }
    }
    found
}

/// `IFLA_LINKINFO`: the kind, and the data of a kind that is understood.
fn link_kind(info: &[u8]) -> Result<Option<LinkKind>, Malformed> {
    let (mut name, mut data) = (None, &[][..]);
    for attr in attrs(info) {
        match attr? {
            (1, value) => name = Some(attr::name_of(value)),
            (2, value) => data = value,
            _ => {}
        }
    }
    Ok(match name {
        None => None,
        Some(name) => Some(match name.as_str() {
            "vxlan" => vxlan(data)?,
            "veth" => LinkKind::Veth,
            "bridge" => LinkKind::Bridge,
            "ipip" => LinkKind::Ipip,
            _ => LinkKind::Other { name },
        }),
    })
}

fn vxlan(data: &[u8]) -> Result<LinkKind, Malformed> {
    let (mut vni, mut port) = (0, 0);
    let (mut local, mut lower) = (None, None);
    let (mut learning, mut flow_based) = (false, false);
    for attr in attrs(data) {
        let (kind, value) = attr?;
        match kind {
            1 => vni = attr::u32_of("IFLA_VXLAN_ID", value)?,
            3 => lower = Some(attr::u32_of("IFLA_VXLAN_LINK", value)?).filter(|i| *i != 0),
            4 | 17 => local = Some(attr::ip_of("IFLA_VXLAN_LOCAL", value)?).filter(|ip: &IpAddr| !ip.is_unspecified()),
            7 => learning = attr::u8_of("IFLA_VXLAN_LEARNING", value)? != 0,
            15 => port = attr::be16_of("IFLA_VXLAN_PORT", value)?,
            // `vxlan_fill_info` writes a byte, older kernels an empty attribute.
            25 => flow_based = value.first() != Some(&0),
            _ => {}
        }
    }
    Ok(LinkKind::Vxlan {
        vni,
        port,
        local,
        lower,
        learning,
        flow_based,
    })
}

/// `IFLA_XDP`: the id of the program, whatever the mode (`IFLA_XDP_PROG_ID`, or that of one mode where several are attached).
fn xdp(value: &[u8]) -> Result<Option<u32>, Malformed> {
    let mut program = None;
    for attr in attrs(value) {
        let (kind, value) = attr?;
        if (4..=7).contains(&kind) {
            program = Some(attr::u32_of("IFLA_XDP_PROG_ID", value)?).filter(|id| *id != 0).or(program);
        }
    }
    Ok(program)
}
