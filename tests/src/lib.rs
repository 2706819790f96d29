//! The fabric (Calico-shaped nodes and pods made of network namespaces), the fault catalogue, and
//! the suites that run the verifier against both.
//!
//! Nothing here uses the verifier's own intent code: the fabric is programmed by explicit code
//! written from what Calico does (Felix, the CNI plugin), so that a mistake in the verifier's idea of
//! the right state cannot hide behind the same mistake here.
//!
//! * [`netns`]: named network namespaces, and running code inside them;
//! * [`nl`], [`nft`]: small synchronous netlink clients (rtnetlink, nf_tables);
//! * [`fabric`]: the addressing plan and everything that is programmed from it;
//! * [`hosts`]: file systems of machines, healthy and broken, for the host account;
//! * [`lab`]: a fabric with agents on it, for the programs and the suites;
//! * [`manifests`]: what `kubectl get … -o json|yaml` would print about the fabric;
//! * [`faults`]: the fault catalogue, with what a verifier must say about each;
//! * [`foreign`], [`bpf_asm`]: somebody else's eBPF programs and filters;
//! * [`golden`]: what the verifier saw of each fault, kept for tests that need no privileges;
//! * [`runbook`]: states of a cluster for each branch of the runbook, as objects of the API;
//! * [`snapshot`]: the whole kernel state of a fabric as text, to be compared;
//! * [`load`], [`churn`]: bounded background traffic, and pods that come and go;
//! * [`apiserver`]: a real API server on loopback, and the fabric's objects in it;
//! * [`reach`]: bare packets between two places of the fabric, independent of the verifier.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod apiserver;
pub mod bpf_asm;
pub mod churn;
pub mod fabric;
pub mod faults;
pub mod foreign;
pub mod golden;
pub mod hosts;
pub mod lab;
pub mod load;
pub mod manifests;
pub mod netns;
pub mod nft;
pub mod nl;
pub mod reach;
pub mod runbook;
pub mod snapshot;
