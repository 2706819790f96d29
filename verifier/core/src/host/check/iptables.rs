//! Which iptables backend Felix, kubelet and kube-proxy write to. Both are evaluated by the kernel, and neither shows the other's rules
//! (calico.md 5.3).

use super::Look;
use crate::{intent::Dataplane, programmed::FilterBackend, verdict::CauseCode};
use alloc::{collections::BTreeSet, format, string::String};

/// Whose marks stand in a backend.
fn marks(chains: &BTreeSet<(FilterBackend, String)>, backend: FilterBackend, prefix: &str) -> bool {
    chains.iter().any(|(b, chain)| *b == backend && chain.starts_with(prefix))
}

/// Felix's chains and those of kubelet and kube-proxy must stand in one backend.
pub(super) fn backends(look: &mut Look<'_>) {
    const CHECK: &str = "host-iptables";
    let host = look.host;
    look.gaps(CHECK, host.iptables.gaps());
    let Some(facts) = host.iptables.seen() else { return };
    if !matches!(look.context.dataplane, None | Some(Dataplane::Iptables)) {
        return;
    }
    // What Felix was told, against what this host's own iptables writes to.
    if let (Some(told), Some(own)) = (&look.context.iptables_backend, &facts.alternative)
        && told != "auto"
        && told != own
    {
        let (told, own) = (told.clone(), own.clone());
        look.find(
            CauseCode::IptablesBackendMismatch,
            "iptables",
            format!("Felix is told to use the {told} backend (iptablesBackend, FELIX_IPTABLESBACKEND)"),
            format!("this host's iptables is the {own} one, which kubelet and kube-proxy follow"),
        );
        return;
    }
    let Some(chains) = &look.context.chains else {
        return;
    };
    let calico = |b| marks(chains, b, "cali-");
    let kube = |b| marks(chains, b, "KUBE-");
    let (legacy, nft) = (FilterBackend::Legacy, FilterBackend::Nftables);
    if calico(legacy) && calico(nft) {
        look.find(
            CauseCode::IptablesBothBackends,
            "iptables",
            "Calico's chains stand in one backend",
            "chains that begin with cali- stand in the legacy backend and in the nft backend; the kernel evaluates both",
        );
    } else if (calico(legacy) && kube(nft) && !kube(legacy)) || (calico(nft) && kube(legacy) && !kube(nft)) {
        let (felix, others) = if calico(legacy) { ("legacy", "nft") } else { ("nft", "legacy") };
        look.find(
            CauseCode::IptablesBackendMismatch,
            "iptables",
            "Calico's chains stand in the backend that kubelet and kube-proxy use",
            format!("Calico's chains stand in the {felix} backend, those of kubelet and kube-proxy in the {others} one"),
        );
    }
}
