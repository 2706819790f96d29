//! What cannot be read is unknown, and never fine.

use crate::{
    cluster, codes,
    healthy::{Fake, NOW_S, healthy, kubeconfig},
    is_root, read,
};
use verifier_core::{
    host::{HostContext, check},
    verdict::CauseCode,
};

#[test]
fn a_root_without_etc_proves_nothing() {
    let fake = healthy();
    fake.remove("etc");
    let account = read(&fake);
    assert!(account.cni.seen().is_none());
    let found = check(&account, &cluster());
    assert!(!codes(&found).contains(&CauseCode::CniConfigMissing), "{:?}", codes(&found));
    assert!(found.unknown.iter().any(|u| u.why.contains("no /etc")), "{:#?}", found.unknown);
}

#[test]
fn an_empty_root_has_no_finding_and_every_section_is_unknown() {
    let fake = Fake::empty();
    let found = check(&read(&fake), &HostContext::default());
    assert!(found.findings.is_empty(), "{:#?}", found.findings);
    for check in [
        "host-kernel",
        "host-modules",
        "host-sysctls",
        "host-cni-configuration",
        "host-nodename",
        "host-cgroups",
    ] {
        assert!(found.unknown.iter().any(|u| u.check == check), "{check}: {:#?}", found.unknown);
    }
}

#[test]
fn a_root_that_is_none() {
    let now = crate::now();
    assert!(verifier::host::read(std::path::Path::new("/no/such/root"), now).is_err());
    let fake = Fake::empty();
    fake.write("file", "");
    assert!(verifier::host::read(&fake.root.join("file"), now).is_err());
    assert!(verifier::host::evidence(&fake.root.join("file"), now).seen().is_none());
}

/// What is done, the check that becomes unknown, the causes that must not be claimed.
type Unreadable = (&'static str, fn(&Fake), &'static str, &'static [CauseCode]);

/// One case: what is in the way, the check that must become unknown, the cause that must not be claimed from it.
#[test]
fn files_that_cannot_be_read_make_their_checks_unknown() {
    let cases: &[Unreadable] = &[
        (
            "an enormous modules.dep",
            |f| {
                f.write("proc/modules", "");
                let path = format!("usr/lib/modules/{}/modules.dep", crate::healthy::RELEASE);
                let file = std::fs::File::create(f.root.join(path)).unwrap();
                file.set_len(9 << 20).unwrap();
            },
            "host-modules",
            &[CauseCode::KernelModuleMissing, CauseCode::KernelTreeMissing],
        ),
        (
            "a directory in the place of a file",
            |f| {
                f.remove("var/lib/calico/nodename").dir("var/lib/calico/nodename");
            },
            "host-nodename",
            &[CauseCode::NodenameFileMissing],
        ),
        (
            "a file of bytes that are no text",
            |f| {
                f.write("var/lib/kubelet/config.yaml", [0xff, 0xfe, 0x00]);
            },
            "host-cgroups",
            &[CauseCode::CgroupDriverMismatch],
        ),
        (
            "containerd's configuration is no TOML",
            |f| {
                f.write("etc/containerd/config.toml", "version = = 2\n");
            },
            "host-cgroups",
            &[CauseCode::CgroupDriverMismatch],
        ),
        (
            "links that lead in a circle",
            |f| {
                f.remove("etc/cni/net.d/10-calico.conflist")
                    .link("etc/cni/net.d/10-calico.conflist", "/etc/cni/net.d/10-calico.conflist");
            },
            "host-cni-configuration",
            &[CauseCode::CniConfigMissing],
        ),
        (
            "a token that is no JWT",
            |f| {
                f.replace("etc/cni/net.d/calico-kubeconfig", ".c2lnbmF0dXJl", "")
                    .replace("etc/cni/net.d/calico-kubeconfig", "eyJ", "x");
            },
            "host-cni-configuration",
            &[CauseCode::CniTokenExpired],
        ),
        (
            "a clock that is behind the API server's",
            |f| {
                f.write("etc/cni/net.d/calico-kubeconfig", kubeconfig(NOW_S + 7_200, NOW_S + 93_600));
            },
            "host-cni-kubeconfig",
            &[CauseCode::CniTokenExpired],
        ),
        (
            "a conntrack count that is no number",
            |f| {
                f.write("proc/sys/net/netfilter/nf_conntrack_count", "many\n");
            },
            "host-conntrack",
            &[CauseCode::ConntrackNearlyFull],
        ),
    ];
    for (name, breaks, unknown, never) in cases {
        let fake = healthy();
        breaks(&fake);
        let found = check(&read(&fake), &cluster());
        assert!(found.unknown.iter().any(|u| u.check == *unknown), "{name}: {:#?}", found.unknown);
        assert!(
            !codes(&found).iter().any(|code| never.contains(code)),
            "{name}: {:?}",
            codes(&found)
        );
    }
}

/// A FIFO in the place of a file must not hold the reader up: it is read in a thread of its own with a deadline.
#[test]
fn a_fifo_does_not_block() {
    let fake = healthy();
    fake.remove("etc/os-release");
    nix::unistd::mkfifo(&fake.root.join("etc/os-release"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let root = fake.root.clone();
    let (done, wait) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(verifier::host::read(&root, crate::now()).is_ok()));
    assert_eq!(wait.recv_timeout(std::time::Duration::from_secs(30)), Ok(true));
}

/// A link out of the root stays inside it: nobody may lead the reader to a file of the machine it runs on.
#[test]
fn a_link_cannot_lead_out_of_the_root() {
    let fake = healthy();
    let outside = fake.root.parent().unwrap().join(format!("outside-{}", std::process::id()));
    std::fs::write(&outside, "stolen").unwrap();
    fake.remove("var/lib/calico/nodename");
    fake.link("var/lib/calico/nodename", outside.to_str().unwrap());
    let up = format!("../../../../{}", outside.file_name().unwrap().to_str().unwrap());
    fake.remove("var/lib/calico/mtu").link("var/lib/calico/mtu", &up);
    let account = read(&fake);
    let files = account.calico.seen().unwrap();
    assert_eq!((files.nodename.as_deref(), files.mtu.as_deref()), (None, None));
    std::fs::remove_file(outside).unwrap();
    if is_root() {
        assert!(codes(&check(&account, &cluster())).contains(&CauseCode::NodenameFileMissing));
    }
}

/// As in a pod with the host's file system mounted: recursively, read-only, in another mount namespace. What is read there is what is read
/// on the host itself; `deploy/overlays/host-account` relies on it.
#[test]
fn a_root_that_is_mounted_elsewhere_is_read_as_the_host_itself() {
    use nix::{
        mount::{MsFlags, mount},
        sched::{CloneFlags, unshare},
    };
    if !is_root() {
        println!("skipped: only root can mount");
        return;
    }
    let place = std::env::temp_dir().join(format!("host-root-{}", std::process::id()));
    std::fs::create_dir_all(&place).unwrap();
    let there = place.clone();
    // A thread of its own: it takes its mounts along when it ends.
    let read = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("unshare: {error}"))?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).map_err(|error| format!("private: {error}"))?;
        mount(Some("/"), &there, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(|error| format!("bind: {error}"))?;
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &there, none, read_only, none).map_err(|error| format!("read-only: {error}"))?;
        verifier::host::read(&there, crate::now()).map_err(|error| format!("read: {error}"))
    });
    let mounted = read.join().unwrap();
    std::fs::remove_dir(&place).unwrap();
    let mut mounted = match mounted {
        Ok(mounted) => mounted,
        Err(why) if !why.starts_with("read:") => {
            println!("skipped: mounts cannot be made here: {why}");
            return;
        }
        Err(why) => panic!("{why}"),
    };
    let here = verifier::host::read(std::path::Path::new("/"), crate::now()).unwrap();
    assert_eq!(mounted.root, place.display().to_string());
    mounted.root.clone_from(&here.root);
    // What counts on while two readings are made.
    if let (Some(there), Some(here)) = (value(&mut mounted.sysctls), here.sysctls.seen()) {
        let count = "net.netfilter.nf_conntrack_count";
        if let (Some(there), Some(here)) = (there.get_mut(count), here.get(count)) {
            there.clone_from(here);
        }
    }
    assert_eq!(mounted, here);
}

fn value<T>(evidence: &mut verifier_core::evidence::Evidence<T>) -> Option<&mut T> {
    use verifier_core::evidence::Evidence;
    match evidence {
        Evidence::Complete { value } | Evidence::Partial { value, .. } => Some(value),
        Evidence::Unavailable { .. } => None,
    }
}

/// Somebody who may not read a file learns that it could not be read, not that it is missing or fine.
#[test]
fn files_without_permission_make_their_checks_unknown() {
    use std::os::unix::process::CommandExt as _;
    if !is_root() {
        println!("skipped: only root can take a permission away from somebody else");
        return;
    }
    let fake = healthy();
    // The test's own directory may be out of reach for others.
    let place = std::env::temp_dir().join(format!("host-permission-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&place);
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(&fake.root)
        .arg(&place)
        .status()
        .unwrap();
    assert!(copied.success());
    let copy = std::mem::ManuallyDrop::new(Fake { root: place.clone() });
    copy.mode("etc/cni/net.d/calico-kubeconfig", 0o600)
        .mode("etc/cni/net.d/10-calico.conflist", 0o600)
        .mode("var/lib/calico/nodename", 0o600)
        .mode("var/lib/kubelet/config.yaml", 0o600);
    let nobody = |root: &std::path::Path| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_verifier"));
        command
            .args(["host", "--output", "json", "--root"])
            .arg(root)
            .uid(65_534)
            .gid(65_534);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("VERIFIER_") || name == "NODE_NAME") {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (status, out, err) = nobody(&place);
    let said: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"));
    let codes: Vec<&str> = said["causes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|cause| cause["code"].as_str())
        .collect();
    assert_eq!((status, codes), (Some(3), Vec::new()), "{out}");
    for path in ["10-calico.conflist", "var/lib/calico/nodename", "var/lib/kubelet/config.yaml"] {
        let unknown = said["unknown"].as_array().unwrap();
        let named = unknown.iter().any(|check| {
            check["why"]
                .as_str()
                .is_some_and(|why| why.contains(path) && why.contains("ermission"))
        });
        assert!(named, "{path}: {unknown:#?}");
    }
    // Not even the root: one line.
    copy.mode("", 0o700);
    let (status, out, err) = nobody(&place);
    assert_eq!((status, out.as_str(), err.lines().count()), (Some(64), "", 1), "{err}");
    std::fs::remove_dir_all(&place).unwrap();
}
