//! The cluster's API: where intent comes from and where verdicts go.
//!
//! | file | does |
//! |---|---|
//! | [`client`] | from flags, a kubeconfig or the pod's own account to a client; what a refusal means and costs |
//! | [`kinds`] | which kinds are read, from which group, whole or by selector |
//! | [`source`] | objects once, or followed for ever: the same [`Objects`](verifier_core::intent::objects::Objects) as from files |
//! | [`store`] | what the watches told, swapped only when a list is complete; what is missing and how old the rest is |
//! | [`logs`] | logs of containers, of the running one and of the one before it |
//! | [`results`] | a verdict as `NodeDataplane`, node condition and event |
//! | [`lease`] | which of several controllers leads |
//! | [`nodes`] | taints, cordons and annotations of Nodes |
//! | [`secret`] | the key as a Secret |
//! | [`crd`] | `NodeDataplane`, the verdict on one node as an object |

pub mod client;
pub mod crd;
pub mod kinds;
pub mod lease;
pub mod logs;
pub mod nodes;
pub mod results;
pub mod secret;
pub mod source;
pub mod store;

pub use client::{Access, NotNow, connect};
pub use source::KubeSource;
