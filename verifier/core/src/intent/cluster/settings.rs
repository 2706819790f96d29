//! The settings in force on one node (calico.md 3.7), each with its provenance.

use super::{Cluster, facts::AgentPod, owners};
use crate::{
    evidence::Gap,
    intent::{
        derive,
        node::{Dataplane, Provenance, Setting, Settings},
        objects::{BgpConfiguration, Container},
        parameters::{Environment, Parameters, PodFields, Raw, boolean, seconds},
    },
    names::NodeName,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::net::IpAddr;
use ipnet::IpNet;

/// Calico's version, `(major, minor, patch)`.
pub(crate) type Version = (u16, u16, u16);

/// Settings of one node, those the reports show and those only the computation needs.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    pub(crate) settings: Settings,
    /// `vxlanEnabled` and `ipipEnabled` where they override what follows from the pools.
    pub(crate) vxlan_enabled: Setting<Option<bool>>,
    pub(crate) ipip_enabled: Setting<Option<bool>>,
    pub(crate) ipip_mtu: Option<u32>,
    pub(crate) vxlan_mtu_v6: Option<u32>,
    /// `routeSource: WorkloadIPs`.
    pub(crate) workload_ips: Setting<bool>,
    pub(crate) route_source_v4: Option<IpAddr>,
    pub(crate) route_source_v6: Option<IpAddr>,
    pub(crate) external_nodes: Vec<IpNet>,
    /// Which pools' routes Felix, and which BIRD programs, besides VXLAN's, which are always Felix's.
    pub(crate) felix_routes: Setting<ClusterRoutes>,
    pub(crate) bird_routes: Setting<ClusterRoutes>,
    /// First element of the prefix that names workload interfaces.
    pub(crate) veth_prefix: String,
    /// Blocks come from the Nodes' podCIDRs (host-local IPAM).
    pub(crate) use_pod_cidr: bool,
    pub(crate) gaps: Vec<Gap>,
}

/// Routes of which pools a component programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterRoutes {
    pub(crate) ipip: bool,
    pub(crate) no_encap: bool,
}

impl ClusterRoutes {
    const NONE: Self = Self {
        ipip: false,
        no_encap: false,
    };
    const ALL: Self = Self {
        ipip: true,
        no_encap: true,
    };

    /// The values of `programClusterRoutes`, the same in both objects (3.31 and 3.32 know the first two only).
    fn parse(text: &str) -> Option<Self> {
        match text {
            "Enabled" => Some(Self::ALL),
            "Disabled" => Some(Self::NONE),
            "EnabledIPIPOnly" => Some(Self {
                ipip: true,
                no_encap: false,
            }),
            "EnabledNoEncapOnly" => Some(Self {
                ipip: false,
                no_encap: true,
            }),
            _ => None,
        }
    }
}

impl Cluster {
    /// The settings in force on `node`.
    pub(crate) fn settings(&self, node: &NodeName) -> Resolved {
        let agent = self.agent_of(node);
        let environment = self.environment(node, agent.map(|(_, pod)| pod));
        let version = self.version(agent.map(|(_, pod)| &pod.container));
        let per_node = format!("node.{node}");
        let parameters = Parameters {
            environment: &environment,
            node: self.felix.get(&per_node),
            default: self.felix.get("default"),
        };
        let mut resolved = resolve(&parameters, version);
        resolved.bird_routes = self.bird_routes(&environment, self.bgp.get(&per_node), version);
        resolved.veth_prefix = match environment.get("felix_interfaceprefix") {
            // Felix and the CNI plugin both name the interface after their own environment, not after FelixConfiguration (calico.md 2.1).
            Raw::Set(text, _) => text.split(',').next().unwrap_or_default().to_string(),
            _ => derive::DEFAULT_INTERFACE_PREFIX.to_string(),
        };
        resolved.use_pod_cidr = matches!(environment.get("use_pod_cidr"), Raw::Set(text, _) if boolean(&text) == Some(true));
        resolved.gaps.extend(environment.gaps());
        if let Setting::Unresolved { gap } = &resolved.bird_routes
            // Those of the environment are told with all others of it.
            && gap.source != super::super::parameters::ENVIRONMENT
        {
            resolved.gaps.push(gap.clone());
        }
        if agent.is_none() && self.daemon_set().is_none() {
            resolved.gaps.push(Gap::new(
                super::super::parameters::ENVIRONMENT,
                format!(
                    "neither a calico-node pod on {node} nor its DaemonSet was given, so FELIX_* variables, which outrank every object, are \
                     not known: add `kubectl get pods,daemonsets -A -o yaml`"
                ),
            ));
        }
        resolved
    }

    /// Environment of Felix's container on `node`: that of the pod that runs there, else that of the DaemonSet's template.
    pub(super) fn environment(&self, node: &NodeName, agent: Option<&AgentPod>) -> Environment {
        if let Some((key, pod)) = self.agent_of(node).filter(|_| agent.is_some()) {
            let fields = PodFields {
                namespace: &key.namespace,
                node,
                host_ip: &pod.host_ip,
            };
            return Environment::of(&pod.container, &fields, &self.config_maps);
        }
        let Some((namespace, container)) = self.daemon_set() else {
            return Environment::default();
        };
        let fields = PodFields {
            namespace,
            node,
            host_ip: "",
        };
        Environment::of(container, &fields, &self.config_maps)
    }

    /// The version that runs on the node: by its image where the tag tells, else the cluster's.
    fn version(&self, container: Option<&Container>) -> Option<Version> {
        container
            .and_then(|c| image_version(&c.image))
            .or_else(|| self.information.as_ref().and_then(|i| parse_version(&i.spec.calico_version)))
            .or_else(|| self.daemon_set().and_then(|(_, c)| image_version(&c.image)))
    }

    fn bird_routes(&self, environment: &Environment, node: Option<&BgpConfiguration>, version: Option<Version>) -> Setting<ClusterRoutes> {
        match environment.get("calico_networking_backend") {
            Raw::Unknown(why) => {
                return Setting::Unresolved {
                    gap: Gap::new(super::super::parameters::ENVIRONMENT, why),
                };
            }
            // `vxlan` and `none` start no BIRD.
            Raw::Set(text, _) if text != "bird" => {
                return Setting::Known {
                    value: ClusterRoutes::NONE,
                    from: Provenance::Environment,
                };
            }
            Raw::Set(..) | Raw::NotSet => {}
        }
        let built_in = if version.is_some_and(|v| v >= (3, 33, 0)) {
            ClusterRoutes {
                ipip: false,
                no_encap: true,
            }
        } else {
            ClusterRoutes::ALL
        };
        let sources = [
            (node, Provenance::NodeConfiguration),
            (self.bgp.get("default"), Provenance::DefaultConfiguration),
        ];
        // The field exists from 3.32; an earlier confd does not read it, though a newer CRD may keep it.
        let read = version.is_none_or(|v| v >= owners::BOTH_CAN_BE_TOLD);
        let said = sources
            .into_iter()
            .filter(|_| read)
            .find_map(|(object, from)| Some((object?.spec.get("programClusterRoutes")?, from)));
        match said {
            Some((text, from)) => match ClusterRoutes::parse(&text.0) {
                Some(value) => Setting::Known { value, from },
                None => Setting::Unresolved {
                    gap: Gap::new(
                        "intent/route-owner",
                        format!("what programClusterRoutes {:?} of BGPConfiguration means is not known", text.0),
                    ),
                },
            },
            None => Setting::Known {
                value: built_in,
                from: Provenance::BuiltIn,
            },
        }
    }
}

pub(super) fn vxlan_vni(p: &Parameters<'_>) -> Setting<u32> {
    p.get("vxlanVNI", None, 4096, 0, number)
}

pub(super) fn vxlan_port(p: &Parameters<'_>) -> Setting<u16> {
    p.get("vxlanPort", None, 4789, 0, |t| t.parse().ok())
}

fn resolve(p: &Parameters<'_>, version: Option<Version>) -> Resolved {
    let mut gaps = Vec::new();
    let mtu = |key: &str, param: Option<&str>| match p.get(key, param, 0_u32, 0, number) {
        Setting::Known { value: 0, .. } => None,
        set => Some(set),
    };
    let known = |set: Option<Setting<u32>>| set.and_then(|s| s.value().copied());
    let felix_built_in = if version.is_some_and(|v| v >= (3, 33, 0)) {
        ClusterRoutes {
            ipip: true,
            no_encap: false,
        }
    } else {
        ClusterRoutes::NONE
    };
    // The parameter exists from 3.31; before, the CRD would not have kept it.
    let felix_routes = if version.is_some_and(|v| v < (3, 31, 0)) {
        Setting::Known {
            value: ClusterRoutes::NONE,
            from: Provenance::BuiltIn,
        }
    } else {
        p.get(
            "programClusterRoutes",
            None,
            felix_built_in,
            ClusterRoutes::NONE,
            ClusterRoutes::parse,
        )
    };
    for (key, what) in [
        ("wireguardEnabled", "WireGuard is enabled"),
        ("wireguardEnabledV6", "WireGuard for IPv6 is enabled"),
    ] {
        if matches!(p.get(key, None, false, false, boolean), Setting::Known { value: true, .. }) {
            gaps.push(Gap::new(
                "intent/wireguard",
                format!("{what}: what it encrypts travels by its own table and device, which are not computed"),
            ));
        }
    }
    if matches!(p.get("bpfEnabled", None, false, false, boolean), Setting::Known { value: true, .. }) {
        gaps.push(Gap::new(
            "intent/dataplane",
            "Calico's eBPF dataplane forwards between pods and tunnel without the kernel's tables: its maps and programs are not verified, \
             devices, routes and probes are",
        ));
    }
    let text = |key: &str, param: Option<&str>| match p.raw(key, param) {
        Raw::Set(value, from) => Some(Setting::Known { value, from }),
        Raw::Unknown(why) => Some(Setting::Unresolved {
            gap: Gap::new(super::super::parameters::ENVIRONMENT, why),
        }),
        Raw::NotSet => None,
    };
    let shown = [
        ("vxlanEnabled", None),
        ("ipipEnabled", Some("ipinipenabled")),
        ("ipipMTU", Some("ipinipmtu")),
        ("vxlanMTUV6", None),
        ("bpfEnabled", None),
        ("nftablesMode", None),
        ("iptablesBackend", None),
        ("routeSource", None),
        ("programClusterRoutes", None),
        ("deviceRouteSourceAddress", None),
        ("deviceRouteSourceAddressIPv6", None),
        ("wireguardEnabled", None),
        ("wireguardEnabledV6", None),
        ("wireguardInterfaceName", None),
        ("wireguardInterfaceNameV6", None),
        ("ipForwarding", None),
        ("mtuIfacePattern", None),
        ("iptablesRefreshInterval", None),
        ("nftablesRefreshInterval", None),
        ("chainInsertMode", None),
    ];
    let other: BTreeMap<String, Setting<String>> = shown
        .into_iter()
        .filter_map(|(key, param)| Some((key.to_string(), text(key, param)?)))
        .collect();
    let address = |key: &str| {
        p.get(key, None, None, None, |t| t.parse().ok().map(Some))
            .value()
            .copied()
            .flatten()
    };
    let settings = Settings {
        calico_version: version,
        dataplane: dataplane(p, version),
        vxlan_port: vxlan_port(p),
        vxlan_vni: vxlan_vni(p),
        vxlan_mtu: mtu("vxlanMTU", None),
        interface_prefixes: p.get(
            "interfacePrefix",
            None,
            alloc::vec![derive::DEFAULT_INTERFACE_PREFIX.to_string()],
            Vec::new(),
            |t| Some(t.split(',').map(ToString::to_string).collect()),
        ),
        device_route_protocol: p.get("deviceRouteProtocol", None, 3, 0, |t| t.parse().ok()),
        route_sync_disabled: p.get("routeSyncDisabled", None, false, false, boolean),
        route_refresh_seconds: p.get("routeRefreshInterval", None, 90, 0, seconds),
        remove_external_routes: p.get("removeExternalRoutes", None, true, false, boolean),
        other,
    };
    Resolved {
        vxlan_enabled: p.get("vxlanEnabled", None, None, None, |t| boolean(t).map(Some)),
        ipip_enabled: p.get("ipipEnabled", Some("ipinipenabled"), None, None, |t| boolean(t).map(Some)),
        ipip_mtu: known(mtu("ipipMTU", Some("ipinipmtu"))),
        vxlan_mtu_v6: known(mtu("vxlanMTUV6", None)),
        workload_ips: p.get("routeSource", None, false, false, |t| match t {
            "WorkloadIPs" => Some(true),
            "CalicoIPAM" => Some(false),
            _ => None,
        }),
        route_source_v4: address("deviceRouteSourceAddress"),
        route_source_v6: address("deviceRouteSourceAddressIPv6"),
        external_nodes: external_nodes(p),
        felix_routes,
        bird_routes: Setting::Known {
            value: ClusterRoutes::ALL,
            from: Provenance::BuiltIn,
        },
        veth_prefix: derive::DEFAULT_INTERFACE_PREFIX.to_string(),
        use_pod_cidr: false,
        gaps,
        settings,
    }
}

fn dataplane(p: &Parameters<'_>, version: Option<Version>) -> Setting<Dataplane> {
    match p.get("bpfEnabled", None, false, false, boolean) {
        Setting::Known { value: true, from } => {
            return Setting::Known {
                value: Dataplane::Bpf,
                from,
            };
        }
        Setting::Unresolved { gap } => return Setting::Unresolved { gap },
        Setting::Known { value: false, .. } => {}
    }
    // `Auto`, known from 3.32 on and the default from 3.33, follows kube-proxy's mode, which no object given here tells.
    let built_in = if version.is_some_and(|v| v >= (3, 33, 0)) {
        "Auto"
    } else {
        "Disabled"
    };
    match p.raw("nftablesMode", None) {
        Raw::Unknown(why) => Setting::Unresolved {
            gap: Gap::new(super::super::parameters::ENVIRONMENT, why),
        },
        raw => {
            let (text, from) = match raw {
                Raw::Set(text, from) => (text, from),
                _ => (built_in.to_string(), Provenance::BuiltIn),
            };
            match text.as_str() {
                "Enabled" => Setting::Known {
                    value: Dataplane::Nftables,
                    from,
                },
                "Auto" => Setting::Unresolved {
                    gap: Gap::new(
                        "intent/dataplane",
                        "nftablesMode is Auto: whether Felix uses nftables or iptables follows kube-proxy's mode, which is not known here",
                    ),
                },
                _ => Setting::Known {
                    value: Dataplane::Iptables,
                    from,
                },
            }
        }
    }
}

fn external_nodes(p: &Parameters<'_>) -> Vec<IpNet> {
    let Raw::Set(text, _) = p.raw("externalNodesList", Some("externalnodescidrlist")) else {
        return Vec::new();
    };
    let one = |t: &str| t.parse::<IpNet>().ok().or_else(|| t.parse::<IpAddr>().ok().map(IpNet::from));
    text.split(',').filter_map(|t| one(t.trim())).collect()
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// The version in a tag such as `v3.31.7` or `v3.31.7-amd64`.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts = text.split('.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next()?);
    let patch = patch.split(|c: char| !c.is_ascii_digit()).next()?;
    Some((major.parse().ok()?, minor.parse().ok()?, patch.parse().ok()?))
}

fn image_version(image: &str) -> Option<Version> {
    let without_digest = image.split('@').next()?;
    let tag = without_digest.rsplit('/').next()?.split_once(':')?.1;
    parse_version(tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_images_and_objects() {
        assert_eq!(parse_version("v3.31.7"), Some((3, 31, 7)));
        assert_eq!(image_version("docker.io/calico/node:v3.29.2"), Some((3, 29, 2)));
        assert_eq!(image_version("registry:5000/calico/node:v3.30.0-amd64"), Some((3, 30, 0)));
        assert_eq!(image_version("registry:5000/calico/node"), None);
        assert_eq!(image_version("calico/node@sha256:abc"), None);
        assert_eq!(image_version("calico/node:master"), None);
    }
}
