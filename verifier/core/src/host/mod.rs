//! The host account: what the machine under a node brings along, or does not.
//!
//! A fourth account beside intent, programmed and observed. It is read from files only (`verifier::host` does that, below any root
//! directory), typed here as facts, and judged by [`check`]: one check one function, each ending in a cause of the one cause table.
//! Host causes explain dataplane causes (no `vxlan` module, therefore no tunnel device), so they stand at the head of a chain.
//!
//! What could not be read is a gap, and its checks are unknown: a root without `/etc` proves nothing.

mod check;
mod compat;
mod facts;
mod glob;
mod needs;

pub use check::{HostContext, HostFindings, account_findings, check};
pub use compat::{AS_OF, Calico, SUPPORTED};
pub use facts::*;
pub use glob::matches as glob_matches;
pub use needs::{NEEDS, Need, Purpose, SYSCTLS, SYSCTLS_OF_PODS};
