//! Protocol counters of a namespace, from `/proc/net/snmp`: they tell of losses inside a pod that no tap sees.

use std::{collections::BTreeMap, fs, io};

/// `/proc/net` is the opener's namespace; `/proc/self` would be that of the process' first thread.
const PATH: &str = "/proc/thread-self/net/snmp";

/// Counters that grow when something is lost.
const KEPT: &[(&str, &[&str])] = &[
    ("Ip", &["InHdrErrors", "InAddrErrors", "InDiscards", "OutDiscards", "OutNoRoutes"]),
    ("Icmp", &["InErrors", "InCsumErrors"]),
    ("Tcp", &["InErrs", "InCsumErrors"]),
    ("Udp", &["NoPorts", "InErrors", "RcvbufErrors", "InCsumErrors"]),
];

/// Counters of the calling thread's namespace, named protocol and field together: `UdpInCsumErrors`.
///
/// # Errors
/// If procfs cannot be read.
pub fn counters() -> io::Result<BTreeMap<String, u64>> {
    fs::read_to_string(PATH).map(|text| parse(&text))
}

/// Pairs of lines: `Udp: InDatagrams NoPorts …` and `Udp: 17 0 …`.
fn parse(text: &str) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let [names, values] = pair else { continue };
        let (Some((protocol, names)), Some((same, values))) = (names.split_once(": "), values.split_once(": ")) else {
            continue;
        };
        let Some((_, kept)) = KEPT.iter().find(|(kept, _)| *kept == protocol && protocol == same) else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let (true, Ok(value)) = (kept.contains(&name), value.parse()) {
                found.insert(format!("{protocol}{name}"), value);
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_paired() {
        let text =
            "Ip: Forwarding InAddrErrors\nIp: 1 3\nUdp: InDatagrams NoPorts InCsumErrors\nUdp: 9 1 7\nUdpLite: InCsumErrors\nUdpLite: 4\n";
        let found = parse(text);
        assert_eq!(found.get("UdpInCsumErrors"), Some(&7));
        assert_eq!(found.get("IpInAddrErrors"), Some(&3));
        assert_eq!(found.len(), 3);
    }

    #[test]
    fn this_kernel_has_them() {
        assert!(counters().unwrap().contains_key("UdpInCsumErrors"));
    }
}
