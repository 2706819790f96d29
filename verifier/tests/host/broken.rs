//! One broken way each. A case says what is done to the healthy host, what is known of the cluster, and exactly which causes must stand.

use crate::{
    cluster, codes,
    healthy::{Fake, RELEASE, healthy, modules_dep},
    is_root, read,
};
use std::collections::BTreeSet;
use verifier_core::{
    host::{HostContext, check},
    intent::{Dataplane, Encapsulation},
    programmed::FilterBackend,
    verdict::{
        self,
        CauseCode::{self, *},
    },
};

pub struct Case {
    pub name: &'static str,
    pub breaks: fn(&Fake),
    pub knows: fn(HostContext) -> HostContext,
    /// Every code that must stand, the root first.
    pub says: &'static [CauseCode],
}

pub const fn case(name: &'static str, breaks: fn(&Fake), says: &'static [CauseCode]) -> Case {
    Case {
        name,
        breaks,
        knows: |context| context,
        says,
    }
}

pub const fn knowing(name: &'static str, breaks: fn(&Fake), knows: fn(HostContext) -> HostContext, says: &'static [CauseCode]) -> Case {
    Case { name, breaks, knows, says }
}

fn tree(file: &str) -> String {
    format!("usr/lib/modules/{RELEASE}/{file}")
}

fn bpf(context: HostContext) -> HostContext {
    HostContext {
        dataplane: Some(Dataplane::Bpf),
        ..context
    }
}

fn ipip(context: HostContext) -> HostContext {
    HostContext {
        encapsulations: Some(BTreeSet::from([Encapsulation::Ipip])),
        ..context
    }
}

fn ipv6(context: HostContext) -> HostContext {
    HostContext { ipv6: true, ..context }
}

fn chains(context: HostContext, all: &[(FilterBackend, &str)]) -> HostContext {
    HostContext {
        chains: Some(all.iter().map(|(backend, chain)| (*backend, (*chain).to_owned())).collect()),
        ..context
    }
}

/// What an upgrade of the kernel without its extra modules leaves.
fn upgraded(fake: &Fake) {
    fake.write("proc/modules", "nf_conntrack 200704 0 - Live 0x0\n");
    fake.write(&tree("modules.dep"), modules_dep(&["vxlan"]));
    fake.write("usr/lib/modules/6.8.0-31-generic/modules.dep", modules_dep(&[]));
}

/// Kernel, sysctls, iptables.
const CASES: &[Case] = &[
    // IPv6 beside IPv4
    knowing("forwarding of IPv6 off, where pods have it", |_| {}, ipv6, &[IpForwardDisabled]),
    knowing(
        "IPv6 disabled on the host",
        |f| {
            f.write("proc/sys/net/ipv6/conf/all/forwarding", "1\n");
            f.write("proc/sys/net/ipv6/conf/all/disable_ipv6", "1\n");
        },
        ipv6,
        &[SysctlWrong],
    ),
    knowing(
        "hardening file switches forwarding of IPv6 off at boot",
        |f| {
            f.write("proc/sys/net/ipv6/conf/all/forwarding", "1\n");
            f.write("etc/sysctl.d/99-zz-cis.conf", "net.ipv6.conf.all.forwarding = 0\n");
        },
        ipv6,
        &[SysctlNotPersistent],
    ),
    // the kernel
    case(
        "kernel upgraded, extra modules left behind",
        upgraded,
        &[KernelUpgraded, KernelModuleMissing],
    ),
    case(
        "vxlan not in the kernel's package",
        |f| {
            f.write("proc/modules", "").write(&tree("modules.dep"), modules_dep(&["vxlan"]));
        },
        &[KernelModuleMissing],
    ),
    case(
        "xt_set not in the kernel's package",
        |f| {
            f.write(&tree("modules.dep"), modules_dep(&["xt_set"]));
        },
        &[KernelModuleMissing],
    ),
    knowing(
        "nf_tables missing in nftables mode",
        |f| {
            f.write(&tree("modules.dep"), modules_dep(&["nf_tables"]));
        },
        |c| HostContext {
            dataplane: Some(Dataplane::Nftables),
            ..c
        },
        &[KernelModuleMissing],
    ),
    knowing(
        "ipip not compiled",
        |f| {
            f.write(&tree("modules.dep"), modules_dep(&["ipip"]));
            f.write(&format!("boot/config-{RELEASE}"), "CONFIG_VXLAN=m\n# CONFIG_NET_IPIP is not set\n");
        },
        ipip,
        &[KernelLacksSupport],
    ),
    case(
        "vxlan blacklisted",
        |f| {
            f.write("proc/modules", "")
                .write("etc/modprobe.d/cis.conf", "# hardening\nblacklist vxlan\n");
        },
        &[KernelModuleBlocked],
    ),
    case(
        "vxlan installed as /bin/false",
        |f| {
            f.write("proc/modules", "")
                .write("etc/modprobe.d/cis.conf", "install vxlan /bin/false\n");
        },
        &[KernelModuleBlocked],
    ),
    case(
        "tree of the running kernel removed",
        |f| {
            f.remove(&format!("usr/lib/modules/{RELEASE}"));
            let names = [
                "veth",
                "nf_conntrack",
                "vxlan",
                "ip_set",
                "xt_set",
                "xt_addrtype",
                "xt_conntrack",
                "xt_mark",
                "xt_multiport",
                "xt_comment",
                "ipt_rpfilter",
            ];
            f.write("proc/modules", names.map(|n| format!("{n} 1 0 - Live 0x0\n")).concat());
        },
        &[KernelTreeMissing],
    ),
    case(
        "kernel below Felix's floor",
        |f| {
            f.write("proc/sys/kernel/osrelease", "3.8.13-generic\n");
            f.link("usr/lib/modules/3.8.13-generic", RELEASE);
        },
        &[KernelTooOld],
    ),
    knowing(
        "kernel below eBPF's floor",
        |f| {
            f.write("proc/sys/kernel/osrelease", "4.19.0-27-amd64\n");
            f.link("usr/lib/modules/4.19.0-27-amd64", RELEASE);
        },
        bpf,
        &[KernelTooOld],
    ),
    knowing(
        "Kubernetes newer than Calico was tested with",
        |_| {},
        |c| HostContext {
            calico: Some((3, 29, 1)),
            kubernetes: Some((1, 34)),
            ..c
        },
        &[VersionsIncompatible],
    ),
    // sysctls
    case(
        "forwarding off",
        |f| {
            f.write("proc/sys/net/ipv4/ip_forward", "0\n");
            f.write("proc/sys/net/ipv4/conf/cali86a12876b92/forwarding", "0\n");
        },
        &[IpForwardDisabled],
    ),
    case(
        "proxy_arp off on a pod's device",
        |f| {
            f.write("proc/sys/net/ipv4/conf/cali86a12876b92/proxy_arp", "0\n");
        },
        &[SysctlWrong],
    ),
    case(
        "forwarding off on a pod's device",
        |f| {
            f.write("proc/sys/net/ipv4/conf/cali86a12876b92/forwarding", "0\n");
        },
        &[SysctlWrong],
    ),
    knowing(
        "strict rp_filter with eBPF",
        |f| {
            f.write("proc/sys/net/ipv4/conf/all/rp_filter", "1\n");
        },
        bpf,
        &[SysctlWrong],
    ),
    case(
        "hardening file switches forwarding off at boot",
        |f| {
            f.write("etc/sysctl.d/99-zz-cis.conf", "# CIS 3.1.1\nnet.ipv4.ip_forward = 0\n");
        },
        &[SysctlNotPersistent],
    ),
    case(
        "sysctl.conf switches forwarding off by its other name",
        |f| {
            f.write("etc/sysctl.conf", "net/ipv4/conf/all/forwarding=0\n");
        },
        &[SysctlNotPersistent],
    ),
    knowing(
        "file makes rp_filter strict with eBPF",
        |f| {
            f.write("etc/sysctl.d/99-zz-cis.conf", "net.ipv4.conf.all.rp_filter = 1\n");
        },
        bpf,
        &[SysctlNotPersistent],
    ),
    case(
        "conntrack nearly full",
        |f| {
            f.write("proc/sys/net/netfilter/nf_conntrack_count", "120000\n");
        },
        &[ConntrackNearlyFull],
    ),
    // iptables
    knowing(
        "Felix told legacy on an nft host",
        |_| {},
        |c| HostContext {
            iptables_backend: Some("legacy".into()),
            ..c
        },
        &[IptablesBackendMismatch],
    ),
    knowing(
        "Calico's chains in legacy, kube-proxy's in nft",
        |_| {},
        |c| {
            chains(
                c,
                &[
                    (FilterBackend::Legacy, "cali-FORWARD"),
                    (FilterBackend::Nftables, "KUBE-POSTROUTING"),
                ],
            )
        },
        &[IptablesBackendMismatch],
    ),
    knowing(
        "Calico's chains in both backends",
        |_| {},
        |c| {
            chains(
                c,
                &[
                    (FilterBackend::Legacy, "cali-INPUT"),
                    (FilterBackend::Nftables, "cali-FORWARD"),
                    (FilterBackend::Nftables, "KUBE-POSTROUTING"),
                ],
            )
        },
        &[IptablesBothBackends],
    ),
];

/// A change that must do no harm, by name.
type Change = (&'static str, fn(&Fake));

/// Every case there is.
fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(crate::broken_files::CASES)
}

#[test]
fn each_broken_way_has_exactly_its_cause() {
    if !is_root() {
        println!("skipped: the paths must belong to root");
        return;
    }
    let mut wrong = Vec::new();
    for case in cases() {
        let fake = healthy();
        (case.breaks)(&fake);
        let account = read(&fake);
        let found = check(&account, &(case.knows)(cluster()));
        let mut want = case.says.to_vec();
        want.sort();
        if codes(&found) != want {
            wrong.push(format!(
                "{}: {:?} instead of {want:?}; {:#?}",
                case.name,
                codes(&found),
                found.unknown
            ));
        }
        let roots = verdict::roots(found.findings);
        if roots.len() != 1 || Some(&roots[0].code) != case.says.first() {
            wrong.push(format!(
                "{}: roots {:?}",
                case.name,
                roots.iter().map(|r| r.code).collect::<Vec<_>>()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    println!(
        "{} broken ways, {} causes",
        cases().count(),
        cases().flat_map(|c| c.says).collect::<BTreeSet<_>>().len()
    );
    assert!(cases().count() >= 40);
}

#[test]
fn every_cause_of_a_host_is_provoked_by_some_case() {
    let provoked: BTreeSet<CauseCode> = cases().flat_map(|case| case.says).copied().collect();
    let all = verdict::table::all().filter(|cause| cause.scope == verdict::Scope::Host);
    let missing: Vec<CauseCode> = all.map(|cause| cause.code).filter(|code| !provoked.contains(code)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_looks_broken_and_is_not() {
    if !is_root() {
        println!("skipped: the paths must belong to root");
        return;
    }
    let fine: &[Change] = &[
        ("vxlan built in", |f| {
            f.write("proc/modules", "").write(&tree("modules.dep"), modules_dep(&["vxlan"]));
            f.write(&tree("modules.builtin"), "kernel/drivers/net/vxlan/vxlan.ko\n");
        }),
        ("vxlan built in, and only the configuration says so", |f| {
            f.write("proc/modules", "").write(&tree("modules.dep"), modules_dep(&["vxlan"]));
            let config: String = verifier_core::host::NEEDS
                .iter()
                .map(|need| format!("{}=y\n", need.symbol))
                .collect();
            f.write(&format!("boot/config-{RELEASE}"), config);
        }),
        ("vxlan blacklisted and loaded all the same", |f| {
            f.write("etc/modprobe.d/cis.conf", "blacklist vxlan\n");
        }),
        ("the older kernel's tree lacks what the running one has", |f| {
            f.write("usr/lib/modules/5.15.0-1/modules.dep", modules_dep(&["vxlan"]));
        }),
        ("forwarding off in a file that a later one overrides", |f| {
            f.write("etc/sysctl.d/20-cis.conf", "net.ipv4.ip_forward=0\n");
        }),
        ("a masked unit is not enabled", |f| {
            f.link("etc/systemd/system/firewalld.service", "/dev/null");
        }),
        ("a file that is no CNI configuration by its name", |f| {
            f.write("etc/cni/net.d/00-old.conflist.bak", "{")
                .write("etc/cni/net.d/.kubernetes-cni-keep", "");
        }),
        ("a masked .network file", |f| {
            f.write("usr/lib/systemd/network/00-all.network", "[Match]\nName=*\n")
                .link("etc/systemd/network/00-all.network", "/dev/null");
        }),
        ("a udev rule that only looks at device names", |f| {
            f.write(
                "etc/udev/rules.d/80-x.rules",
                "SUBSYSTEM==\"net\", NAME==\"vxlan*\", ENV{X}=\"1\"\n# RUN+=\"/bin/x\" \"net\" cali\n",
            );
        }),
        ("NetworkManager told to manage nothing", |f| {
            f.write(
                "etc/NetworkManager/conf.d/zz.conf",
                "[keyfile]\nunmanaged-devices=*,except:interface-name:eth0\n",
            );
        }),
        ("containerd 2 answers a kubelet that asks", |f| {
            f.write("etc/containerd/config.toml", "version = 3\n");
        }),
    ];
    for (name, change) in fine {
        let fake = healthy();
        change(&fake);
        let found = check(&read(&fake), &cluster());
        assert!(found.findings.is_empty(), "{name}: {:#?}", found.findings);
    }
}
