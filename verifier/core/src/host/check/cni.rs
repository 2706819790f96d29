//! CNI: which configuration wins, whether its plugins can be started, and whether its credential still counts.
//!
//! The runtime reads `/etc/cni/net.d` in order of file name and takes the first network; with containerd a first file that cannot be
//! parsed is an error, not a file to skip (calico.md 2.2b, 5.6).

use super::Look;
use crate::{
    host::{CniFacts, CniNetwork, Kubeconfig},
    verdict::CauseCode,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

fn is_calico(network: &CniNetwork) -> bool {
    network.plugins.iter().any(|p| p == "calico")
}

/// The configuration that wins is Calico's and can be read.
pub(super) fn configuration(look: &mut Look<'_>) {
    const CHECK: &str = "host-cni-configuration";
    let host = look.host;
    let gaps = host.cni.gaps();
    look.gaps(CHECK, gaps);
    let Some(facts) = host.cni.seen() else { return };
    let calicos = facts.files.iter().position(|f| f.network.as_ref().is_ok_and(is_calico));
    match facts.files.first() {
        None => missing(look, facts, gaps.is_empty()),
        Some(first) => match &first.network {
            Err(why) => look.find(
                CauseCode::CniConfigInvalid,
                first.name.clone(),
                "the first file in /etc/cni/net.d is a CNI configuration",
                format!("it cannot be parsed: {why}"),
            ),
            Ok(network) if !is_calico(network) => match calicos.and_then(|i| facts.files.get(i)) {
                Some(ours) => look.find(
                    CauseCode::CniConfigShadowed,
                    first.name.clone(),
                    format!("{} is the first file in /etc/cni/net.d", ours.name),
                    format!(
                        "{} sorts before it and wins: network {:?}, plugins {}",
                        first.name,
                        network.name,
                        network.plugins.join(", ")
                    ),
                ),
                None => missing(look, facts, gaps.is_empty()),
            },
            Ok(network) => winner(look, facts, &first.name, network),
        },
    }
}

fn missing(look: &mut Look<'_>, facts: &CniFacts, complete: bool) {
    const CHECK: &str = "host-cni-configuration";
    if !complete || !look.is_node(CHECK) {
        return;
    }
    let there: Vec<&str> = facts.files.iter().map(|f| f.name.as_str()).collect();
    let host = if !facts.config_dir {
        "/etc/cni/net.d does not exist".to_string()
    } else if there.is_empty() {
        "/etc/cni/net.d has no configuration".to_string()
    } else {
        format!("/etc/cni/net.d has {} and none of them is Calico's", there.join(", "))
    };
    look.find(
        CauseCode::CniConfigMissing,
        "/etc/cni/net.d",
        "calico-node's init container install-cni writes 10-calico.conflist",
        host,
    );
}

/// What else can be wrong where Calico's configuration wins.
fn winner(look: &mut Look<'_>, facts: &CniFacts, name: &str, network: &CniNetwork) {
    if let (Some(node), Some(says)) = (look.context.node.clone(), &network.nodename)
        // `__KUBERNETES_NODE_NAME__` is the template's placeholder; install-cni replaces it.
        && *says != node.0
    {
        look.find(
            CauseCode::NodenameFileMismatch,
            name,
            format!("nodename is {node}, as the Node object is named"),
            format!("{name} says nodename {says}"),
        );
    }
    let others: Vec<&str> = facts.files.iter().map(|f| f.name.as_str()).filter(|n| *n != name).collect();
    if !others.is_empty() {
        look.find(
            CauseCode::CniConfigLeftover,
            others.join(", "),
            format!("{name} is the only configuration in /etc/cni/net.d"),
            format!(
                "{} would win if {name} went away, as it does while Calico is reinstalled",
                others.join(", ")
            ),
        );
    }
}

/// The plugins that the winning configuration names can be started.
pub(super) fn binaries(look: &mut Look<'_>) {
    let host = look.host;
    let gaps = host.cni.gaps();
    let Some(facts) = host.cni.seen() else { return };
    let Some(network) = facts.files.first().and_then(|f| f.network.as_ref().ok()).filter(|n| is_calico(n)) else {
        return;
    };
    let mut wanted: Vec<&str> = network.plugins.iter().map(String::as_str).collect();
    wanted.push("calico-ipam");
    wanted.sort_unstable();
    wanted.dedup();
    for plugin in wanted {
        let wrong = match facts.binaries.get(plugin) {
            // A directory that could not be listed whole proves no absence.
            None if !gaps.is_empty() => {
                look.cannot("host-cni-binaries", format!("{plugin}: /opt/cni/bin could not be read whole"));
                continue;
            }
            None => "it does not exist".to_string(),
            Some(b) if b.mode & 0o111 == 0 => format!("it may not be executed (mode {:o})", b.mode),
            Some(b) if b.size_bytes == 0 => "it is empty: a copy was cut short".to_string(),
            Some(b) if !b.program => "it is no program of this machine".to_string(),
            Some(_) => continue,
        };
        look.find(
            CauseCode::CniBinaryMissing,
            format!("/opt/cni/bin/{plugin}"),
            format!("the CNI configuration names the plugin {plugin}"),
            wrong,
        );
    }
}

/// The credential with which the plugin asks the API.
pub(super) fn kubeconfig(look: &mut Look<'_>) {
    let host = look.host;
    let Some(facts) = host.cni.seen() else { return };
    let Some(Kubeconfig { path, content }) = &facts.kubeconfig else {
        return;
    };
    let content = match content {
        Ok(content) => content,
        Err(why) => {
            return look.find(
                CauseCode::CniKubeconfigMissing,
                path.clone(),
                "the CNI configuration names this kubeconfig",
                why.clone(),
            );
        }
    };
    if !content.has_credential {
        return look.find(
            CauseCode::CniKubeconfigMissing,
            path.clone(),
            "the kubeconfig of the CNI plugin has a token",
            "it has neither a token nor a client certificate",
        );
    }
    let now_s = host.read_at.0 / 1_000_000_000;
    match content.expires_s {
        Some(expires) if expires <= now_s => look.find(
            CauseCode::CniTokenExpired,
            path.clone(),
            "calico-node refreshes the token of the CNI plugin every few hours",
            format!(
                "the token expired {} min ago by this host's clock",
                now_s.saturating_sub(expires) / 60
            ),
        ),
        // The other way round: a clock that lags lets everything look fresh here while the API server refuses it.
        _ => {
            if let Some(issued) = content.issued_s.filter(|issued| *issued > now_s.saturating_add(300)) {
                look.cannot(
                    "host-cni-kubeconfig",
                    format!(
                        "the token was issued {} min in the future: this host's clock is behind, so its expiry says nothing",
                        issued.saturating_sub(now_s) / 60
                    ),
                );
            }
        }
    }
}
