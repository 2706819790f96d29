//! NetworkManager, systemd-networkd, `.link` files, udev rules, and the units that start at boot.

use super::{
    root::{Gaps, Root, family},
    settings::unparsable,
};
use ini::{Ini, ParseOption};
use std::collections::{BTreeMap, BTreeSet};
use verifier_core::{
    evidence::Evidence,
    host::{LinkFile, NetworkFile, NetworkManagerFacts, NetworkdFacts, UdevRule},
};

/// Where systemd finds what starts at boot.
const WANTS: &[&str] = &[
    "etc/systemd/system/multi-user.target.wants",
    "etc/systemd/system/basic.target.wants",
    "etc/systemd/system/sysinit.target.wants",
    "etc/systemd/system/network-online.target.wants",
    "etc/systemd/system",
];

fn enabled(root: &Root, unit: &str, gaps: &mut Gaps) -> bool {
    WANTS.iter().any(|directory| {
        let path = format!("{directory}/{unit}");
        // A mask is a link to /dev/null; a unit that an administrator wrote is no link and not thereby enabled.
        gaps.note(root.link(&path)).is_some_and(|target| target != "/dev/null")
    })
}

fn parsed(root: &Root, path: &str, gaps: &mut Gaps) -> Option<Ini> {
    let text = gaps.note(root.text(path))?;
    let option = ParseOption {
        enabled_quote: false,
        enabled_escape: false,
        ..ParseOption::default()
    };
    match Ini::load_from_str_opt(&text, option) {
        Ok(file) => Some(file),
        Err(error) => {
            gaps.0.push(unparsable(path, error));
            None
        }
    }
}

/// Every value of a key in every section of that name, in order; keys may repeat, and an empty one resets (systemd.syntax(7)).
fn values(file: &Ini, section: &str, key: &str) -> Vec<String> {
    let mut found = Vec::new();
    for properties in file.section_all(Some(section)) {
        for value in properties.get_all(key) {
            if value.is_empty() {
                found.clear();
            }
            found.extend(value.split_whitespace().map(str::to_owned));
        }
    }
    found
}

/// systemd's words for true and false.
fn is_yes(value: &str) -> bool {
    ["yes", "true", "1", "on"].contains(&value.to_ascii_lowercase().as_str())
}

/// `unmanaged-devices` in force: later files replace, `+=` adds (NetworkManager.conf(5)).
pub fn network_manager(root: &Root) -> Evidence<Option<NetworkManagerFacts>> {
    let mut gaps = Gaps::default();
    let unit = enabled(root, "NetworkManager.service", &mut gaps);
    let running = gaps.note(root.exists("run/NetworkManager").map(Some)).unwrap_or(false);
    if !unit && !running {
        return Evidence::partial(None, gaps.0);
    }
    let mut files = vec!["etc/NetworkManager/NetworkManager.conf".to_owned()];
    let directories = [
        "etc/NetworkManager/conf.d",
        "run/NetworkManager/conf.d",
        "usr/lib/NetworkManager/conf.d",
    ];
    files.extend(family(root, &directories, ".conf", &mut gaps));
    let mut facts = NetworkManagerFacts::default();
    for path in files {
        let Some(file) = parsed(root, &path, &mut gaps) else { continue };
        let split = |value: &str| {
            value
                .split([';', ','])
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect::<Vec<_>>()
        };
        for properties in file.section_all(Some("keyfile")) {
            for (key, value) in properties.iter() {
                match key.trim() {
                    "unmanaged-devices" => {
                        facts.unmanaged = split(value);
                        facts.from = Some(format!("/{path}"));
                    }
                    "unmanaged-devices+" => {
                        facts.unmanaged.extend(split(value));
                        facts.from = Some(format!("/{path}"));
                    }
                    _ => {}
                }
            }
        }
    }
    Evidence::partial(Some(facts), gaps.0)
}

/// Directories of systemd's network files, strongest first.
const NETWORK: &[&str] = &[
    "etc/systemd/network",
    "run/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
];

/// `.network` files in the order in which they are tried, and what becomes of foreign routes.
pub fn networkd(root: &Root) -> Evidence<Option<NetworkdFacts>> {
    let mut gaps = Gaps::default();
    let unit = enabled(root, "systemd-networkd.service", &mut gaps);
    let running = gaps.note(root.exists("run/systemd/netif/state").map(Some)).unwrap_or(false);
    if !unit && !running {
        return Evidence::partial(None, gaps.0);
    }
    let mut facts = NetworkdFacts {
        manage_foreign_routes: true,
        manage_foreign_rules: true,
        networks: Vec::new(),
    };
    for path in family(root, NETWORK, ".network", &mut gaps) {
        let Some(file) = parsed(root, &path, &mut gaps) else { continue };
        let known = ["Name", "Type", "Kind"];
        let other_match = file
            .section_all(Some("Match"))
            .any(|properties| properties.iter().any(|(key, _)| !known.contains(&key)));
        facts.networks.push(NetworkFile {
            names: values(&file, "Match", "Name"),
            types: values(&file, "Match", "Type"),
            kinds: values(&file, "Match", "Kind"),
            other_match,
            unmanaged: values(&file, "Link", "Unmanaged").last().is_some_and(|v| is_yes(v)),
            path: format!("/{path}"),
        });
    }
    let mut files = vec!["etc/systemd/networkd.conf".to_owned()];
    let directories = [
        "etc/systemd/networkd.conf.d",
        "run/systemd/networkd.conf.d",
        "usr/lib/systemd/networkd.conf.d",
    ];
    files.extend(family(root, &directories, ".conf", &mut gaps));
    for path in files {
        let Some(file) = parsed(root, &path, &mut gaps) else { continue };
        if let Some(value) = values(&file, "Network", "ManageForeignRoutes").last() {
            facts.manage_foreign_routes = is_yes(value);
        }
        if let Some(value) = values(&file, "Network", "ManageForeignRoutingPolicyRules").last() {
            facts.manage_foreign_rules = is_yes(value);
        }
    }
    Evidence::partial(Some(facts), gaps.0)
}

/// `.link` files in the order in which they are tried.
pub fn link_files(root: &Root) -> Evidence<Vec<LinkFile>> {
    let mut gaps = Gaps::default();
    let mut found = Vec::new();
    for path in family(root, NETWORK, ".link", &mut gaps) {
        let Some(file) = parsed(root, &path, &mut gaps) else { continue };
        let mut sets = BTreeMap::new();
        for key in ["Name", "MACAddress", "MTUBytes"] {
            if let Some(value) = values(&file, "Link", key).last() {
                sets.insert(key.to_owned(), value.clone());
            }
        }
        let mut kinds = values(&file, "Match", "Kind");
        kinds.extend(values(&file, "Match", "Driver"));
        found.push(LinkFile {
            names: values(&file, "Match", "OriginalName"),
            kinds,
            sets,
            path: format!("/{path}"),
        });
    }
    Evidence::partial(found, gaps.0)
}

/// Rules about network devices that administrators added. The distribution's own are not looked at.
pub fn udev(root: &Root) -> Evidence<Vec<UdevRule>> {
    let mut gaps = Gaps::default();
    let mut found = Vec::new();
    for path in family(root, &["etc/udev/rules.d"], ".rules", &mut gaps) {
        let text = gaps.note(root.text(&path)).unwrap_or_default();
        for (number, line) in (1_u32..).zip(text.lines()) {
            let line = line.trim();
            if !line.starts_with('#') && line.contains("\"net\"") {
                found.push(UdevRule {
                    file: format!("/{path}"),
                    line: number,
                    text: line.chars().take(300).collect(),
                });
            }
        }
    }
    Evidence::partial(found, gaps.0)
}

/// Units that matter here and start at boot.
pub fn enabled_units(root: &Root) -> Evidence<BTreeSet<String>> {
    let mut gaps = Gaps::default();
    let units = [
        "firewalld.service",
        "ufw.service",
        "iptables.service",
        "nftables.service",
        "NetworkManager.service",
        "systemd-networkd.service",
        "tailscaled.service",
        "docker.service",
        "containerd.service",
        "crio.service",
        "kubelet.service",
        "chronyd.service",
        "chrony.service",
    ];
    let found = units
        .into_iter()
        .filter(|unit| enabled(root, unit, &mut gaps))
        .map(str::to_owned)
        .collect();
    Evidence::partial(found, gaps.0)
}
