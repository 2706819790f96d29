//! One Felix parameter at a time: where its text comes from, and how Felix reads it (`felix/config/config_params.go`, `resolve`).
//!
//! The environment of the calico-node container outranks FelixConfiguration `node.<name>`, that outranks `default`, that outranks what is
//! built in. An empty text counts as not set, `none` is the zero value, and a text Felix cannot parse gives the *built-in* default.

use super::{
    node::{Provenance, Setting},
    objects::{ConfigMap, Container, EnvVar, FelixConfiguration},
};
use crate::{evidence::Gap, names::NodeName};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
};

/// Source name of gaps about the environment.
pub(super) const ENVIRONMENT: &str = "intent/felix-environment";

/// Environment of a calico-node container, as far as it can be resolved. Keys are in lower case, as Felix compares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Environment {
    vars: BTreeMap<String, Result<String, String>>,
    /// Why more variables may be set than these.
    rest: Option<String>,
}

/// What a `fieldRef` may refer to.
pub(super) struct PodFields<'a> {
    pub(super) namespace: &'a str,
    pub(super) node: &'a NodeName,
    pub(super) host_ip: &'a str,
}

impl Environment {
    /// Reads the container's variables, resolving references to the pod and to ConfigMaps.
    pub(super) fn of(container: &Container, pod: &PodFields<'_>, config_maps: &BTreeMap<(String, String), ConfigMap>) -> Self {
        let mut env = Self::default();
        let map = |name: &str| config_maps.get(&(pod.namespace.to_string(), name.to_string()));
        for from in &container.env_from {
            let (what, reference) = match (&from.config_map_ref, &from.secret_ref) {
                (Some(r), _) => ("ConfigMap", r),
                (None, Some(r)) => ("Secret", r),
                (None, None) => continue,
            };
            // Every Calico manifest takes in this optional map; it holds the API server's address and nothing else.
            if reference.name == "kubernetes-services-endpoint" {
                continue;
            }
            match map(&reference.name).filter(|_| what == "ConfigMap") {
                Some(found) => {
                    for (key, value) in &found.data {
                        env.vars.insert(format!("{}{key}", from.prefix).to_lowercase(), Ok(value.clone()));
                    }
                }
                None => {
                    env.rest = Some(format!(
                        "calico-node takes its environment from {what} {}/{}, which was not read: give it with the other objects",
                        pod.namespace, reference.name
                    ));
                }
            }
        }
        for var in &container.env {
            match value_of(var, pod, &map) {
                Some(value) => env.vars.insert(var.name.to_lowercase(), value),
                None => env.vars.remove(&var.name.to_lowercase()),
            };
        }
        env
    }

    /// A variable by its name in lower case.
    pub(super) fn get(&self, name: &str) -> Raw {
        match self.vars.get(name) {
            Some(Ok(text)) if text.is_empty() => Raw::NotSet,
            Some(Ok(text)) => Raw::Set(text.clone(), Provenance::Environment),
            Some(Err(why)) => Raw::Unknown(why.clone()),
            None => match &self.rest {
                Some(why) => Raw::Unknown(why.clone()),
                None => Raw::NotSet,
            },
        }
    }

    /// Gaps about variables that matter here: `FELIX_*`, and what is missing altogether.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Gap> {
        let unresolved = self
            .vars
            .iter()
            .filter(|(name, _)| name.starts_with("felix_"))
            .filter_map(|(_, value)| value.as_ref().err());
        self.rest.iter().chain(unresolved).map(|why| Gap::new(ENVIRONMENT, why.as_str()))
    }
}

/// The value of one variable; none where an optional reference leads nowhere.
fn value_of<'a>(var: &EnvVar, pod: &PodFields<'_>, map: &impl Fn(&str) -> Option<&'a ConfigMap>) -> Option<Result<String, String>> {
    let Some(from) = &var.value_from else {
        return Some(Ok(var.value.clone().unwrap_or_default()));
    };
    if let Some(field) = &from.field_ref {
        return Some(match field.field_path.as_str() {
            "spec.nodeName" => Ok(pod.node.to_string()),
            "metadata.namespace" => Ok(pod.namespace.to_string()),
            // calico-node lives in the node's namespace, so its own address is the node's.
            "status.hostIP" | "status.podIP" if !pod.host_ip.is_empty() => Ok(pod.host_ip.to_string()),
            other => Err(format!("{} refers to field {other}, which is not resolved", var.name)),
        });
    }
    if let Some(key) = &from.config_map_key_ref {
        return match map(&key.name).map(|m| m.data.get(&key.key)) {
            Some(Some(value)) => Some(Ok(value.clone())),
            Some(None) if key.optional => None,
            Some(None) => Some(Err(format!(
                "{} refers to key {} of ConfigMap {}/{}, which has no such key",
                var.name, key.key, pod.namespace, key.name
            ))),
            None => Some(Err(format!(
                "{} refers to ConfigMap {}/{}, which was not read: give it with the other objects",
                var.name, pod.namespace, key.name
            ))),
        };
    }
    let what = from.secret_key_ref.as_ref().map_or("something unknown", |s| s.name.as_str());
    Some(Err(format!("{} comes from Secret {what}, and Secrets are not read", var.name)))
}

/// A parameter's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Raw {
    /// Nobody set it.
    NotSet,
    /// Set, by whom.
    Set(String, Provenance),
    /// It cannot be known, because of this.
    Unknown(String),
}

/// Everything that sets Felix's parameters on one node.
pub(super) struct Parameters<'a> {
    pub(super) environment: &'a Environment,
    pub(super) node: Option<&'a FelixConfiguration>,
    pub(super) default: Option<&'a FelixConfiguration>,
}

impl Parameters<'_> {
    /// Text of the parameter `key`, by its FelixConfiguration name, which Felix itself calls `param` in lower case where the two differ.
    pub(super) fn raw(&self, key: &str, param: Option<&str>) -> Raw {
        let name = format!("felix_{}", param.map_or_else(|| key.to_lowercase(), ToString::to_string));
        match self.environment.get(&name) {
            Raw::NotSet => {}
            set => return set,
        }
        let objects = [
            (self.node, Provenance::NodeConfiguration),
            (self.default, Provenance::DefaultConfiguration),
        ];
        for (object, from) in objects {
            if let Some(text) = object.and_then(|o| o.spec.get(key)).map(|s| &s.0)
                && !text.is_empty()
            {
                return Raw::Set(text.clone(), from);
            }
        }
        Raw::NotSet
    }

    /// The parameter as Felix reads it. `zero` is its value for `none`.
    pub(super) fn get<T>(&self, key: &str, param: Option<&str>, built_in: T, zero: T, parse: impl Fn(&str) -> Option<T>) -> Setting<T> {
        match self.raw(key, param) {
            Raw::NotSet => Setting::Known {
                value: built_in,
                from: Provenance::BuiltIn,
            },
            Raw::Set(text, from) if text.eq_ignore_ascii_case("none") => Setting::Known { value: zero, from },
            Raw::Set(text, from) => match parse(&text) {
                Some(value) => Setting::Known { value, from },
                None => Setting::Known {
                    value: built_in,
                    from: Provenance::BuiltIn,
                },
            },
            Raw::Unknown(why) => Setting::Unresolved {
                gap: Gap::new(ENVIRONMENT, why),
            },
        }
    }
}

/// A truth value as Felix reads it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "yes" | "y" | "t" => Some(true),
        "false" | "0" | "no" | "n" | "f" => Some(false),
        _ => None,
    }
}

/// Seconds: a number in the environment, a Go duration such as `1m30s` in an object.
pub(super) fn seconds(text: &str) -> Option<u32> {
    if let Ok(whole) = text.parse::<u32>() {
        return Some(whole);
    }
    let mut rest = text;
    let mut total_ms: u64 = 0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(unit_at);
        let unit_end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_ms: u64 = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let mut ms = whole.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        if !fraction.is_empty() {
            let digits = u32::try_from(fraction.len()).ok().filter(|d| *d <= 6)?;
            ms = ms.checked_add(fraction.parse::<u64>().ok()?.checked_mul(unit_ms)? / 10_u64.pow(digits))?;
        }
        total_ms = total_ms.checked_add(ms)?;
        rest = tail;
    }
    u32::try_from(total_ms.div_ceil(1000)).ok().filter(|_| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("1m30s", Some(90)),
            ("1.5m", Some(90)),
            ("0s", Some(0)),
            ("250ms", Some(1)),
            ("1h", Some(3600)),
            ("", None),
            ("s", None),
            ("90 s", None),
            ("10days", None),
        ] {
            assert_eq!(seconds(text), want, "{text:?}");
        }
    }
}
