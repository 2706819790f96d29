//! Effects of the programmed stage: reading what the kernel was told. What is decided about it stands in `verifier_core::programmed`.
//!
//! | module | does |
//! |---|---|
//! | [`netns`] | enters a namespace, opens sockets in one |
//! | [`netlink`] | requests, attributes, and the dump loop that cannot be fooled |
//! | [`decode`] | netlink messages to typed state |
//! | [`dump`] | one dump per kind of object |
//! | [`filters`], [`conntrack`] | packet filters of both backends with their counters, connection tracking |
//! | [`offload`] | what devices do in the kernel's stead |
//! | [`pods`] | finds pods' namespaces and reads their inside |
//! | [`state`] | one look at everything |
//! | [`account`] | a state kept current, with a journal |

pub mod account;
pub mod conntrack;
pub mod decode;
pub mod dump;
#[cfg(test)]
mod dump_tests;
pub mod filters;
pub mod netlink;
pub mod netns;
pub mod offload;
pub mod pods;
pub mod snmp;
pub mod state;
#[cfg(test)]
pub(crate) mod testing;

pub use account::Account;
pub use netns::{Netns, NetnsError};
pub use pods::WantedPod;
pub use state::{Want, node_state};
