//! What `deploy/` holds: the definition is what the program prints, every command line in it is one that the program takes, and nothing in it
//! may do more than it must. With `kubectl` on this machine also: every overlay renders.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use clap::Parser as _;
use serde_yaml_ng::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use verifier::{cli::Cli, kubernetes::crd};

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Every file below a directory that ends in `.yaml`, kustomizations left out.
fn manifests(directory: &Path, found: &mut Vec<(PathBuf, Value)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            manifests(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "yaml") && !path.ends_with("kustomization.yaml") {
            documents(&path, &fs::read_to_string(&path).unwrap(), found);
        }
    }
}

fn documents(path: &Path, text: &str, found: &mut Vec<(PathBuf, Value)>) {
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value: Value = serde::Deserialize::deserialize(document).unwrap();
        found.push((path.to_owned(), value));
    }
}

fn all() -> Vec<(PathBuf, Value)> {
    let mut found = Vec::new();
    manifests(&deploy(), &mut found);
    assert!(found.len() > 30, "{}", found.len());
    found
}

fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| match key.parse::<usize>() {
        Ok(index) => &value[index],
        Err(_) => &value[key],
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or("").to_owned()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_sequence().cloned().unwrap_or_else(Vec::new)
}

/// Pod templates of all workloads, with a name for messages.
fn templates(objects: &[(PathBuf, Value)]) -> Vec<(String, Value)> {
    let of = |object: &Value| {
        let path = match text(at(object, "kind")).as_str() {
            "DaemonSet" | "Deployment" | "Job" => "spec.template",
            "CronJob" => "spec.jobTemplate.spec.template",
            _ => return None,
        };
        Some((text(at(object, "metadata.name")), at(object, path).clone()))
    };
    objects.iter().filter_map(|(_, object)| of(object)).collect()
}

#[test]
fn the_definition_is_what_the_program_prints() {
    let path = deploy().join("base/crd.yaml");
    let printed = crd::yaml().unwrap();
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &printed).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap() == printed,
        "the type changed: run this test with UPDATE_SNAPSHOTS=1, or `verifier crd > deploy/base/crd.yaml`"
    );
}

#[test]
fn every_command_line_is_one_that_the_program_takes() {
    for (name, template) in templates(&all()) {
        for container in list(at(&template, "spec.containers")) {
            let arguments = list(&container["args"]);
            let words = std::iter::once("verifier".to_owned()).chain(arguments.iter().map(text));
            // The kubelet puts the variable in.
            let words = words.map(|word| word.replace("$(NODE_NAME)", "node-a"));
            // The agent has its node's name from the environment.
            let node = text(&arguments[0]) == "agent";
            let words: Vec<String> = words.chain(node.then(|| "--node=node-a".to_owned())).collect();
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {words:?}: {error}");
            }
        }
    }
}

#[test]
fn nothing_may_do_more_than_it_must() {
    for (name, template) in templates(&all()) {
        let spec = &template["spec"];
        assert_eq!(text(at(spec, "securityContext.seccompProfile.type")), "RuntimeDefault", "{name}");
        assert!(!text(&spec["serviceAccountName"]).is_empty(), "{name}");
        for container in list(&spec["containers"]) {
            let context = &container["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"].as_bool(), Some(false), "{name}");
            assert_eq!(context["readOnlyRootFilesystem"].as_bool(), Some(true), "{name}");
            assert!(context["privileged"].is_null(), "{name}");
            assert_eq!(
                list(&context["capabilities"]["drop"]).iter().map(text).collect::<Vec<_>>(),
                ["ALL"],
                "{name}"
            );
            let added = list(&context["capabilities"]["add"]);
            let needs = matches!(name.as_str(), "dataplane-verifier-agent" | "dataplane-verifier-recovery");
            assert_eq!(!added.is_empty(), needs, "{name}");
            // Whoever has no capabilities is nobody in particular.
            assert_eq!(
                at(spec, "securityContext.runAsNonRoot").as_bool(),
                (!needs).then_some(true),
                "{name}"
            );
            assert!(!container["resources"]["limits"]["memory"].is_null(), "{name}");
        }
    }
}

#[test]
fn every_account_is_named_and_no_role_has_a_wildcard() {
    let objects = all();
    let of_kind = |kind: &str| -> Vec<&Value> {
        objects
            .iter()
            .map(|(_, object)| object)
            .filter(|o| text(&o["kind"]) == kind)
            .collect()
    };
    let names = |kind: &str| -> Vec<String> { of_kind(kind).iter().map(|o| text(at(o, "metadata.name"))).collect() };
    let accounts = names("ServiceAccount");
    for (name, template) in templates(&objects) {
        let account = text(at(&template, "spec.serviceAccountName"));
        assert!(accounts.contains(&account), "{name} runs as {account}, which nobody makes");
    }
    for role in of_kind("Role").into_iter().chain(of_kind("ClusterRole")) {
        for rule in list(&role["rules"]) {
            for field in ["apiGroups", "resources", "verbs"] {
                let words = list(&rule[field]);
                assert!(!words.is_empty() && words.iter().all(|word| text(word) != "*"), "{role:?}");
            }
            // Nobody reads Secrets.
            let secrets = list(&rule["resources"]).iter().any(|resource| text(resource) == "secrets");
            let reads = list(&rule["verbs"]).iter().any(|verb| text(verb) != "create");
            assert!(!(secrets && reads), "{role:?}");
        }
    }
    let roles: Vec<String> = names("Role").into_iter().chain(names("ClusterRole")).collect();
    for binding in of_kind("RoleBinding").into_iter().chain(of_kind("ClusterRoleBinding")) {
        let role = text(at(binding, "roleRef.name"));
        assert!(roles.contains(&role), "{role} is bound and not there");
        for subject in list(&binding["subjects"]) {
            assert!(accounts.contains(&text(&subject["name"])), "{subject:?}");
        }
    }
}

#[test]
fn the_capabilities_are_those_that_preflight_knows() {
    let objects = all();
    let (_, agent) = templates(&objects)
        .into_iter()
        .find(|(name, _)| name == "dataplane-verifier-agent")
        .unwrap();
    let container = list(at(&agent, "spec.containers")).remove(0);
    let mut added: Vec<String> = list(&container["securityContext"]["capabilities"]["add"])
        .iter()
        .map(|capability| format!("CAP_{}", text(capability)))
        .collect();
    added.sort();
    let netns = verifier::programmed::netns::Netns::current().unwrap();
    let checks = verifier::preflight::run(&netns);
    let mut known: Vec<String> = checks
        .iter()
        .filter(|check| check.name.starts_with("CAP_"))
        .map(|check| check.name.to_owned())
        .collect();
    known.sort();
    assert_eq!(added, known);
}

#[test]
fn every_overlay_renders() {
    let rendered = |directory: &str| Command::new("kubectl").arg("kustomize").arg(deploy().join(directory)).output();
    let overlays = fs::read_dir(deploy().join("overlays")).unwrap();
    let mut directories: Vec<String> = overlays
        .map(|entry| format!("overlays/{}", entry.unwrap().file_name().to_string_lossy()))
        .collect();
    directories.push("base".to_owned());
    for directory in directories {
        let output = match rendered(&directory) {
            Ok(output) => output,
            Err(error) => {
                println!("skipped: kubectl cannot be run ({error}): deploy/ was not rendered");
                return;
            }
        };
        assert!(output.status.success(), "{directory}: {}", String::from_utf8_lossy(&output.stderr));
        let mut objects = Vec::new();
        documents(Path::new(&directory), &String::from_utf8(output.stdout).unwrap(), &mut objects);
        for (name, template) in templates(&objects) {
            for container in list(at(&template, "spec.containers")) {
                let image = text(&container["image"]);
                assert!(image.contains(':'), "{directory}: {name} has an image without a tag: {image}");
            }
        }
        if directory.ends_with("host-account") {
            let (_, agent) = templates(&objects).into_iter().find(|(name, _)| name.ends_with("-agent")).unwrap();
            let container = at(&agent, "spec.containers.0");
            assert!(
                list(&container["args"])
                    .iter()
                    .any(|argument| text(argument) == "--host-root=/host")
            );
            let mount = list(&container["volumeMounts"])
                .into_iter()
                .find(|mount| text(&mount["mountPath"]) == "/host")
                .unwrap();
            assert_eq!(mount["readOnly"].as_bool(), Some(true));
            // What is mounted on the host later must show: /etc/cni/net.d, /run/calico.
            assert_eq!(text(&mount["mountPropagation"]), "HostToContainer");
            let volumes = list(at(&agent, "spec.volumes"));
            let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
            assert_eq!(text(at(volume, "hostPath.path")), "/");
        }
        if directory.ends_with("no-ebpf") {
            let (_, agent) = templates(&objects).into_iter().find(|(name, _)| name.ends_with("-agent")).unwrap();
            let context = at(&agent, "spec.containers.0.securityContext.capabilities.add").clone();
            assert!(
                list(&context)
                    .iter()
                    .all(|capability| !["BPF", "PERFMON", "SYSLOG"].contains(&text(capability).as_str()))
            );
        }
    }
}
