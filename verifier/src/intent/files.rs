//! Objects from files: what `kubectl get … -o json|yaml` prints.
//!
//! A directory, or single files; `.json`, `.yaml`, `.yml`; Lists, single objects, several documents in one file. Kinds that intent does
//! not need are skipped and counted.
//!
//! An object that cannot be read never vanishes silently. Where all nodes' routes would follow from it (Node, IPPool, IPAMBlock,
//! FelixConfiguration, BGPConfiguration, DaemonSet), or where one cannot tell what it was (a document that is no YAML), nothing read can be
//! trusted and the load fails. One Pod, BlockAffinity, ConfigMap or ClusterInformation less leaves the rest true: the load is Partial, and the gap
//! names the object.

use serde::de::Deserialize as _;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::objects::{Group, Kind, Object, ObjectKey, Objects},
    names::UnixNs,
};

/// Source name of gaps found here.
const SOURCE: &str = "intent/files";

/// Where in the files something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The document in it, from 1.
    pub document: usize,
    /// The item of a List, from 1.
    pub item: Option<usize>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, document {}", self.file.display(), self.document)?;
        match self.item {
            Some(item) => write!(f, ", item {item}"),
            None => Ok(()),
        }
    }
}

/// Why no intent can be had from the files. One line each, with what to do.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A path cannot be read.
    #[error("cannot read manifests at {path}: {error}; name a readable file or directory", path = path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A directory without manifests.
    #[error("no .json, .yaml or .yml file in {path}: put there what `kubectl get nodes,pods -A -o yaml` and the like print", path = path.display())]
    NoManifests {
        /// The directory.
        path: PathBuf,
    },
    /// A document that is neither YAML nor JSON, or was cut off.
    #[error("{place} is not whole YAML or JSON ({why}): write it again with `kubectl get … -o yaml`")]
    Syntax {
        /// Where.
        place: Place,
        /// What the reader says, with line and column.
        why: String,
    },
    /// A document that is no Kubernetes object.
    #[error("{place} is no Kubernetes object ({why}): keep only what kubectl prints in this directory")]
    NotAnObject {
        /// Where.
        place: Place,
        /// What it lacks.
        why: &'static str,
    },
    /// An object that does not have its kind's shape, and from which too much follows to go on without it.
    #[error("{place}: {object} cannot be read ({why}): correct it, or get it again with `kubectl get {resource} -o yaml`")]
    Shape {
        /// Where.
        place: Place,
        /// Kind and name.
        object: String,
        /// What does not fit, with the field.
        why: String,
        /// What to ask kubectl for.
        resource: &'static str,
    },
    /// One object twice, with different contents.
    #[error("{place}: {key} was given before with other contents: keep one of the two")]
    Conflict {
        /// Where the second stands.
        place: Place,
        /// What it is.
        key: ObjectKey,
    },
    /// Pools that overlap.
    #[error("IPPools {one} and {other} overlap, which Calico refuses: remove the one that is not in the cluster")]
    OverlappingPools {
        /// One, with its addresses.
        one: String,
        /// The other.
        other: String,
    },
    /// Files, but no nodes in them.
    #[error("no Node objects in {path}: add the output of `kubectl get nodes -o yaml`", path = path.display())]
    NoNodes {
        /// Where they were looked for.
        path: PathBuf,
    },
}

/// What a load gave.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The objects; Partial where something could not be read, or a whole kind is missing.
    pub objects: Evidence<Objects>,
    /// Objects that intent does not need, by `apiVersion kind`.
    pub skipped: BTreeMap<String, u64>,
}

/// Reads every manifest at `path`, a directory or a file.
///
/// # Errors
/// Where nothing that was read can be trusted; see the module's head.
pub fn load(path: &Path, read_at: UnixNs) -> Result<Loaded, LoadError> {
    let mut reader = Reader::new(read_at);
    for file in manifests_at(path)? {
        let text = fs::read_to_string(&file).map_err(|error| LoadError::Unreadable { path: file.clone(), error })?;
        reader.file(&file, &text)?;
    }
    reader.finish(path)
}

/// Reads the text of one manifest, as if it were all there is.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_text(file: &Path, text: &str, read_at: UnixNs) -> Result<Loaded, LoadError> {
    let mut reader = Reader::new(read_at);
    reader.file(file, text)?;
    reader.finish(file)
}

/// The manifests at `path`, in order of name. Names with a leading dot are somebody's temporary or hidden files.
pub(crate) fn manifests_at(path: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let unreadable = |error| LoadError::Unreadable {
        path: path.to_path_buf(),
        error,
    };
    if !fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let hidden = file.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let manifest = file.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
        if manifest && !hidden {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(LoadError::NoManifests { path: path.to_path_buf() });
    }
    files.sort();
    Ok(files)
}

struct Reader {
    objects: Objects,
    gaps: Vec<Gap>,
    skipped: BTreeMap<String, u64>,
}

impl Reader {
    fn new(read_at: UnixNs) -> Self {
        Self {
            objects: Objects::new(read_at),
            gaps: Vec::new(),
            skipped: BTreeMap::new(),
        }
    }

    fn file(&mut self, file: &Path, text: &str) -> Result<(), LoadError> {
        let place = |document: usize| Place {
            file: file.to_path_buf(),
            document: document + 1,
            item: None,
        };
        let syntax = |place: Place, why: String| LoadError::Syntax { place, why };
        if file.extension().is_some_and(|e| e == "json") {
            for (at, value) in serde_json::Deserializer::from_str(text).into_iter::<Value>().enumerate() {
                let value = value.map_err(|e| syntax(place(at), e.to_string()))?;
                self.document(place(at), value)?;
            }
        } else {
            for (at, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
                let value = Value::deserialize(document).map_err(|e| syntax(place(at), e.to_string()))?;
                self.document(place(at), value)?;
            }
        }
        Ok(())
    }

    fn document(&mut self, place: Place, value: Value) -> Result<(), LoadError> {
        match value {
            // What a trailing `---` leaves.
            Value::Null => Ok(()),
            Value::Object(mut map) => {
                let (api_version, kind) = match (map.get("apiVersion"), map.get("kind")) {
                    (Some(Value::String(a)), Some(Value::String(k))) => (a.clone(), k.clone()),
                    (None, _) => {
                        return Err(LoadError::NotAnObject {
                            place,
                            why: "no apiVersion",
                        });
                    }
                    (_, None) => return Err(LoadError::NotAnObject { place, why: "no kind" }),
                    _ => {
                        return Err(LoadError::NotAnObject {
                            place,
                            why: "apiVersion or kind is no text",
                        });
                    }
                };
                let Some(of) = kind.strip_suffix("List") else {
                    return self.object(place, &api_version, &kind, Value::Object(map));
                };
                let items = match map.remove("items") {
                    Some(Value::Array(items)) => items,
                    Some(Value::Null) => Vec::new(),
                    _ => {
                        return Err(LoadError::NotAnObject {
                            place,
                            why: "a List without items",
                        });
                    }
                };
                if let Some((kind, _)) = Kind::of(&api_version, of) {
                    self.objects.note_seen(kind);
                }
                self.list(&place, (&api_version, of), items)
            }
            _ => Err(LoadError::NotAnObject {
                place,
                why: "not a mapping",
            }),
        }
    }

    /// The items of a List. Those of a typed one (`PodList`) may leave out what they are.
    fn list(&mut self, place: &Place, (list_version, list_of): (&str, &str), items: Vec<Value>) -> Result<(), LoadError> {
        for (at, item) in items.into_iter().enumerate() {
            let place = Place {
                item: Some(at + 1),
                ..place.clone()
            };
            let text = |key: &str, of_list: &str| match item.get(key) {
                Some(Value::String(text)) => Some(text.clone()),
                None if !list_of.is_empty() => Some(of_list.to_owned()),
                _ => None,
            };
            let (Some(api_version), Some(kind)) = (text("apiVersion", list_version), text("kind", list_of)) else {
                return Err(LoadError::NotAnObject {
                    place,
                    why: "no apiVersion or kind",
                });
            };
            self.object(place, &api_version, &kind, item)?;
        }
        Ok(())
    }

    fn object(&mut self, place: Place, api_version: &str, kind: &str, value: Value) -> Result<(), LoadError> {
        let Some((kind, group)) = Kind::of(api_version, kind) else {
            if api_version.contains("projectcalico.org/") && Kind::ALL.iter().any(|k| k.as_str() == kind) {
                self.gaps.push(Gap::new(
                    SOURCE,
                    format!("{place}: {kind} of {api_version}, a version this program does not know, was left out"),
                ));
            }
            *self.skipped.entry(format!("{api_version} {kind}")).or_default() += 1;
            return Ok(());
        };
        let name = described(kind, &value);
        match read(kind, value) {
            Ok(object) => self.keep(place, group, object),
            Err(why) if stands_alone(kind) => {
                self.objects.note_seen(kind);
                self.gaps.push(Gap::new(
                    SOURCE,
                    format!("{place}: {name} cannot be read ({why}) and was left out: correct it"),
                ));
                Ok(())
            }
            Err(why) => Err(LoadError::Shape {
                place,
                object: name,
                why,
                resource: kind.resource(),
            }),
        }
    }

    fn keep(&mut self, place: Place, group: Group, object: Object) -> Result<(), LoadError> {
        self.objects
            .insert(group, object)
            .map_err(|conflict| LoadError::Conflict { place, key: conflict.key })
    }

    fn finish(mut self, path: &Path) -> Result<Loaded, LoadError> {
        if !self.objects.has_seen(Kind::Node) {
            return Err(LoadError::NoNodes { path: path.to_path_buf() });
        }
        if let Some((a, b)) = self.objects.overlapping_pools().first() {
            let written = |pool: &verifier_core::intent::objects::IpPool| format!("{} ({})", pool.metadata.name, pool.spec.cidr);
            return Err(LoadError::OverlappingPools {
                one: written(a),
                other: written(b),
            });
        }
        self.gaps.extend(self.objects.missing_kinds());
        self.objects.gaps = self.gaps.clone();
        Ok(Loaded {
            objects: Evidence::partial(self.objects, self.gaps),
            skipped: self.skipped,
        })
    }
}

/// Whether the rest of the objects stays true without one of this kind.
pub(crate) const fn stands_alone(kind: Kind) -> bool {
    matches!(kind, Kind::Pod | Kind::BlockAffinity | Kind::ConfigMap | Kind::ClusterInformation)
}

/// Kind and name, as far as there is one.
fn described(kind: Kind, value: &Value) -> String {
    let field = |key: &str| value.pointer(key).and_then(Value::as_str);
    match (field("/metadata/namespace"), field("/metadata/name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => format!("{kind} without a name"),
    }
}

/// One object of a known kind; where it does not fit, the field and why.
pub(crate) fn read(kind: Kind, value: Value) -> Result<Object, String> {
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    match Object::deserialize(kind, tracked) {
        Ok(object) if object.meta().name.is_empty() => Err(String::from("it has no metadata.name")),
        Ok(object) => Ok(object),
        Err(error) => Err(format!("{}: {error}", track.path())),
    }
}
