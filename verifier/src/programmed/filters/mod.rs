//! Packet filters: where netfilter is entered, and the rules that can lose a packet or rewrite it, with their counters.
//!
//! Both backends are read, since a node can have both and only one of them shows in `nft list ruleset`: nf_tables (nft, iptables-nft) by
//! nfnetlink, x_tables (iptables-legacy) by socket options. ip6tables-legacy is not read: its drops can be placed, their chain not named.

pub(crate) mod legacy;
pub(crate) mod nftables;

use super::netns::Netns;
use verifier_core::{
    evidence::Evidence,
    programmed::{BaseChain, FilterRule},
};

/// What one look at the filters gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filters {
    /// Rules worth knowing: those that drop, reject or translate, those of endpoints' own chains, and policies that drop.
    pub rules: Evidence<Vec<FilterRule>>,
    /// Base chains.
    pub base_chains: Evidence<Vec<BaseChain>>,
}

/// One look, on the calling thread (and threads of its own for visits of the namespace).
pub fn look(ns: &Netns) -> Filters {
    let nft = nftables::look(ns);
    let legacy = legacy::look(ns);
    Filters {
        rules: joined(nft.rules, legacy.rules),
        base_chains: joined(nft.base_chains, legacy.base_chains),
    }
}

/// [`look`] from a runtime.
pub async fn look_async(ns: &Netns) -> Filters {
    let failed = |why: String| Filters {
        rules: Evidence::unavailable("programmed/filters", why.clone()),
        base_chains: Evidence::unavailable("programmed/base-chains", why),
    };
    let ns = match ns.try_clone() {
        Ok(ns) => ns,
        Err(error) => return failed(error.to_string()),
    };
    match tokio::task::spawn_blocking(move || look(&ns)).await {
        Ok(filters) => filters,
        Err(error) => failed(format!("internal fault: {error}")),
    }
}

/// Two looks' evidence as one: what either lacks is lacking.
fn joined<T>(one: Evidence<Vec<T>>, other: Evidence<Vec<T>>) -> Evidence<Vec<T>> {
    match (one, other) {
        (Evidence::Unavailable { gap }, Evidence::Unavailable { .. }) => Evidence::Unavailable { gap },
        (one, other) => {
            let missing = one.gaps().iter().chain(other.gaps()).cloned().collect();
            let mut all = Vec::new();
            for part in [one, other] {
                if let Evidence::Complete { value } | Evidence::Partial { value, .. } = part {
                    all.extend(value);
                }
            }
            Evidence::partial(all, missing)
        }
    }
}
