//! Calico's own filter chains in nftables mode: table `ip calico`, and `ip6 calico` where there is IPv6, base chains named
//! `filter-FORWARD` and so on, dispatch by verdict map, one `tw` and one `fw` chain for each
//! endpoint (`felix/fv/cali-nftables-dump.txt`; the rules follow `felix/rules/static.go`).
//!
//! No policy selects the fabric's pods, so each endpoint's chains end in the profile's accept.

use anyhow::Result;

use super::{
    Carrier,
    plan::{FabricSpec, Node, Pod},
    vtep::{IpFamily, vtep},
};
use crate::nft::{
    Batch, Cmp, Expr, Family, Hook, META_MARK as MARK, Verdict, drop_table, hook, ifname,
    rules::{all, count_and, ct_state, iifname, ip_protocol, key, oifname, saddr_in, saddr_in_v6, udp_dport},
};

/// Calico's table.
pub const TABLE: &str = "calico";
/// Mark bit that says "a policy or profile accepted this packet".
const ACCEPT_MARK: u32 = 0x1_0000;
const ALL_VXLAN_NET: &str = "cali40all-vxlan-net";
const ALL_VXLAN_NET_V6: &str = "cali60all-vxlan-net";
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

/// Rules of one family's table, which go into the kernel together.
struct Table {
    batch: Batch,
    ip: IpFamily,
}

impl Table {
    fn of(ip: IpFamily) -> Self {
        Self { batch: Batch::new(), ip }
    }

    const fn family(&self) -> Family {
        match self.ip {
            IpFamily::V4 => Family::Ip,
            IpFamily::V6 => Family::Ip6,
        }
    }

    fn chain(&mut self, chain: &str, hook: Option<&Hook>) {
        self.batch.chain(self.family(), TABLE, chain, hook);
    }

    fn rule(&mut self, chain: &str, parts: &[Vec<Expr>], comment: Option<&str>) {
        self.batch.rule(self.family(), (TABLE, chain), false, &all(parts), comment);
    }
}

/// Programs everything for a node, from nothing. To be called inside its namespace.
pub fn program(spec: &FabricSpec, node: &Node, nodes: &[Node], pods: &[Pod]) -> Result<()> {
    for ip in IpFamily::ALL {
        if ip == IpFamily::V4 || node.v6.is_some() {
            program_family(Table::of(ip), spec, node, nodes, pods)?;
        }
    }
    Ok(())
}

fn program_family(mut table: Table, spec: &FabricSpec, node: &Node, nodes: &[Node], pods: &[Pod]) -> Result<()> {
    let family = table.family();
    drop_table(family, TABLE)?;
    table.batch.table(family, TABLE);
    if let Some(set) = allowed_hosts(spec, table.ip) {
        table.batch.address_set(family, TABLE, set);
        // The node itself is in the set of all hosts only.
        let hosts: Vec<_> = nodes
            .iter()
            .filter(|n| set == ALL_HOSTS_NET || n.index != node.index)
            .filter_map(|n| Some((key(vtep(spec, n, table.ip)?.host_ip), None)))
            .collect();
        table.batch.elements(family, (TABLE, set), &hosts);
    }
    let maps = ["filter-cali-from-wl-dispatch", "filter-cali-to-wl-dispatch"];
    for map in maps {
        table.batch.verdict_map(family, TABLE, map);
        table.chain(map, None);
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
        table.chain(chain, Some(&hook));
    }
    for chain in [
        "raw-cali-PREROUTING",
        "raw-cali-OUTPUT",
        "filter-cali-INPUT",
        "filter-cali-FORWARD",
        "filter-cali-OUTPUT",
        "nat-cali-POSTROUTING",
    ] {
        table.chain(chain, None);
        let base = chain.replacen("-cali", "", 1);
        table.rule(&base, &[jump(chain)], None);
    }
    raw_rules(&mut table, spec);
    filter_rules(&mut table, spec);
    nat_rules(&mut table, spec, node);
    for pod in pods.iter().filter(|pod| pod.node == node.index) {
        endpoint(&mut table, pod);
    }
    table.batch.commit()
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
const fn allowed_hosts(spec: &FabricSpec, ip: IpFamily) -> Option<&'static str> {
    match (ip, spec.encapsulation.tunnel()) {
        (IpFamily::V4, Carrier::Vxlan) => Some(ALL_VXLAN_NET),
        (IpFamily::V6, Carrier::Vxlan) => Some(ALL_VXLAN_NET_V6),
        (IpFamily::V4, Carrier::Ipip) => Some(ALL_HOSTS_NET),
        (IpFamily::V6, Carrier::Ipip) | (_, Carrier::Bare) => None,
    }
}

/// VXLAN is kept out of conntrack (since 3.29).
fn raw_rules(table: &mut Table, spec: &FabricSpec) {
    if spec.encapsulation.tunnel() != Carrier::Vxlan {
        return;
    }
    for chain in ["raw-cali-PREROUTING", "raw-cali-OUTPUT"] {
        let notrack = vec![Expr::Counter, Expr::Notrack];
        table.rule(chain, &[udp_dport(spec.port), notrack], None);
    }
}

fn filter_rules(table: &mut Table, spec: &FabricSpec) {
    let forward = "filter-cali-FORWARD";
    let from = "filter-cali-from-wl-dispatch";
    let to = "filter-cali-to-wl-dispatch";
    table.rule(forward, &[vec![Expr::Counter], set_mark(false)], None);
    table.rule(forward, &[iifname("cali*"), jump(from)], None);
    table.rule(forward, &[oifname("cali*"), jump(to)], None);
    table.rule(
        forward,
        &[marked(), count_and(Verdict::Accept)],
        Some("Policy explicitly accepted packet."),
    );
    for (chain, load) in [(from, iifname("")), (to, oifname(""))] {
        // The dispatch reads the name and looks it up; a name that is not there is nobody's.
        let lookup = vec![load[0].clone(), Expr::VerdictMap(chain.to_owned())];
        table.rule(chain, &[lookup], None);
        table.rule(chain, &[count_and(Verdict::Drop)], Some("Unknown interface"));
    }
    let input = "filter-cali-INPUT";
    if let Some(set) = allowed_hosts(spec, table.ip) {
        let (packet, name) = match spec.encapsulation.tunnel() {
            Carrier::Ipip => (ip_protocol(IPPROTO_IPIP), "IPIP"),
            Carrier::Vxlan | Carrier::Bare => (udp_dport(spec.port), "VXLAN"),
        };
        let (from, ip) = match table.ip {
            IpFamily::V4 => (saddr_in(set), "IPv4"),
            IpFamily::V6 => (saddr_in_v6(set), "IPv6"),
        };
        let allow = [packet.clone(), from, count_and(Verdict::Accept)];
        table.rule(input, &allow, Some(&format!("Allow {ip} {name} packets from allowed hosts")));
        let drop = [packet, count_and(Verdict::Drop)];
        table.rule(input, &drop, Some(&format!("Drop {ip} {name} packets from non-allowed hosts")));
    }
    // DefaultEndpointToHostAction is Accept in the manifests: pods may talk to their host.
    table.rule(input, &[iifname("cali*"), count_and(Verdict::Accept)], None);
    table.rule("filter-cali-OUTPUT", &[oifname("cali*"), count_and(Verdict::Return)], None);
}

/// Host traffic into the tunnel must carry the tunnel's address
/// (`StaticNATPostroutingChains`); pod traffic to other pods keeps its own.
fn nat_rules(table: &mut Table, spec: &FabricSpec, node: &Node) {
    // Offset and length of the source in the header.
    let (device, source, host) = match (table.ip, &node.v6) {
        (IpFamily::V4, _) => (spec.encapsulation.device(), (12, 4), key(node.host_ip)),
        (IpFamily::V6, Some(v6)) => (spec.encapsulation.device_v6(), (8, 16), key(v6.host_ip)),
        (IpFamily::V6, None) => return,
    };
    let Some(device) = device else { return };
    let not_tunnel = vec![Expr::Payload(1, source.0, source.1), Expr::Compare(Cmp::Eq, host)];
    table.rule(
        "nat-cali-POSTROUTING",
        &[oifname(device), not_tunnel, vec![Expr::Counter, Expr::Masquerade]],
        Some("Masquerade host traffic into the tunnel"),
    );
}

/// Chains and dispatch entries of one endpoint.
fn endpoint(table: &mut Table, pod: &Pod) {
    for (chain, map) in [
        (to_workload(pod), "filter-cali-to-wl-dispatch"),
        (from_workload(pod), "filter-cali-from-wl-dispatch"),
    ] {
        table.chain(&chain, None);
        endpoint_rules(table, &chain, false);
        let family = table.family();
        let entry = (ifname(&pod.host_device), Some(Verdict::Goto(chain)));
        table.batch.elements(family, (TABLE, map), &[entry]);
    }
}

/// The families that have chains for an endpoint.
fn families(pod: &Pod) -> impl Iterator<Item = IpFamily> {
    let dual_stack = pod.ip6.is_some();
    IpFamily::ALL.into_iter().filter(move |ip| *ip == IpFamily::V4 || dual_stack)
}

/// The rules of an endpoint's chain without policies. From `felix/rules/endpoints.go`.
fn endpoint_rules(table: &mut Table, chain: &str, denied: bool) {
    const INVALID: u32 = 1;
    const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
    table.rule(chain, &[ct_state(ESTABLISHED_OR_RELATED), count_and(Verdict::Accept)], None);
    table.rule(chain, &[ct_state(INVALID), count_and(Verdict::Drop)], None);
    table.rule(chain, &[vec![Expr::Counter], set_mark(false)], None);
    if denied {
        table.rule(
            chain,
            &[count_and(Verdict::Drop)],
            Some("Policy default/deny-ingress denied packet"),
        );
    }
    table.rule(
        chain,
        &[vec![Expr::Counter], set_mark(true)],
        Some("Profile kns.default accepted packet"),
    );
    table.rule(chain, &[marked(), count_and(Verdict::Return)], Some("Return if profile accepted"));
    table.rule(chain, &[count_and(Verdict::Drop)], Some("Drop if no profiles matched"));
}

/// Writes the rules of the chains for packets to a workload anew; `denied` adds a policy that denies
/// every new connection, where Felix puts policies. To be called inside its node's namespace.
pub fn reset_endpoint(pod: &Pod, denied: bool) -> Result<()> {
    let chain = to_workload(pod);
    for ip in families(pod) {
        let mut table = Table::of(ip);
        let family = table.family();
        table.batch.flush_chain(family, TABLE, &chain);
        endpoint_rules(&mut table, &chain, denied);
        table.batch.commit()?;
    }
    Ok(())
}

/// Adds the chains of a new pod. To be called inside its node's namespace.
pub fn add_endpoint(pod: &Pod) -> Result<()> {
    for ip in families(pod) {
        let mut table = Table::of(ip);
        endpoint(&mut table, pod);
        table.batch.commit()?;
    }
    Ok(())
}

/// Takes the chains of a deleted pod away. To be called inside its node's namespace.
pub fn remove_endpoint(pod: &Pod) -> Result<()> {
    for ip in families(pod) {
        let mut table = Table::of(ip);
        let family = table.family();
        let batch = &mut table.batch;
        for (chain, map) in [
            (to_workload(pod), "filter-cali-to-wl-dispatch"),
            (from_workload(pod), "filter-cali-from-wl-dispatch"),
        ] {
            batch.delete_elements(family, (TABLE, map), &[ifname(&pod.host_device)]);
            batch.flush_chain(family, TABLE, &chain);
            batch.delete_chain(family, TABLE, &chain);
        }
        table.batch.commit()?;
    }
    Ok(())
}
