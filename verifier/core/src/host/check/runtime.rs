//! Container runtime and kubelet must put containers under one cgroup driver, or systemd and the runtime fight over them and containers,
//! calico-node among them, are killed without a word in their own logs (calico#7951, #5157, containerd#7276).

use super::Look;
use crate::verdict::CauseCode;
use alloc::format;

/// From this version on the kubelet asks the runtime for its driver (`KubeletCgroupDriverFromCRI`, on by default), and containerd answers
/// from 2.0 on, which is what configuration version 3 belongs to.
const KUBELET_ASKS: (u16, u16) = (1, 31);

/// The two drivers.
pub(super) fn cgroups(look: &mut Look<'_>) {
    const CHECK: &str = "host-cgroups";
    let host = look.host;
    look.gaps(CHECK, host.runtime.gaps());
    let Some(facts) = host.runtime.seen() else { return };
    let (Some((runtime, runtime_from)), Some((kubelet, kubelet_from))) = (&facts.cgroup_driver, &facts.kubelet_driver) else {
        if host.runtime.is_complete() && host.is_node.seen() == Some(&true) {
            look.cannot(
                CHECK,
                "no configuration of a container runtime or of the kubelet was found where they usually stand",
            );
        }
        return;
    };
    let name = facts.name.as_deref().unwrap_or("the runtime");
    let asks = look.context.kubernetes.is_some_and(|v| v >= KUBELET_ASKS);
    let answers = name == "crio" || facts.config_version >= Some(3);
    if runtime != kubelet && !(asks && answers) {
        look.find(
            CauseCode::CgroupDriverMismatch,
            name,
            format!("the kubelet's cgroup driver is {kubelet} ({kubelet_from})"),
            format!("{name}'s is {runtime} ({runtime_from})"),
        );
    }
}
