//! What a system call that failed says of the dataplane.

use std::io;

/// Meaning of a failed send or bind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The kernel took the packet and then dropped it below IP: the drop records say where. `IP_RECVERR` makes such a drop visible as
    /// ENOBUFS (`net_xmit_errno`, include/linux/netdevice.h), be it a full queue or a TC program on the device.
    DroppedBelow,
    /// The kernel has no way for this packet: that is the finding.
    OfDataplane(&'static str),
    /// The prober's own trouble: says nothing about forwarding.
    OfProber(&'static str),
    /// Somebody else holds the port.
    PortTaken,
    /// The socket's own buffer is full: try again.
    TryAgain,
}

/// Meaning of an error of `sendto`.
pub(super) fn of_send(error: &io::Error) -> Meaning {
    match error.raw_os_error() {
        Some(libc::ENOBUFS) => Meaning::DroppedBelow,
        Some(libc::EAGAIN) => Meaning::TryAgain,
        Some(libc::EMSGSIZE) => Meaning::OfDataplane("the packet is larger than the MTU of the device it must leave by"),
        Some(libc::EHOSTUNREACH) => Meaning::OfDataplane("host unreachable: an unreachable route, or the neighbour does not answer"),
        Some(libc::ENETUNREACH) => Meaning::OfDataplane("no route"),
        Some(libc::ENETDOWN | libc::EHOSTDOWN | libc::ENODEV | libc::ENXIO) => Meaning::OfDataplane("the device is down or gone"),
        // fib_props, net/ipv4/fib_semantics.c, and fib6_prop, net/ipv6/route.c: blackhole is EINVAL, prohibit EACCES.
        Some(libc::EINVAL) => Meaning::OfDataplane("a blackhole route, or the route cannot be used"),
        Some(libc::EACCES) => Meaning::OfDataplane("a prohibit route"),
        // A DROP in OUTPUT or POSTROUTING makes the send fail (NF_DROP_GETERR, net/netfilter/core.c).
        Some(libc::EPERM) => Meaning::OfDataplane("a packet filter of the sending namespace refused it (OUTPUT or POSTROUTING)"),
        Some(libc::ENOMEM) => Meaning::OfProber("out of memory"),
        _ => Meaning::OfProber("the system call failed"),
    }
}

/// Meaning of an error of `socket`, `setsockopt` or `bind`.
pub(super) fn of_open(error: &io::Error) -> Meaning {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => Meaning::PortTaken,
        Some(libc::EADDRNOTAVAIL) => Meaning::OfDataplane("the source address stands on no device of the sending namespace"),
        Some(libc::EPERM | libc::EACCES) => Meaning::OfProber("no permission to open a raw socket: run as root or grant CAP_NET_RAW"),
        Some(libc::EMFILE | libc::ENFILE) => Meaning::OfProber("too many open files: raise the limit (ulimit -n)"),
        _ => Meaning::OfProber("the socket could not be opened"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_send_is_the_filters_and_a_refused_socket_is_ours() {
        let eperm = io::Error::from_raw_os_error(libc::EPERM);
        assert!(matches!(of_send(&eperm), Meaning::OfDataplane(_)));
        assert!(matches!(of_open(&eperm), Meaning::OfProber(_)));
        assert_eq!(of_send(&io::Error::from_raw_os_error(libc::ENOBUFS)), Meaning::DroppedBelow);
        assert_eq!(of_open(&io::Error::from_raw_os_error(libc::EADDRINUSE)), Meaning::PortTaken);
        assert!(matches!(of_send(&io::Error::other("x")), Meaning::OfProber(_)));
    }
}
