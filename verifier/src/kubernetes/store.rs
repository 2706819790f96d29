//! What the watches told, as one set of objects.
//!
//! A list replaces what was known of its kind only when it is complete. While the API server is away what was known stays in force, and the
//! evidence says since when it may be out of date. What cannot be read is named, and the last good form of it is kept.

use super::{client::Trouble, kinds::Read};
use std::collections::{BTreeMap, BTreeSet};
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::objects::{Container, Kind, Object, ObjectKey, Objects, Pod},
    names::UnixNs,
};

/// Source name of gaps found here.
const SOURCE: &str = "intent/kubernetes";

/// An object, or what is known of one that could not be read.
pub type Item = Result<Object, Unreadable>;

/// An object that does not have its kind's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Which.
    pub key: ObjectKey,
    /// The field, and why.
    pub why: String,
}

/// What one list or watch told.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    /// All there is: replaces what was known.
    Listed(Vec<Item>),
    /// One came or changed.
    Applied(Box<Item>),
    /// One went.
    Deleted(ObjectKey),
    /// The server answered: what is known is up to date.
    Current,
    /// It did not.
    Failed(Trouble),
}

#[derive(Clone, Debug)]
struct List {
    read: Read,
    objects: BTreeMap<ObjectKey, Object>,
    unreadable: BTreeMap<ObjectKey, String>,
    complete: bool,
    trouble: Option<(Trouble, UnixNs)>,
}

/// What all lists told.
#[derive(Clone, Debug, Default)]
pub struct Store {
    lists: BTreeMap<String, List>,
    absent: Vec<Kind>,
    discovery: Option<(Trouble, UnixNs)>,
}

impl Store {
    /// A list that is followed from now on.
    pub fn add(&mut self, read: Read) {
        let list = List {
            read,
            objects: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            complete: false,
            trouble: None,
        };
        self.lists.entry(list.read.name()).or_insert(list);
    }

    /// Whether this list is followed.
    pub fn has(&self, name: &str) -> bool {
        self.lists.contains_key(name)
    }

    /// Calico's kinds that the cluster does not serve.
    pub fn set_absent(&mut self, kinds: Vec<Kind>) -> bool {
        let changed = self.absent != kinds || self.discovery.is_some();
        self.absent = kinds;
        self.discovery = None;
        changed
    }

    /// Which kinds are served could not be found out.
    pub fn discovery_failed(&mut self, trouble: Trouble, at: UnixNs) {
        let since = self.discovery.as_ref().map_or(at, |(_, since)| *since);
        self.discovery = Some((trouble, since));
    }

    /// Takes what a list told; whether anything differs now.
    pub fn take(&mut self, name: &str, told: Told, at: UnixNs) -> bool {
        let Some(list) = self.lists.get_mut(name) else { return false };
        match told {
            Told::Listed(items) => list.replace(items),
            Told::Applied(item) => list.apply(*item),
            Told::Deleted(key) => {
                let was_there = list.objects.remove(&key).is_some();
                let was_bad = list.unreadable.remove(&key).is_some();
                let recovered = list.trouble.take().is_some();
                was_there || was_bad || recovered
            }
            Told::Current => list.trouble.take().is_some(),
            Told::Failed(trouble) => {
                let same = list.trouble.as_ref().is_some_and(|(known, _)| *known == trouble);
                let since = list.trouble.as_ref().map_or(at, |(_, since)| *since);
                list.trouble = Some((trouble, since));
                !same
            }
        }
    }

    /// Whether every list was answered, one way or the other, and it is known which there are.
    pub fn is_answered(&self, discovered: bool) -> bool {
        (discovered || self.discovery.is_some()) && self.lists.values().all(|list| list.complete || list.trouble.is_some())
    }

    /// Whether something fails.
    pub fn is_troubled(&self) -> bool {
        self.discovery.is_some() || self.lists.values().any(|list| list.trouble.is_some())
    }

    /// Up to when what is known is the truth: `now`, or when the first of the lists that fail began to.
    pub fn as_of(&self, now: UnixNs) -> UnixNs {
        let lists = self.lists.values().filter(|list| list.complete);
        lists.filter_map(|list| Some(list.trouble.as_ref()?.1)).min().unwrap_or(now)
    }

    /// ConfigMaps that the environment of calico-node refers to: namespace and name.
    pub fn wanted_config_maps(&self) -> BTreeSet<(String, String)> {
        let mut wanted = BTreeSet::new();
        for object in self.lists.values().flat_map(|list| list.objects.values()) {
            let (namespace, containers) = match object {
                Object::Pod(pod) if is_calico_node(pod) => (&pod.metadata.namespace, &pod.spec.containers),
                Object::DaemonSet(set) => (&set.metadata.namespace, &set.spec.template.spec.containers),
                _ => continue,
            };
            for name in containers.iter().flat_map(config_maps_of) {
                wanted.insert((namespace.clone(), name));
            }
        }
        wanted
    }

    /// Everything that is known.
    pub fn evidence(&self, now: UnixNs) -> Evidence<Objects> {
        let mut objects = Objects::new(self.as_of(now));
        let mut gaps = Vec::new();
        if let Some((trouble, since)) = &self.discovery {
            let why = format!(
                "which of Calico's kinds the cluster serves is not known: {}",
                words(trouble, *since, now)
            );
            gaps.push(Gap::new(SOURCE, why));
        }
        if !self.absent.is_empty() {
            gaps.push(Gap::new(SOURCE, absent(&self.absent)));
        }
        for list in self.lists.values() {
            if let Some(why) = list.untrusted() {
                return Evidence::unavailable(SOURCE, why);
            }
            if list.complete {
                objects.note_seen(list.read.kind);
            }
            gaps.extend(list.gaps(now));
            for object in list.objects.values() {
                // A pod may stand in two lists (its node's, and the canaries'), one of them newer: the next message evens it out.
                if objects.insert(list.read.group, object.clone()).is_err() {
                    continue;
                }
            }
        }
        if !objects.has_seen(Kind::Node) {
            // Why the Nodes are missing, not why something else is.
            let nodes = self.lists.values().find(|list| list.read.kind == Kind::Node);
            let why = nodes.and_then(|list| list.gaps(now).into_iter().next()).map(|gap| gap.why);
            return Evidence::unavailable(SOURCE, why.unwrap_or_else(|| "the Nodes have not been listed yet".to_owned()));
        }
        if let Some((one, other)) = objects.overlapping_pools().first() {
            let (one, other) = (&one.metadata.name, &other.metadata.name);
            gaps.push(Gap::new(
                SOURCE,
                format!("IPPools {one} and {other} overlap, which Calico refuses: delete one"),
            ));
        }
        for gap in objects.missing_kinds() {
            // Which list failed, and why, stands there already.
            if gaps.is_empty() {
                gaps.push(gap);
            }
        }
        objects.gaps = gaps.clone();
        Evidence::partial(objects, gaps)
    }
}

impl List {
    fn replace(&mut self, items: Vec<Item>) -> bool {
        let mut objects = BTreeMap::new();
        let mut unreadable = BTreeMap::new();
        for item in items {
            match item {
                Ok(object) => {
                    objects.insert(object.key(), object);
                }
                Err(bad) => {
                    // The last good form is better than none.
                    if let Some(good) = self.objects.remove(&bad.key) {
                        objects.insert(bad.key.clone(), good);
                    }
                    unreadable.insert(bad.key, bad.why);
                }
            }
        }
        let same = self.complete && self.trouble.is_none() && self.objects == objects && self.unreadable == unreadable;
        self.objects = objects;
        self.unreadable = unreadable;
        self.complete = true;
        self.trouble = None;
        !same
    }

    fn apply(&mut self, item: Item) -> bool {
        let recovered = self.trouble.take().is_some();
        match item {
            Ok(object) => {
                let key = object.key();
                let was_bad = self.unreadable.remove(&key).is_some();
                if self.objects.get(&key) == Some(&object) {
                    return was_bad || recovered;
                }
                self.objects.insert(key, object);
                true
            }
            Err(bad) => self.unreadable.insert(bad.key, bad.why.clone()) != Some(bad.why) || recovered,
        }
    }

    /// Why nothing at all can be trusted: an object from which all nodes' routes follow was never readable.
    fn untrusted(&self) -> Option<String> {
        let (key, why) = self
            .unreadable
            .iter()
            .find(|(key, _)| !crate::intent::files::stands_alone(key.kind) && !self.objects.contains_key(key))?;
        Some(format!("{key} cannot be read ({why}): correct it"))
    }

    fn gaps(&self, now: UnixNs) -> Vec<Gap> {
        let name = self.read.name();
        let mut gaps: Vec<Gap> = self
            .unreadable
            .iter()
            .map(|(key, why)| {
                let kept = if self.objects.contains_key(key) {
                    "its last good form stays in force"
                } else {
                    "it was left out"
                };
                Gap::new(SOURCE, format!("{key} cannot be read ({why}), {kept}: correct it"))
            })
            .collect();
        match &self.trouble {
            Some((Trouble::Forbidden, _)) => gaps.push(Gap::new(
                SOURCE,
                format!(
                    "not permitted to list and watch {name}, so {}: grant both verbs",
                    cost(self.read.kind)
                ),
            )),
            Some((trouble, since)) if self.complete => {
                let age_seconds = now.since_ns(*since) / 1_000_000_000;
                gaps.push(Gap::new(
                    SOURCE,
                    format!(
                        "{name}: {}; what was read {age_seconds} s ago stays in force",
                        words(trouble, *since, now)
                    ),
                ));
            }
            Some((trouble, since)) => gaps.push(Gap::new(
                SOURCE,
                format!(
                    "{name} were never read, so {}: {}",
                    cost(self.read.kind),
                    words(trouble, *since, now)
                ),
            )),
            None if !self.complete => gaps.push(Gap::new(SOURCE, format!("{name} have not been listed yet"))),
            None => {}
        }
        gaps
    }
}

/// What it costs not to know objects of a kind.
const fn cost(kind: Kind) -> &'static str {
    match kind {
        Kind::Node => "nothing can be judged",
        Kind::Pod => "workloads, claims and Felix's environment are not known",
        Kind::DaemonSet => "Felix's environment is not known where its pod is missing",
        Kind::ConfigMap => "what FELIX_* variables take from it is not known",
        Kind::IpPool => "encapsulation and routes are not known",
        Kind::IpamBlock => "routes to blocks are not known",
        Kind::BlockAffinity => "blocks without addresses are not known",
        Kind::FelixConfiguration => "Felix's settings are taken as Calico's defaults",
        Kind::BgpConfiguration => "BGP's settings are taken as Calico's defaults",
        Kind::ClusterInformation => "Calico's version is known from its image only",
    }
}

fn absent(kinds: &[Kind]) -> String {
    if kinds.len() == super::kinds::CALICO.len() {
        return "the cluster serves none of Calico's kinds (crd.projectcalico.org/v1, projectcalico.org/v3): is Calico installed?"
            .to_owned();
    }
    let names: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
    let costs: BTreeSet<&str> = kinds.iter().map(|kind| cost(*kind)).collect();
    format!(
        "the cluster serves no {}, so {}: install the CRDs of its Calico release",
        names.join(", "),
        costs.into_iter().collect::<Vec<_>>().join("; ")
    )
}

fn words(trouble: &Trouble, since: UnixNs, now: UnixNs) -> String {
    match trouble {
        Trouble::Forbidden => "not permitted: grant list and watch".to_owned(),
        Trouble::Unauthenticated => "the API server does not accept our token (401): it expired or its account was deleted".to_owned(),
        Trouble::NotFound => "the API server does not serve it any more (404): were its CRDs removed?".to_owned(),
        Trouble::Conflict => "the API server answers 409".to_owned(),
        Trouble::Expired => "the list grew too old while it was read (410); it is read again".to_owned(),
        Trouble::TooMany => "the API server asks to wait (429)".to_owned(),
        Trouble::Away { why } => {
            let seconds = now.since_ns(since) / 1_000_000_000;
            format!("the API server has not answered for {seconds} s ({why})")
        }
    }
}

/// Whether a pod is calico-node, by the label that manifests and operator both give.
pub fn is_calico_node(pod: &Pod) -> bool {
    pod.metadata.labels.get("k8s-app").is_some_and(|app| app == "calico-node")
}

fn config_maps_of(container: &Container) -> Vec<String> {
    let keys = container
        .env
        .iter()
        .filter_map(|variable| variable.value_from.as_ref()?.config_map_key_ref.as_ref())
        .map(|reference| reference.name.clone());
    let whole = container
        .env_from
        .iter()
        .filter_map(|from| from.config_map_ref.as_ref())
        .map(|reference| reference.name.clone());
    keys.chain(whole).filter(|name| !name.is_empty()).collect()
}
