//! Transmit checksum offload of a device, by `SIOCETHTOOL`.

use std::{io, os::fd::AsRawFd};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GTXCSUM`, `ETHTOOL_STXCSUM` (uapi/linux/ethtool.h).
const GET: u32 = 0x16;
const SET: u32 = 0x17;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

fn ethtool(link: &str, mut value: Value) -> Result<u32> {
    // Any socket of the namespace will do.
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("open a socket")?;
    // SAFETY: all-zero bytes are a valid ifreq, which is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().take(15).zip(link.bytes()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the descriptor is open; the request names a device and points to an ethtool_value,
    // and both outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("ethtool on {link}"));
    }
    Ok(value.data)
}

/// Whether the device computes transmit checksums.
pub fn transmit_checksum(link: &str) -> Result<bool> {
    ethtool(link, Value { command: GET, data: 0 }).map(|value| value != 0)
}

/// Switches transmit checksum offload on or off. Off, the kernel computes them itself before the
/// device, and segmentation offload goes with it.
pub fn set_transmit_checksum(link: &str, on: bool) -> Result<()> {
    ethtool(
        link,
        Value {
            command: SET,
            data: u32::from(on),
        },
    )
    .map(|_| ())
}
