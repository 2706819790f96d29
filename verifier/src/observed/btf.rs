//! Reads what is needed of the running kernel's BTF: offsets of structure members and names of enumerators.
//!
//! The format is `Documentation/bpf/btf.rst` of the kernel. The data is walked in place: an agent must not keep a hundred thousand type
//! objects in memory for twenty offsets.

use std::{fs, io, path::Path};

/// Where the running kernel shows its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_BYTES: usize = 24;
/// Members looked at in one search: `sk_buff` with all its parts has some hundreds.
const MEMBERS_MAX: u32 = 1 << 16;
const TYPE_BYTES: usize = 12;

/// Why a question to BTF has no answer.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No BTF, or not readable.
    #[error("the kernel's BTF {path} cannot be read; remedy: a kernel built with CONFIG_DEBUG_INFO_BTF")]
    Unreadable {
        /// Where it was looked for.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not BTF, or of a version this program does not know.
    #[error("BTF is malformed at offset {offset}")]
    Malformed {
        /// Where.
        offset: usize,
    },
    /// No such structure or enumeration.
    #[error("the kernel's BTF has no {kind} {name}")]
    NoType {
        /// `struct` or `enum`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// No such member.
    #[error("the kernel's struct {structure} has no member {member}")]
    NoMember {
        /// The structure.
        structure: String,
        /// The member.
        member: String,
    },
}

/// Type kinds by number (`include/uapi/linux/btf.h`).
mod kind {
    pub(super) const INT: u32 = 1;
    pub(super) const ARRAY: u32 = 3;
    pub(super) const STRUCT: u32 = 4;
    pub(super) const UNION: u32 = 5;
    pub(super) const ENUM: u32 = 6;
    pub(super) const TYPEDEF: u32 = 8;
    pub(super) const RESTRICT: u32 = 11;
    pub(super) const FUNC_PROTO: u32 = 13;
    pub(super) const VAR: u32 = 14;
    pub(super) const DATASEC: u32 = 15;
    pub(super) const DECL_TAG: u32 = 17;
    pub(super) const TYPE_TAG: u32 = 18;
    pub(super) const ENUM64: u32 = 19;
}

/// BTF data with an index of its types.
pub struct Btf {
    data: Vec<u8>,
    strings: usize,
    /// Where each type starts; type 0 is `void` and has no place.
    types: Vec<u32>,
}

/// A type's first twelve bytes.
#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    members: usize,
    /// Offsets of members hold a bit-field's size in their top byte.
    bitfields: bool,
    size_or_type: u32,
}

impl Btf {
    /// The running kernel's.
    ///
    /// # Errors
    /// It is not there, or not understood.
    pub fn of_kernel() -> Result<Self, BtfError> {
        Self::read(Path::new(VMLINUX))
    }

    fn read(path: &Path) -> Result<Self, BtfError> {
        match fs::read(path) {
            Ok(data) => Self::parse(data),
            Err(source) => Err(BtfError::Unreadable {
                path: path.display().to_string(),
                source,
            }),
        }
    }

    /// Indexes BTF in the machine's byte order.
    ///
    /// # Errors
    /// It is not BTF, or it ends early.
    pub fn parse(data: Vec<u8>) -> Result<Self, BtfError> {
        if u16_at(&data, 0)? != MAGIC || data.get(2) != Some(&1) {
            return Err(BtfError::Malformed { offset: 0 });
        }
        let header = u32_at(&data, 4)? as usize;
        let types_at = header.saturating_add(u32_at(&data, 8)? as usize);
        let types_end = types_at.saturating_add(u32_at(&data, 12)? as usize);
        let strings = header.saturating_add(u32_at(&data, 16)? as usize);
        if header < HEADER_BYTES || types_end > data.len() || strings > data.len() {
            return Err(BtfError::Malformed { offset: 4 });
        }
        let mut btf = Self {
            data,
            strings,
            types: vec![0],
        };
        let mut at = types_at;
        while at < types_end {
            let length = TYPE_BYTES + btf.trailer_bytes(btf.type_at(at)?)?;
            btf.types.push(u32::try_from(at).map_err(|_| BtfError::Malformed { offset: at })?);
            at += length;
        }
        Ok(btf)
    }

    /// Offset in bytes of a member, by its path (`["__sk_common", "skc_net"]`), anonymous structures and unions looked through.
    ///
    /// # Errors
    /// There is no such structure or member.
    pub fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, BtfError> {
        let mut at = self.find(structure, &[kind::STRUCT], "struct")?;
        let mut bits = 0;
        let mut budget = MEMBERS_MAX;
        for member in path {
            let (offset, member_type) = self.member(at, member, 0, &mut budget)?.ok_or_else(|| BtfError::NoMember {
                structure: structure.to_owned(),
                member: (*member).to_owned(),
            })?;
            bits = sum(bits, offset, at.at)?;
            at = self.resolve(member_type)?;
        }
        Ok(bits / 8)
    }

    /// Values and names of an enumeration.
    ///
    /// # Errors
    /// There is no such enumeration.
    pub fn enumerators(&self, name: &str) -> Result<Vec<(u32, String)>, BtfError> {
        let found = self.find(name, &[kind::ENUM, kind::ENUM64], "enum")?;
        let step = if found.kind == kind::ENUM64 { 12 } else { 8 };
        (0..found.members)
            .map(|index| {
                let at = found.at + TYPE_BYTES + index * step;
                Ok((u32_at(&self.data, at + 4)?, self.string(u32_at(&self.data, at)?)?))
            })
            .collect()
    }

    fn find(&self, name: &str, kinds: &[u32], what: &'static str) -> Result<Type, BtfError> {
        for &at in self.types.iter().skip(1) {
            let found = self.type_at(at as usize)?;
            if kinds.contains(&found.kind) && self.is_named(found.name, name) {
                return Ok(found);
            }
        }
        Err(BtfError::NoType {
            kind: what,
            name: name.to_owned(),
        })
    }

    /// Offset in bits and type of a member, own or of an anonymous part.
    fn member(&self, of: Type, name: &str, depth: u8, budget: &mut u32) -> Result<Option<(u32, u32)>, BtfError> {
        // Real structures nest three deep; a bound keeps data that refers to itself from running us out of stack.
        if !matches!(of.kind, kind::STRUCT | kind::UNION) || depth > 16 {
            return Ok(None);
        }
        for index in 0..of.members {
            // Nor may anonymous parts that name each other, each many times, keep us busy for ever.
            *budget = budget.checked_sub(1).ok_or(BtfError::Malformed { offset: of.at })?;
            let at = of.at + TYPE_BYTES + index * 12;
            let member_type = u32_at(&self.data, at + 4)?;
            let offset = u32_at(&self.data, at + 8)? & if of.bitfields { 0x00ff_ffff } else { u32::MAX };
            let member_name = u32_at(&self.data, at)?;
            if self.is_named(member_name, name) {
                return Ok(Some((offset, member_type)));
            }
            if self.is_named(member_name, "")
                && let Some((inner, inner_type)) = self.member(self.resolve(member_type)?, name, depth + 1, budget)?
            {
                return Ok(Some((sum(offset, inner, of.at)?, inner_type)));
            }
        }
        Ok(None)
    }

    /// The type behind typedefs and qualifiers.
    fn resolve(&self, id: u32) -> Result<Type, BtfError> {
        let mut id = id;
        for _ in 0..16 {
            let Some(&at) = self.types.get(id as usize).filter(|&&at| at != 0) else {
                return Err(BtfError::Malformed { offset: 0 });
            };
            let found = self.type_at(at as usize)?;
            if !matches!(found.kind, kind::TYPEDEF..=kind::RESTRICT | kind::TYPE_TAG) {
                return Ok(found);
            }
            id = found.size_or_type;
        }
        Err(BtfError::Malformed { offset: 0 })
    }

    fn type_at(&self, at: usize) -> Result<Type, BtfError> {
        let info = u32_at(&self.data, at + 4)?;
        Ok(Type {
            at,
            name: u32_at(&self.data, at)?,
            kind: (info >> 24) & 0x1f,
            members: (info & 0xffff) as usize,
            bitfields: info >> 31 == 1,
            size_or_type: u32_at(&self.data, at + 8)?,
        })
    }

    fn trailer_bytes(&self, of: Type) -> Result<usize, BtfError> {
        Ok(match of.kind {
            kind::INT | kind::VAR | kind::DECL_TAG => 4,
            kind::ARRAY => 12,
            kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => of.members * 12,
            kind::ENUM | kind::FUNC_PROTO => of.members * 8,
            // A kind without a known length makes everything behind it unreadable.
            unknown if unknown == 0 || unknown > kind::ENUM64 => return Err(BtfError::Malformed { offset: of.at }),
            _ => 0,
        })
    }

    fn is_named(&self, offset: u32, name: &str) -> bool {
        let at = self.strings + offset as usize;
        self.data
            .get(at..)
            .is_some_and(|rest| rest.starts_with(name.as_bytes()) && rest.get(name.len()) == Some(&0))
    }

    fn string(&self, offset: u32) -> Result<String, BtfError> {
        let at = self.strings + offset as usize;
        let rest = self.data.get(at..).ok_or(BtfError::Malformed { offset: at })?;
        let end = rest.iter().position(|&byte| byte == 0).ok_or(BtfError::Malformed { offset: at })?;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }
}

fn sum(a: u32, b: u32, offset: usize) -> Result<u32, BtfError> {
    a.checked_add(b).ok_or(BtfError::Malformed { offset })
}

fn u16_at(data: &[u8], at: usize) -> Result<u16, BtfError> {
    match data.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => Ok(u16::from_ne_bytes(*bytes)),
        None => Err(BtfError::Malformed { offset: at }),
    }
}

fn u32_at(data: &[u8], at: usize) -> Result<u32, BtfError> {
    match data.get(at..).and_then(|rest| rest.first_chunk()) {
        Some(bytes) => Ok(u32::from_ne_bytes(*bytes)),
        None => Err(BtfError::Malformed { offset: at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct inner b; }; }`, `struct inner { int x; const int y; }` and an enumeration.
    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0inner\0a\0b\0x\0y\0reason\0ONE\0TWO\0";
        let name = |text: &str| {
            let text = [b"\0", text.as_bytes(), b"\0"].concat();
            strings.windows(text.len()).position(|window| window == text).unwrap() as u32 + 1
        };
        let mut types: Vec<u32> = Vec::new();
        types.extend([0, 1 << 24, 4, 32]); // 1: int
        types.extend([0, 10 << 24, 1]); // 2: const int
        types.extend([name("inner"), (4 << 24) | 2, 8, name("x"), 1, 0, name("y"), 2, 32]); // 3
        types.extend([0, (5 << 24) | 1, 8, name("b"), 3, 0]); // 4: anonymous union
        types.extend([name("outer"), (4 << 24) | 2, 12, name("a"), 1, 0, 0, 4, 32]); // 5
        types.extend([name("reason"), (6 << 24) | 2, 4, name("ONE"), 1, name("TWO"), 2]); // 6
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut data = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(word.to_ne_bytes());
        }
        [data, types, strings.to_vec()].concat()
    }

    #[test]
    fn members_are_found_through_anonymous_parts_and_paths() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", &["a"]).unwrap(), 0);
        assert_eq!(btf.offset("outer", &["b"]).unwrap(), 4);
        assert_eq!(btf.offset("outer", &["b", "y"]).unwrap(), 8);
        assert!(matches!(btf.offset("outer", &["c"]), Err(BtfError::NoMember { .. })));
        assert!(matches!(btf.offset("nobody", &["c"]), Err(BtfError::NoType { .. })));
        assert_eq!(btf.enumerators("reason").unwrap(), [(1, "ONE".to_owned()), (2, "TWO".to_owned())]);
    }

    #[test]
    fn parts_that_name_themselves_many_times_end_the_search() {
        let mut types: Vec<u32> = vec![1, (4 << 24) | 60, 8];
        for _ in 0..60 {
            types.extend([0, 1, 0xffff_fff0]); // an anonymous member of its own type
        }
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let strings = b"\0self\0";
        let mut data = [MAGIC.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            data.extend(word.to_ne_bytes());
        }
        let btf = Btf::parse([data, types, strings.to_vec()].concat()).unwrap();
        assert!(matches!(btf.offset("self", &["x"]), Err(BtfError::Malformed { .. })));
    }

    #[test]
    fn every_cut_is_an_error_or_a_smaller_answer() {
        let whole = sample();
        for end in 0..whole.len() {
            if let Ok(btf) = Btf::parse(whole[..end].to_vec()) {
                // Only the strings' end is missing, so a name may be.
                assert!(btf.enumerators("reason").is_err() || end + 5 > whole.len());
            }
        }
    }

    #[test]
    fn the_running_kernel_has_what_the_drop_programs_need() {
        if !Path::new(VMLINUX).exists() {
            eprintln!("skipped: this kernel shows no BTF");
            return;
        }
        let btf = Btf::of_kernel().unwrap();
        assert!(btf.offset("sk_buff", &["network_header"]).unwrap() > 0);
        assert!(btf.offset("sock", &["__sk_common", "skc_net"]).unwrap() > 0);
        assert!(
            btf.enumerators("skb_drop_reason")
                .unwrap()
                .iter()
                .any(|(_, name)| name == "SKB_DROP_REASON_NO_SOCKET")
        );
    }
}
