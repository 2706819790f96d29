//! Whether Felix and BIRD agree on who programs the routes between nodes.
//!
//! VXLAN's are always Felix's. Of the others each side has a `programClusterRoutes` of its own: FelixConfiguration's from 3.31 on,
//! BGPConfiguration's from 3.32 on, with defaults that 3.33 changed. A pair of settings under which both write, or nobody does, is a
//! contradiction; where only one of the two settings exists there is nothing to contradict it.

use super::{
    Cluster,
    contradictions::Subject,
    settings::{ClusterRoutes, Resolved, Version},
};
use crate::{
    intent::node::{Contradiction, Encapsulation, Provenance, Setting},
    names::NodeName,
    verdict::CauseCode,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// The version from which on both sides can be told.
pub(super) const BOTH_CAN_BE_TOLD: Version = (3, 32, 0);

impl Cluster {
    /// What to look at after a change that may touch every node. Nothing where all pools are VXLAN's.
    pub(super) fn route_owner_subjects(&self) -> Vec<Subject> {
        // A conflict that was found before the last such pool went must be looked at again too.
        let known = self.contradictions.keys().filter(|s| matches!(s, Subject::RouteOwners(_))).cloned();
        if self.shared_kinds().next().is_none() {
            return known.collect();
        }
        let nodes = self.nodes.keys().cloned().map(|name| Subject::RouteOwners(Some(name)));
        known.chain([Subject::RouteOwners(None)]).chain(nodes).collect()
    }

    /// Kinds of pools whose routes either side may program.
    fn shared_kinds(&self) -> impl Iterator<Item = Encapsulation> {
        let has = |kind: Encapsulation| {
            let mut pools = self.pools.values();
            pools.any(move |pool| pool.encapsulation == kind && !pool.load_balancer_only)
        };
        [Encapsulation::Ipip, Encapsulation::None]
            .into_iter()
            .filter(move |kind| has(*kind))
    }

    /// The conflict on a node whose settings are its own, or the one that all others share.
    pub(super) fn route_owner_conflict(&self, node: Option<&NodeName>) -> Option<Contradiction> {
        let shared = self.conflicts(&self.settings(&NodeName(String::new())));
        let found = match node {
            None => shared,
            Some(name) => {
                self.nodes.get(name)?;
                let own = self.conflicts(&self.settings(name));
                if own == shared {
                    return None;
                }
                own
            }
        };
        (!found.is_empty()).then(|| Contradiction {
            code: CauseCode::RouteOwnerConflict,
            node: node.cloned(),
            pods: Vec::new(),
            subject: node.map_or_else(|| String::from("programClusterRoutes"), ToString::to_string),
            evidence: found.join("; "),
        })
    }

    fn conflicts(&self, resolved: &Resolved) -> Vec<String> {
        let (Some(felix), Some(bird)) = (resolved.felix_routes.value(), resolved.bird_routes.value()) else {
            return Vec::new();
        };
        let version = resolved.settings.calico_version;
        // BIRD's side is known where this version lets it be told, where somebody told it, and where no BIRD runs.
        let told = version.is_some_and(|v| v >= BOTH_CAN_BE_TOLD) || !is_built_in(&resolved.bird_routes);
        let runs = !matches!(
            &resolved.bird_routes,
            Setting::Known {
                from: Provenance::Environment,
                ..
            }
        );
        if !told {
            return Vec::new();
        }
        let one = |kind: Encapsulation| {
            let (of, what): (fn(&ClusterRoutes) -> bool, _) = match kind {
                Encapsulation::Ipip => (|r| r.ipip, "IPIP pools"),
                _ => (|r| r.no_encap, "pools without encapsulation"),
            };
            match (of(felix), of(bird)) {
                (true, true) => Some(format!(
                    "Felix ({}) and BIRD ({}) both program the routes of {what}",
                    source("FelixConfiguration", &resolved.felix_routes),
                    source("BGPConfiguration", &resolved.bird_routes)
                )),
                // Without BIRD the routes of bare pods may be a cloud's, or a router's; those of a tunnel cannot.
                (false, false) if runs || kind == Encapsulation::Ipip => Some(format!(
                    "neither Felix ({}) nor BIRD ({}) programs the routes of {what}",
                    source("FelixConfiguration", &resolved.felix_routes),
                    source("BGPConfiguration", &resolved.bird_routes)
                )),
                _ => None,
            }
        };
        self.shared_kinds().filter_map(one).collect()
    }
}

const fn is_built_in<T>(setting: &Setting<T>) -> bool {
    matches!(
        setting,
        Setting::Known {
            from: Provenance::BuiltIn,
            ..
        }
    )
}

/// Who said so, in words.
fn source(object: &str, setting: &Setting<ClusterRoutes>) -> String {
    match setting {
        Setting::Known { from, .. } => match from {
            Provenance::Environment => String::from("by calico-node's environment"),
            Provenance::NodeConfiguration => format!("by programClusterRoutes of the node's {object}"),
            Provenance::DefaultConfiguration => format!("by programClusterRoutes of {object} default"),
            Provenance::BuiltIn => String::from("by its default in this version"),
        },
        Setting::Unresolved { gap } => gap.why.clone(),
    }
}
