//! Which capabilities this process holds (`/proc/self/status`).

use super::{Check, check, missing, unknown};
use std::io;

/// Capabilities by number (`include/uapi/linux/capability.h`).
struct Capability {
    name: &'static str,
    bit: u8,
    essential: bool,
    disables: &'static str,
    remedy: &'static str,
}

/// Number of `CAP_SYS_ADMIN`.
const CAP_SYS_ADMIN: u8 = 21;

const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "CAP_NET_ADMIN",
        bit: 12,
        essential: true,
        disables: "reading the dataplane and attaching taps",
        remedy: "run as root or grant CAP_NET_ADMIN",
    },
    Capability {
        name: "CAP_NET_RAW",
        bit: 13,
        essential: true,
        disables: "ICMP and TCP probes",
        remedy: "run as root or grant CAP_NET_RAW",
    },
    Capability {
        name: "CAP_SYS_ADMIN",
        bit: CAP_SYS_ADMIN,
        essential: true,
        disables: "entering the network namespaces of the node and of its pods",
        remedy: "run as root or grant CAP_SYS_ADMIN (setns demands it)",
    },
    Capability {
        name: "CAP_BPF",
        bit: 39,
        essential: true,
        disables: "taps and the reflector: no hops, no place of a failure",
        remedy: "run as root or grant CAP_BPF (CAP_SYS_ADMIN on kernels before 5.8)",
    },
    Capability {
        name: "CAP_PERFMON",
        bit: 38,
        essential: false,
        disables: "drop reasons",
        remedy: "run as root or grant CAP_PERFMON",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        bit: 19,
        essential: false,
        disables: "finding the namespace of a pod whose veth is gone",
        remedy: "run as root or grant CAP_SYS_PTRACE, with the host's process namespace (hostPID)",
    },
    Capability {
        name: "CAP_SYSLOG",
        bit: 34,
        essential: false,
        disables: "names of the functions that drop packets",
        remedy: "run as root or grant CAP_SYSLOG",
    },
];

/// One check for each capability that is needed or used.
pub(super) fn all(status: io::Result<String>) -> Vec<Check> {
    let effective = status.map_err(|error| unknown(&error)).and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let digits = line.ok_or_else(|| missing("no CapEff in /proc/self/status"))?.trim();
        u64::from_str_radix(digits, 16).map_err(|error| unknown(&error))
    });
    let one = |capability: &Capability| {
        // What the newer, narrower ones allow CAP_SYS_ADMIN has always allowed (kernel/bpf/syscall.c, include/linux/capability.h).
        let stands_in = matches!(capability.name, "CAP_BPF" | "CAP_PERFMON");
        let has = |mask: &u64, bit: u8| mask >> bit & 1 == 1;
        let held = match &effective {
            Ok(mask) if has(mask, capability.bit) || (stands_in && has(mask, CAP_SYS_ADMIN)) => Ok(()),
            Ok(_) => Err(missing("not in the effective set")),
            Err(state) => Err(state.clone()),
        };
        check(capability.name, capability.essential, held, capability.disables, capability.remedy)
    };
    CAPABILITIES.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preflight::State;

    fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }

    #[test]
    fn a_process_without_rights_is_told_each_missing_capability() {
        let checks = all(Ok("Name:\tx\nCapEff:\t0000000000000000\n".to_owned()));
        assert_eq!(checks.len(), CAPABILITIES.len());
        let complaint = named(&checks, "CAP_BPF").complaint().unwrap();
        assert!(complaint.contains("grant CAP_BPF") && !complaint.contains('\n'), "{complaint}");
    }

    #[test]
    fn exactly_what_is_missing_is_told() {
        let all_but_bpf: u64 = !(1 << 39 | 1 << 21);
        let checks = all(Ok(format!("CapEff:\t{all_but_bpf:016x}\n")));
        let bad: Vec<_> = checks.iter().filter(|check| !check.present()).map(|check| check.name).collect();
        assert_eq!(bad, ["CAP_SYS_ADMIN", "CAP_BPF"]);
    }

    #[test]
    fn a_status_that_cannot_be_read_is_unknown_and_not_missing() {
        for check in all(Err(io::Error::from(io::ErrorKind::PermissionDenied))) {
            assert!(matches!(check.state, State::Unknown { .. }));
        }
    }
}
