//! Sysctls: what is in force, what files will make of it at the next boot, and how full conntrack is.

use super::Look;
use crate::{host::SYSCTLS_OF_PODS, intent::Dataplane, verdict::CauseCode};
use alloc::{collections::BTreeMap, format, string::String, vec::Vec};

/// Names of the switch of forwarding, which are one and the same.
const FORWARDING: &[&str] = &["net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding"];

/// The same of IPv6, which has one name.
const FORWARDING_V6: &str = "net.ipv6.conf.all.forwarding";

/// What is in force.
pub(super) fn sysctls(look: &mut Look<'_>) {
    const CHECK: &str = "host-sysctls";
    let host = look.host;
    look.gaps(CHECK, host.sysctls.gaps());
    let Some(values) = host.sysctls.seen() else { return };
    if values.get("net.ipv4.ip_forward").is_some_and(|v| v == "0") {
        look.find(
            CauseCode::IpForwardDisabled,
            "net.ipv4.ip_forward",
            "net.ipv4.ip_forward is 1: Felix writes it once, at its start",
            "net.ipv4.ip_forward is 0",
        );
    }
    let is = |key: &str, value: &str| look.context.ipv6 && values.get(key).is_some_and(|v| v == value);
    let (no_forwarding, no_ipv6) = (is(FORWARDING_V6, "0"), is("net.ipv6.conf.all.disable_ipv6", "1"));
    if no_forwarding {
        look.find(
            CauseCode::IpForwardDisabled,
            FORWARDING_V6,
            format!("{FORWARDING_V6} is 1 where pods have IPv6: Felix writes it once, at its start"),
            format!("{FORWARDING_V6} is 0"),
        );
    }
    if no_ipv6 {
        look.find(
            CauseCode::SysctlWrong,
            "net.ipv6.conf.all.disable_ipv6",
            "net.ipv6.conf.all.disable_ipv6 is 0 where pods have IPv6",
            "net.ipv6.conf.all.disable_ipv6 is 1",
        );
    }
    if look.context.dataplane == Some(Dataplane::Bpf) && values.get("net.ipv4.conf.all.rp_filter").is_some_and(|v| v == "1") {
        look.find(
            CauseCode::SysctlWrong,
            "net.ipv4.conf.all.rp_filter",
            "with the eBPF dataplane net.ipv4.conf.all.rp_filter is not 1",
            "net.ipv4.conf.all.rp_filter is 1",
        );
    }
    // Forwarding of one device follows the switch for all of them, which is a cause of its own.
    let forwards = values.get("net.ipv4.ip_forward").is_none_or(|v| v != "0");
    let wrong: Vec<&String> = values
        .iter()
        .filter(|(key, value)| *value == "0" && of_a_pod(key, forwards))
        .map(|(key, _)| key)
        .collect();
    for key in wrong {
        look.find(
            CauseCode::SysctlWrong,
            key.clone(),
            format!("{key} is 1: the CNI plugin and Felix set it when the device comes up"),
            format!("{key} is 0"),
        );
    }
}

fn of_a_pod(key: &str, forwards: bool) -> bool {
    key.strip_prefix("net.ipv4.conf.cali")
        .and_then(|rest| rest.rsplit_once('.'))
        .is_some_and(|(_, name)| SYSCTLS_OF_PODS.contains(&name) && (forwards || name != "forwarding"))
}

/// What files will set at the next boot. The last line wins.
pub(super) fn sysctl_files(look: &mut Look<'_>) {
    const CHECK: &str = "host-sysctl-files";
    let host = look.host;
    look.gaps(CHECK, host.sysctl_files.gaps());
    let Some(lines) = host.sysctl_files.seen() else { return };
    let last: BTreeMap<&str, (&str, &str)> = lines
        .iter()
        .map(|l| (l.key.as_str(), (l.value.as_str(), l.file.as_str())))
        .collect();
    // The two names of the switch overwrite each other: whichever line comes last counts.
    let switch = lines.iter().rev().find(|l| FORWARDING.contains(&l.key.as_str()));
    let switch6 = lines.iter().rev().find(|l| look.context.ipv6 && l.key == FORWARDING_V6);
    for line in [switch, switch6].into_iter().flatten().filter(|l| l.value == "0") {
        look.find(
            CauseCode::SysctlNotPersistent,
            line.key.clone(),
            "no file switches forwarding off",
            format!("{} sets {} = 0, at boot and with every `sysctl --system`", line.file, line.key),
        );
    }
    if look.context.dataplane == Some(Dataplane::Bpf)
        && let Some((value, file)) = last.get("net.ipv4.conf.all.rp_filter")
        && *value == "1"
    {
        look.find(
            CauseCode::SysctlNotPersistent,
            "net.ipv4.conf.all.rp_filter",
            "with the eBPF dataplane no file sets net.ipv4.conf.all.rp_filter to 1",
            format!("{file} sets it to 1, at boot and with every `sysctl --system`"),
        );
    }
}

/// From how many percent on the conntrack table counts as nearly full.
const NEARLY_FULL_PERCENT: u64 = 80;

/// How full the conntrack table is.
pub(super) fn conntrack(look: &mut Look<'_>) {
    let host = look.host;
    let Some(values) = host.sysctls.seen() else { return };
    let number = |key: &str| values.get(key).map(|v| v.trim().parse::<u64>());
    let (count, max) = match (number("net.netfilter.nf_conntrack_count"), number("net.netfilter.nf_conntrack_max")) {
        (Some(Ok(count)), Some(Ok(max))) => (count, max),
        // Not loaded, not in use; whether the module is there is another check.
        (None, _) | (_, None) => return,
        (Some(Err(_)), _) | (_, Some(Err(_))) => {
            return look.cannot("host-conntrack", "nf_conntrack_count or nf_conntrack_max is no number");
        }
    };
    if max > 0 && count.saturating_mul(100) >= max.saturating_mul(NEARLY_FULL_PERCENT) {
        look.find(
            CauseCode::ConntrackNearlyFull,
            "nf_conntrack",
            format!("less than {NEARLY_FULL_PERCENT} % of the conntrack table is in use"),
            format!("{count} of {max} entries are in use"),
        );
    }
}
