//! What the kernel programs and user space must agree on, and the logic of the programs that needs no kernel.
//!
//! The programs (`main.rs`, built for `bpfel-unknown-none`) are a thin shell over this library: here stand the wire format
//! of a probe ([`wire`], [`siphash`]), the records that cross the ring buffer ([`record`]), the values of the maps
//! ([`config`], [`conformance`], [`address`]), and every decision about a packet ([`parse`], [`checksum`], [`reflect`], [`replay`]), so that all of it
//! is tested on the host against plain byte slices. There is one definition of each; nothing is held together by comments.
//!
//! Nothing here may panic, allocate or loop without a bound: the same code must pass the kernel's verifier.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod address;
pub mod bytes;
pub mod checksum;
pub mod config;
pub mod conformance;
pub mod parse;
pub mod plain;
pub mod record;
pub mod reflect;
pub mod replay;
pub mod siphash;
pub mod wire;
