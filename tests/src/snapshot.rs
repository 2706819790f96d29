//! The kernel state of a whole fabric as sorted text, one list of lines for each namespace: two
//! snapshots are equal when nothing that anybody programmed differs. Interface indexes, handles,
//! counters and learned neighbours are left out, because nobody programmed them.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use netlink_packet_route::neighbour::NeighbourState;

use crate::{
    fabric::{Fabric, plan::mac_text, sysctl},
    foreign::{
        bpf::{self, Direction},
        offload, tc,
    },
    netns::Netns,
    nft,
    nl::{LinkState, Rtnl},
};

/// Lines by namespace.
pub type Snapshot = BTreeMap<String, Vec<String>>;

/// Settings of each device that Calico or a fault sets.
const DEVICE_SETTINGS: [&str; 6] = [
    "forwarding",
    "proxy_arp",
    "rp_filter",
    "route_localnet",
    "arp_ignore",
    "arp_announce",
];

/// The same of IPv6.
const DEVICE_SETTINGS_V6: [&str; 4] = ["forwarding", "proxy_ndp", "accept_ra", "disable_ipv6"];

/// Takes a snapshot of every namespace of the fabric.
pub fn take(fabric: &Fabric) -> Result<Snapshot> {
    let mut names = vec![fabric.spec().switch_netns()];
    names.extend(fabric.nodes().iter().map(|node| node.netns.clone()));
    names.extend(fabric.pods().into_iter().map(|pod| pod.netns));
    let mut snapshot = Snapshot::new();
    for name in names {
        let lines = Netns::open(&name)?.run(lines)?;
        snapshot.insert(name, lines);
    }
    Ok(snapshot)
}

/// What differs between two snapshots, one line each, empty when they are equal.
#[must_use]
pub fn difference(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut different = Vec::new();
    let empty = Vec::new();
    for name in before.keys().chain(after.keys().filter(|name| !before.contains_key(*name))) {
        let old = before.get(name).unwrap_or(&empty);
        let new = after.get(name).unwrap_or(&empty);
        different.extend(old.iter().filter(|l| !new.contains(l)).map(|l| format!("{name}: - {l}")));
        different.extend(new.iter().filter(|l| !old.contains(l)).map(|l| format!("{name}: + {l}")));
    }
    different
}

fn lines() -> Result<Vec<String>> {
    let mut nl = Rtnl::open()?;
    let links = nl.links()?;
    let name_of = |index: u32| {
        links
            .iter()
            .find(|link| link.index == index)
            .map_or_else(|| index.to_string(), |link| link.name.clone())
    };
    let mut lines = Vec::new();
    for link in &links {
        lines.extend(link_lines(&mut nl, link, &name_of)?);
    }
    for (index, address) in nl.addresses()? {
        lines.push(format!("address {address} dev {}", name_of(index)));
    }
    for route in nl.routes()? {
        lines.push(format!("route {route}"));
    }
    for rule in nl.rules()? {
        lines.push(format!("rule {rule}"));
    }
    for entry in nl.neighbours()? {
        if entry.state == NeighbourState::Permanent {
            let mac = entry.mac.as_deref().map(mac_text);
            lines.push(format!("neighbour {} dev {} {mac:?}", entry.address, name_of(entry.link)));
        }
    }
    for entry in nl.fdb()? {
        lines.push(format!(
            "fdb {} dev {} dst {} {:?}",
            mac_text(&entry.mac),
            name_of(entry.link),
            entry.remote,
            entry.state
        ));
    }
    for (at, rule) in nft::dump_rules()?.iter().enumerate() {
        // Order within a chain matters.
        lines.push(format!("nft {} {} {} {at} {}", rule.family, rule.table, rule.chain, rule.shape()));
    }
    lines.push(format!("ip_forward {}", sysctl::get("net/ipv4/ip_forward")?));
    lines.push(format!("iptables-legacy {:?}", legacy_rules()?));
    lines.sort();
    Ok(lines)
}

fn link_lines(nl: &mut Rtnl, link: &LinkState, name_of: &dyn Fn(u32) -> String) -> Result<Vec<String>> {
    let name = &link.name;
    let mut lines = Vec::new();
    // The host's side of a switch port has a random MAC, which a remade port would not have; no
    // fault remakes one.
    lines.push(format!(
        "link {name} {} up {} mac {} mtu {} controller {:?}",
        link.kind,
        link.up,
        mac_text(&link.mac),
        link.mtu,
        link.controller.map(name_of)
    ));
    if let Some(vxlan) = &link.vxlan {
        lines.push(format!(
            "vxlan {name} id {} port {} local {:?} dev {} learning {}",
            vxlan.vni,
            vxlan.port,
            vxlan.local,
            name_of(vxlan.parent),
            vxlan.learning
        ));
    }
    for setting in DEVICE_SETTINGS_V6 {
        // A device that came without IPv6 has none of them.
        let key = format!("net/ipv6/conf/{name}/{setting}");
        if Path::new("/proc/sys").join(&key).exists() {
            lines.push(format!("sysctl {name} ipv6 {setting} {}", sysctl::get(&key)?));
        }
    }
    for setting in DEVICE_SETTINGS {
        let value = sysctl::get(&format!("net/ipv4/conf/{name}/{setting}"))?;
        lines.push(format!("sysctl {name} {setting} {value}"));
    }
    for direction in [Direction::Ingress, Direction::Egress] {
        for program in bpf::tcx_programs(link.index, direction)? {
            let program = bpf::program_name(program)?;
            lines.push(format!("tcx {name} {direction:?} {program}"));
        }
    }
    if let Some(program) = link.xdp {
        lines.push(format!("xdp {name} {}", bpf::program_name(program)?));
    }
    for qdisc in tc::qdiscs(nl, link.index)? {
        lines.push(format!("qdisc {name} {qdisc}"));
    }
    if name != "lo" {
        lines.push(format!("offload {name} tx-checksum {}", offload::transmit_checksum(name)?));
    }
    Ok(lines)
}

/// Sizes of the iptables-legacy tables that exist: an emptied table is as good as none.
fn legacy_rules() -> Result<Option<u32>> {
    let names = match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("read ip_tables_names"),
    };
    if !names.lines().any(|name| name == "filter") {
        return Ok(None);
    }
    // Three policies and the end: no rule.
    Ok(Some(crate::foreign::legacy::filter_entries()?).filter(|entries| *entries != 4))
}
