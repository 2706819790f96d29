//! What Calico needs of a kernel, and which settings are worth reading. Sources: calico.md 5.1 and 2.4 (Felix's `feature_detect`,
//! `configureProcSysForInterface`, `configureKernel`; calicoctl's `checksystem`, which knows neither `vxlan` nor `ipip`).

/// When a module is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Always.
    Always,
    /// Pools with VXLAN.
    Vxlan,
    /// Pools with IP in IP.
    Ipip,
    /// Rules through iptables, whichever backend.
    Iptables,
    /// Native nftables, and the nft backend of iptables.
    Nftables,
}

/// A module that Calico needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Module, with underscores.
    pub module: &'static str,
    /// Its symbol in the kernel's configuration.
    pub symbol: &'static str,
    /// What for.
    pub purpose: Purpose,
}

const fn need(module: &'static str, symbol: &'static str, purpose: Purpose) -> Need {
    Need { module, symbol, purpose }
}

/// Every module that Calico needs in some mode.
pub const NEEDS: &[Need] = &[
    need("veth", "CONFIG_VETH", Purpose::Always),
    need("nf_conntrack", "CONFIG_NF_CONNTRACK", Purpose::Always),
    need("vxlan", "CONFIG_VXLAN", Purpose::Vxlan),
    need("ipip", "CONFIG_NET_IPIP", Purpose::Ipip),
    need("ip_set", "CONFIG_IP_SET", Purpose::Iptables),
    need("xt_set", "CONFIG_NETFILTER_XT_SET", Purpose::Iptables),
    need("xt_addrtype", "CONFIG_NETFILTER_XT_MATCH_ADDRTYPE", Purpose::Iptables),
    need("xt_conntrack", "CONFIG_NETFILTER_XT_MATCH_CONNTRACK", Purpose::Iptables),
    need("xt_mark", "CONFIG_NETFILTER_XT_MARK", Purpose::Iptables),
    need("xt_multiport", "CONFIG_NETFILTER_XT_MATCH_MULTIPORT", Purpose::Iptables),
    need("xt_comment", "CONFIG_NETFILTER_XT_MATCH_COMMENT", Purpose::Iptables),
    need("ipt_rpfilter", "CONFIG_IP_NF_MATCH_RPFILTER", Purpose::Iptables),
    need("nf_tables", "CONFIG_NF_TABLES", Purpose::Nftables),
];

/// Sysctls of the host as a whole that are read.
pub const SYSCTLS: &[&str] = &[
    "net.ipv4.ip_forward",
    "net.ipv4.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.default.rp_filter",
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv6.conf.all.forwarding",
    "net.ipv6.conf.all.disable_ipv6",
    "net.netfilter.nf_conntrack_max",
    "net.netfilter.nf_conntrack_count",
    "net.netfilter.nf_conntrack_buckets",
    "net.netfilter.nf_conntrack_acct",
    "net.bridge.bridge-nf-call-iptables",
    "net.ipv4.neigh.default.gc_thresh3",
];

/// Sysctls of each pod's host-side device that are read: Felix sets them all to 1 when the device comes up.
pub const SYSCTLS_OF_PODS: &[&str] = &["proxy_arp", "forwarding", "route_localnet"];
