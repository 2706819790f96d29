//! The observed account's I/O: kernel programs are loaded, set and attached; what they see is read and given names.
//!
//! [`Observer`] holds the programs. Its parts: [`loader`] (which programs this kernel runs), [`taps`] (on which interfaces), [`table`] (intent,
//! in the form that the programs look things up in), [`ring`] (records), [`counters`] (everything that is counted, every loss included),
//! [`symbols`] and [`layout`] (the running kernel's names and offsets, by [`btf`]), [`convert`] (records become the core's types), [`foreign`]
//! (programs of others on the same devices) and [`bench`] (what a packet costs). What is decided about it all stands in
//! [`verifier_core::observed`]; the programs themselves are in crate `verifier-ebpf`.

mod batch;
pub mod bench;
pub mod btf;
pub mod convert;
pub mod counters;
pub mod foreign;
pub mod layout;
pub mod loader;
pub mod object;
pub mod observer;
pub mod ring;
pub mod symbols;
pub mod table;
pub mod taps;

#[cfg(test)]
mod tests;

pub use observer::{Key, Observer, ObserverError, Settings};
