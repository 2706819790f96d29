//! The kernel: old enough, with the modules that Calico needs, for the *running* kernel.

use super::Look;
use crate::{
    host::{
        ModuleFacts, NEEDS, Need, Purpose,
        compat::{AS_OF, KERNEL_FLOOR, KERNEL_FLOOR_BPF, SUPPORTED, kernel_version},
    },
    intent::{Dataplane, Encapsulation},
    verdict::CauseCode,
};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

/// Felix refuses kernels below its floor, and falls back from eBPF without a word to the pods.
pub(super) fn age(look: &mut Look<'_>) {
    const CHECK: &str = "host-kernel";
    let host = look.host;
    look.gaps(CHECK, host.kernel.gaps());
    let Some(kernel) = host.kernel.seen() else { return };
    let Some(version) = kernel_version(&kernel.release) else {
        return look.cannot(CHECK, format!("{:?} is no kernel release", kernel.release));
    };
    let bpf = look.context.dataplane == Some(Dataplane::Bpf);
    let floor = if bpf { KERNEL_FLOOR_BPF } else { KERNEL_FLOOR };
    if version < floor {
        let what = if bpf { "the eBPF dataplane" } else { "Felix" };
        look.find(
            CauseCode::KernelTooOld,
            kernel.release.clone(),
            format!("{what} needs Linux {}.{} or newer", floor.0, floor.1),
            format!("the running kernel is {}", kernel.release),
        );
    }
}

/// How the running kernel can come by a module.
enum Way {
    /// It has it, or can load it.
    Fine,
    /// Its configuration says it was built without.
    BuiltWithout,
    /// Its tree lacks it.
    NotInTree,
    /// `modprobe.d` forbids it.
    Blocked(String),
    /// That cannot be told, and why.
    Unknown(&'static str),
}

fn way(module: &Need, facts: &ModuleFacts, config: Option<&BTreeMap<String, char>>) -> Way {
    let name = module.module;
    if facts.loaded.contains(name) || facts.builtin.contains(name) {
        return Way::Fine;
    }
    let built = config.map(|c| c.get(module.symbol).copied().unwrap_or('n'));
    if built == Some('y') {
        return Way::Fine;
    }
    if facts.on_disk.contains(name) {
        return match facts.blocked.get(name) {
            Some(file) => Way::Blocked(file.clone()),
            None => Way::Fine,
        };
    }
    let elsewhere = facts.other_trees.values().any(|tree| tree.contains(name));
    match built {
        // A module of another kernel's tree does not help, and a symbol that is not set cannot be mended by a package.
        Some('n') if !elsewhere => Way::BuiltWithout,
        _ if facts.tree_present => Way::NotInTree,
        _ if elsewhere => Way::NotInTree,
        None => Way::Unknown("neither the module tree nor the configuration of the running kernel is there"),
        Some(_) => Way::NotInTree,
    }
}

/// Modules: loaded, built in, or on disk for the running kernel and not forbidden.
pub(super) fn modules(look: &mut Look<'_>) {
    const CHECK: &str = "host-modules";
    let host = look.host;
    let gaps = host.modules.gaps();
    look.gaps(CHECK, gaps);
    let (Some(facts), Some(kernel)) = (host.modules.seen(), host.kernel.seen()) else {
        return;
    };
    // Absence can only be claimed from a complete look.
    let complete = gaps.is_empty();
    let mut missing = Vec::new();
    for need in wanted(look) {
        match way(need, facts, kernel.config.as_ref()) {
            Way::Fine => {}
            _ if !complete => look.cannot(
                CHECK,
                format!("{}: whether it is missing cannot be told from a partial look", need.module),
            ),
            Way::Unknown(why) => look.cannot(CHECK, format!("{}: {why}", need.module)),
            Way::BuiltWithout => look.find(
                CauseCode::KernelLacksSupport,
                need.module,
                format!("Calico needs the kernel module {}", need.module),
                format!("kernel {} was built without {}", kernel.release, need.symbol),
            ),
            Way::Blocked(file) => look.find(
                CauseCode::KernelModuleBlocked,
                need.module,
                format!("Calico needs the kernel module {}", need.module),
                format!("{file} forbids it, and it is not loaded"),
            ),
            Way::NotInTree => {
                missing.push(need.module);
                look.find(
                    CauseCode::KernelModuleMissing,
                    need.module,
                    format!("Calico needs the kernel module {}", need.module),
                    format!(
                        "it is not loaded, not built in, and not in /lib/modules/{} of the running kernel",
                        kernel.release
                    ),
                );
            }
        }
    }
    let older: Vec<&String> = facts
        .other_trees
        .iter()
        .filter(|(_, tree)| missing.iter().any(|m| tree.contains(*m)))
        .map(|(release, _)| release)
        .collect();
    if let Some(had) = older.first() {
        look.find(
            CauseCode::KernelUpgraded,
            kernel.release.clone(),
            format!("the running kernel has the modules that kernel {had} had"),
            format!(
                "{} {} in /lib/modules/{had}, and not for the running kernel {}",
                missing.join(", "),
                if missing.len() > 1 { "are" } else { "is" },
                kernel.release
            ),
        );
    } else if !facts.tree_present && missing.is_empty() && complete && kernel.config.as_ref().is_none_or(|c| c.values().any(|v| *v == 'm'))
    {
        look.find(
            CauseCode::KernelTreeMissing,
            kernel.release.clone(),
            format!("/lib/modules/{} exists", kernel.release),
            "it does not: what is loaded works until it is unloaded, and nothing more can be loaded",
        );
    }
}

/// The needs that apply, as far as the cluster is known. Without intent VXLAN is assumed and IP in IP is not asked for: a healthy cluster
/// must not be blamed for lacking what it does not use.
fn wanted(look: &Look<'_>) -> Vec<&'static Need> {
    let context = look.context;
    let encapsulated = |e| context.encapsulations.as_ref().map(|all| all.contains(&e));
    let nft = context.dataplane == Some(Dataplane::Nftables);
    let nft_backend = context.iptables_backend.as_deref() == Some("nft");
    NEEDS
        .iter()
        .filter(|need| match need.purpose {
            Purpose::Always => true,
            Purpose::Vxlan => encapsulated(Encapsulation::Vxlan) != Some(false),
            Purpose::Ipip => encapsulated(Encapsulation::Ipip) == Some(true),
            Purpose::Iptables => !nft && context.dataplane != Some(Dataplane::Bpf),
            Purpose::Nftables => nft || nft_backend,
        })
        .collect()
}

/// Calico against Kubernetes, by the dated table.
pub(super) fn versions(look: &mut Look<'_>) {
    let context = look.context;
    let (Some((major, minor, _)), Some(kubernetes)) = (context.calico, context.kubernetes) else {
        return;
    };
    let Some(row) = SUPPORTED.iter().find(|row| row.version == (major, minor)) else {
        return look.cannot("host-versions", format!("the table of {AS_OF} has no Calico v{major}.{minor}"));
    };
    let (first, last) = row.kubernetes;
    if kubernetes < first || kubernetes > last {
        look.find(
            CauseCode::VersionsIncompatible,
            format!("Calico v{major}.{minor} with Kubernetes v{}.{}", kubernetes.0, kubernetes.1),
            format!(
                "as of {AS_OF}, Calico v{major}.{minor} is tested with Kubernetes v{}.{} to v{}.{}",
                first.0, first.1, last.0, last.1
            ),
            format!("Kubernetes is v{}.{}", kubernetes.0, kubernetes.1),
        );
    }
}
