//! What the controller says of a node: only what its own agent cannot. That the agent is silent; and that all nodes together judge it
//! otherwise than it does itself. No API and no clock.

use super::{
    publish::HEARTBEATS_MISSED,
    standing::{Forwarding, Speaker, Standing},
};
use crate::names::{NodeName, UnixNs};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};

/// What all nodes together say of one that says otherwise of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// What the node said, and what is corrected by this.
    pub corrects: (Forwarding, Option<String>),
    /// What it is.
    pub forwarding: Forwarding,
    /// The cause.
    pub cause: Option<String>,
    /// In one sentence.
    pub message: String,
    /// When that was judged.
    pub judged_at: UnixNs,
}

/// What the object of a node says now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// When the verdict in it was made.
    pub judged_at: UnixNs,
    /// Who wrote it.
    pub speaker: Speaker,
    /// What it says.
    pub forwarding: Forwarding,
    /// The cause it names.
    pub cause: Option<String>,
    /// What the controller has added.
    pub settled: Option<Settled>,
}

/// What is known of a node at one time.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its object; none if there is none.
    pub known: Option<&'a Known>,
    /// What its agent answered over HTTP; none if it did not.
    pub own: Option<&'a Standing>,
    /// What all nodes together say of it.
    pub cluster: &'a Standing,
    /// Since when they say that, without a break.
    pub cluster_since: UnixNs,
    /// Since when this controller leads.
    pub leading_since: UnixNs,
}

/// How long all nodes together must say otherwise of a node than it does itself before that is written. Reports are made one after the other:
/// while a fault begins or ends, those of two nodes speak of different moments, and a neighbour would be blamed for that.
const SETTLE_HOLD_NS: u64 = 10_000_000_000;

/// Since when all nodes together say what they say of each.
#[derive(Clone, Debug, Default)]
pub struct Steady {
    said: BTreeMap<NodeName, (Forwarding, Option<String>, UnixNs)>,
}

impl Steady {
    /// Takes what is said of a node now; since when that is so.
    pub fn note(&mut self, node: &NodeName, said: &Standing, now: UnixNs) -> UnixNs {
        match self.said.get(node) {
            Some((forwarding, cause, since)) if *forwarding == said.forwarding && *cause == said.cause => *since,
            _ => {
                let entry = (said.forwarding, said.cause.clone(), now);
                self.said.insert(node.clone(), entry);
                now
            }
        }
    }

    /// Forgets nodes that are no longer there.
    pub fn keep(&mut self, is_there: impl Fn(&NodeName) -> bool) {
        self.said.retain(|node, _| is_there(node));
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    Leave,
    /// The node is unknown: nobody speaks for it.
    Silent {
        /// In words.
        why: String,
    },
    /// Its agent answers and does not write: the controller writes in its stead.
    Stead,
    /// All nodes together say otherwise.
    Settle(Settled),
    /// They do not any more.
    Withdraw,
}

/// Whether something of that age was missed [`HEARTBEATS_MISSED`] times.
const fn is_old(at: UnixNs, now: UnixNs, heartbeat_ns: u64) -> bool {
    now.since_ns(at) > heartbeat_ns.saturating_mul(HEARTBEATS_MISSED)
}

/// Decides what the controller writes of a node.
pub fn oversee(seen: &Seen<'_>, now: UnixNs, heartbeat_ns: u64) -> Act {
    let is_due = |at: UnixNs| now.since_ns(at) >= heartbeat_ns;
    let writes = seen
        .known
        .is_some_and(|known| known.speaker == Speaker::Agent && !is_old(known.judged_at, now, heartbeat_ns));
    let Some(own) = seen.own else {
        if writes {
            // It cannot be reached from here, and still writes: a broken way to the controller is not the node's silence.
            return Act::Leave;
        }
        return match seen.known {
            Some(known) if known.speaker == Speaker::Controller && known.forwarding == Forwarding::Unknown && !is_due(known.judged_at) => {
                Act::Leave
            }
            Some(known) => Act::Silent {
                why: format!("its verdict is {} s old", now.since_ns(known.judged_at) / 1_000_000_000),
            },
            // A node that just came: its agent gets as long as one that was there.
            None if !is_old(seen.leading_since, now, heartbeat_ns) => Act::Leave,
            None => Act::Silent {
                why: "it never wrote a verdict".to_string(),
            },
        };
    };
    if !writes {
        return match seen.known {
            // It may be about to write its first.
            None if !is_old(seen.leading_since, now, heartbeat_ns) => Act::Leave,
            Some(known)
                if known.speaker == Speaker::Controller
                    && !is_due(known.judged_at)
                    && known.forwarding == seen.cluster.forwarding
                    && known.cause == seen.cluster.cause =>
            {
                Act::Leave
            }
            _ => Act::Stead,
        };
    }
    let settled = seen.known.and_then(|known| known.settled.as_ref());
    let agrees = own.forwarding == seen.cluster.forwarding && (own.forwarding == Forwarding::True || own.cause == seen.cluster.cause);
    // That too little is known in common is no correction of who knows.
    if agrees || seen.cluster.forwarding == Forwarding::Unknown {
        return if settled.is_some() { Act::Withdraw } else { Act::Leave };
    }
    let next = Settled {
        corrects: (own.forwarding, own.cause.clone()),
        forwarding: seen.cluster.forwarding,
        cause: seen.cluster.cause.clone(),
        message: seen.cluster.message.clone(),
        judged_at: now,
    };
    match settled {
        Some(old)
            if old.corrects == next.corrects && old.forwarding == next.forwarding && old.cause == next.cause && !is_due(old.judged_at) =>
        {
            Act::Leave
        }
        _ if now.since_ns(seen.cluster_since) < SETTLE_HOLD_NS => Act::Leave,
        _ => Act::Settle(next),
    }
}

/// Which nodes are to have the taint of one that does not forward, and which are not; of the others it is left as it is. Where more than half do
/// not forward nobody is tainted: that is the network's fault, and there is nowhere to go.
pub fn tainted(nodes: &BTreeMap<NodeName, Forwarding>) -> Vec<(NodeName, bool)> {
    let bad = nodes.values().filter(|found| **found == Forwarding::False).count();
    let too_many = bad * 2 > nodes.len();
    nodes
        .iter()
        .filter_map(|(node, found)| match found {
            Forwarding::False => (!too_many).then(|| (node.clone(), true)),
            Forwarding::True => Some((node.clone(), false)),
            Forwarding::Degraded | Forwarding::Unknown => None,
        })
        .collect()
}

/// What a node's agent writes, knowing what the controller settled: that counts as long as it is fresh and corrects what the agent still says.
pub fn agree(mut own: Standing, settled: Option<&Settled>, now: UnixNs, heartbeat_ns: u64) -> Standing {
    let Some(settled) = settled else { return own };
    let corrects = settled.corrects.0 == own.forwarding && settled.corrects.1 == own.cause;
    if !corrects || is_old(settled.judged_at, now, heartbeat_ns) {
        return own;
    }
    own.contradicts_claim = own.contradicts_claim && matches!(settled.forwarding, Forwarding::Degraded | Forwarding::False);
    own.forwarding = settled.forwarding;
    own.cause = settled.cause.clone();
    own.message = settled.message.clone();
    own
}

#[cfg(test)]
mod tests;
