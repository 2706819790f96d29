//! Objects as they come from any source, files or the Kubernetes API: the same types, read straight from Kubernetes' JSON shape.
//!
//! [`Objects`] is a set of them. Both of Calico's API groups give the same types; where both hold one object, the stored form
//! (`crd.projectcalico.org/v1`) is taken (calico.md 3.1).

pub mod calico;
pub mod kubernetes;
pub mod meta;

pub use calico::*;
pub use kubernetes::*;
pub use meta::{Meta, OwnerReference, Scalar, rfc3339};

use crate::{evidence::Gap, names::UnixNs};
use alloc::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{Deserialize, Deserializer};

/// API group an object was read from, the preferred one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Kubernetes' own, or `crd.projectcalico.org/v1`: as stored.
    Stored,
    /// `projectcalico.org/v3`: through Calico's API server.
    Aggregated,
}

/// Kinds that intent is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of Kubernetes and Calico")]
pub enum Kind {
    Node,
    DaemonSet,
    ConfigMap,
    IpPool,
    IpamBlock,
    BlockAffinity,
    FelixConfiguration,
    BgpConfiguration,
    ClusterInformation,
    // Last, because there are so many: what is kept of the others is then not scattered over the gaps that they leave.
    Pod,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Node,
        Self::Pod,
        Self::DaemonSet,
        Self::ConfigMap,
        Self::IpPool,
        Self::IpamBlock,
        Self::BlockAffinity,
        Self::FelixConfiguration,
        Self::BgpConfiguration,
        Self::ClusterInformation,
    ];

    /// The kind as the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::DaemonSet => "DaemonSet",
            Self::ConfigMap => "ConfigMap",
            Self::IpPool => "IPPool",
            Self::IpamBlock => "IPAMBlock",
            Self::BlockAffinity => "BlockAffinity",
            Self::FelixConfiguration => "FelixConfiguration",
            Self::BgpConfiguration => "BGPConfiguration",
            Self::ClusterInformation => "ClusterInformation",
        }
    }

    /// What to give `kubectl get` for objects of this kind.
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Pod => "pods -A",
            Self::DaemonSet => "daemonsets -A",
            Self::ConfigMap => "configmaps -A",
            Self::IpPool => "ippools.crd.projectcalico.org",
            Self::IpamBlock => "ipamblocks.crd.projectcalico.org",
            Self::BlockAffinity => "blockaffinities.crd.projectcalico.org",
            Self::FelixConfiguration => "felixconfigurations.crd.projectcalico.org",
            Self::BgpConfiguration => "bgpconfigurations.crd.projectcalico.org",
            Self::ClusterInformation => "clusterinformations.crd.projectcalico.org",
        }
    }

    /// The kind and group that `apiVersion` and `kind` name; none for objects that intent does not need.
    pub fn of(api_version: &str, kind: &str) -> Option<(Self, Group)> {
        let kind = Self::ALL.into_iter().find(|k| k.as_str() == kind)?;
        let calico = !matches!(kind, Self::Node | Self::Pod | Self::DaemonSet | Self::ConfigMap);
        match api_version {
            "crd.projectcalico.org/v1" if calico => Some((kind, Group::Stored)),
            "projectcalico.org/v3" if calico => Some((kind, Group::Aggregated)),
            "v1" if matches!(kind, Self::Node | Self::Pod | Self::ConfigMap) => Some((kind, Group::Stored)),
            "apps/v1" if matches!(kind, Self::DaemonSet) => Some((kind, Group::Stored)),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Kind.
    pub kind: Kind,
    /// Namespace, empty for what has none.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object of one of the [kinds](Kind).
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant holds the type of its name")]
pub enum Object {
    Node(Node),
    Pod(Pod),
    DaemonSet(DaemonSet),
    ConfigMap(ConfigMap),
    IpPool(IpPool),
    IpamBlock(IpamBlock),
    BlockAffinity(BlockAffinity),
    FelixConfiguration(FelixConfiguration),
    BgpConfiguration(BgpConfiguration),
    ClusterInformation(ClusterInformation),
}

impl Object {
    /// Reads an object of a known kind.
    ///
    /// # Errors
    /// Whatever does not fit the kind's shape, in the words of the format's reader.
    pub fn deserialize<'de, D: Deserializer<'de>>(kind: Kind, from: D) -> Result<Self, D::Error> {
        match kind {
            Kind::Node => Node::deserialize(from).map(Self::Node),
            Kind::Pod => Pod::deserialize(from).map(Self::Pod),
            Kind::DaemonSet => DaemonSet::deserialize(from).map(Self::DaemonSet),
            Kind::ConfigMap => ConfigMap::deserialize(from).map(Self::ConfigMap),
            Kind::IpPool => IpPool::deserialize(from).map(Self::IpPool),
            Kind::IpamBlock => IpamBlock::deserialize(from).map(Self::IpamBlock),
            Kind::BlockAffinity => BlockAffinity::deserialize(from).map(Self::BlockAffinity),
            Kind::FelixConfiguration => FelixConfiguration::deserialize(from).map(Self::FelixConfiguration),
            Kind::BgpConfiguration => BgpConfiguration::deserialize(from).map(Self::BgpConfiguration),
            Kind::ClusterInformation => ClusterInformation::deserialize(from).map(Self::ClusterInformation),
        }
    }

    /// Kind.
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::DaemonSet(_) => Kind::DaemonSet,
            Self::ConfigMap(_) => Kind::ConfigMap,
            Self::IpPool(_) => Kind::IpPool,
            Self::IpamBlock(_) => Kind::IpamBlock,
            Self::BlockAffinity(_) => Kind::BlockAffinity,
            Self::FelixConfiguration(_) => Kind::FelixConfiguration,
            Self::BgpConfiguration(_) => Kind::BgpConfiguration,
            Self::ClusterInformation(_) => Kind::ClusterInformation,
        }
    }

    /// Metadata.
    pub const fn meta(&self) -> &Meta {
        match self {
            Self::Node(o) => &o.metadata,
            Self::Pod(o) => &o.metadata,
            Self::DaemonSet(o) => &o.metadata,
            Self::ConfigMap(o) => &o.metadata,
            Self::IpPool(o) => &o.metadata,
            Self::IpamBlock(o) => &o.metadata,
            Self::BlockAffinity(o) => &o.metadata,
            Self::FelixConfiguration(o) => &o.metadata,
            Self::BgpConfiguration(o) => &o.metadata,
            Self::ClusterInformation(o) => &o.metadata,
        }
    }

    /// What names it.
    pub fn key(&self) -> ObjectKey {
        ObjectKey {
            kind: self.kind(),
            namespace: self.meta().namespace.to_string(),
            name: self.meta().name.to_string(),
        }
    }
}

/// Two objects of one name and one API group that say different things.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} is given twice and the two differ: keep one")]
pub struct Conflict {
    /// Their name.
    pub key: ObjectKey,
}

/// One change of the set of objects.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, one at a time")]
pub enum Change {
    /// An object came or changed.
    Upsert(Object),
    /// An object went.
    Delete(ObjectKey),
}

/// A set of objects, read at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    map: BTreeMap<ObjectKey, (Group, Object)>,
    seen: BTreeSet<Kind>,
    /// What could not be read.
    pub gaps: Vec<Gap>,
    /// When they were read.
    pub read_at: UnixNs,
}

impl Objects {
    /// None, read at `read_at`.
    pub fn new(read_at: UnixNs) -> Self {
        Self {
            read_at,
            ..Self::default()
        }
    }

    /// Adds an object. One that is there already in the preferred group stays.
    ///
    /// # Errors
    /// If the same object was there with other contents.
    pub fn insert(&mut self, group: Group, object: Object) -> Result<(), Conflict> {
        self.seen.insert(object.kind());
        match self.map.entry(object.key()) {
            Entry::Vacant(slot) => {
                slot.insert((group, object));
            }
            Entry::Occupied(mut slot) => {
                let (held, value) = slot.get();
                if *held == group && *value != object {
                    return Err(Conflict { key: slot.key().clone() });
                }
                if group < *held {
                    slot.insert((group, object));
                }
            }
        }
        Ok(())
    }

    /// Notes that objects of this kind were asked for, though there may be none.
    pub fn note_seen(&mut self, kind: Kind) {
        self.seen.insert(kind);
    }

    /// Whether objects of this kind were asked for, or there are some.
    pub fn has_seen(&self, kind: Kind) -> bool {
        self.seen.contains(&kind)
    }

    /// The objects, in order of kind, namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.map.values().map(|(_, o)| o)
    }

    /// The objects themselves, in the same order.
    pub fn into_objects(self) -> impl Iterator<Item = Object> {
        self.map.into_values().map(|(_, o)| o)
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.map.get(key).map(|(_, o)| o)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Pairs of pools that overlap, which Calico's own validation refuses: the manifests contradict each other.
    pub fn overlapping_pools(&self) -> Vec<(&IpPool, &IpPool)> {
        let pools = || {
            self.iter().filter_map(|object| match object {
                Object::IpPool(pool) => Some(pool),
                _ => None,
            })
        };
        let overlap = |a: &IpPool, b: &IpPool| a.spec.cidr.contains(&b.spec.cidr) || b.spec.cidr.contains(&a.spec.cidr);
        pools()
            .enumerate()
            .flat_map(|(at, one)| pools().skip(at + 1).map(move |other| (one, other)))
            .filter(|(a, b)| overlap(a, b))
            .collect()
    }

    /// Kinds without which intent says less than it seems to, and that were never asked for: a gap each.
    pub fn missing_kinds(&self) -> Vec<Gap> {
        let needed = [
            (Kind::Pod, "workloads, claims and Felix's environment are not known"),
            (Kind::IpPool, "encapsulation and routes are not known"),
            (Kind::IpamBlock, "routes to blocks are not known"),
            (
                Kind::FelixConfiguration,
                "settings that Felix reads from the datastore are taken as Calico's defaults",
            ),
        ];
        needed
            .into_iter()
            .filter(|(kind, _)| !self.has_seen(*kind))
            .map(|(kind, consequence)| {
                Gap::new(
                    "intent/objects",
                    alloc::format!(
                        "no {kind} objects were given, so {consequence}: add the output of `kubectl get {} -o yaml`",
                        kind.resource()
                    ),
                )
            })
            .collect()
    }
}
