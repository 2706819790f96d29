//! The verdict: from the three accounts of a node to what is wrong with it, and from all nodes' reports to whose fault it is.
//!
//! Two steps. [`judge_node`] looks at one [`NodeSnapshot`]: findings about the node itself, and symptoms (failing probes with their
//! place), some of which accuse other nodes. [`judge_cluster`] looks at all nodes' reports: it de-duplicates, lets roots absorb what they
//! explain, settles blame and merges.

mod cause;
mod checks;
mod cluster;
mod code;
mod detour;
mod discovery;
mod node;
pub mod recreate;
mod settle;
mod snapshot;
mod spread;
mod suspect;
mod symptom;
pub mod table;
mod types;

pub use cause::{Cause, Repair, Repairs, Scope};
pub use cluster::judge_cluster;
pub use code::CauseCode;
pub use node::judge_node;
pub use snapshot::*;
pub use spread::ask_again;
pub use types::*;

use alloc::vec::Vec;

/// Findings of one host with what follows under its root: a missing module under the upgrade that lost it.
pub fn roots(findings: Vec<Finding>) -> Vec<Finding> {
    settle::absorb::absorb(findings)
}
