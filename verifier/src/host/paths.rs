//! What Calico leaves in `/var/lib/calico`, the MTUs it must fit, and the paths that its pods mount.

use super::root::{Gaps, Root};
use verifier_core::{
    evidence::Evidence,
    host::{CalicoFiles, PathFact},
};

/// `/var/lib/calico` and the underlay.
pub fn calico(root: &Root) -> Evidence<CalicoFiles> {
    match root.exists("var") {
        Ok(true) => {}
        Ok(false) => return Evidence::unavailable("host/var", "there is no /var below this root"),
        Err(gap) => return Evidence::Unavailable { gap },
    }
    let mut gaps = Gaps::default();
    let facts = CalicoFiles {
        nodename: gaps.note(root.text("var/lib/calico/nodename")),
        mtu: gaps.note(root.text("var/lib/calico/mtu")),
        underlay: underlay(root, &mut gaps),
    };
    Evidence::partial(facts, gaps.0)
}

/// The smallest MTU among devices that are network cards by their names, as Felix' default `mtuIfacePattern` has it, bonds and VLANs
/// included, which that pattern forgets.
fn underlay(root: &Root, gaps: &mut Gaps) -> Option<(String, u32)> {
    let mut smallest: Option<(String, u32)> = None;
    for name in gaps.note(root.names("sys/class/net")).unwrap_or_default() {
        let prefixes = ["en", "eth", "wl", "ww", "sl", "ib", "bond", "team"];
        if !prefixes.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let up = gaps.note(root.text(&format!("sys/class/net/{name}/operstate")));
        if up.as_deref().map(str::trim) == Some("down") {
            continue;
        }
        if let Some(text) = gaps.note(root.text(&format!("sys/class/net/{name}/mtu")))
            && let Ok(mtu) = text.trim().parse::<u32>()
            && smallest.as_ref().is_none_or(|(_, least)| mtu < *least)
        {
            smallest = Some((name, mtu));
        }
    }
    smallest
}

/// Paths whose kind, mode, owner and mount are looked at.
const PATHS: &[&str] = &[
    "/var/lib/calico",
    "/var/run/calico",
    "/var/log/calico/cni",
    "/opt/cni/bin",
    "/etc/cni/net.d",
    "/run/xtables.lock",
    "/lib/modules",
];

/// The paths, each with the options of the mount it lies on.
pub fn paths(root: &Root) -> Evidence<Vec<PathFact>> {
    let mut gaps = Gaps::default();
    // Process 1 is in the host's mount namespace, whoever asks.
    let mounts = gaps.note(root.text("proc/1/mounts"));
    let facts = PATHS
        .iter()
        .map(|path| {
            let found = gaps.note(root.stat(path.trim_start_matches('/'))).map(|(mut found, _)| {
                found.mount_options = mounts.as_deref().map(|mounts| options(mounts, path));
                found
            });
            PathFact {
                path: (*path).to_owned(),
                found,
            }
        })
        .collect();
    Evidence::partial(facts, gaps.0)
}

/// Options of the mount with the longest point that holds the path (`proc(5)`, mounts: device, point, type, options). Of several mounts
/// on one point the last is on top. `/var/run` is a link to `/run` on every distribution of today.
fn options(mounts: &str, path: &str) -> Vec<String> {
    let path = path
        .strip_prefix("/var/run")
        .map_or_else(|| path.to_owned(), |rest| format!("/run{rest}"));
    let holds = |point: &str| point == "/" || path == point || path.strip_prefix(point).is_some_and(|rest| rest.starts_with('/'));
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (point, options) = (fields.nth(1)?, fields.nth(1)?);
            holds(point).then_some((point.len(), options))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, options)| options.split(',').map(str::to_owned).collect())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::options;

    #[test]
    fn the_longest_and_topmost_mount_counts() {
        let mounts = "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n/dev/sdb /opt ext4 ro 0 0\n/dev/sdc /opt ext4 rw,noexec 0 0\n";
        assert_eq!(options(mounts, "/opt/cni/bin"), ["rw", "noexec"]);
        assert_eq!(options(mounts, "/var/run/calico"), ["rw", "nosuid"]);
        assert_eq!(options(mounts, "/optical"), ["rw", "relatime"]);
        assert!(options("", "/opt").is_empty());
    }
}
