//! The intent account: what Kubernetes and Calico objects say should be.
//!
//! [`NodeIntent`] is one node's slice of it: the links, addresses, routes, neighbours, forwarding entries, sets and workload endpoints
//! that Felix, BIRD and the CNI plugin would program on that node, who its peers are, and which settings led to that.
//!
//! A source fills [`objects::Objects`]; [`Cluster::compile`] indexes them; [`Cluster::node_intent`] computes one node's slice by the
//! algorithm of calico.md 3.8, independently of Felix. Changes go through [`Cluster::apply`] and [`Cluster::refresh`].

pub mod acquaintance;
pub mod cluster;
pub mod conformance;
pub mod derive;
pub mod node;
pub mod objects;
mod parameters;
#[doc(hidden)]
pub mod synthetic;
pub mod toggles;

pub use acquaintance::Acquaintance;
pub use cluster::{Cluster, Effects, UnknownNode};
pub use conformance::ConformanceTable;
pub use node::*;
