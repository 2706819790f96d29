//! From a snapshot to facts that are the same on every node of a healthy cluster.

use super::{Fact, Profile, Weight};
use crate::{
    evidence::Evidence,
    host::HostAccount,
    intent::{NodeIntent, RouteClass, Setting},
    programmed::{LinkKind, NUD_PERMANENT, NetconfScope, NodeState},
    verdict::NodeSnapshot,
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;

/// A node's profile.
pub fn profile(snapshot: &NodeSnapshot) -> Profile {
    let mut out = Profile::default();
    out.fact("agent/version", 20, &snapshot.version);
    let intent = snapshot.intent.seen();
    out.gaps("intent/", &snapshot.intent);
    if let Some(intent) = intent {
        of_intent(&mut out, intent);
    }
    out.gaps("programmed/", &snapshot.programmed);
    if let Some(state) = snapshot.programmed.seen() {
        of_state(&mut out, state, intent);
    }
    match &snapshot.host {
        Some(host) => {
            out.gaps("host/", host);
            if let Some(host) = host.seen() {
                of_host(&mut out, host);
            }
        }
        None => out.gaps(
            "host/",
            &Evidence::<()>::unavailable("host", "the snapshot has no host account: give the agent --host-root"),
        ),
    }
    out
}

impl Profile {
    fn fact(&mut self, key: impl Into<String>, weight: Weight, value: impl ToString) {
        self.facts.insert(
            key.into(),
            Fact {
                value: value.to_string(),
                weight,
            },
        );
    }

    fn gaps<T>(&mut self, prefix: &str, evidence: &Evidence<T>) {
        if !evidence.gaps().is_empty() {
            self.unknown.insert(prefix.to_string(), evidence.gaps().to_vec());
        }
    }

    /// A fact of complete evidence; of anything less, a gap: half of a set is another set.
    fn of<T>(&mut self, key: &str, weight: Weight, evidence: &Evidence<T>, value: impl FnOnce(&T) -> String) {
        match evidence.all() {
            Ok(all) => {
                let value = value(all);
                self.fact(key, weight, value);
            }
            Err(gaps) => {
                self.unknown.insert(key.to_string(), gaps);
            }
        }
    }
}

fn joined<T: ToString>(all: impl IntoIterator<Item = T>) -> String {
    let set: BTreeSet<String> = all.into_iter().map(|item| item.to_string()).collect();
    if set.is_empty() {
        return "none".to_string();
    }
    set.into_iter().collect::<Vec<_>>().join(", ")
}

fn setting<T: core::fmt::Debug>(setting: &Setting<T>) -> String {
    match setting {
        Setting::Known { value, from } => format!("{value:?} ({from:?})"),
        Setting::Unresolved { gap } => format!("unresolved: {}", gap.why),
    }
}

fn of_intent(out: &mut Profile, intent: &NodeIntent) {
    let s = &intent.settings;
    out.fact("intent/calico-version", 70, format!("{:?}", s.calico_version));
    out.fact("intent/dataplane", 80, setting(&s.dataplane));
    out.fact("intent/vxlan-port", 80, setting(&s.vxlan_port));
    out.fact("intent/vxlan-vni", 80, setting(&s.vxlan_vni));
    out.fact("intent/route-sync-disabled", 80, setting(&s.route_sync_disabled));
    out.fact("intent/device-route-protocol", 50, setting(&s.device_route_protocol));
    for (name, value) in &s.other {
        out.fact(format!("intent/setting/{name}"), 40, setting(value));
    }
    out.fact("intent/owns-blocks", 45, !intent.blocks.is_empty());
    out.fact("intent/has-tunnel-address", 85, intent.tunnels.iter().all(|t| t.address.is_some()));
    out.fact("claim/ready", 30, format!("{:?}", intent.claim.ready));
    out.fact("claim/calico-node", 30, format!("{:?}", intent.claim.calico_node));
    out.fact("claim/cordoned", 25, intent.claim.unschedulable);
}

fn of_state(out: &mut Profile, state: &NodeState, intent: Option<&NodeIntent>) {
    let tunnels: BTreeSet<&str> = intent
        .map(|i| i.tunnels.iter().map(|t| t.device.as_str()).collect())
        .unwrap_or_default();
    let links = state.links.seen().map(Vec::as_slice).unwrap_or_default();
    out.gaps("programmed/tunnel/", &state.links);
    for name in &tunnels {
        let Some(link) = links.iter().find(|l| l.name == *name) else {
            if state.links.is_complete() {
                out.fact(format!("programmed/tunnel/{name}"), 100, "missing");
            }
            continue;
        };
        let key = |what: &str| format!("programmed/tunnel/{name}/{what}");
        out.fact(format!("programmed/tunnel/{name}"), 100, "there");
        out.fact(key("up"), 100, link.up);
        out.fact(key("mtu"), 95, link.mtu);
        if let LinkKind::Vxlan {
            vni,
            port,
            learning,
            flow_based,
            ..
        } = &link.kind
        {
            out.fact(
                key("vxlan"),
                95,
                format!("id {vni} port {port} learning {learning} flow-based {flow_based}"),
            );
        }
        let addresses = state
            .addresses
            .seen()
            .into_iter()
            .flatten()
            .filter(|a| a.index == link.index && !matches!(a.ip.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local()))
            .count();
        if state.addresses.is_complete() {
            out.fact(key("addresses"), 90, addresses);
        }
    }
    let parent = intent.and_then(|i| {
        let own = i.host_ip?;
        let index = state.addresses.seen()?.iter().find(|a| a.ip.addr() == own)?.index;
        links.iter().find(|l| l.index == index)
    });
    if let Some(parent) = parent {
        out.fact("programmed/underlay/name", 40, &parent.name);
        out.fact("programmed/underlay/mtu", 85, parent.mtu);
        out.fact(
            "programmed/underlay/kind",
            50,
            format!(
                "{:?}",
                core::mem::discriminant(&parent.kind) == core::mem::discriminant(&LinkKind::Plain)
            ),
        );
    }
    if let Some(offloads) = &state.offloads {
        out.gaps("programmed/offloads/", offloads);
        // Of the tunnel devices and what carries them: others may differ as machines do.
        for (name, flags) in offloads.seen().into_iter().flatten() {
            let key = if tunnels.contains(name.as_str()) {
                format!("programmed/offloads/{name}")
            } else if parent.is_some_and(|p| p.name == *name) {
                "programmed/offloads/underlay".to_string()
            } else {
                continue;
            };
            out.fact(
                key,
                70,
                joined(flags.iter().map(|(flag, on)| format!("{flag} {}", if *on { "on" } else { "off" }))),
            );
        }
    }
    if let Some(intent) = intent {
        let devices: BTreeSet<&str> = intent.workloads.values().map(|w| w.device.as_str()).collect();
        let mtus = links.iter().filter(|l| devices.contains(l.name.as_str())).map(|l| l.mtu);
        out.fact("programmed/workloads/mtu", 70, joined(mtus));
        routes(out, state, intent);
        entries(out, state, intent);
    }
    out.of("programmed/rules", 80, &state.rules, |rules| {
        joined(
            rules
                .iter()
                .map(|r| format!("{}: fwmark {:?} {:?}", r.priority, r.fwmark, r.action)),
        )
    });
    out.of("programmed/netconf", 85, &state.netconf, |all| {
        let every = all.iter().filter(|n| n.scope == NetconfScope::All);
        joined(every.map(|n| format!("forwarding {:?} rp_filter {:?}", n.forwarding, n.rp_filter)))
    });
    out.of("programmed/base-chains", 75, &state.base_chains, |chains| {
        joined(chains.iter().filter(|c| c.device.is_none()).map(|c| {
            let policy = if c.policy_drop { " policy drop" } else { "" };
            format!("{:?} {} {} {} {}{policy}", c.backend, c.family, c.table, c.chain, c.hook)
        }))
    });
    out.of("programmed/filters", 65, &state.filters, |rules| {
        // Chains of single pods differ as pods do.
        let shared = rules
            .iter()
            .filter(|r| !["cali-tw-", "cali-fw-"].iter().any(|p| r.chain.contains(p)));
        joined(shared.map(|r| format!("{:?} {} {} {:?}", r.backend, r.table, r.chain, r.verdict)))
    });
    out.of("programmed/hooks", 75, &state.hooks, |hooks| {
        joined(hooks.iter().map(|h| format!("{:?} {}", h.point, h.program)))
    });
    out.of("programmed/conntrack", 40, &state.conntrack, |c| {
        format!("at most {:?} entries", c.entries_max)
    });
}

/// Routes by shape: what stands for remote blocks, without their addresses, and how many are wanting.
fn routes(out: &mut Profile, state: &NodeState, intent: &NodeIntent) {
    const KEY: &str = "programmed/routes/";
    let Ok(routes) = state.routes.all() else {
        out.gaps(KEY, &state.routes);
        return;
    };
    let name = |index: Option<u32>| {
        let links = state.links.seen().into_iter().flatten();
        let found = index.and_then(|i| links.into_iter().find(|l| l.index == i));
        found.map_or_else(|| "no device".to_string(), |l| l.name.clone())
    };
    let mut shapes: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut wanting = 0;
    for want in &intent.routes {
        let class = match want.class {
            RouteClass::RemoteBlock { .. } => "remote-block",
            RouteClass::LocalBlock => "local-block",
            // Devices of pods have names of their own, and some versions leave tunnel addresses behind.
            RouteClass::LocalPod { .. } | RouteClass::RemoteTunnelAddress { .. } => "",
        };
        match routes.iter().find(|r| r.dst == want.dst && r.table == 254) {
            None if want.required => wanting += 1,
            Some(r) if !class.is_empty() => {
                let hop = r.next_hops.first();
                shapes.entry(class).or_default().insert(format!(
                    "{:?} dev {} onlink {} proto {} mtu {:?}",
                    r.kind,
                    name(hop.and_then(|h| h.oif)),
                    hop.is_some_and(|h| h.onlink),
                    r.protocol,
                    r.mtu
                ));
            }
            _ => {}
        }
    }
    out.fact(format!("{KEY}missing"), 95, wanting);
    for (class, shapes) in shapes {
        out.fact(format!("{KEY}{class}"), 80, joined(shapes));
    }
    out.fact(format!("{KEY}tables"), 60, joined(routes.iter().map(|r| r.table)));
    out.fact(
        format!("{KEY}default"),
        60,
        routes.iter().any(|r| r.dst.prefix_len() == 0 && r.table == 254),
    );
}

/// Neighbours and forwarding entries by shape: how many are wanting, how many nobody wants.
fn entries(out: &mut Profile, state: &NodeState, intent: &NodeIntent) {
    let tunnels: BTreeSet<u32> = state
        .links
        .seen()
        .into_iter()
        .flatten()
        .filter(|l| intent.tunnels.iter().any(|t| t.device == l.name))
        .map(|l| l.index)
        .collect();
    out.of("programmed/neighbors", 85, &state.neighbors, |all| {
        let permanent: Vec<_> = all
            .iter()
            .filter(|n| tunnels.contains(&n.index) && n.state & NUD_PERMANENT != 0)
            .collect();
        let missing = intent
            .neighbors
            .iter()
            .filter(|w| !permanent.iter().any(|n| n.ip == w.ip && n.mac == Some(w.mac)))
            .count();
        let extra = permanent.iter().filter(|n| !intent.neighbors.iter().any(|w| w.ip == n.ip)).count();
        format!("{missing} missing or wrong, {extra} unknown")
    });
    out.of("programmed/fdb", 85, &state.fdb, |all| {
        let own: Vec<_> = all.iter().filter(|f| tunnels.contains(&f.index)).collect();
        let missing = intent
            .fdb
            .iter()
            .filter(|w| !own.iter().any(|f| f.mac == w.mac && f.dst == Some(w.dst)))
            .count();
        let extra = own
            .iter()
            .filter(|f| !intent.fdb.iter().any(|w| w.mac == f.mac && f.dst == Some(w.dst)))
            .count();
        format!("{missing} missing or wrong, {extra} unknown")
    });
}

/// The machine.
fn of_host(out: &mut Profile, host: &HostAccount) {
    out.of("host/os", 60, &host.os, |os| {
        format!("{} {}", os.name, os.image.as_deref().unwrap_or("")).trim().to_string()
    });
    out.of("host/cloud-init", 30, &host.os, |os| match &os.cloud {
        None => os.cloud_init.to_string(),
        Some(cloud) => format!(
            "{}, {}, {} errors",
            cloud.datasource.as_deref().unwrap_or("no data source"),
            if cloud.finished { "finished" } else { "not finished" },
            cloud.errors.map_or_else(|| "unknown".to_string(), |n| n.to_string())
        ),
    });
    out.of("host/kernel", 80, &host.kernel, |k| k.release.clone());
    out.of("host/modules", 90, &host.modules, |m| {
        // Loaded on demand: that it can be had is what counts.
        let had: BTreeSet<&String> = m
            .loaded
            .iter()
            .chain(&m.builtin)
            .chain(m.on_disk.iter().filter(|n| !m.blocked.contains_key(*n)))
            .collect();
        joined(had)
    });
    out.of("host/modules-at-boot", 35, &host.modules, |m| joined(m.at_boot.keys()));
    out.of("host/modules-blocked", 70, &host.modules, |m| joined(m.blocked.keys()));
    out.gaps("host/sysctl/", &host.sysctls);
    for (key, value) in host.sysctls.seen().into_iter().flatten() {
        // Counts vary, and devices of pods have names of their own.
        if !key.ends_with("_count") && !key.starts_with("net.ipv4.conf.cali") {
            out.fact(format!("host/sysctl/{key}"), 75, value);
        }
    }
    out.of("host/sysctl-files", 45, &host.sysctl_files, |all| {
        joined(all.iter().map(|l| format!("{}={}", l.key, l.value)))
    });
    out.of("host/iptables", 85, &host.iptables, |i| {
        i.alternative.clone().unwrap_or_else(|| "unknown".to_string())
    });
    out.of("host/cni/files", 85, &host.cni, |c| {
        c.files.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")
    });
    out.of("host/cni/plugins", 80, &host.cni, |c| match c.files.first().map(|f| &f.network) {
        Some(Ok(n)) => format!(
            "{} {}: {} mtu {:?}",
            n.name,
            n.version.as_deref().unwrap_or(""),
            n.plugins.join(", "),
            n.mtu
        ),
        Some(Err(why)) => format!("cannot be parsed: {why}"),
        None => "none".to_string(),
    });
    out.of("host/cni/binaries", 65, &host.cni, |c| {
        joined(c.binaries.iter().map(|(n, b)| {
            let version = b.version.as_deref().map_or_else(String::new, |version| format!(" {version}"));
            format!("{n}{version} {:o} {} bytes", b.mode, b.size_bytes)
        }))
    });
    out.of("host/mtu-file", 80, &host.calico, |c| {
        format!("{:?}", c.mtu.as_deref().map(str::trim))
    });
    out.of("host/nodename-file", 70, &host.calico, |c| {
        if c.nodename.is_some() { "there" } else { "missing" }.to_string()
    });
    out.of("host/underlay-mtu", 80, &host.calico, |c| {
        format!("{:?}", c.underlay.as_ref().map(|(_, mtu)| mtu))
    });
    out.of("host/paths", 60, &host.paths, |all| {
        joined(all.iter().map(|p| match &p.found {
            Some(f) => format!("{} {:?} {:o} uid {}", p.path, f.kind, f.mode, f.uid),
            None => format!("{} missing", p.path),
        }))
    });
    out.of("host/runtime", 70, &host.runtime, |r| {
        let driver = |d: &Option<(String, String)>| d.as_ref().map_or("unknown", |(name, _)| name.as_str()).to_string();
        format!(
            "{} cgroups {}, kubelet cgroups {}",
            r.name.as_deref().unwrap_or("unknown"),
            driver(&r.cgroup_driver),
            driver(&r.kubelet_driver)
        )
    });
    out.of("host/network-manager", 65, &host.network_manager, |n| {
        n.as_ref()
            .map_or_else(|| "not in use".to_string(), |n| format!("leaves alone {}", joined(&n.unmanaged)))
    });
    out.of("host/networkd", 65, &host.networkd, |n| {
        n.as_ref().map_or_else(
            || "not in use".to_string(),
            |n| {
                format!(
                    "{}; foreign routes {}",
                    joined(n.networks.iter().map(|f| &f.path)),
                    n.manage_foreign_routes
                )
            },
        )
    });
    out.of("host/link-files", 50, &host.link_files, |all| joined(all.iter().map(|f| &f.path)));
    out.of("host/udev", 50, &host.udev, |all| joined(all.iter().map(|r| &r.file)));
    out.of("host/units", 55, &host.enabled_units, |all| joined(all));
}
