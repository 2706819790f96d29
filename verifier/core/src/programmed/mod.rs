//! The programmed account: what the kernel was told, as typed state, and the kernel's own forwarding decision as a pure function.

pub mod fib;
pub mod journal;
pub mod query;
pub mod state;

pub use fib::{Decision, Fib, Flow, ReversePath, default_rules, rp_filter};
pub use journal::{Outage, outages};
pub use query::EffectiveNetconf;
pub use state::*;
