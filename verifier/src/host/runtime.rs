//! The cgroup driver of the container runtime and of the kubelet, and the file that decides each.

use super::{
    root::{Gaps, Root, family},
    settings::unparsable,
};
use serde_json::Value;
use toml::Table;
use verifier_core::{evidence::Evidence, host::RuntimeFacts};

/// A driver, and the file that decides it.
type Driver = (String, String);

const CONTAINERD: &str = "etc/containerd/config.toml";
const KUBELET: &str = "var/lib/kubelet/config.yaml";
/// Files with flags, which outrank the configuration.
const KUBELET_FLAGS: &[&str] = &["var/lib/kubelet/kubeadm-flags.env", "etc/default/kubelet", "etc/sysconfig/kubelet"];

/// Both drivers.
pub fn runtime(root: &Root) -> Evidence<RuntimeFacts> {
    let mut gaps = Gaps::default();
    let (kubelet, endpoint) = kubelet(root, &mut gaps);
    let wants_crio = endpoint.as_deref().is_some_and(|endpoint| endpoint.contains("crio"));
    let wants_containerd = endpoint.as_deref().is_some_and(|endpoint| endpoint.contains("containerd"));
    let crio = (!wants_containerd).then(|| crio(root, &mut gaps)).flatten();
    let containerd = (!wants_crio).then(|| containerd(root, &mut gaps)).flatten();
    let mut facts = RuntimeFacts {
        kubelet_driver: kubelet,
        ..RuntimeFacts::default()
    };
    match (containerd, crio) {
        (Some((version, driver)), _) => {
            facts.name = Some("containerd".to_owned());
            facts.config_version = version;
            facts.cgroup_driver = driver;
        }
        (None, Some(driver)) => {
            facts.name = Some("crio".to_owned());
            facts.cgroup_driver = Some(driver);
        }
        (None, None) => {}
    }
    Evidence::partial(facts, gaps.0)
}

fn parsed(root: &Root, path: &str, gaps: &mut Gaps) -> Option<Table> {
    let text = gaps.note(root.text(path))?;
    match text.parse::<Table>() {
        Ok(table) => Some(table),
        Err(error) => {
            gaps.0.push(unparsable(path, error.message()));
            None
        }
    }
}

/// Where each version of containerd's configuration keeps runc's options.
fn runc_options(table: &Table) -> Option<&toml::Value> {
    let plugins = table.get("plugins")?;
    // Versions 3, 2 and 1.
    let cri = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];
    cri.iter()
        .find_map(|name| plugins.get(name)?.get("containerd")?.get("runtimes")?.get("runc")?.get("options"))
}

/// Version of the format, and the driver with its file. A file that cannot be parsed has a version of none and decides nothing.
fn containerd(root: &Root, gaps: &mut Gaps) -> Option<(Option<u32>, Option<Driver>)> {
    if !gaps.note(root.exists(CONTAINERD).map(Some))? {
        return None;
    }
    let Some(main) = parsed(root, CONTAINERD, gaps) else {
        return Some((None, None));
    };
    let version = main
        .get("version")
        .and_then(toml::Value::as_integer)
        .and_then(|v| u32::try_from(v).ok())
        .unwrap_or(1); // absent means 1
    let mut files: Vec<(String, Table)> = Vec::new();
    let imports: Vec<String> = main
        .get("imports")
        .and_then(toml::Value::as_array)
        .map(|all| all.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default();
    files.push((CONTAINERD.to_owned(), main));
    for import in imports {
        let relative = import.trim_start_matches('/').to_owned();
        let paths = match relative.strip_suffix("/*.toml") {
            Some(directory) => family(root, &[directory], ".toml", gaps),
            None => vec![relative],
        };
        for path in paths {
            if let Some(table) = parsed(root, &path, gaps) {
                files.push((path, table));
            }
        }
    }
    // The last file that says it counts.
    let mut driver = ("cgroupfs".to_owned(), "default".to_owned());
    for (path, table) in &files {
        let option = runc_options(table).and_then(|options| options.get("SystemdCgroup"));
        // Version 1 had a switch of its own before runc's options.
        let old = table
            .get("plugins")
            .and_then(|p| p.get("cri"))
            .and_then(|cri| cri.get("systemd_cgroup"));
        if let Some(on) = option.or(old).and_then(toml::Value::as_bool) {
            driver = (if on { "systemd" } else { "cgroupfs" }.to_owned(), format!("/{path}"));
        }
    }
    Some((Some(version), Some(driver)))
}

fn crio(root: &Root, gaps: &mut Gaps) -> Option<(String, String)> {
    let mut files = vec!["etc/crio/crio.conf".to_owned()];
    files.extend(family(
        root,
        &["etc/crio/crio.conf.d", "usr/share/containers/crio.conf.d"],
        "",
        gaps,
    ));
    let mut seen = false;
    let mut driver = ("systemd".to_owned(), "default".to_owned());
    for path in files {
        let Some(table) = parsed(root, &path, gaps) else { continue };
        seen = true;
        let manager = table
            .get("crio")
            .and_then(|crio| crio.get("runtime"))
            .and_then(|r| r.get("cgroup_manager"));
        if let Some(manager) = manager.and_then(toml::Value::as_str) {
            driver = (manager.to_owned(), format!("/{path}"));
        }
    }
    seen.then_some(driver)
}

/// The driver with its file, and the runtime's endpoint.
fn kubelet(root: &Root, gaps: &mut Gaps) -> (Option<(String, String)>, Option<String>) {
    let mut driver = None;
    let mut endpoint = None;
    if let Some(text) = gaps.note(root.text(KUBELET)) {
        match serde_yaml_ng::from_str::<Value>(&text) {
            Ok(value) => {
                let field = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
                let from = |set: bool| if set { format!("/{KUBELET}") } else { "default".to_owned() };
                let set = field("cgroupDriver");
                driver = Some((set.clone().unwrap_or_else(|| "cgroupfs".to_owned()), from(set.is_some())));
                endpoint = field("containerRuntimeEndpoint");
            }
            Err(error) => gaps.0.push(unparsable(KUBELET, error)),
        }
    }
    for path in KUBELET_FLAGS {
        let text = gaps.note(root.text(path)).unwrap_or_default();
        for word in text.split(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            if let Some(value) = word.strip_prefix("--cgroup-driver=") {
                driver = Some((value.to_owned(), format!("/{path}")));
            } else if let Some(value) = word.strip_prefix("--container-runtime-endpoint=") {
                endpoint = Some(value.to_owned());
            }
        }
    }
    (driver, endpoint)
}
