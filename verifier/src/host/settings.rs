//! Sysctls in force and in files, and which iptables the host's own is.

use super::root::{Gaps, Root, family, gap};
use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    host::{IptablesFacts, SYSCTLS, SYSCTLS_OF_PODS, SysctlLine},
};

/// Sysctls in force, those of the table and those of each `cali*` device.
pub fn sysctls(root: &Root) -> Evidence<BTreeMap<String, String>> {
    match root.exists("proc/sys/net") {
        Ok(true) => {}
        Ok(false) => return Evidence::unavailable("host/proc", "there is no /proc/sys/net below this root"),
        Err(gap) => return Evidence::Unavailable { gap },
    }
    let mut gaps = Gaps::default();
    let mut found = BTreeMap::new();
    let mut keys: Vec<(String, String)> = SYSCTLS.iter().map(|key| ((*key).to_owned(), key.replace('.', "/"))).collect();
    for device in gaps.note(root.names("proc/sys/net/ipv4/conf")).unwrap_or_default() {
        if device.starts_with("cali") {
            keys.extend(
                SYSCTLS_OF_PODS
                    .iter()
                    .map(|name| (format!("net.ipv4.conf.{device}.{name}"), format!("net/ipv4/conf/{device}/{name}"))),
            );
        }
    }
    for (key, path) in keys {
        if let Some(text) = gaps.note(root.text(&format!("proc/sys/{path}"))) {
            found.insert(key, text.trim().to_owned());
        }
    }
    Evidence::partial(found, gaps.0)
}

/// Lines of all files in the order in which they are applied.
pub fn sysctl_files(root: &Root) -> Evidence<Vec<SysctlLine>> {
    let mut gaps = Gaps::default();
    let directories = [
        "etc/sysctl.d",
        "run/sysctl.d",
        "usr/local/lib/sysctl.d",
        "usr/lib/sysctl.d",
        "lib/sysctl.d",
    ];
    let mut files = family(root, &directories, ".conf", &mut gaps);
    // procps applies it last; with systemd it is what 99-sysctl.conf points to.
    files.push("etc/sysctl.conf".to_owned());
    let mut lines = Vec::new();
    for file in files {
        let text = gaps.note(root.text(&file)).unwrap_or_default();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
            if let Some((key, value)) = line.split_once('=') {
                lines.push(SysctlLine {
                    key: key.trim().trim_start_matches('-').replace('/', "."),
                    value: value.trim().to_owned(),
                    file: format!("/{file}"),
                });
            }
        }
    }
    // Only what concerns networks: a snapshot is no copy of the host.
    lines.retain(|line| line.key.starts_with("net."));
    Evidence::partial(lines, gaps.0)
}

/// Tables of the legacy backend, and what `iptables` is on this host.
pub fn iptables(root: &Root) -> Evidence<IptablesFacts> {
    let mut gaps = Gaps::default();
    let tables = gaps.note(root.text("proc/net/ip_tables_names")).unwrap_or_default();
    let link = ["etc/alternatives/iptables", "usr/sbin/iptables", "sbin/iptables"]
        .iter()
        .find_map(|path| {
            gaps.note(root.link(path))
                .filter(|target| target.contains("nft") || target.contains("legacy"))
        });
    Evidence::partial(
        IptablesFacts {
            legacy_tables: tables.lines().map(|line| line.trim().to_owned()).collect(),
            alternative: link.map(|target| if target.contains("nft") { "nft" } else { "legacy" }.to_owned()),
        },
        gaps.0,
    )
}

/// A gap for a value that is there and cannot be understood.
pub fn unparsable(path: &str, why: impl std::fmt::Display) -> verifier_core::evidence::Gap {
    gap(path, &format!("it cannot be parsed: {why}"))
}
