//! Neighbours (entries of ARP and of neighbour discovery) and forwarding-database entries of the tunnel device.

use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use super::{FAMILIES, Rtnl, absent_is_fine, family_of};

/// One entry of ARP or of neighbour discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// index of the link
    pub link: u32,
    /// protocol address
    pub address: IpAddr,
    /// link-layer address, none while it is being resolved or has failed
    pub mac: Option<Vec<u8>>,
    /// its state
    pub state: NeighbourState,
}

/// One forwarding-database entry that has a remote address (`NDA_DST`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// index of the tunnel device
    pub link: u32,
    /// inner destination MAC
    pub mac: Vec<u8>,
    /// outer destination
    pub remote: IpAddr,
    /// its state
    pub state: NeighbourState,
}

impl Rtnl {
    fn neighbour_message(&mut self, link: &str, family: AddressFamily) -> Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = family;
        message.header.ifindex = self.index(link)?;
        message.header.state = NeighbourState::Permanent;
        if family == AddressFamily::Bridge {
            message.header.flags = NeighbourFlags::Own;
        }
        Ok(message)
    }

    /// A permanent neighbour.
    pub fn replace_neighbour(&mut self, link: &str, ip: impl Into<IpAddr>, mac: [u8; 6]) -> Result<()> {
        let ip = ip.into();
        let mut message = self.neighbour_message(link, family_of(ip))?;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("set neighbour {ip} on {link}"))
    }

    /// Deletes a neighbour.
    pub fn delete_neighbour(&mut self, link: &str, ip: impl Into<IpAddr>) -> Result<()> {
        let ip = ip.into();
        let mut message = self.neighbour_message(link, family_of(ip))?;
        message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
        self.request(RouteNetlinkMessage::DelNeighbour(message), 0)
            .with_context(|| format!("delete neighbour {ip} on {link}"))
    }

    /// A permanent FDB entry: frames to `mac` are sent to `remote`. Replaces an older remote.
    pub fn replace_fdb(&mut self, link: &str, mac: [u8; 6], remote: impl Into<IpAddr>) -> Result<()> {
        let remote = remote.into();
        let mut message = self.neighbour_message(link, AddressFamily::Bridge)?;
        message.attributes = vec![
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
            NeighbourAttribute::Destination(remote.into()),
        ];
        self.request(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
            .with_context(|| format!("set FDB entry to {remote} on {link}"))
    }

    /// Deletes the FDB entry of `mac`.
    pub fn delete_fdb(&mut self, link: &str, mac: &[u8]) -> Result<()> {
        let mut message = self.neighbour_message(link, AddressFamily::Bridge)?;
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.to_vec())];
        self.request(RouteNetlinkMessage::DelNeighbour(message), 0)
            .with_context(|| format!("delete an FDB entry on {link}"))
    }

    /// All neighbours.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>> {
        let mut all = Vec::new();
        for family in FAMILIES {
            let mut message = NeighbourMessage::default();
            message.header.family = family;
            for message in self.dump(&RouteNetlinkMessage::GetNeighbour(message))? {
                let RouteNetlinkMessage::NewNeighbour(message) = message else {
                    continue;
                };
                let mut address = None;
                let mut mac = None;
                for attribute in &message.attributes {
                    match attribute {
                        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
                        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
                        NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(bytes.clone()),
                        _ => {}
                    }
                }
                // A kernel without IPv6 answers with whatever it has.
                if let Some(address) = address.filter(|_| message.header.family == family) {
                    all.push(Neighbour {
                        link: message.header.ifindex,
                        address,
                        mac,
                        state: message.header.state,
                    });
                }
            }
        }
        Ok(all)
    }

    /// All FDB entries that have a remote.
    pub fn fdb(&mut self) -> Result<Vec<FdbEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        let dump = self.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
        let mut all = Vec::new();
        for message in dump {
            let RouteNetlinkMessage::NewNeighbour(message) = message else {
                continue;
            };
            let mut remote = None;
            let mut mac = Vec::new();
            for attribute in &message.attributes {
                match attribute {
                    // The crate knows no address family for a bridge's NDA_DST: its length tells.
                    NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => remote = by_length(bytes),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => remote = Some(IpAddr::V4(*ip)),
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => remote = Some(IpAddr::V6(*ip)),
                    NeighbourAttribute::LinkLayerAddress(bytes) => mac.clone_from(bytes),
                    _ => {}
                }
            }
            if let Some(remote) = remote {
                all.push(FdbEntry {
                    link: message.header.ifindex,
                    mac,
                    remote,
                    state: message.header.state,
                });
            }
        }
        Ok(all)
    }

    /// Forgets everything that was learned by ARP or neighbour discovery, and what failed: a cold table. Permanent
    /// entries stay.
    pub fn flush_dynamic_neighbours(&mut self) -> Result<()> {
        let names: Vec<(u32, String)> = self.links()?.into_iter().map(|link| (link.index, link.name)).collect();
        for entry in self.neighbours()? {
            if matches!(entry.state, NeighbourState::Permanent | NeighbourState::Noarp) {
                continue;
            }
            if let Some((_, name)) = names.iter().find(|(index, _)| *index == entry.link) {
                // It may have expired in between.
                absent_is_fine(self.delete_neighbour(name, entry.address))?;
            }
        }
        Ok(())
    }
}

/// Four bytes are IPv4, sixteen are IPv6.
fn by_length(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.ok().or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}
