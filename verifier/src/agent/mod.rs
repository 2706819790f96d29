//! The daemon: one per node.
//!
//! | file | does |
//! |---|---|
//! | `run` | puts the tasks together and lets them run |
//! | [`shared`] | what the tasks share, and the snapshot made from it |
//! | `following` | follows manifests, key file, foreign programs |
//! | [`watching`], [`eyes`] | owns the kernel programs; holds what they tell |
//! | [`window`] | hops, drops and results of late, bounded |
//! | [`probing`] | sends a plan from the namespaces of its sources |
//! | [`continuous`], [`steady`] | probes and judges all the time |
//! | [`round`] | a full round, as `validate` orders it |
//! | [`trace`] | follows a few probes |
//! | [`filters`] | which filter counters moved |
//! | [`peers`] | the other agents |
//! | [`api`], [`server`], [`client`], [`auth`], [`keys`] | HTTP between them |
//! | [`results`] | the verdict in the cluster's API |
//! | [`metrics`] | what a scrape sees |

pub mod api;
pub mod auth;
pub mod client;
pub mod continuous;
pub mod eyes;
pub mod filters;
mod following;
pub mod keys;
pub mod metrics;
pub mod peers;
pub mod probing;
pub mod results;
pub mod round;
pub mod run;
pub mod server;
pub mod shared;
pub mod steady;
pub mod trace;
pub mod watching;
pub mod window;

pub use run::{Start, run};
