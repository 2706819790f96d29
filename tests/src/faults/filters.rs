//! Packet filters and address translation: other people's tables, and the endpoint's own policy.

use anyhow::Result;

use super::{
    Blame, Cast, Class, Expectation, Fault, Injection, Outcome, PodState, Step, Verdict,
    cast::{injected, tunnel, underlay, workloads},
};
use crate::{
    fabric::{
        chains,
        plan::{TUNNEL_DEVICE, UNDERLAY_DEVICE},
    },
    foreign::legacy,
    nft::{self, Batch, Expr, Family, Hook, Verdict as Rule, hook, rules},
};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "filter-forward-nftables",
        description: "a firewall's own nftables table drops in FORWARD what comes out of the tunnel of a node",
        incidents: &["projectcalico/calico#875", "projectcalico/calico#6342"],
        injection: Injection::Fabric(|cast| table(cast, Where::Forward)),
        expect: |cast| {
            filter(cast)
                .at(vec![tunnel(cast.b, "ingress")], to_pods(cast))
                .mentioning(TABLE)
                .mentioning("forward")
        },
    },
    Fault {
        name: "filter-forward-iptables-legacy",
        description: "a rule of iptables-legacy, which `nft list ruleset` does not show, drops in FORWARD what comes out of the tunnel of a node",
        incidents: &["projectcalico/calico#2230", "projectcalico/calico#8243"],
        injection: Injection::Fabric(iptables_legacy),
        expect: |cast| {
            filter(cast)
                .at(vec![tunnel(cast.b, "ingress")], to_pods(cast))
                .mentioning("FORWARD")
        },
    },
    Fault {
        name: "filter-vxlan-input",
        description: "a host firewall drops the tunnel's UDP port at INPUT of a node",
        incidents: &["projectcalico/calico#3665"],
        injection: Injection::Fabric(|cast| table(cast, Where::Input)),
        expect: |cast| {
            filter(cast)
                .at(vec![underlay(cast.b, "ingress")], vec![tunnel(cast.b, "ingress")])
                .mentioning(TABLE)
                .mentioning("input")
        },
    },
    Fault {
        name: "filter-netdev-ingress",
        description: "an nftables netdev chain on the underlay device of a node drops the tunnel's UDP port before the IP stack sees it",
        incidents: &["projectcalico/calico#3665"],
        injection: Injection::Fabric(|cast| table(cast, Where::NetdevIngress)),
        expect: |cast| {
            filter(cast)
                .at(vec![underlay(cast.b, "ingress")], vec![tunnel(cast.b, "ingress")])
                .mentioning(TABLE)
                .mentioning("ingress")
        },
    },
    Fault {
        name: "source-rewritten",
        description: "a foreign MASQUERADE rule rewrites the source of pod traffic into the tunnel: every probe passes and policies see the wrong source",
        incidents: &["projectcalico/calico#3440", "projectcalico/calico#6235"],
        injection: Injection::Fabric(masquerade),
        expect: |cast| {
            Expectation::node(
                cast,
                "source-rewritten",
                Class::NotForwarded,
                cast.a,
                &[Verdict::Degraded, Verdict::Forwarding],
            )
            .mentioning(&cast.a.tunnel_ip.to_string())
        },
    },
    Fault {
        name: "policy-denies-pod",
        description: "a network policy denies new connections to one pod, in that endpoint's own chain: not a fault",
        incidents: &[],
        injection: Injection::Fabric(policy),
        expect: |cast| {
            let mut expectation = Expectation::cause(cast, "policy-blocked", Class::None, Blame::Nobody);
            expectation.code = None;
            expectation.pod(&cast.pod_b, PodState::PolicyBlocked)
        },
    },
];

/// The foreign table's name.
const TABLE: &str = "foreign_firewall";

fn filter(cast: &Cast<'_>) -> Expectation {
    Expectation::node(cast, "filter-drop", Class::NotForwarded, cast.b, &[Verdict::NotForwarding])
}

fn to_pods(cast: &Cast<'_>) -> Vec<String> {
    workloads(cast, cast.b, "egress")
}

enum Where {
    Forward,
    Input,
    NetdevIngress,
}

fn table(cast: &Cast<'_>, place: Where) -> Result<Outcome> {
    let port = cast.fabric.spec().port;
    let base = |number, device: Option<&str>| Hook {
        kind: "filter",
        number,
        priority: 0,
        device: device.map(str::to_owned),
    };
    let drop = || rules::count_and(Rule::Drop);
    let (family, chain, hook, rule) = match place {
        Where::Forward => (
            Family::Inet,
            "forward",
            base(hook::FORWARD, None),
            rules::all(&[rules::iifname(TUNNEL_DEVICE), drop()]),
        ),
        Where::Input => (
            Family::Inet,
            "input",
            base(hook::INPUT, None),
            rules::all(&[rules::udp_dport(port), drop()]),
        ),
        Where::NetdevIngress => (
            Family::Netdev,
            "ingress",
            base(hook::NETDEV_INGRESS, Some(UNDERLAY_DEVICE)),
            rules::all(&[rules::ipv4(), rules::udp_dport(port), drop()]),
        ),
    };
    cast.fabric.node_netns(cast.b)?.run(|| {
        let mut batch = Batch::new();
        batch.table(family, TABLE);
        batch.chain(family, TABLE, chain, Some(&hook));
        batch.rule(family, (TABLE, chain), false, &rule, None);
        batch.commit()
    })?;
    injected(vec![Step::DropTable {
        netns: cast.b.netns.clone(),
        family,
        table: TABLE.to_owned(),
    }])
}

fn iptables_legacy(cast: &Cast<'_>) -> Result<Outcome> {
    let done = cast
        .fabric
        .node_netns(cast.b)?
        .run(|| legacy::drop_forwarded(TUNNEL_DEVICE, "cali+"));
    match done {
        Ok(()) => injected(vec![Step::FlushLegacyFilter {
            netns: cast.b.netns.clone(),
        }]),
        // ENOPROTOOPT: no such socket option. ENOENT: the table's module is not there.
        Err(error) if matches!(crate::nl::errno(&error), Some(libc::ENOPROTOOPT | libc::ENOENT)) => {
            Ok(Outcome::Skipped("this kernel has no iptables-legacy".to_owned()))
        }
        Err(error) => Err(error),
    }
}

fn masquerade(cast: &Cast<'_>) -> Result<Outcome> {
    const NAT: &str = "foreign_nat";
    let rule = rules::all(&[
        rules::oifname(TUNNEL_DEVICE),
        rules::saddr(cast.a.block()),
        vec![Expr::Counter, Expr::Masquerade],
    ]);
    cast.fabric.node_netns(cast.a)?.run(|| {
        let mut batch = Batch::new();
        batch.table(Family::Ip, NAT);
        // NF_IP_PRI_NAT_SRC
        let hook = Hook {
            kind: "nat",
            number: hook::POSTROUTING,
            priority: 100,
            device: None,
        };
        batch.chain(Family::Ip, NAT, "postrouting", Some(&hook));
        batch.rule(Family::Ip, (NAT, "postrouting"), false, &rule, None);
        batch.commit()?;
        // Translation is decided at a connection's first packet: known ones would stay as they are.
        nft::conntrack::flush()
    })?;
    injected(vec![
        Step::DropTable {
            netns: cast.a.netns.clone(),
            family: Family::Ip,
            table: NAT.to_owned(),
        },
        Step::FlushConntrack {
            netns: cast.a.netns.clone(),
        },
    ])
}

/// The rule stands where Felix puts policies: after established connections were accepted. Those
/// are forgotten, so that every probe is new.
fn policy(cast: &Cast<'_>) -> Result<Outcome> {
    cast.fabric.node_netns(cast.b)?.run(|| {
        chains::reset_endpoint(&cast.pod_b, true)?;
        nft::conntrack::flush()
    })?;
    injected(vec![Step::Endpoint(cast.pod_b.name.clone())])
}
