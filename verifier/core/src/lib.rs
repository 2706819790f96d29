//! Every decision of the dataplane verifier, and nothing else.
//!
//! The crate is `no_std`: it has no way to open a socket or a file, to read a clock or to draw a random number. Whatever a
//! decision needs is an argument. All maps are ordered, so the same input gives the same bytes.
//!
//! The modules are the stages of one flow (`ARCHITECTURE.md` has the picture):
//!
//! | stage | says | enters as | leaves as |
//! |---|---|---|---|
//! | [`intent`] | what should be | Kubernetes and Calico objects | [`intent::NodeIntent`] |
//! | [`programmed`] | what the kernel was told | netlink dumps | [`programmed::NodeState`] |
//! | [`observed`] | what packets did | tap and drop records | [`observed::Observations`] |
//! | [`host`] | what the machine brings along | files below a root | [`host::HostAccount`] |
//! | [`probe`] | what was sent and what came back | a plan, socket events | [`probe::ProbeResult`] |
//! | [`path`] | which hops a packet must make, where it diverged | intent and hops | [`path::Divergence`] |
//! | [`verdict`] | whose fault it is | a [`verdict::NodeSnapshot`] | [`verdict::NodeReport`], [`verdict::ClusterReport`] |
//! | [`triage`] | which branch of the runbook applies | [`triage::ClusterFacts`] | [`triage::Triage`] |
//! | [`report`] | what a person or a pipeline reads | a cluster report | text, JSON |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod compare;
pub mod evidence;
pub mod host;
pub mod intent;
pub mod lease;
pub mod names;
pub mod observed;
pub mod path;
pub mod probe;
pub mod programmed;
pub mod report;
pub mod triage;
pub mod verdict;
