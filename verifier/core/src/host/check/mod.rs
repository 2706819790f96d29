//! Checks of the host account: one named function each, in a flat list. They need nothing but the account and what is known of the
//! cluster around it; what is not known makes the checks that need it unknown, never fine.

mod cni;
mod daemons;
mod files;
mod iptables;
mod kernel;
mod runtime;
mod settings;

use super::{HostAccount, SUPPORTED};
use crate::{
    evidence::{Evidence, Gap},
    intent::{Dataplane, Encapsulation, NodeIntent},
    names::NodeName,
    programmed::{FilterBackend, NodeState},
    verdict::{CauseCode, Finding, FindingEvidence, UnknownCheck},
};
use alloc::{collections::BTreeSet, format, string::String, vec::Vec};

/// What is known of the cluster around a host. Everything is optional: a host can be judged by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostContext {
    /// Name of its Node.
    pub node: Option<NodeName>,
    /// Encapsulations that its pools use.
    pub encapsulations: Option<BTreeSet<Encapsulation>>,
    /// Whether there are pools of IPv6. That nobody knows says no.
    pub ipv6: bool,
    /// Dataplane.
    pub dataplane: Option<Dataplane>,
    /// What Felix was told of the iptables backend: `legacy`, `nft`, `auto`.
    pub iptables_backend: Option<String>,
    /// Calico's version.
    pub calico: Option<(u16, u16, u16)>,
    /// Kubernetes' version.
    pub kubernetes: Option<(u16, u16)>,
    /// Chains that have rules, by backend: for the marks that kubelet, kube-proxy and Felix leave. None if nobody looked.
    pub chains: Option<BTreeSet<(FilterBackend, String)>>,
}

impl HostContext {
    /// What one node's intent says.
    pub fn of(intent: &NodeIntent) -> Self {
        Self {
            node: Some(intent.node.clone()),
            encapsulations: Some(intent.tunnels.iter().map(|t| t.encapsulation).collect()),
            ipv6: intent.has_pool_of(true),
            dataplane: intent.settings.dataplane.value().copied(),
            iptables_backend: intent
                .settings
                .other
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case("iptablesBackend"))
                .and_then(|(_, setting)| setting.value())
                .map(|value| value.to_ascii_lowercase()),
            calico: intent.settings.calico_version,
            // A release that the table does not have would make the check unknown on every node for ever.
            kubernetes: intent.claim.kubernetes.filter(|_| {
                let calico = intent.settings.calico_version;
                SUPPORTED
                    .iter()
                    .any(|row| calico.is_some_and(|(major, minor, _)| row.version == (major, minor)))
            }),
            chains: None,
        }
    }

    /// The same with the rules that stand in the kernel, if all of them could be read.
    #[must_use]
    pub fn with_rules(mut self, state: &NodeState) -> Self {
        if let Evidence::Complete { value } = &state.filters {
            self.chains = Some(value.iter().map(|rule| (rule.backend, rule.chain.clone())).collect());
        }
        self
    }
}

/// What the checks say of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFindings {
    /// Findings, not yet settled: a missing module and the upgrade that explains it both stand here.
    pub findings: Vec<Finding>,
    /// Checks that could not be made.
    pub unknown: Vec<UnknownCheck>,
}

/// What a check works with.
struct Look<'a> {
    host: &'a HostAccount,
    context: &'a HostContext,
    out: HostFindings,
}

type Check = fn(&mut Look<'_>);

/// Every check, by name.
const CHECKS: &[(&str, Check)] = &[
    ("host-kernel", kernel::age),
    ("host-modules", kernel::modules),
    ("host-versions", kernel::versions),
    ("host-sysctls", settings::sysctls),
    ("host-sysctl-files", settings::sysctl_files),
    ("host-conntrack", settings::conntrack),
    ("host-iptables", iptables::backends),
    ("host-cni-configuration", cni::configuration),
    ("host-cni-binaries", cni::binaries),
    ("host-cni-kubeconfig", cni::kubeconfig),
    ("host-nodename", files::nodename),
    ("host-mtu", files::mtu),
    ("host-paths", files::paths),
    ("host-cgroups", runtime::cgroups),
    ("host-network-manager", daemons::network_manager),
    ("host-networkd", daemons::networkd),
    ("host-link-files", daemons::link_files),
    ("host-udev", daemons::udev),
    ("host-firewall", daemons::firewall),
];

/// Runs every check.
pub fn check(host: &HostAccount, context: &HostContext) -> HostFindings {
    let mut look = Look {
        host,
        context,
        out: HostFindings::default(),
    };
    for (_, check) in CHECKS {
        check(&mut look);
    }
    look.out
}

/// The same of evidence: an account that could not be had makes all of its checks unknown.
pub fn account_findings(host: &Evidence<HostAccount>, context: &HostContext) -> HostFindings {
    let mut found = host.seen().map_or_else(HostFindings::default, |account| check(account, context));
    for gap in host.gaps() {
        found
            .unknown
            .push(UnknownCheck::new("all checks of the host", format!("{}: {}", gap.source, gap.why)));
    }
    found
}

impl Look<'_> {
    /// A finding of this host.
    fn find(&mut self, code: CauseCode, subject: impl Into<String>, intent: impl Into<String>, host: impl Into<String>) {
        self.out.findings.push(Finding {
            code,
            node: self.context.node.clone(),
            peer: None,
            pod: None,
            subject: subject.into(),
            hop: None,
            expected_next: None,
            severity: code.cause().severity,
            evidence: FindingEvidence {
                intent: Some(intent.into()),
                host: Some(host.into()),
                ..FindingEvidence::default()
            },
            transient: false,
            since: None,
            consequences: Vec::new(),
            owner: None,
            recognised_by: None,
            values: Default::default(),
        });
    }

    /// A check that could not be made.
    fn cannot(&mut self, check: &str, why: impl Into<String>) {
        let entry = UnknownCheck::new(check, why);
        if !self.out.unknown.contains(&entry) {
            self.out.unknown.push(entry);
        }
    }

    /// Notes gaps under a check.
    fn gaps(&mut self, check: &str, gaps: &[Gap]) {
        for gap in gaps {
            self.cannot(check, format!("{}: {}", gap.source, gap.why));
        }
    }

    /// Whether this is a node on which Calico must be installed. If that is not sure, the check is unknown.
    fn is_node(&mut self, check: &str) -> bool {
        match &self.host.is_node {
            Evidence::Complete { value: true } | Evidence::Partial { value: true, .. } => true,
            Evidence::Complete { value: false } => {
                self.cannot(
                    check,
                    "this host has neither /var/lib/kubelet nor /etc/kubernetes: it looks like no Kubernetes node",
                );
                false
            }
            other => {
                let gaps = other.gaps().to_vec();
                self.gaps(check, &gaps);
                false
            }
        }
    }

    /// Names of the devices that belong to Calico, with what stands for all of a kind.
    fn devices(&self) -> Vec<&'static str> {
        let encapsulations = self.context.encapsulations.as_ref();
        let wants = |e| encapsulations.is_none_or(|all| all.contains(&e));
        let mut names = alloc::vec!["cali0123456789a"];
        if wants(Encapsulation::Vxlan) {
            names.push("vxlan.calico");
        }
        if encapsulations.is_some_and(|all| all.contains(&Encapsulation::Ipip)) {
            names.push("tunl0");
        }
        names
    }
}
