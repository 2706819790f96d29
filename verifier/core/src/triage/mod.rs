//! Triage: from what a cluster's API and agents say to the branch of the runbook that applies, what parts the affected nodes from the
//! healthy, and the steps that come next. It decides what to look at and in which order; it runs nothing.

mod branch;
mod describe;
mod facts;
mod health;
mod notes;
mod steps;
mod subset;
mod text;
mod traits;

pub use branch::{Applies, Branch};
pub use describe::describe;
pub use facts::{
    BgpPeerFacts, Clue, ClusterFacts, ConditionFacts, ContainerFacts, EndpointFacts, EventFacts, NodeFacts, ObjectFacts, PodFacts,
    WebhookFacts, WorkloadFacts,
};
pub use health::{Ailment, Complaint};
pub use notes::{Change, Note, change_line};
pub use steps::Step;
pub use subset::{CHANCE_PPM_MAX, Separator, Subset, Trait, Traits, discover, presence};
pub use text::text;
pub use traits::traits;

use crate::{evidence::Gap, names::NodeName};
use alloc::{collections::BTreeMap, collections::BTreeSet, vec::Vec};
use serde::{Deserialize, Serialize};

/// What triage says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Triage {
    /// How many nodes there are.
    pub nodes: usize,
    /// What is wrong, by node.
    pub affected: BTreeMap<NodeName, Vec<Complaint>>,
    /// Branches of the runbook that apply, in the order in which they are worked through.
    pub branches: Vec<Applies>,
    /// What parts the affected nodes from the healthy.
    pub subset: Subset,
    /// What else there is to know.
    pub notes: Vec<Note>,
    /// What changed lately.
    pub changes: Vec<Change>,
    /// What to do next.
    pub steps: Vec<Step>,
    /// What could not be read, and so is not known to be well.
    pub unknown: Vec<Gap>,
}

/// Decides. Changes within `window_ns` before the facts were read are recent.
pub fn triage(facts: &ClusterFacts, window_ns: u64) -> Triage {
    let affected = health::complaints(facts);
    let branches = branch::branches(facts, &affected);
    let names: BTreeSet<NodeName> = affected.keys().cloned().collect();
    let subset = discover(&traits(facts), &names);
    let changes = notes::changes(facts, &affected, window_ns);
    let steps = steps::steps(&steps::Ground {
        facts,
        complaints: &affected,
        branches: &branches,
        subset: &subset,
        changes: &changes,
    });
    Triage {
        nodes: facts.known_nodes().count(),
        notes: notes::notes(facts),
        affected,
        branches,
        subset,
        changes,
        steps,
        unknown: unknown(facts),
    }
}

impl Triage {
    /// Exit status: 1 if a branch applies or something else is wrong, else 3 if something could not be read, else 0.
    pub fn exit_status(&self) -> u8 {
        if !self.branches.is_empty() || self.notes.iter().any(|note| note.wrong) {
            1
        } else if !self.unknown.is_empty() || self.nodes == 0 {
            3
        } else {
            0
        }
    }
}

/// Everything that was not read, or not whole.
fn unknown(facts: &ClusterFacts) -> Vec<Gap> {
    let mut out: Vec<Gap> = Vec::new();
    let parts: [&[Gap]; 9] = [
        facts.nodes.gaps(),
        facts.pods.gaps(),
        facts.workloads.gaps(),
        facts.events.gaps(),
        facts.webhooks.gaps(),
        facts.endpoints.gaps(),
        facts.objects.gaps(),
        facts.bgp_peers.gaps(),
        facts.secrets.gaps(),
    ];
    out.extend(parts.into_iter().flatten().cloned());
    out.extend(facts.clues.gaps().iter().cloned());
    out.extend(facts.verdicts.values().flat_map(|verdict| verdict.gaps().iter().cloned()));
    let silent = facts
        .verdicts
        .values()
        .filter_map(|v| v.seen())
        .filter(|v| **v == crate::verdict::Verdict::Unknown)
        .count();
    if silent > 0 {
        out.push(Gap::new(
            "triage/agents",
            alloc::format!("{silent} agents cannot say whether their node forwards: see `verifier validate`"),
        ));
    }
    let mut seen = BTreeSet::new();
    out.retain(|gap| seen.insert(gap.clone()));
    out
}
