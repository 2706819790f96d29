//! Names and addresses that Calico derives instead of storing (calico.md 1.3 and 2.1).

use crate::names::{Mac, NodeName, PodRef};
use alloc::string::String;
use core::fmt::Write as _;
use sha1::{Digest, Sha1};

/// Felix's VXLAN device.
pub const VXLAN_DEVICE: &str = "vxlan.calico";
/// Felix's VXLAN device for IPv6.
pub const VXLAN_DEVICE_V6: &str = "vxlan-v6.calico";
/// The IPIP device.
pub const IPIP_DEVICE: &str = "tunl0";
/// RTPROT_BOOT: what `ip route add` writes, and Felix leaves device routes at by default.
pub const PROTOCOL_BOOT: u8 = 3;
/// RTPROT_BIRD.
pub const PROTOCOL_BIRD: u8 = 12;
/// Felix's own protocol, of all its other routes.
pub const PROTOCOL_FELIX: u8 = 80;
/// Prefix of workload interfaces when nothing sets another.
pub const DEFAULT_INTERFACE_PREFIX: &str = "cali";

/// MAC of a node's VTEP: `66`, then the first five bytes of SHA-1 of the node's name (`felix/calc/vxlan_resolver.go`).
pub fn vtep_mac(node: &NodeName) -> Mac {
    mac_of(&Sha1::digest(node.as_str().as_bytes()))
}

/// MAC of a node's IPv6 VTEP: the same of the name with `-v6` appended.
pub fn vtep_mac_v6(node: &NodeName) -> Mac {
    mac_of(&Sha1::new().chain_update(node.as_str()).chain_update("-v6").finalize())
}

fn mac_of(digest: &[u8]) -> Mac {
    let mut mac = [0x66, 0, 0, 0, 0, 0];
    for (byte, hashed) in mac.iter_mut().skip(1).zip(digest) {
        *byte = *hashed;
    }
    Mac(mac)
}

/// Host-side interface of a pod: the prefix, then eleven hex digits of SHA-1 of `namespace.name`
/// (`libcalico-go/lib/backend/k8s/conversion/workload_endpoint_default.go`).
pub fn veth_name(prefix: &str, pod: &PodRef) -> String {
    let digest = Sha1::new()
        .chain_update(&pod.namespace)
        .chain_update(".")
        .chain_update(&pod.name)
        .finalize();
    let mut out = String::with_capacity(prefix.len() + 12);
    out.push_str(prefix);
    for byte in digest.iter().take(6) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.truncate(prefix.len() + 11);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn vtep_macs_of_the_reference() {
        for (node, v4, v6) in [
            ("node-1", "66:b3:68:28:39:8e", Some("66:24:ac:63:df:6c")),
            ("worker-a", "66:54:1c:6e:f7:4d", Some("66:58:ad:a7:c1:7a")),
            ("kind-control-plane", "66:07:01:14:06:90", None),
            ("kind-worker", "66:46:b3:ce:05:5d", Some("66:49:30:91:8e:81")),
            ("kind-worker2", "66:03:c5:fc:0f:e5", None),
            ("ip-10-0-1-23.eu-west-1.compute.internal", "66:bc:80:e2:a0:ca", None),
        ] {
            assert_eq!(vtep_mac(&node.into()).to_string(), v4, "{node}");
            if let Some(v6) = v6 {
                assert_eq!(vtep_mac_v6(&node.into()).to_string(), v6, "{node}");
            }
        }
    }

    #[test]
    fn interface_names_of_the_reference() {
        for (namespace, name, device) in [
            ("default", "nginx", "calic440f455693"),
            ("default", "web-0", "cali0d7763386da"),
            ("kube-system", "coredns-abc", "cali3d5d6ab04b5"),
            ("kube-system", "coredns-5d78c9869d-abcde", "cali4d5f75c480c"),
        ] {
            assert_eq!(veth_name("cali", &PodRef::new(namespace, name)), device);
        }
        assert_eq!(veth_name("eni", &PodRef::new("default", "nginx")), "enic440f455693");
    }
}
