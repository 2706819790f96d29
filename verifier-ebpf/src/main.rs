//! The kernel programs, a thin shell over the library of this crate. Built for `bpfel-unknown-none` by `cargo xtask build`.
//!
//! | program | sits on | does |
//! |---|---|---|
//! | `dpv_wl_ingress`, `dpv_wl_egress` | host side of a workload's veth | records probes |
//! | `dpv_tun_ingress`, `dpv_tun_egress` | tunnel device | records probes |
//! | `dpv_ul_ingress`, `dpv_ul_egress` | the device that carries the node's address | records probes, judges every tunnel packet |
//! | `dpv_reflector` | egress of the host side of a workload's veth, last | answers UDP requests |
//! | `dpv_drop_btf`, `dpv_drop_tp` | `skb:kfree_skb` | records probes that the kernel drops, and lookups of neighbours |
//! | `dpv_empty` | nothing | what the others are measured against |
//!
//! All names start with `dpv_`: by that a program of ours is told from a foreign one. One program for each kind of interface and direction: no lookup tells a packet's tap what it is.
//!
//! This binary, unlike the library, is GPL: the kernel demands it of programs that read its memory.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "one compare-and-swap, which core does not offer on this target")]

mod programs;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: a program in which a panic can be reached does not pass the kernel's verifier.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
