//! Loading programs and attaching them, by bpf(2) alone.
//!
//! tcx programs are attached without a link: like a filter installed by hand they outlive the
//! process, so that one command can break a fabric and another mend it.

use std::{
    ffi::c_long,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result};
use netlink_packet_route::link::{LinkAttribute, LinkXdp};
use serde::{Deserialize, Serialize};

use super::program::Place;
use crate::nl::Rtnl;

/// bpf(2) commands (uapi/linux/bpf.h).
const PROG_LOAD: c_long = 5;
const PROG_ATTACH: c_long = 8;
const PROG_DETACH: c_long = 9;
const PROG_GET_FD_BY_ID: c_long = 13;
const OBJ_GET_INFO_BY_FD: c_long = 15;
const PROG_QUERY: c_long = 16;

/// Program types.
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;

/// Direction of a device's TC hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// packets coming in
    Ingress,
    /// packets going out
    Egress,
}

impl Direction {
    /// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`, padding-free.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// For `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`.
#[repr(C)]
#[derive(Default)]
struct AttachAttr {
    target_ifindex: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
    replace_bpf_fd: u32,
    relative_fd: u32,
    expected_revision: u64,
}

/// For `BPF_PROG_QUERY`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// For `BPF_OBJ_GET_INFO_BY_FD`.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

fn bpf<T>(command: c_long, attr: &mut T) -> io::Result<c_long> {
    let size = size_of::<T>();
    // SAFETY: `attr` is a padding-free prefix of `union bpf_attr` of `size` bytes, exclusively
    // borrowed; all pointers inside it refer to memory that the callers keep alive over the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(fd: c_long) -> Result<OwnedFd> {
    let fd = i32::try_from(fd).context("a descriptor from bpf(2)")?;
    // SAFETY: bpf(2) has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &OwnedFd) -> u32 {
    // Descriptors are not negative.
    fd.as_raw_fd().unsigned_abs()
}

fn address<T>(value: &[T]) -> u64 {
    value.as_ptr() as usize as u64
}

/// Loads a program under `name` (15 characters at most).
pub fn load(place: Place, name: &str, code: &[[u8; 8]]) -> Result<OwnedFd> {
    let license = b"Dual MIT/GPL\0";
    let mut log = vec![0u8; 64 * 1024];
    let mut prog_name = [0u8; 16];
    for (slot, byte) in prog_name.iter_mut().take(15).zip(name.bytes()) {
        *slot = byte;
    }
    let mut attr = LoadAttr {
        prog_type: match place {
            Place::Tc => SCHED_CLS,
            Place::Xdp => XDP,
        },
        insn_cnt: u32::try_from(code.len()).context("the program's length")?,
        insns: address(code),
        license: address(license),
        log_level: 1,
        log_size: u32::try_from(log.len()).context("the log's length")?,
        log_buf: log.as_mut_ptr() as usize as u64,
        prog_name,
        ..LoadAttr::default()
    };
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => owned(fd),
        Err(error) => {
            let end = log.iter().position(|b| *b == 0).unwrap_or(0);
            let text = String::from_utf8_lossy(&log[..end]).into_owned();
            Err(error).with_context(|| format!("load program {name}: {text}"))
        }
    }
}

/// The kernel's id of a loaded program.
pub fn program_id(program: &OwnedFd) -> Result<u32> {
    // struct bpf_prog_info begins with type and id; the kernel fills what is asked for.
    let mut info = [0u32; 2];
    let mut attr = InfoAttr {
        bpf_fd: raw(program),
        info_len: 8,
        info: info.as_mut_ptr() as usize as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).context("ask for a program's id")?;
    Ok(info[1])
}

/// The name of a loaded program.
pub fn program_name(id: u32) -> Result<String> {
    let program = by_id(id)?;
    // The name stands 64 bytes into struct bpf_prog_info and is 16 bytes long.
    let mut info = [0u8; 80];
    let mut attr = InfoAttr {
        bpf_fd: raw(&program),
        info_len: 80,
        info: info.as_mut_ptr() as usize as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr).with_context(|| format!("ask for program {id}"))?;
    let name = &info[64..];
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn by_id(id: u32) -> Result<OwnedFd> {
    let mut attr = [id, 0, 0];
    owned(bpf(PROG_GET_FD_BY_ID, &mut attr).with_context(|| format!("open program {id}"))?)
}

/// Attaches to a tcx hook, behind what is there. The calling thread must be in the device's
/// namespace. Returns the program's id.
pub fn attach_tcx(program: &OwnedFd, link: &str, direction: Direction) -> Result<u32> {
    let mut attr = AttachAttr {
        target_ifindex: Rtnl::open()?.index(link)?,
        attach_bpf_fd: raw(program),
        attach_type: direction.attach_type(),
        ..AttachAttr::default()
    };
    bpf(PROG_ATTACH, &mut attr).with_context(|| format!("attach to {link} {direction:?}"))?;
    program_id(program)
}

/// Detaches a program from a tcx hook. The calling thread must be in the device's namespace.
pub fn detach_tcx(id: u32, link: &str, direction: Direction) -> Result<()> {
    let program = by_id(id)?;
    let mut attr = AttachAttr {
        target_ifindex: Rtnl::open()?.index(link)?,
        attach_bpf_fd: raw(&program),
        attach_type: direction.attach_type(),
        ..AttachAttr::default()
    };
    bpf(PROG_DETACH, &mut attr)
        .map(|_| ())
        .with_context(|| format!("detach from {link} {direction:?}"))
}

/// Ids of the programs on a tcx hook, in the order in which they run.
pub fn tcx_programs(index: u32, direction: Direction) -> Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    let mut attr = QueryAttr {
        target_ifindex: index,
        attach_type: direction.attach_type(),
        prog_ids: ids.as_mut_ptr() as usize as u64,
        count: 64,
        ..QueryAttr::default()
    };
    match bpf(PROG_QUERY, &mut attr) {
        Ok(_) => {
            ids.truncate(attr.count as usize);
            Ok(ids)
        }
        // No program has ever been attached there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error).context("query a tcx hook"),
    }
}

/// Attaches an XDP program in generic mode, which every device has.
pub fn attach_xdp(program: &OwnedFd, link: &str) -> Result<()> {
    set_xdp(link, program.as_raw_fd())
}

/// Takes the XDP program off a device.
pub fn detach_xdp(link: &str) -> Result<()> {
    set_xdp(link, -1)
}

fn set_xdp(link: &str, fd: i32) -> Result<()> {
    /// `XDP_FLAGS_SKB_MODE`
    const GENERIC: u32 = 2;
    Rtnl::open()?.change_link(link, vec![LinkAttribute::Xdp(vec![LinkXdp::Fd(fd), LinkXdp::Flags(GENERIC)])])
}
