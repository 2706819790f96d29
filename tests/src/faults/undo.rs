//! Undoing: steps that put things back, as data.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::{
    fabric::{Fabric, Overrides, chains, node, sysctl},
    foreign::{
        bpf::{self, Direction},
        netem, offload, tc,
    },
    netns::Netns,
    nft::{self, Family},
    nl::{Route, Rtnl, Rule, absent_is_fine},
};

/// One thing to put back. Each can be done twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// program a node's tunnel, as Felix's resync would
    Tunnel(String),
    /// program a pod's network, as the CNI plugin does
    Pod(String),
    /// the rules of an endpoint's own chains
    Endpoint(String),
    /// a kernel setting of a namespace
    Sysctl {
        /// namespace
        netns: String,
        /// path under `/proc/sys`
        key: String,
        /// value
        value: String,
    },
    /// set a link up
    LinkUp {
        /// namespace
        netns: String,
        /// its name
        link: String,
    },
    /// delete a link
    DeleteLink {
        /// namespace
        netns: String,
        /// its name
        link: String,
    },
    /// delete a route
    DeleteRoute {
        /// namespace
        netns: String,
        /// the route
        route: Route,
    },
    /// put a route back
    Route {
        /// namespace
        netns: String,
        /// the route
        route: Route,
    },
    /// delete a rule
    DeleteRule {
        /// namespace
        netns: String,
        /// the rule
        rule: Rule,
    },
    /// delete a neighbour
    DeleteNeighbour {
        /// namespace
        netns: String,
        /// its link
        link: String,
        /// its address
        address: IpAddr,
    },
    /// delete an nf_tables table
    DropTable {
        /// namespace
        netns: String,
        /// its family
        family: Family,
        /// its name
        table: String,
    },
    /// detach a program from a tcx hook
    DetachTcx {
        /// namespace
        netns: String,
        /// the device
        link: String,
        /// which hook
        direction: Direction,
        /// the program's id
        program: u32,
    },
    /// remove a clsact qdisc with its classifiers
    RemoveClsact {
        /// namespace
        netns: String,
        /// the device
        link: String,
    },
    /// take an impairment off a device
    Relieve {
        /// namespace
        netns: String,
        /// the device
        link: String,
    },
    /// take the XDP program off a device
    DetachXdp {
        /// namespace
        netns: String,
        /// the device
        link: String,
    },
    /// switch transmit checksum offload on
    ChecksumOffload {
        /// namespace
        netns: String,
        /// the device
        link: String,
    },
    /// empty the iptables-legacy filter table
    FlushLegacyFilter {
        /// namespace
        netns: String,
    },
    /// forget all connections
    FlushConntrack {
        /// namespace
        netns: String,
    },
    /// the size of connection tracking, which is the machine's
    ConntrackMax(String),
    /// what the API says beyond the truth
    Overrides(Overrides),
}

/// What takes a fault out again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undo {
    /// in this order
    pub steps: Vec<Step>,
}

impl Undo {
    /// Whether it changes what the API says: agents take that up when they have seen it.
    #[must_use]
    pub fn changes_objects(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Overrides(_)))
    }

    /// Does all steps. One that fails does not keep the others from being tried.
    pub fn apply(&self, fabric: &Fabric) -> Result<()> {
        let mut first_error = None;
        for step in &self.steps {
            if let Err(error) = step.apply(fabric).with_context(|| format!("undo {step:?}"))
                && first_error.is_none()
            {
                first_error = Some(error);
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

fn within<T: Send>(netns: &str, work: impl FnOnce(&mut Rtnl) -> Result<T> + Send) -> Result<T> {
    Netns::open(netns)?.run(|| work(&mut Rtnl::open()?))
}

impl Step {
    fn apply(&self, fabric: &Fabric) -> Result<()> {
        match self {
            Self::Tunnel(name) => {
                let node = fabric.node(name)?;
                let state = fabric.state();
                fabric
                    .node_netns(node)?
                    .run(|| node::program_tunnel(&state.spec, node, &state.nodes))
            }
            Self::Pod(name) => {
                let pod = fabric.pod(name)?;
                let node = fabric.node_netns(&fabric.nodes()[pod.node])?;
                node::program_pod(fabric.spec(), &node, &pod)
            }
            Self::Endpoint(name) => {
                let pod = fabric.pod(name)?;
                fabric
                    .node_netns(&fabric.nodes()[pod.node])?
                    .run(|| chains::reset_endpoint(&pod, false))
            }
            Self::Sysctl { netns, key, value } => Netns::open(netns)?.run(|| sysctl::set(key, value)),
            Self::LinkUp { netns, link } => within(netns, |nl| nl.set_up(link, true)),
            Self::DeleteLink { netns, link } => within(netns, |nl| match nl.link(link)? {
                Some(_) => nl.delete_link(link),
                None => Ok(()),
            }),
            Self::DeleteRoute { netns, route } => within(netns, |nl| absent_is_fine(nl.delete_route(route))),
            Self::Route { netns, route } => within(netns, |nl| nl.replace_route(route)),
            Self::DeleteRule { netns, rule } => within(netns, |nl| absent_is_fine(nl.delete_rule(rule))),
            Self::DeleteNeighbour { netns, link, address } => within(netns, |nl| absent_is_fine(nl.delete_neighbour(link, *address))),
            Self::DropTable { netns, family, table } => Netns::open(netns)?.run(|| nft::drop_table(*family, table)),
            Self::DetachTcx {
                netns,
                link,
                direction,
                program,
            } => Netns::open(netns)?.run(|| absent_is_fine(bpf::detach_tcx(*program, link, *direction))),
            Self::RemoveClsact { netns, link } => Netns::open(netns)?.run(|| tc::remove_clsact(link)),
            Self::Relieve { netns, link } => Netns::open(netns)?.run(|| netem::relieve(link)),
            Self::DetachXdp { netns, link } => Netns::open(netns)?.run(|| bpf::detach_xdp(link)),
            Self::ChecksumOffload { netns, link } => Netns::open(netns)?.run(|| offload::set_transmit_checksum(link, true)),
            Self::FlushLegacyFilter { netns } => Netns::open(netns)?.run(crate::foreign::legacy::flush_filter),
            Self::FlushConntrack { netns } => Netns::open(netns)?.run(nft::conntrack::flush),
            Self::ConntrackMax(value) => sysctl::set(super::impairments::CONNTRACK_MAX, value),
            Self::Overrides(overrides) => fabric.change_overrides(|current| current.clone_from(overrides)),
        }
    }
}
