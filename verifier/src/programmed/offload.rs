//! Offloads of devices, by `SIOCETHTOOL`: what a device or its driver does in the kernel's stead, and sometimes does wrong. Only asked,
//! never set.

use super::netns::Netns;
use socket2::{Domain, Socket, Type};
use std::{collections::BTreeMap, io, os::fd::AsRawFd as _};
use verifier_core::{
    evidence::{Evidence, Gap},
    programmed::{Link, LinkKind, Offloads},
};

/// Source name of gaps found here.
const SOURCE: &str = "programmed/offloads";
/// More devices that are no pod's are not asked.
const DEVICES_MAX: usize = 64;
/// The one-value requests of `include/uapi/linux/ethtool.h`, with the names that ethtool(8) prints.
const FLAGS: &[(u32, &str)] = &[
    (0x14, "rx-checksumming"),
    (0x16, "tx-checksumming"),
    (0x18, "scatter-gather"),
    (0x1e, "tcp-segmentation-offload"),
    (0x23, "generic-segmentation-offload"),
    (0x2b, "generic-receive-offload"),
];

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Offloads of the devices that are no pod's.
pub fn look(ns: &Netns, links: &Evidence<Vec<Link>>) -> Evidence<Offloads> {
    let Some(all) = links.seen() else {
        return Evidence::unavailable(SOURCE, "the links are not known");
    };
    let shared = |link: &&Link| !matches!(link.kind, LinkKind::Veth | LinkKind::Loopback);
    let names: Vec<String> = all.iter().filter(shared).map(|link| link.name.clone()).collect();
    match ns.run_in(|| without_capabilities().and_then(|()| read(&names))) {
        Ok(Ok((found, mut gaps))) => {
            gaps.extend_from_slice(links.gaps());
            Evidence::partial(found, gaps)
        }
        Ok(Err(error)) => Evidence::unavailable(SOURCE, error.to_string()),
        Err(error) => Evidence::unavailable(SOURCE, error.to_string()),
    }
}

/// Takes all capabilities from the calling thread, which is one of its own and ends soon.
///
/// A device is asked by its name, and for a name that is gone the kernel loads the module that may bring it, if whoever asks is privileged
/// (`dev_load` in `net/core/dev_ioctl.c`): to ask for `tunl0` just after somebody unloaded `ipip` would bring it back, on every node and pod of
/// the machine. These requests need no privilege.
fn without_capabilities() -> io::Result<()> {
    /// `_LINUX_CAPABILITY_VERSION_3` of `include/uapi/linux/capability.h`, and the calling thread.
    const HEADER: [u32; 2] = [0x2008_0522, 0];
    /// Effective, permitted and inheritable, each in two words.
    const NONE: [u32; 6] = [0; 6];
    // SAFETY: capset reads a header of two 32-bit words and, for this version, two structures of three; both outlive the call. It
    // concerns the calling thread alone.
    let result = unsafe { libc::syscall(libc::SYS_capset, HEADER.as_ptr(), NONE.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// In the namespace of the calling thread.
fn read(names: &[String]) -> io::Result<(Offloads, Vec<Gap>)> {
    // Any socket of the namespace will do.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let (mut found, mut gaps) = (Offloads::new(), Vec::new());
    for name in names.iter().take(DEVICES_MAX) {
        let mut flags = BTreeMap::new();
        for (command, flag) in FLAGS {
            match ask(&socket, name, *command) {
                Ok(on) => {
                    flags.insert((*flag).to_owned(), on);
                }
                // The device has no such offload.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                // It went while it was asked.
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => break,
                Err(error) => gaps.push(Gap::new(SOURCE, format!("{name}: {flag}: {error}"))),
            }
        }
        if !flags.is_empty() {
            found.insert(name.clone(), flags);
        }
    }
    if names.len() > DEVICES_MAX {
        gaps.push(Gap::new(SOURCE, format!("{} of {} devices were asked", DEVICES_MAX, names.len())));
    }
    Ok((found, gaps))
}

fn ask(socket: &Socket, link: &str, command: u32) -> io::Result<bool> {
    let mut value = Value { command, data: 0 };
    // SAFETY: all-zero bytes are a valid ifreq, which is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte is left for the terminating zero.
    for (slot, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(link.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the descriptor is open; the request names a device and points to an ethtool_value, and both outlive the call. The commands
    // used here write `data` and nothing else.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as libc::Ioctl, &mut request) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(value.data != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programmed::testing::{TestNs, root};

    #[test]
    fn a_tunnel_device_says_what_it_offloads() {
        if !root() {
            return;
        }
        let ns = TestNs::new("offload");
        ns.ip("link add vxlan.test type vxlan id 7 dstport 4789 dev lo");
        let links = crate::programmed::dump::Tables::open(&ns.netns()).unwrap().links();
        let found = look(&ns.netns(), &links);
        let flags = &found.all().unwrap()["vxlan.test"];
        assert!(
            flags.contains_key("tx-checksumming") && flags.contains_key("generic-segmentation-offload"),
            "{flags:?}"
        );
        assert!(!found.seen().unwrap().contains_key("lo"));
    }
}
