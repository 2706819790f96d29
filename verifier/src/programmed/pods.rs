//! Pods' network namespaces: finding them and reading their inside.
//!
//! Calico's CNI plugin makes a veth pair with one end in the pod. The kernel numbers foreign namespaces per namespace
//! (`IFLA_LINK_NETNSID` on the node's end, `RTM_GETNSID` for an open namespace file), so the pod's namespace is the one whose number
//! in the node's namespace is that of the node's end. Candidates are the files of container runtimes and the namespaces of processes.
//!
//! Where the node's end is gone, the namespace is the one that was found before, or else one that carries the pod's address. Several
//! nodes may share one machine (our fabric does), so a namespace whose device is paired with a third namespace is another node's and is
//! never taken.

use super::{
    dump::Tables,
    netlink::{
        Channel, DumpFault, Malformed, Request,
        attr::{self, attrs},
    },
    netns::{Netns, NetnsError},
    snmp,
};
use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};
use verifier_core::{
    evidence::Evidence,
    names::PodRef,
    programmed::{Link, PodState},
};

/// Where container runtimes and `ip netns` keep their namespaces.
const DIRECTORIES: &[&str] = &["/run/netns", "/var/run/netns", "/run/docker/netns"];

/// A pod whose inside is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedPod {
    /// The pod.
    pub pod: PodRef,
    /// Name of the host-side device.
    pub device: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Where a pod's namespace was found. A path and an inode number, not an open file: that would keep the namespace alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetns {
    /// A file of it.
    pub path: PathBuf,
    /// Its inode number.
    pub inum: u64,
}

impl PodNetns {
    /// Open it for the length of a visit.
    ///
    /// # Errors
    /// If it is gone or replaced, or may not be entered.
    pub fn open(&self) -> Result<Netns, NetnsError> {
        match Netns::reopen(&self.path, self.inum) {
            // The process or name is gone, but another one may still hold the namespace.
            Err(error) if error.vanished() => match candidates()?.remove(&self.inum) {
                Some(path) => Netns::reopen(path, self.inum),
                None => Err(error),
            },
            other => other,
        }
    }
}

/// Why a pod's namespace was not found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// A namespace could not be opened or visited.
    #[error("{0}")]
    Netns(#[from] NetnsError),
    /// The kernel did not answer.
    #[error("asking for namespace numbers: {0}")]
    Netlink(#[from] DumpFault),
    /// No namespace belongs to the device, and none carries the address.
    #[error(
        "no visible namespace is the counterpart of {device} or carries an address of the pod; is the runtime's directory of namespaces (or the host's /proc) mounted here?"
    )]
    NotFound {
        /// The host-side device.
        device: String,
    },
}

/// Files of all network namespaces that can be seen, by inode number. Named files are preferred to those of processes, which end.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn candidates() -> Result<BTreeMap<u64, PathBuf>, NetnsError> {
    let mut found = BTreeMap::new();
    for directory in DIRECTORIES {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // That runtime is not used here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => {
                return Err(NetnsError::Enter {
                    path: directory.into(),
                    source,
                });
            }
        };
        for entry in entries {
            let path = match entry {
                Ok(entry) => entry.path(),
                Err(source) => {
                    return Err(NetnsError::Enter {
                        path: directory.into(),
                        source,
                    });
                }
            };
            match Netns::open(&path) {
                Ok(ns) => {
                    found.entry(ns.inum()).or_insert(path);
                }
                // Removed meanwhile, or a name without a namespace.
                Err(NetnsError::Vanished { .. } | NetnsError::NotANamespace { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }
    let processes = fs::read_dir("/proc").map_err(|source| NetnsError::Enter {
        path: "/proc".into(),
        source,
    })?;
    for entry in processes {
        let Ok(entry) = entry else { continue };
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        let path = entry.path().join("ns/net");
        // `net:[4026531840]`. A process that has ended meanwhile has no namespace any more.
        if let Ok(target) = fs::read_link(&path)
            && let Some(digits) = inum_digits(&target)
            && let Ok(inum) = digits.parse()
        {
            found.entry(inum).or_insert(path);
        }
    }
    Ok(found)
}

fn inum_digits(target: &Path) -> Option<&str> {
    target.to_str()?.strip_prefix("net:[")?.strip_suffix(']')
}

/// The number that the namespace of `channel` has for `other`; none if it has never met it.
///
/// # Errors
/// If the kernel does not answer.
pub fn netns_id(channel: &mut Channel, other: &Netns) -> Result<Option<i32>, DumpFault> {
    const RTM_NEWNSID: u16 = 88;
    const RTM_GETNSID: u16 = 90;
    const NETNSA_NSID: u16 = 1;
    const NETNSA_FD: u16 = 3;
    // `struct rtgenmsg` is one byte, padded.
    let request = Request::ask(RTM_GETNSID, &[0; 4]).attr(NETNSA_FD, &other.as_fd().as_raw_fd().to_ne_bytes());
    let id = channel.ask(&request, |kind, message| {
        if kind != RTM_NEWNSID {
            return Ok(None);
        }
        for attr in attrs(message.get(4..).unwrap_or(&[])) {
            if let (NETNSA_NSID, value) = attr? {
                return attr::i32_of("NETNSA_NSID", value).map(Some);
            }
        }
        Err(Malformed::Missing { part: "NETNSA_NSID" })
    })?;
    Ok(id.filter(|id| *id >= 0))
}

/// Finds pods' namespaces and remembers where they were.
#[derive(Debug, Default)]
pub struct PodFinder {
    known: BTreeMap<PodRef, PodNetns>,
}

impl PodFinder {
    /// Where a pod's namespace was found last.
    pub fn known(&self, pod: &PodRef) -> Option<&PodNetns> {
        self.known.get(pod)
    }

    /// Forget the pods that are not wanted any more.
    pub fn retain(&mut self, wanted: &[WantedPod]) {
        self.known.retain(|pod, _| wanted.iter().any(|w| w.pod == *pod));
    }

    /// Find the namespaces of `wanted`, pods of the node with namespace `node` and links `links`.
    ///
    /// # Errors
    /// If the candidates cannot be listed at all. That one pod is not found is that pod's result.
    pub fn find(
        &mut self,
        node: &Netns,
        links: &[Link],
        wanted: &[WantedPod],
    ) -> Result<BTreeMap<PodRef, Result<PodNetns, FindError>>, FindError> {
        let candidates = candidates()?;
        let mut channel = Channel::open(node, libc::NETLINK_ROUTE as isize)?;
        let mut by_id: BTreeMap<i32, PodNetns> = BTreeMap::new();
        for (inum, path) in &candidates {
            let ns = match Netns::reopen(path, *inum) {
                Ok(ns) => ns,
                Err(error) if error.vanished() => continue,
                Err(error) => return Err(error.into()),
            };
            if let Some(id) = netns_id(&mut channel, &ns)? {
                by_id.insert(
                    id,
                    PodNetns {
                        path: path.clone(),
                        inum: *inum,
                    },
                );
            }
        }
        let mut found = BTreeMap::new();
        for want in wanted {
            let counterpart = links
                .iter()
                .find(|link| link.name == want.device)
                .and_then(|link| link.link_netnsid)
                .and_then(|id| by_id.get(&id));
            let place = match counterpart {
                Some(place) => Ok(place.clone()),
                None => self.without_counterpart(node, &candidates, want),
            };
            if let Ok(place) = &place {
                self.known.insert(want.pod.clone(), place.clone());
            }
            found.insert(want.pod.clone(), place);
        }
        Ok(found)
    }

    fn without_counterpart(&self, node: &Netns, candidates: &BTreeMap<u64, PathBuf>, want: &WantedPod) -> Result<PodNetns, FindError> {
        let not_found = || FindError::NotFound {
            device: want.device.clone(),
        };
        if let Some(before) = self.known.get(&want.pod) {
            // Inode numbers are reused, but a reused one would be a new pod's and have a counterpart of its own somewhere.
            if let Some(path) = candidates.get(&before.inum)
                && belongs_to(node, path, before.inum, None)?
            {
                return Ok(PodNetns {
                    path: path.clone(),
                    inum: before.inum,
                });
            }
        }
        for (inum, path) in candidates {
            if *inum != node.inum() && belongs_to(node, path, *inum, Some(&want.addresses))? {
                return Ok(PodNetns {
                    path: path.clone(),
                    inum: *inum,
                });
            }
        }
        Err(not_found())
    }
}

/// Whether a namespace may be a pod of `node`: no veth in it is paired with a third namespace, and it carries one of `addresses`, if any
/// are asked for.
fn belongs_to(node: &Netns, path: &Path, inum: u64, addresses: Option<&[IpAddr]>) -> Result<bool, FindError> {
    let ns = match Netns::reopen(path, inum) {
        Ok(ns) => ns,
        Err(error) if error.vanished() => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    let mut tables = Tables::open(&ns)?;
    if let Some(addresses) = addresses {
        // First the cheap question that most candidates fail.
        let carries = match tables.addresses().all() {
            Ok(all) => all.iter().any(|a| addresses.contains(&a.ip.addr())),
            Err(_) => false,
        };
        if !carries {
            return Ok(false);
        }
    }
    let node_id = netns_id(tables.channel(), node)?;
    Ok(match tables.links().all() {
        Ok(links) => links.iter().all(|link| link.link_netnsid.is_none() || link.link_netnsid == node_id),
        Err(_) => false,
    })
}

/// Read the inside of a pod of the node with namespace `node` and links `links`.
///
/// # Errors
/// If the namespace has vanished or cannot be entered.
pub fn read_pod(node: &Netns, links: &[Link], place: &PodNetns) -> Result<PodState, NetnsError> {
    let ns = place.open()?;
    ns.run_in(|| {
        let open = |source| NetnsError::Open {
            what: "a netlink socket",
            path: place.path.clone(),
            source,
        };
        let mut tables = Tables::over(Channel::here(libc::NETLINK_ROUTE as isize).map_err(open)?);
        let inside = tables.links();
        let addresses = tables.addresses();
        let routes = tables.routes();
        let neighbors = tables.neighbors();
        let counters = match snmp::counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::debug!(%error, "counters of a pod cannot be read");
                BTreeMap::new()
            }
        };
        let node_id = match netns_id(tables.channel(), node) {
            Ok(id) => id,
            Err(error) => {
                tracing::debug!(%error, "a pod's namespace does not tell the number of the node's");
                None
            }
        };
        Ok(PodState {
            netns_inum: place.inum,
            netns_path: place.path.display().to_string(),
            host_veth: host_veth(&inside, links, node_id),
            links: renamed(inside),
            addresses: renamed(addresses),
            routes: renamed(routes),
            neighbors: renamed(neighbors),
            counters,
        })
    })?
}

/// The node's link that is paired with one of the pod's.
fn host_veth(inside: &Evidence<Vec<Link>>, links: &[Link], node_id: Option<i32>) -> Option<String> {
    let node_id = node_id?;
    inside.seen()?.iter().find_map(|pod_end| {
        let index = pod_end.link.filter(|_| pod_end.link_netnsid == Some(node_id))?;
        links
            .iter()
            .find(|link| link.index == index && link.link == Some(pod_end.index))
            .map(|link| link.name.clone())
    })
}

/// Gaps of a pod's tables say so.
fn renamed<T>(evidence: Evidence<T>) -> Evidence<T> {
    let rename = |mut gap: verifier_core::evidence::Gap| {
        gap.source = gap.source.replacen("programmed/", "programmed/pod-", 1);
        gap
    };
    match evidence {
        Evidence::Complete { value } => Evidence::Complete { value },
        Evidence::Partial { value, missing } => Evidence::Partial {
            value,
            missing: missing.into_iter().map(rename).collect(),
        },
        Evidence::Unavailable { gap } => Evidence::Unavailable { gap: rename(gap) },
    }
}
