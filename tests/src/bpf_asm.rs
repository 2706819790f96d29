//! An assembler for the few eBPF programs that faults need, with labels.
//!
//! Foreign programs are hand-assembled rather than built by the project's own eBPF toolchain: they
//! play somebody else's part, and must work when that toolchain does not.

/// Registers by role: the calling convention of eBPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reg {
    /// return value
    R0 = 0,
    /// first argument, and the context at entry
    R1 = 1,
    /// second argument
    R2 = 2,
    /// third argument
    R3 = 3,
    /// fourth argument
    R4 = 4,
    /// fifth argument
    R5 = 5,
    /// kept over calls
    R6 = 6,
    /// kept over calls
    R7 = 7,
    /// frame pointer
    R10 = 10,
}

/// Width of a memory access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// one byte
    B = 0x10,
    /// two bytes
    H = 0x08,
    /// four bytes
    W = 0x00,
}

/// A condition for a jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cond {
    /// equal
    Eq = 0x10,
    /// not equal
    Ne = 0x50,
    /// unsigned greater
    Gt = 0x20,
}

/// A place in the program, to jump to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// A program being written.
#[derive(Debug, Default)]
pub struct Assembler {
    code: Vec<[u8; 8]>,
    /// where each label stands, once it is placed
    labels: Vec<Option<usize>>,
    /// jumps to fill in: instruction, label
    jumps: Vec<(usize, Label)>,
}

impl Assembler {
    /// An empty program.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn emit(&mut self, op: u8, dst: Reg, src: u8, off: i16, imm: i32) {
        let [o0, o1] = off.to_le_bytes();
        let [i0, i1, i2, i3] = imm.to_le_bytes();
        let registers = (src << 4) | dst as u8;
        self.code.push([op, registers, o0, o1, i0, i1, i2, i3]);
    }

    /// A label that is placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts the label here.
    pub fn place(&mut self, label: Label) {
        if let Some(slot) = self.labels.get_mut(label.0) {
            *slot = Some(self.code.len());
        }
    }

    /// `dst = imm`
    pub fn mov_imm(&mut self, dst: Reg, imm: i32) {
        self.emit(0xb7, dst, 0, 0, imm);
    }

    /// `dst = src`
    pub fn mov(&mut self, dst: Reg, src: Reg) {
        self.emit(0xbf, dst, src as u8, 0, 0);
    }

    /// `dst += imm`
    pub fn add_imm(&mut self, dst: Reg, imm: i32) {
        self.emit(0x07, dst, 0, 0, imm);
    }

    /// `dst &= imm`
    pub fn and_imm(&mut self, dst: Reg, imm: i32) {
        self.emit(0x57, dst, 0, 0, imm);
    }

    /// `dst ^= imm`
    pub fn xor_imm(&mut self, dst: Reg, imm: i32) {
        self.emit(0xa7, dst, 0, 0, imm);
    }

    /// `dst = *(size *)(src + off)`
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, off: i16) {
        self.emit(0x61 | size as u8, dst, src as u8, off, 0);
    }

    /// `*(size *)(dst + off) = src`
    pub fn store(&mut self, size: Size, dst: Reg, off: i16, src: Reg) {
        self.emit(0x63 | size as u8, dst, src as u8, off, 0);
    }

    /// `if dst COND imm goto label`
    pub fn jump_if(&mut self, cond: Cond, dst: Reg, imm: i32, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x05 | cond as u8, dst, 0, 0, imm);
    }

    /// `goto label`
    pub fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.emit(0x05, Reg::R0, 0, 0, 0);
    }

    /// Calls a helper.
    pub fn call(&mut self, helper: i32) {
        self.emit(0x85, Reg::R0, 0, 0, helper);
    }

    /// `return r0`
    pub fn exit(&mut self) {
        self.emit(0x95, Reg::R0, 0, 0, 0);
    }

    /// The program's instructions, or the label that was never placed.
    pub fn finish(mut self) -> anyhow::Result<Vec<[u8; 8]>> {
        for (at, label) in &self.jumps {
            let Some(Some(target)) = self.labels.get(label.0) else {
                anyhow::bail!("label {} of a jump is nowhere", label.0);
            };
            let distance = i16::try_from(*target as i64 - *at as i64 - 1)?;
            let [low, high] = distance.to_le_bytes();
            if let Some(instruction) = self.code.get_mut(*at) {
                instruction[2] = low;
                instruction[3] = high;
            }
        }
        Ok(self.code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jumps_are_relative_to_the_next_instruction() {
        let mut asm = Assembler::new();
        let end = asm.label();
        asm.mov_imm(Reg::R0, 2);
        asm.jump_if(Cond::Eq, Reg::R1, 7, end);
        asm.mov_imm(Reg::R0, -1);
        asm.place(end);
        asm.exit();
        let code = asm.finish().unwrap();
        assert_eq!(code[1], [0x15, 0x01, 1, 0, 7, 0, 0, 0]);
        assert_eq!(code[2], [0xb7, 0x00, 0, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(code[3][0], 0x95);
    }

    #[test]
    fn a_jump_to_nowhere_is_an_error() {
        let mut asm = Assembler::new();
        let nowhere = asm.label();
        asm.jump(nowhere);
        assert!(asm.finish().is_err());
    }
}
