//! Links: veth pairs across namespaces, bridges, the tunnel device.

use std::{fs::File, net::IpAddr, os::fd::AsRawFd};

use anyhow::{Context, Result, anyhow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

use super::{Rtnl, errno};

/// What the fabric looks at in a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkState {
    /// `ifindex`
    pub index: u32,
    /// its name
    pub name: String,
    /// administratively up
    pub up: bool,
    /// link-layer address
    pub mac: Vec<u8>,
    /// `IFLA_MTU`
    pub mtu: u32,
    /// `IFLA_LINKINFO` kind and attributes, as text
    pub kind: String,
    /// index of the bridge it is a port of
    pub controller: Option<u32>,
    /// VXLAN attributes, when it is a VXLAN device
    pub vxlan: Option<Vxlan>,
    /// id of an attached XDP program
    pub xdp: Option<u32>,
}

/// The attributes of a VXLAN device that Felix sets (`vxlan_mgr.go`) and compares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// VXLAN network identifier
    pub vni: u32,
    /// UDP port
    pub port: u16,
    /// outer source address
    pub local: Option<IpAddr>,
    /// index of the parent device
    pub parent: u32,
    /// learning of addresses from received packets
    pub learning: bool,
}

impl Rtnl {
    /// The link of that name, if there is one.
    pub fn link(&mut self, name: &str) -> Result<Option<LinkState>> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        match self.ask(RouteNetlinkMessage::GetLink(message), 0) {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(describe(&link)),
                _ => None,
            })),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look up link {name}")),
        }
    }

    /// All links.
    pub fn links(&mut self) -> Result<Vec<LinkState>> {
        let dump = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(dump
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(describe(link)),
                _ => None,
            })
            .collect())
    }

    /// Index of a link that must exist.
    pub fn index(&mut self, name: &str) -> Result<u32> {
        self.link(name)?
            .map(|link| link.index)
            .ok_or_else(|| anyhow!("there is no link {name}"))
    }

    fn add_link(&mut self, attributes: Vec<LinkAttribute>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Makes a veth pair: `name` here, `peer_name` in the namespace behind `peer_netns`.
    pub fn add_veth(
        &mut self,
        (name, mac): (&str, Option<[u8; 6]>),
        (peer_name, peer_mac): (&str, Option<[u8; 6]>),
        peer_netns: Option<&File>,
        mtu: u32,
    ) -> Result<()> {
        let side = |name: &str, mac: Option<[u8; 6]>| {
            let mut attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
            if let Some(mac) = mac {
                attributes.push(LinkAttribute::Address(mac.to_vec()));
            }
            attributes
        };
        let mut peer = LinkMessage::default();
        peer.attributes = side(peer_name, peer_mac);
        if let Some(file) = peer_netns {
            peer.attributes.push(LinkAttribute::NetNsFd(file.as_raw_fd()));
        }
        let mut attributes = side(name, mac);
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        self.add_link(attributes)
            .with_context(|| format!("make veth pair {name} and {peer_name}"))
    }

    /// Makes a bridge that forwards at once and keeps out of multicast.
    pub fn add_bridge(&mut self, name: &str, mac: Option<[u8; 6]>) -> Result<()> {
        let mut attributes = vec![LinkAttribute::IfName(name.to_owned())];
        if let Some(mac) = mac {
            attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bridge),
            LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
        ]));
        self.add_link(attributes).with_context(|| format!("make bridge {name}"))
    }

    /// Makes a VXLAN device with the attributes that Felix sends (`addVxlanAttrs` of the netlink
    /// library it uses sends learning, proxy, rsc and the misses even when they are off).
    pub fn add_vxlan(&mut self, name: &str, mac: [u8; 6], mtu: u32, vxlan: &Vxlan) -> Result<()> {
        let mut data = vec![
            InfoVxlan::Id(vxlan.vni),
            InfoVxlan::Link(vxlan.parent),
            InfoVxlan::Ttl(0),
            InfoVxlan::Tos(0),
            InfoVxlan::Learning(vxlan.learning),
            InfoVxlan::Proxy(false),
            InfoVxlan::Rsc(false),
            InfoVxlan::L2Miss(false),
            InfoVxlan::L3Miss(false),
            InfoVxlan::UDPZeroCsumTX(false),
            InfoVxlan::UDPZeroCsumRX(false),
            InfoVxlan::Port(vxlan.port),
        ];
        match vxlan.local {
            Some(IpAddr::V4(local)) => data.push(InfoVxlan::Local(local)),
            Some(IpAddr::V6(local)) => data.push(InfoVxlan::Local6(local)),
            None => {}
        }
        self.add_link(vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]),
        ])
        .with_context(|| format!("make VXLAN device {name}"))
    }

    /// Makes an IPIP device to anywhere, as Felix does.
    pub fn add_ipip(&mut self, name: &str) -> Result<()> {
        self.add_link(vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)]),
        ])
        .with_context(|| format!("make IPIP device {name}"))
    }

    /// Deletes a link.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        self.request(RouteNetlinkMessage::DelLink(message), 0)
            .with_context(|| format!("delete link {name}"))
    }

    /// Sets a link administratively up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .with_context(|| format!("set link {name} {}", if up { "up" } else { "down" }))
    }

    /// Changes attributes of a link.
    pub fn change_link(&mut self, name: &str, attributes: Vec<LinkAttribute>) -> Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        message.attributes = attributes;
        self.request(RouteNetlinkMessage::SetLink(message), 0)
            .with_context(|| format!("change link {name}"))
    }

    /// Makes `name` a port of `bridge`.
    pub fn set_controller(&mut self, name: &str, bridge: &str) -> Result<()> {
        let bridge = self.index(bridge)?;
        self.change_link(name, vec![LinkAttribute::Controller(bridge)])
    }
}

fn describe(link: &LinkMessage) -> LinkState {
    let mut state = LinkState {
        index: link.header.index,
        name: String::new(),
        up: link.header.flags.contains(LinkFlags::Up),
        mac: Vec::new(),
        mtu: 0,
        kind: String::new(),
        controller: None,
        vxlan: None,
        xdp: None,
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name.clone_from(name),
            LinkAttribute::Address(mac) => state.mac.clone_from(mac),
            LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
            LinkAttribute::Controller(index) => state.controller = Some(*index),
            LinkAttribute::Xdp(parts) => {
                for part in parts {
                    if let netlink_packet_route::link::LinkXdp::ProgId(id) = part {
                        state.xdp = Some(*id);
                    }
                }
            }
            LinkAttribute::LinkInfo(info) => {
                for part in info {
                    match part {
                        LinkInfo::Kind(kind) => state.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Vxlan(data)) => {
                            state.vxlan = Some(describe_vxlan(data));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    state
}

fn describe_vxlan(data: &[InfoVxlan]) -> Vxlan {
    let mut vxlan = Vxlan {
        vni: 0,
        port: 0,
        local: None,
        parent: 0,
        learning: false,
    };
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => vxlan.vni = *vni,
            InfoVxlan::Port(port) => vxlan.port = *port,
            InfoVxlan::Local(local) => vxlan.local = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) => vxlan.local = Some(IpAddr::V6(*local)),
            InfoVxlan::Link(parent) => vxlan.parent = *parent,
            InfoVxlan::Learning(learning) => vxlan.learning = *learning,
            _ => {}
        }
    }
    vxlan
}
