//! Calico's own filter chains in nftables mode: table `ip calico`, base chains named
//! `filter-FORWARD` and so on, dispatch by verdict map, one `tw` and one `fw` chain for each
//! endpoint (`felix/fv/cali-nftables-dump.txt`; the rules follow `felix/rules/static.go`).
//!
//! No policy selects the fabric's pods, so each endpoint's chains end in the profile's accept.

use anyhow::Result;

use super::{
    Carrier,
    plan::{FabricSpec, Node, Pod},
};
use crate::nft::{
    Batch, Cmp, Expr, Family, Hook, META_MARK as MARK, Verdict, drop_table, hook, ifname,
    rules::{all, count_and, ct_state, iifname, ip_protocol, key, oifname, saddr_in, udp_dport},
};

/// Calico's table.
pub const TABLE: &str = "calico";
const FAMILY: Family = Family::Ip;
/// Mark bit that says "a policy or profile accepted this packet".
const ACCEPT_MARK: u32 = 0x1_0000;
const ALL_VXLAN_NET: &str = "cali40all-vxlan-net";
const IPPROTO_IPIP: u8 = 4;
const ALL_HOSTS_NET: &str = "cali40all-hosts-net";

/// Name of the chain for packets to a workload.
#[must_use]
pub fn to_workload(pod: &Pod) -> String {
    format!("filter-cali-tw-{}", pod.host_device)
}

/// Name of the chain for packets from a workload.
#[must_use]
pub fn from_workload(pod: &Pod) -> String {
    format!("filter-cali-fw-{}", pod.host_device)
}

fn base(kind: &'static str, number: u32, priority: i32) -> Hook {
    Hook {
        kind,
        number,
        priority,
        device: None,
    }
}

/// Programs everything for a node, from nothing. To be called inside its namespace.
pub fn program(spec: &FabricSpec, node: &Node, nodes: &[Node], pods: &[Pod]) -> Result<()> {
    drop_table(FAMILY, TABLE)?;
    let mut batch = Batch::new();
    batch.table(FAMILY, TABLE);
    if let Some(set) = allowed_hosts(spec) {
        batch.address_set(FAMILY, TABLE, set);
        // The node itself is in the set of all hosts only.
        let hosts: Vec<_> = nodes
            .iter()
            .filter(|n| set == ALL_HOSTS_NET || n.index != node.index)
            .map(|n| (key(n.host_ip), None))
            .collect();
        batch.elements(FAMILY, (TABLE, set), &hosts);
    }
    let maps = ["filter-cali-from-wl-dispatch", "filter-cali-to-wl-dispatch"];
    for map in maps {
        batch.verdict_map(FAMILY, TABLE, map);
        batch.chain(FAMILY, TABLE, map, None);
    }
    // NF_IP_PRI_RAW, NF_IP_PRI_FILTER, and srcnat + 10 (felix/nftables).
    for (chain, hook) in [
        ("raw-PREROUTING", base("filter", hook::PREROUTING, -300)),
        ("raw-OUTPUT", base("filter", hook::OUTPUT, -300)),
        ("filter-INPUT", base("filter", hook::INPUT, 0)),
        ("filter-FORWARD", base("filter", hook::FORWARD, 0)),
        ("filter-OUTPUT", base("filter", hook::OUTPUT, 0)),
        ("nat-POSTROUTING", base("nat", hook::POSTROUTING, 110)),
    ] {
        batch.chain(FAMILY, TABLE, chain, Some(&hook));
    }
    for chain in [
        "raw-cali-PREROUTING",
        "raw-cali-OUTPUT",
        "filter-cali-INPUT",
        "filter-cali-FORWARD",
        "filter-cali-OUTPUT",
        "nat-cali-POSTROUTING",
    ] {
        batch.chain(FAMILY, TABLE, chain, None);
        let base = chain.replacen("-cali", "", 1);
        rule(&mut batch, &base, &[jump(chain)], None);
    }
    raw_rules(&mut batch, spec);
    filter_rules(&mut batch, spec);
    nat_rules(&mut batch, spec, node);
    for pod in pods.iter().filter(|pod| pod.node == node.index) {
        endpoint(&mut batch, pod);
    }
    batch.commit()
}

fn rule(batch: &mut Batch, chain: &str, parts: &[Vec<Expr>], comment: Option<&str>) {
    batch.rule(FAMILY, (TABLE, chain), false, &all(parts), comment);
}

fn jump(chain: &str) -> Vec<Expr> {
    count_and(Verdict::Jump(chain.to_owned()))
}

/// `meta mark & BIT == BIT`
fn marked() -> Vec<Expr> {
    let bit = ACCEPT_MARK.to_ne_bytes().to_vec();
    vec![
        Expr::Meta(MARK),
        Expr::Bitwise(bit.clone(), vec![0; 4]),
        Expr::Compare(Cmp::Eq, bit),
    ]
}

/// `meta mark set meta mark & ~BIT`, or `… | BIT`
fn set_mark(on: bool) -> Vec<Expr> {
    let xor = if on { ACCEPT_MARK } else { 0 };
    vec![
        Expr::Meta(MARK),
        Expr::Bitwise((!ACCEPT_MARK).to_ne_bytes().to_vec(), xor.to_ne_bytes().to_vec()),
        Expr::SetMark,
    ]
}

/// Felix's set of the hosts whose tunnel packets are let in.
const fn allowed_hosts(spec: &FabricSpec) -> Option<&'static str> {
    match spec.encapsulation.tunnel() {
        Carrier::Vxlan => Some(ALL_VXLAN_NET),
        Carrier::Ipip => Some(ALL_HOSTS_NET),
        Carrier::Bare => None,
    }
}

/// VXLAN is kept out of conntrack (since 3.29).
fn raw_rules(batch: &mut Batch, spec: &FabricSpec) {
    if spec.encapsulation.tunnel() != Carrier::Vxlan {
        return;
    }
    for chain in ["raw-cali-PREROUTING", "raw-cali-OUTPUT"] {
        let notrack = vec![Expr::Counter, Expr::Notrack];
        rule(batch, chain, &[udp_dport(spec.port), notrack], None);
    }
}

fn filter_rules(batch: &mut Batch, spec: &FabricSpec) {
    let forward = "filter-cali-FORWARD";
    let from = "filter-cali-from-wl-dispatch";
    let to = "filter-cali-to-wl-dispatch";
    rule(batch, forward, &[vec![Expr::Counter], set_mark(false)], None);
    rule(batch, forward, &[iifname("cali*"), jump(from)], None);
    rule(batch, forward, &[oifname("cali*"), jump(to)], None);
    rule(
        batch,
        forward,
        &[marked(), count_and(Verdict::Accept)],
        Some("Policy explicitly accepted packet."),
    );
    for (chain, load) in [(from, iifname("")), (to, oifname(""))] {
        // The dispatch reads the name and looks it up; a name that is not there is nobody's.
        let lookup = vec![load[0].clone(), Expr::VerdictMap(chain.to_owned())];
        rule(batch, chain, &[lookup], None);
        rule(batch, chain, &[count_and(Verdict::Drop)], Some("Unknown interface"));
    }
    let input = "filter-cali-INPUT";
    if let Some(set) = allowed_hosts(spec) {
        let (packet, name) = match spec.encapsulation.tunnel() {
            Carrier::Ipip => (ip_protocol(IPPROTO_IPIP), "IPIP"),
            Carrier::Vxlan | Carrier::Bare => (udp_dport(spec.port), "VXLAN"),
        };
        let allow = [packet.clone(), saddr_in(set), count_and(Verdict::Accept)];
        rule(batch, input, &allow, Some(&format!("Allow IPv4 {name} packets from allowed hosts")));
        let drop = [packet, count_and(Verdict::Drop)];
        rule(
            batch,
            input,
            &drop,
            Some(&format!("Drop IPv4 {name} packets from non-allowed hosts")),
        );
    }
    // DefaultEndpointToHostAction is Accept in the manifests: pods may talk to their host.
    rule(batch, input, &[iifname("cali*"), count_and(Verdict::Accept)], None);
    rule(batch, "filter-cali-OUTPUT", &[oifname("cali*"), count_and(Verdict::Return)], None);
}

/// Host traffic into the tunnel must carry the tunnel's address
/// (`StaticNATPostroutingChains`); pod traffic to other pods keeps its own.
fn nat_rules(batch: &mut Batch, spec: &FabricSpec, node: &Node) {
    let Some(device) = spec.encapsulation.device() else { return };
    let not_tunnel = vec![Expr::Payload(1, 12, 4), Expr::Compare(Cmp::Eq, node.host_ip.octets().to_vec())];
    rule(
        batch,
        "nat-cali-POSTROUTING",
        &[oifname(device), not_tunnel, vec![Expr::Counter, Expr::Masquerade]],
        Some("Masquerade host traffic into the tunnel"),
    );
}

/// Chains and dispatch entries of one endpoint.
fn endpoint(batch: &mut Batch, pod: &Pod) {
    for (chain, map) in [
        (to_workload(pod), "filter-cali-to-wl-dispatch"),
        (from_workload(pod), "filter-cali-from-wl-dispatch"),
    ] {
        batch.chain(FAMILY, TABLE, &chain, None);
        endpoint_rules(batch, &chain, false);
        batch.elements(FAMILY, (TABLE, map), &[(ifname(&pod.host_device), Some(Verdict::Goto(chain)))]);
    }
}

/// The rules of an endpoint's chain without policies. From `felix/rules/endpoints.go`.
fn endpoint_rules(batch: &mut Batch, chain: &str, denied: bool) {
    const INVALID: u32 = 1;
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    rule(batch, chain, &[ct_state(ESTABLISHED_OR_RELATED), count_and(Verdict::Accept)], None);
    rule(batch, chain, &[ct_state(INVALID), count_and(Verdict::Drop)], None);
    rule(batch, chain, &[vec![Expr::Counter], set_mark(false)], None);
    if denied {
        rule(
            batch,
            chain,
            &[count_and(Verdict::Drop)],
            Some("Policy default/deny-ingress denied packet"),
        );
    }
    rule(
        batch,
        chain,
        &[vec![Expr::Counter], set_mark(true)],
        Some("Profile kns.default accepted packet"),
    );
    rule(
        batch,
        chain,
        &[marked(), count_and(Verdict::Return)],
        Some("Return if profile accepted"),
    );
    rule(batch, chain, &[count_and(Verdict::Drop)], Some("Drop if no profiles matched"));
}

/// Writes the rules of the chain for packets to a workload anew; `denied` adds a policy that denies
/// every new connection, where Felix puts policies. To be called inside its node's namespace.
pub fn reset_endpoint(pod: &Pod, denied: bool) -> Result<()> {
    let chain = to_workload(pod);
    let mut batch = Batch::new();
    batch.flush_chain(FAMILY, TABLE, &chain);
    endpoint_rules(&mut batch, &chain, denied);
    batch.commit()
}

/// Adds the chains of a new pod. To be called inside its node's namespace.
pub fn add_endpoint(pod: &Pod) -> Result<()> {
    let mut batch = Batch::new();
    endpoint(&mut batch, pod);
    batch.commit()
}

/// Takes the chains of a deleted pod away. To be called inside its node's namespace.
pub fn remove_endpoint(pod: &Pod) -> Result<()> {
    let mut batch = Batch::new();
    for (chain, map) in [
        (to_workload(pod), "filter-cali-to-wl-dispatch"),
        (from_workload(pod), "filter-cali-from-wl-dispatch"),
    ] {
        batch.delete_elements(FAMILY, (TABLE, map), &[ifname(&pod.host_device)]);
        batch.flush_chain(FAMILY, TABLE, &chain);
        batch.delete_chain(FAMILY, TABLE, &chain);
    }
    batch.commit()
}
