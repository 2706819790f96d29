//! Probes: what is sent, from where, and what came back.
//!
//! | file | says |
//! |---|---|
//! | [`result`] | what a probe is and how it can end; the judge reads only this |
//! | [`config`] | the ports and identifiers that make a packet a probe, shared by prober and taps |
//! | [`id`] | how ids are made without asking anybody |
//! | [`ring`] | which peers a node tests in which round |
//! | [`plan`] | the probes of a round, and of a full validation |
//! | [`session`] | how a batch of probes becomes results, whatever the order of events |
//! | [`size_search`] | the largest packet that passes, when the intended one does not |
//!
//! Sending and receiving is `verifier/src/probe`; the bytes on the wire are `verifier_ebpf::wire`.

pub mod config;
pub mod id;
pub mod plan;
pub mod result;
pub mod ring;
pub mod session;
pub mod size_search;

pub use config::{BadProbeConfig, PortRange, ProbeConfig};
pub use id::{IdSource, low};
pub use plan::{MtuHints, Plan, PlanOptions, plan_confirm, plan_full, plan_round};
pub use result::*;
pub use session::{Event, Quote, Session, SessionCounters, SessionOptions};
pub use size_search::SizeSearch;
