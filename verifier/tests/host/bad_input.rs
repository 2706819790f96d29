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
