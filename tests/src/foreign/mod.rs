//! Somebody else's programs and settings on the fabric's devices: what faults attach.
//!
//! * [`program`]: small filters, hand-assembled;
//! * [`bpf`]: loading and attaching them (tcx, XDP), by bpf(2);
//! * [`tc`]: the older way, a clsact qdisc with a `bpf` classifier;
//! * [`legacy`]: rules of iptables-legacy;
//! * [`offload`]: checksum offload of a device;
//! * [`traffic`]: packets against intent.

pub mod bpf;
pub mod legacy;
pub mod netem;
pub mod offload;
pub mod program;
pub mod tc;
pub mod traffic;
