//! One look at everything: [`node_state`], for commands that look once. The agent keeps a state current with [`super::account`].

use super::{
    conntrack,
    dump::Tables,
    filters,
    netns::{Netns, NetnsError, run_in_async},
    offload,
    pods::{PodFinder, WantedPod, read_pod},
};
use crate::clock;
use std::collections::BTreeMap;
use verifier_core::{
    evidence::Evidence,
    names::PodRef,
    programmed::{Link, NodeState, PodState},
};

/// What a look should take in besides the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Pods to be entered.
    pub pods: Vec<WantedPod>,
    /// Packet filters and their counters.
    pub filters: bool,
    /// Connection tracking.
    pub conntrack: bool,
}

/// One look at the node whose namespace is `ns`. Unavailable if the namespace cannot be entered at all.
///
/// The hooks of foreign programs are the observed stage's to list; the agent puts them into [`NodeState::hooks`].
pub async fn node_state(ns: &Netns, want: &Want) -> Evidence<NodeState> {
    let want = want.clone();
    let look = match ns.try_clone() {
        // On a blocking thread of the runtime; each visit inside takes a thread of its own.
        Ok(ns) => tokio::task::spawn_blocking(move || look(&ns, &want, &mut PodFinder::default())).await,
        Err(error) => return Evidence::unavailable("programmed", error.to_string()),
    };
    match look {
        Ok(Ok(state)) => Evidence::complete(state),
        Ok(Err(error)) => Evidence::unavailable("programmed", error.to_string()),
        Err(error) => Evidence::unavailable("programmed", format!("internal fault: {error}")),
    }
}

/// [`node_state`] without a runtime. `finder` remembers pods' namespaces from one look to the next.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn look(ns: &Netns, want: &Want, finder: &mut PodFinder) -> Result<NodeState, NetnsError> {
    let taken_at = clock::unix_now();
    let mut tables = Tables::open(ns)?;
    let links = tables.links();
    let pods = look_at_pods(ns, &links, &want.pods, finder);
    let filters = want.filters.then(|| filters::look(ns));
    let (rules, base_chains) = match filters {
        Some(filters) => (filters.rules, filters.base_chains),
        None => (not_asked("programmed/filters"), not_asked("programmed/base-chains")),
    };
    Ok(NodeState {
        taken_at,
        addresses: tables.addresses(),
        routes: tables.routes(),
        rules: tables.rules(),
        neighbors: tables.neighbors(),
        fdb: tables.fdb(),
        netconf: tables.netconf(),
        conntrack: if want.conntrack {
            conntrack::look(ns)
        } else {
            not_asked("programmed/conntrack")
        },
        filters: rules,
        base_chains,
        hooks: not_asked("programmed/hooks"),
        offloads: Some(offload::look(ns, &links)),
        links,
        pods,
        journal: Vec::new(),
        journal_from: taken_at,
    })
}

/// The inside of the wanted pods. Every pod has an entry; one that could not be entered says why.
pub fn look_at_pods(
    node: &Netns,
    links: &Evidence<Vec<Link>>,
    wanted: &[WantedPod],
    finder: &mut PodFinder,
) -> BTreeMap<PodRef, Evidence<PodState>> {
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let unavailable = |why: String| Evidence::unavailable("programmed/pods", why);
    let no_links = Vec::new();
    let links = links.seen().unwrap_or(&no_links);
    match finder.find(node, links, wanted) {
        Err(error) => wanted.iter().map(|w| (w.pod.clone(), unavailable(error.to_string()))).collect(),
        Ok(places) => places
            .into_iter()
            .map(|(pod, place)| {
                let state = match place {
                    Ok(place) => match read_pod(node, links, &place) {
                        Ok(state) => Evidence::complete(state),
                        Err(error) => unavailable(error.to_string()),
                    },
                    Err(error) => unavailable(error.to_string()),
                };
                (pod, state)
            })
            .collect(),
    }
}

fn not_asked<T>(source: &str) -> Evidence<T> {
    Evidence::unavailable(source, "not asked for")
}

/// [`look_at_pods`] for async code.
///
/// # Errors
/// If no thread could be started.
pub async fn pods_now(node: &Netns, wanted: Vec<WantedPod>) -> Result<BTreeMap<PodRef, Evidence<PodState>>, NetnsError> {
    let inside = node.try_clone()?;
    run_in_async(node, move || {
        let links = Tables::open(&inside)?.links();
        Ok(look_at_pods(&inside, &links, &wanted, &mut PodFinder::default()))
    })
    .await?
}
