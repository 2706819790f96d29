//! What foreign programs do to packets: match some headers, then drop or damage.

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::bpf_asm::{Assembler, Cond, Label, Reg, Size};

/// Where a program will run; decides its context, helpers and return codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// a TC classifier (tcx or clsact)
    Tc,
    /// XDP
    Xdp,
}

/// Which packets a program acts on. All parts must hold; none means any IPv4 packet.
#[derive(Debug, Clone, Default)]
pub struct Match {
    /// source address
    pub src: Option<Ipv4Addr>,
    /// destination address
    pub dst: Option<Ipv4Addr>,
    /// UDP with that destination port
    pub udp_dport: Option<u16>,
    /// that IP protocol
    pub protocol: Option<u8>,
    /// UDP source port: these bits, this value
    pub sport_bits: Option<(u16, u16)>,
    /// IP length above that many bytes (of each segment, when segments travel together)
    pub longer_than_bytes: Option<u32>,
}

/// What it does to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// drop
    Drop,
    /// break the checksum of the TCP or UDP packet inside a VXLAN packet
    BreakInnerChecksum,
}

/// Ethernet, IPv4 without options, and the first eight bytes of what follows.
const HEADERS: i32 = 42;
/// Where the headers are copied to, below the frame pointer.
const BUFFER: i16 = -48;
/// Scratch below the frame pointer.
const SCRATCH: i16 = -56;

/// Helper numbers (uapi/linux/bpf.h).
const SKB_STORE_BYTES: i32 = 9;
const SKB_LOAD_BYTES: i32 = 26;
const XDP_LOAD_BYTES: i32 = 189;

/// Assembles a program.
pub fn assemble(place: Place, wanted: &Match, action: Action) -> Result<Vec<[u8; 8]>> {
    let mut asm = Assembler::new();
    let pass = asm.label();
    asm.mov(Reg::R6, Reg::R1);
    load_bytes(&mut asm, place, 0, BUFFER, HEADERS, pass);
    // 0x0800, read as a little-endian number
    asm.load(Size::H, Reg::R2, Reg::R10, BUFFER + 12);
    asm.jump_if(Cond::Ne, Reg::R2, 0x0008, pass);
    if let Some(port) = wanted.udp_dport {
        asm.load(Size::B, Reg::R2, Reg::R10, BUFFER + 23);
        asm.jump_if(Cond::Ne, Reg::R2, 17, pass);
        asm.load(Size::H, Reg::R2, Reg::R10, BUFFER + 36);
        asm.jump_if(Cond::Ne, Reg::R2, i32::from(port.to_be()), pass);
    }
    if let Some(protocol) = wanted.protocol {
        asm.load(Size::B, Reg::R2, Reg::R10, BUFFER + 23);
        asm.jump_if(Cond::Ne, Reg::R2, i32::from(protocol), pass);
    }
    for (offset, address) in [(26, wanted.src), (30, wanted.dst)] {
        if let Some(address) = address {
            // A comparison sign-extends its operand to 64 bits: take the two halves apart.
            let octets = address.octets();
            asm.load(Size::H, Reg::R2, Reg::R10, BUFFER + offset);
            asm.jump_if(Cond::Ne, Reg::R2, i32::from(u16::from_le_bytes([octets[0], octets[1]])), pass);
            asm.load(Size::H, Reg::R2, Reg::R10, BUFFER + offset + 2);
            asm.jump_if(Cond::Ne, Reg::R2, i32::from(u16::from_le_bytes([octets[2], octets[3]])), pass);
        }
    }
    if let Some((bits, value)) = wanted.sport_bits {
        asm.load(Size::H, Reg::R2, Reg::R10, BUFFER + 34);
        asm.and_imm(Reg::R2, i32::from(bits.to_be()));
        asm.jump_if(Cond::Ne, Reg::R2, i32::from(value.to_be()), pass);
    }
    if let Some(bytes) = wanted.longer_than_bytes {
        longer_than(&mut asm, bytes, pass);
    }
    match action {
        Action::Drop => {
            // TC_ACT_SHOT, XDP_DROP
            asm.mov_imm(Reg::R0, if place == Place::Tc { 2 } else { 1 });
            asm.exit();
        }
        Action::BreakInnerChecksum => break_inner_checksum(&mut asm, pass),
    }
    asm.place(pass);
    // TC_ACT_UNSPEC goes on to the next program; XDP_PASS
    asm.mov_imm(Reg::R0, if place == Place::Tc { -1 } else { 2 });
    asm.exit();
    asm.finish()
}

/// Copies packet bytes to the stack; a packet too short for that passes.
fn load_bytes(asm: &mut Assembler, place: Place, offset: i32, to: i16, length: i32, pass: Label) {
    asm.mov(Reg::R1, Reg::R6);
    asm.mov_imm(Reg::R2, offset);
    asm.mov(Reg::R3, Reg::R10);
    asm.add_imm(Reg::R3, i32::from(to));
    asm.mov_imm(Reg::R4, length);
    asm.call(match place {
        Place::Tc => SKB_LOAD_BYTES,
        Place::Xdp => XDP_LOAD_BYTES,
    });
    asm.jump_if(Cond::Ne, Reg::R0, 0, pass);
}

/// A veth carries TCP segments in bundles; what counts is how long each would be on a wire.
fn longer_than(asm: &mut Assembler, bytes: u32, pass: Label) {
    // Offsets in struct __sk_buff.
    const LEN: i16 = 0;
    const GSO_SIZE: i16 = 176;
    let limit = i32::try_from(bytes).unwrap_or(i32::MAX);
    let bundle = asm.label();
    let act = asm.label();
    asm.load(Size::W, Reg::R2, Reg::R6, GSO_SIZE);
    asm.jump_if(Cond::Ne, Reg::R2, 0, bundle);
    asm.load(Size::W, Reg::R2, Reg::R6, LEN);
    // Ethernet does not count.
    asm.jump_if(Cond::Gt, Reg::R2, limit.saturating_add(14), act);
    asm.jump(pass);
    asm.place(bundle);
    // Outer IP, UDP, VXLAN, inner Ethernet, IP and TCP with time stamps: 20+8+8+14+20+32.
    asm.jump_if(Cond::Gt, Reg::R2, limit.saturating_sub(102), act);
    asm.jump(pass);
    asm.place(act);
}

/// Changes the inner checksum of UDP and TCP; the outer packet stays valid to its receiver, whose
/// kernel sees the outer checksum as not yet computed (veth).
fn break_inner_checksum(asm: &mut Assembler, pass: Label) {
    /// Outer Ethernet, IP, UDP, VXLAN, and inner Ethernet.
    const INNER: i32 = 14 + 20 + 8 + 8 + 14;
    let tcp = asm.label();
    let udp = asm.label();
    load_bytes(asm, Place::Tc, INNER + 9, SCRATCH, 1, pass);
    asm.load(Size::B, Reg::R2, Reg::R10, SCRATCH);
    asm.jump_if(Cond::Eq, Reg::R2, 17, udp);
    asm.jump_if(Cond::Eq, Reg::R2, 6, tcp);
    asm.jump(pass);
    for (label, at) in [(udp, INNER + 20 + 6), (tcp, INNER + 20 + 16)] {
        asm.place(label);
        load_bytes(asm, Place::Tc, at, SCRATCH, 2, pass);
        asm.load(Size::H, Reg::R2, Reg::R10, SCRATCH);
        // UDP without a checksum has nothing to break.
        asm.jump_if(Cond::Eq, Reg::R2, 0, pass);
        asm.xor_imm(Reg::R2, 0x00ff);
        let fine = asm.label();
        asm.jump_if(Cond::Ne, Reg::R2, 0, fine);
        asm.mov_imm(Reg::R2, 0x1234);
        asm.place(fine);
        asm.store(Size::H, Reg::R10, SCRATCH, Reg::R2);
        asm.mov(Reg::R1, Reg::R6);
        asm.mov_imm(Reg::R2, at);
        asm.mov(Reg::R3, Reg::R10);
        asm.add_imm(Reg::R3, i32::from(SCRATCH));
        asm.mov_imm(Reg::R4, 2);
        asm.mov_imm(Reg::R5, 0);
        asm.call(SKB_STORE_BYTES);
        asm.jump(pass);
    }
}
