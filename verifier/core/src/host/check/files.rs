//! What Calico leaves on the host, and the paths that its pods mount.

use super::Look;
use crate::{
    host::{FileKind, FoundPath},
    intent::Encapsulation,
    verdict::CauseCode,
};
use alloc::{format, string::String};

/// `/var/lib/calico/nodename`: the CNI plugin and readiness read it.
pub(super) fn nodename(look: &mut Look<'_>) {
    const CHECK: &str = "host-nodename";
    let host = look.host;
    look.gaps(CHECK, host.calico.gaps());
    let Some(files) = host.calico.seen() else { return };
    match &files.nodename {
        None if host.calico.is_complete() && look.is_node(CHECK) => look.find(
            CauseCode::NodenameFileMissing,
            "/var/lib/calico/nodename",
            "calico-node writes its name there when it starts",
            "the file does not exist",
        ),
        None => {}
        Some(says) => {
            let says = says.trim();
            if let Some(node) = look.context.node.clone()
                && says != node.0
            {
                look.find(
                    CauseCode::NodenameFileMismatch,
                    "/var/lib/calico/nodename",
                    format!("it names {node}, as the Node object is named"),
                    format!("it says {says:?}"),
                );
            }
        }
    }
}

/// What an encapsulation takes of the underlay's MTU (calico.md 1.2).
const fn overhead(encapsulation: Encapsulation) -> u32 {
    match encapsulation {
        Encapsulation::Vxlan => 50,
        Encapsulation::Ipip => 20,
        Encapsulation::None => 0,
    }
}

/// `/var/lib/calico/mtu`: what new pods get.
pub(super) fn mtu(look: &mut Look<'_>) {
    const CHECK: &str = "host-mtu";
    let host = look.host;
    let Some(files) = host.calico.seen() else { return };
    // With an MTU of its own the CNI configuration does not read the file.
    let configured = host
        .cni
        .seen()
        .and_then(|c| c.files.first())
        .and_then(|f| f.network.as_ref().ok())
        .and_then(|n| n.mtu)
        .filter(|mtu| *mtu > 0);
    let (mtu, from) = match (configured, &files.mtu) {
        (Some(mtu), _) => (mtu, "the CNI configuration"),
        (None, Some(text)) => match text.trim().parse::<u32>() {
            Ok(mtu) => (mtu, "/var/lib/calico/mtu"),
            Err(_) => {
                return look.find(
                    CauseCode::MtuFileMissing,
                    "/var/lib/calico/mtu",
                    "Felix writes the pods' MTU there, as a number",
                    format!("it says {:?}", text.trim()),
                );
            }
        },
        (None, None) => {
            if host.calico.is_complete() && files.nodename.is_some() {
                look.find(
                    CauseCode::MtuFileMissing,
                    "/var/lib/calico/mtu",
                    "Felix writes the pods' MTU there, and the CNI configuration has none of its own",
                    "the file does not exist",
                );
            }
            return;
        }
    };
    let Some((device, underlay)) = &files.underlay else {
        return look.cannot(CHECK, "no Ethernet-like device of this host was found to compare with");
    };
    let Some(taken) = look
        .context
        .encapsulations
        .as_ref()
        .map(|all| all.iter().map(|e| overhead(*e)).max().unwrap_or(0))
    else {
        // Without intent only what cannot be right in any mode counts.
        if mtu > *underlay {
            too_large(look, mtu, from, device, *underlay, 0);
        }
        return;
    };
    if mtu + taken > *underlay {
        too_large(look, mtu, from, device, *underlay, taken);
    }
}

fn too_large(look: &mut Look<'_>, mtu: u32, from: &str, device: &str, underlay: u32, taken: u32) {
    look.find(
        CauseCode::MtuFileTooLarge,
        from,
        format!(
            "new pods get at most {}, what {device} ({underlay}) carries less {taken} for encapsulation",
            underlay - taken.min(underlay)
        ),
        format!("{from} gives new pods {mtu}"),
    );
}

/// What must stand at a path.
struct Wanted {
    path: &'static str,
    kind: FileKind,
    /// Programs are started from there.
    runs: bool,
    /// Somebody writes there.
    written: bool,
}

const fn wanted(path: &'static str, kind: FileKind, runs: bool, written: bool) -> Wanted {
    Wanted { path, kind, runs, written }
}

/// Paths that calico-node's pod mounts from the host (manifests of Calico, calico.md 5.6).
const PATHS: &[Wanted] = &[
    wanted("/var/lib/calico", FileKind::Directory, false, true),
    wanted("/var/run/calico", FileKind::Directory, false, true),
    wanted("/opt/cni/bin", FileKind::Directory, true, true),
    wanted("/etc/cni/net.d", FileKind::Directory, false, true),
    wanted("/run/xtables.lock", FileKind::File, false, true),
];

/// Kind, owner, mode and mount of the paths. What does not exist yet is created by kubelet.
pub(super) fn paths(look: &mut Look<'_>) {
    let host = look.host;
    look.gaps("host-paths", host.paths.gaps());
    let Some(facts) = host.paths.seen() else { return };
    for want in PATHS {
        let Some(found) = facts.iter().find(|f| f.path == want.path).and_then(|f| f.found.as_ref()) else {
            continue;
        };
        if let Some((intent, is)) = wrong(want, found) {
            look.find(CauseCode::HostPathWrong, want.path, intent, is);
        }
    }
}

fn wrong(want: &Wanted, found: &FoundPath) -> Option<(String, String)> {
    let path = want.path;
    if found.kind != want.kind {
        let name = |kind| match kind {
            FileKind::File => "a file",
            FileKind::Directory => "a directory",
            FileKind::Other => "neither file nor directory",
        };
        return Some((format!("{path} is {}", name(want.kind)), format!("it is {}", name(found.kind))));
    }
    if found.uid != 0 {
        return Some((format!("{path} belongs to root"), format!("it belongs to user {}", found.uid)));
    }
    if found.mode & 0o002 != 0 && found.mode & 0o1000 == 0 && want.kind == FileKind::Directory {
        return Some((
            format!("only root writes to {path}"),
            format!("everybody may (mode {:o})", found.mode),
        ));
    }
    if found.kind == FileKind::Directory && found.mode & 0o700 != 0o700 {
        return Some((format!("root may use {path}"), format!("its mode is {:o}", found.mode)));
    }
    let option = |name: &str| found.mount_options.as_ref().is_some_and(|all| all.iter().any(|o| o == name));
    if want.runs && option("noexec") {
        return Some((format!("programs can be started from {path}"), "it is mounted noexec".into()));
    }
    if want.written && option("ro") {
        return Some((format!("{path} can be written"), "it is mounted read-only".into()));
    }
    None
}
