//! Network daemons that touch what is Calico's: NetworkManager, systemd-networkd, udev, firewalls (calico.md 5.7).

use super::Look;
use crate::{
    host::{NetworkFile, NetworkManagerFacts, glob_matches},
    verdict::CauseCode,
};
use alloc::{format, string::String, vec::Vec};

/// NetworkManager leaves `cali*` and the tunnel devices alone.
pub(super) fn network_manager(look: &mut Look<'_>) {
    let host = look.host;
    look.gaps("host-network-manager", host.network_manager.gaps());
    let Some(Some(facts)) = host.network_manager.seen() else { return };
    let managed: Vec<&str> = look.devices().into_iter().filter(|device| !left_alone(facts, device)).collect();
    if !managed.is_empty() {
        look.find(
            CauseCode::NetworkManagerManagesCalico,
            "NetworkManager",
            "NetworkManager is told to leave Calico's devices alone (unmanaged-devices)",
            match &facts.from {
                Some(file) => format!("unmanaged-devices of {file} does not cover {}", named(&managed)),
                None => format!("no unmanaged-devices covers {}", named(&managed)),
            },
        );
    }
}

/// The stand-in for all workload devices, by the name people know.
fn named(devices: &[&str]) -> String {
    let names: Vec<&str> = devices.iter().map(|d| if d.starts_with("cali") { "cali*" } else { d }).collect();
    names.join(", ")
}

/// NetworkManager's device lists: `interface-name:GLOB` (or `interface-name:=NAME`), `type:`, `*`, and `except:` before any of them.
fn left_alone(facts: &NetworkManagerFacts, device: &str) -> bool {
    let mut alone = false;
    for item in &facts.unmanaged {
        let (except, item) = match item.strip_prefix("except:") {
            Some(rest) => (true, rest),
            None => (false, item.as_str()),
        };
        let matches = match item.split_once(':') {
            Some(("interface-name", name)) => match name.strip_prefix('=') {
                Some(exact) => exact == device,
                None => glob_matches(name, device),
            },
            Some(("type", "veth")) => device.starts_with("cali"),
            Some(("type", "vxlan")) => device.starts_with("vxlan"),
            Some(("type", "ip-tunnel")) => device == "tunl0",
            Some(_) => false,
            None => glob_matches(item, device),
        };
        if matches && except {
            return false;
        }
        alone |= matches;
    }
    alone
}

/// systemd-networkd leaves Calico's devices and routes alone. The first file that matches a device is the one that counts.
pub(super) fn networkd(look: &mut Look<'_>) {
    const CHECK: &str = "host-networkd";
    let host = look.host;
    look.gaps(CHECK, host.networkd.gaps());
    let Some(Some(facts)) = host.networkd.seen() else { return };
    let mut claimed: Vec<(&str, &str)> = Vec::new();
    for device in look.devices() {
        for file in &facts.networks {
            match matching(file, device) {
                Match::No => {}
                Match::Perhaps => {
                    look.cannot(
                        CHECK,
                        format!("{}: whether it matches {} depends on more than names", file.path, named(&[device])),
                    );
                }
                Match::Yes if file.unmanaged => break,
                Match::Yes => {
                    claimed.push((device, &file.path));
                    break;
                }
            }
        }
    }
    if let Some((_, path)) = claimed.first() {
        let devices: Vec<&str> = claimed.iter().map(|(d, _)| *d).collect();
        look.find(
            CauseCode::NetworkdManagesCalico,
            *path,
            "no .network file of systemd-networkd matches Calico's devices, unless with Unmanaged=yes",
            format!("it matches {}", named(&devices)),
        );
    }
    if facts.manage_foreign_routes || facts.manage_foreign_rules {
        let keys: Vec<&str> = [
            (facts.manage_foreign_routes, "ManageForeignRoutes"),
            (facts.manage_foreign_rules, "ManageForeignRoutingPolicyRules"),
        ]
        .into_iter()
        .filter(|(on, _)| *on)
        .map(|(_, key)| key)
        .collect();
        look.find(
            CauseCode::NetworkdRemovesRoutes,
            "networkd.conf",
            "systemd-networkd keeps off routes and rules that it did not make",
            format!(
                "{} is on, as it is by default: a restart of systemd-networkd removes what others added",
                keys.join(" and ")
            ),
        );
    }
}

enum Match {
    Yes,
    No,
    Perhaps,
}

fn matching(file: &NetworkFile, device: &str) -> Match {
    let any = |globs: &[String], text: &str| match globs.first().and_then(|g| g.strip_prefix('!')) {
        // systemd: an exclamation mark before the list negates all of it.
        Some(first) => !(glob_matches(first, text) || globs.iter().skip(1).any(|g| glob_matches(g, text))),
        None => globs.iter().any(|g| glob_matches(g, text)),
    };
    let (kind, kind_of_type) = if device.starts_with("cali") {
        ("veth", "ether")
    } else if device.starts_with("vxlan") {
        ("vxlan", "ether")
    } else {
        ("ipip", "tunnel")
    };
    let named = file.names.is_empty() || any(&file.names, device);
    let typed = file.types.is_empty() || any(&file.types, kind_of_type);
    let kinded = file.kinds.is_empty() || any(&file.kinds, kind);
    if !(named && typed && kinded) {
        return Match::No;
    }
    let nothing = file.names.is_empty() && file.types.is_empty() && file.kinds.is_empty();
    if file.other_match {
        // A MAC address or a driver narrows it to somebody's own network card; with nothing else it cannot be told.
        return if nothing { Match::No } else { Match::Perhaps };
    }
    // A file without any match applies to no device at all (systemd.network(5)).
    if nothing { Match::No } else { Match::Yes }
}

/// No `.link` file renames a tunnel device or gives it another MAC or MTU.
pub(super) fn link_files(look: &mut Look<'_>) {
    let host = look.host;
    look.gaps("host-link-files", host.link_files.gaps());
    let Some(files) = host.link_files.seen() else { return };
    for device in look.devices().into_iter().filter(|d| !d.starts_with("cali")) {
        // The first that matches counts, and the distribution's last one matches everything and sets nothing of this.
        let first = files.iter().find(|f| {
            let named = f.names.is_empty() || f.names.iter().any(|g| glob_matches(g, device));
            let kinded = f.kinds.is_empty()
                || f.kinds
                    .iter()
                    .any(|g| glob_matches(g, if device == "tunl0" { "ipip" } else { "vxlan" }));
            named && kinded && !(f.names.is_empty() && f.kinds.is_empty())
        });
        if let Some(file) = first.filter(|f| !f.sets.is_empty()) {
            let sets: Vec<String> = file.sets.iter().map(|(k, v)| format!("{k}={v}")).collect();
            look.find(
                CauseCode::LinkFileChangesTunnel,
                file.path.clone(),
                format!("Felix alone configures {device}"),
                format!("it matches {device} and sets {}", sets.join(", ")),
            );
        }
    }
}

/// No udev rule of an administrator runs something for, or renames, devices that are Calico's.
pub(super) fn udev(look: &mut Look<'_>) {
    let host = look.host;
    look.gaps("host-udev", host.udev.gaps());
    let Some(rules) = host.udev.seen() else { return };
    for rule in rules {
        let about = ["cali", "vxlan", "tunl", "veth"].iter().any(|w| rule.text.contains(w)) || rule.text.contains("KERNEL==\"*\"");
        let acts = ["RUN+=", "RUN=", "NAME=", "PROGRAM="].iter().any(|w| {
            // `NAME==` and `KERNEL==` compare, they do not act.
            rule.text
                .match_indices(w)
                .any(|(at, _)| !rule.text.get(at + w.len()..).is_some_and(|rest| rest.starts_with('=')))
        });
        if about && acts {
            look.find(
                CauseCode::UdevRuleTouchesCalico,
                format!("{}:{}", rule.file, rule.line),
                "no udev rule acts on Calico's devices",
                rule.text.clone(),
            );
        }
    }
}

/// Firewalls that flush or shadow Calico's rules when they are reloaded.
const FIREWALLS: &[&str] = &["firewalld.service", "ufw.service", "iptables.service", "nftables.service"];

/// No host firewall starts at boot.
pub(super) fn firewall(look: &mut Look<'_>) {
    let host = look.host;
    look.gaps("host-firewall", host.enabled_units.gaps());
    let Some(units) = host.enabled_units.seen() else { return };
    for unit in FIREWALLS.iter().filter(|unit| units.contains(**unit)) {
        look.find(
            CauseCode::HostFirewallEnabled,
            *unit,
            "Felix alone writes the rules that pod traffic meets",
            format!("{unit} starts at boot: when it (re)loads it may flush Calico's chains or reject before them"),
        );
    }
}
