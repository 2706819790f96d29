//! `deploy/` applied to a cluster whose nodes and pods are a fabric's; agents and controllers with the arguments and under the accounts that
//! `deploy/` gives them.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Node, events::v1::Event};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use verifier::kubernetes::{
    KubeSource,
    crd::{CONDITION, NodeDataplane, NodeDataplaneStatus},
    kinds::Scope,
};
use verifier_core::evidence::Evidence;
use verifier_tests::{
    apiserver::{
        ApiServer, Said,
        apply::{Applier, documents},
        client_of,
        deploy::{self, Kubectl, NAMESPACE, Workload},
        mirror::Mirror,
        process::Daemon,
        rbac, run_verifier, verifier,
    },
    fabric::FabricSpec,
    faults::{self, Outcome},
    lab::{Files, Stage, agents::Intent, program},
    manifests,
};

use crate::{
    AGGREGATED, Followed, STORED, eventually, serve, server,
    support::{can_run, unique_prefix},
};

/// Longer than anything takes that is not made to take long.
pub(crate) const SOON: Duration = Duration::from_secs(45);
/// Rounds enough for something that is said in each to be said again.
pub(crate) const SOME_ROUNDS: Duration = Duration::from_secs(6);
/// Time between two judgements of a controller here; the deployment's 15 s would only be waited for.
const INTERVAL: &str = "--interval=1s";

/// A cluster with the verifier in it.
pub(crate) struct Installed {
    // Gone in this order: who asks before who answers.
    pub(crate) stage: Stage,
    pub(crate) mirror: Mirror,
    pub(crate) kubectl: Kubectl,
    pub(crate) server: ApiServer,
}

/// A controller that runs.
pub(crate) struct Controller {
    pub(crate) name: String,
    pub(crate) daemon: Daemon,
    port: u16,
}

impl Installed {
    /// A server with `deploy/base`, a key made by its Job's account, and a fabric; agents come later.
    pub(crate) fn raise(test: &str, nodes: usize) -> Option<Self> {
        if !can_run(test) {
            return None;
        }
        let server = server()?;
        let kubectl = Kubectl::find_or_skip(&server).unwrap()?;
        program::path().unwrap();
        serve(&server, STORED);
        let prefix = unique_prefix();
        let files = Files::new(&format!("test-{prefix}")).unwrap();
        let spec = FabricSpec {
            prefix,
            nodes,
            ..FabricSpec::default()
        };
        let stage = Stage::raise(spec, files).unwrap();
        let mut mirror = Mirror::new(&server).unwrap().with_canaries();
        mirror.sync(&server, &stage.fabric().state()).unwrap();
        felix_takes_from_config_maps(&server, &stage);
        kubectl.apply("base").unwrap();
        let mut this = Self {
            stage,
            mirror,
            kubectl,
            server,
        };
        this.make_key();
        this.mount_key();
        let agent = Workload::read(&this.server, "DaemonSet", "dataplane-verifier-agent").unwrap();
        assert_eq!(agent.arguments.first().map(String::as_str), Some("agent"));
        this.stage.set_intent(Intent::Cluster {
            kubeconfig: agent.kubeconfig(&this.server).unwrap(),
            arguments: agent.arguments[1..].to_vec(),
        });
        Some(this)
    }

    /// The key's Job, twice: a key that is there stays.
    fn make_key(&self) {
        let job = Workload::read(&self.server, "Job", "dataplane-verifier-keygen").unwrap();
        for said in ["made", "was there, and stays"] {
            let made = self.run(&job, &job.arguments);
            assert_eq!(made.status, Some(0), "{}", made.stderr);
            assert!(made.stderr.ends_with(&format!("{said}\n")), "{}", made.stderr);
        }
    }

    /// The kubelets bring the Secret to the agents.
    pub(crate) fn mount_key(&self) {
        deploy::mount_key(&self.server, &self.stage.files().key()).unwrap();
    }

    /// The kubelets bring the Secret to the controllers.
    pub(crate) fn mount_controllers_key(&self) {
        deploy::mount_key(&self.server, &self.controllers_key()).unwrap();
    }

    fn controllers_key(&self) -> PathBuf {
        self.server.directory().join("controllers-key")
    }

    /// Runs the program in the name of a workload's account.
    pub(crate) fn run(&self, workload: &Workload, arguments: &[String]) -> Said {
        let kubeconfig = format!("--kubeconfig={}", workload.kubeconfig(&self.server).unwrap().display());
        let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        words.push(&kubeconfig);
        run_verifier(&words).unwrap()
    }

    /// Runs the program in the name of who may do everything.
    pub(crate) fn run_as_admin(&self, arguments: &[&str]) -> Said {
        let kubeconfig = format!("--kubeconfig={}", self.server.admin_kubeconfig().display());
        run_verifier(&[arguments, &[&kubeconfig]].concat()).unwrap()
    }

    /// Where the agents are asked from, and with which key.
    pub(crate) fn asking(&self) -> [String; 2] {
        let netns = self.stage.fabric().switch_netns().unwrap();
        [
            format!("--netns={}", netns.path().display()),
            format!("--key-file={}", self.stage.files().key().display()),
        ]
    }

    /// Starts a controller of this name, as the Deployment in the cluster says now.
    pub(crate) fn controller(&self, name: &str) -> Controller {
        let workload = Workload::read(&self.server, "Deployment", "dataplane-verifier-controller").unwrap();
        self.mount_controllers_key();
        // Free at this moment; held until all is ready to start.
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = held.local_addr().unwrap().port();
        let mut command = verifier().unwrap();
        let [netns, _] = self.asking();
        command
            .args(&workload.arguments)
            .arg(format!("--kubeconfig={}", workload.kubeconfig(&self.server).unwrap().display()))
            .arg(format!("--key-file={}", self.controllers_key().display()))
            .arg(netns)
            .args(["--identity", name, INTERVAL, "--log=info"])
            .arg(format!("--listen=127.0.0.1:{port}"));
        drop(held);
        Controller {
            name: name.to_owned(),
            daemon: Daemon::spawn(command, self.server.directory(), name).unwrap(),
            port,
        }
    }

    /// What stands there of each node.
    pub(crate) fn objects(&self) -> BTreeMap<String, NodeDataplaneStatus> {
        let api: Api<NodeDataplane> = Api::all(self.server.admin().clone());
        let list = self.server.block_on(api.list(&ListParams::default())).unwrap();
        let of = |object: NodeDataplane| Some((object.metadata.name?, object.status.unwrap_or_default()));
        list.items.into_iter().filter_map(of).collect()
    }

    /// What a node's object says: forwarding, cause, who wrote it.
    pub(crate) fn says(&self, node: &str) -> (String, String, String) {
        let status = self.objects().remove(node).unwrap_or_default();
        (status.forwarding, status.cause, status.written_by)
    }

    /// A node's condition: status and reason; empty if it has none.
    pub(crate) fn condition(&self, node: &str) -> (String, String) {
        let conditions = self.node(node).status.and_then(|status| status.conditions).unwrap_or_default();
        let found = conditions.into_iter().find(|condition| condition.type_ == CONDITION);
        found.map_or_else(Default::default, |found| (found.status, found.reason.unwrap_or_default()))
    }

    pub(crate) fn node(&self, node: &str) -> Node {
        let api: Api<Node> = Api::all(self.server.admin().clone());
        self.server.block_on(api.get(node)).unwrap()
    }

    /// A merge patch to a Node, by who may do everything.
    pub(crate) fn patch_node(&self, node: &str, change: &serde_json::Value) {
        let api: Api<Node> = Api::all(self.server.admin().clone());
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(change));
        self.server.block_on(api.patch(node, &parameters, &patch)).unwrap();
    }

    /// Events about a node, in the order in which they were made: type, reason, and which program speaks.
    pub(crate) fn events(&self, node: &str) -> Vec<(String, String, String)> {
        let api: Api<Event> = Api::namespaced(self.server.admin().clone(), "default");
        let list = self.server.block_on(api.list(&ListParams::default())).unwrap();
        let mut of: Vec<Event> = list.items.into_iter().filter(|event| regards(event, node)).collect();
        of.sort_by_key(|event| event.event_time.as_ref().map(|time| time.0));
        let said = of.into_iter().map(|event| {
            let speaker = event.reporting_controller.unwrap_or_default();
            let speaker = speaker.rsplit('/').next().unwrap_or_default().to_owned();
            (event.type_.unwrap_or_default(), event.reason.unwrap_or_default(), speaker)
        });
        said.collect()
    }

    /// Who leads, and how often that changed.
    pub(crate) fn leader(&self) -> (String, i32) {
        let api: Api<Lease> = Api::namespaced(self.server.admin().clone(), NAMESPACE);
        let found = self.server.block_on(api.get_opt("dataplane-verifier-controller")).unwrap();
        let spec = found.and_then(|lease| lease.spec).unwrap_or_default();
        (spec.holder_identity.unwrap_or_default(), spec.lease_transitions.unwrap_or_default())
    }

    /// Waits for something, and says otherwise how things stand.
    pub(crate) fn wait(&self, what: &str, within: Duration, is_true: impl Fn(&Self) -> bool) {
        if eventually(within, || is_true(self)) {
            return;
        }
        let objects = self.objects();
        let nodes = self.stage.fabric().nodes().iter();
        let stand: Vec<_> = nodes
            .map(|node| (&node.name, self.condition(&node.name), self.events(&node.name)))
            .collect();
        panic!("{what}: not within {within:?}; objects {objects:#?}; conditions and events {stand:#?}");
    }

    /// Waits until nodes forward, by object and by condition.
    pub(crate) fn wait_forwarding(&self, nodes: &[&str], within: Duration) {
        let good = |this: &Self, node: &str| this.says(node).0 == "True" && this.condition(node).0 == "True";
        self.wait(&format!("{nodes:?} forward"), within, |this| {
            nodes.iter().all(|node| good(this, node))
        });
    }

    /// Puts a fault of the catalogue in.
    pub(crate) fn inject(&mut self, name: &str) {
        let fault = faults::find(name).unwrap();
        assert!(matches!(fault.inject(self.stage.fabric()).unwrap(), Outcome::Injected(_)), "{name}");
        self.sync();
    }

    /// Takes it out.
    pub(crate) fn undo(&mut self) {
        faults::undo(self.stage.fabric()).unwrap();
        self.sync();
    }

    /// Brings the cluster up to what the fabric is.
    pub(crate) fn sync(&mut self) {
        self.mirror.sync(&self.server, &self.stage.fabric().state()).unwrap();
    }

    /// That an account was refused nothing, and used everything that it was granted.
    pub(crate) fn assert_permissions(&self, account: &str) {
        let differences = rbac::differences(&self.server, NAMESPACE, account).unwrap();
        assert_eq!(differences, Vec::<String>::new(), "{account}");
    }

    /// The cluster serves Calico's API group from now on, and no longer the form in which it stores.
    pub(crate) fn serve_the_other_group(&self) {
        for name in STORED.lines().filter_map(|line| line.trim().strip_prefix("name: ")) {
            if name.ends_with(".crd.projectcalico.org") {
                self.kubectl.run(&["delete", "crd", name, "--wait=false"]).unwrap();
            }
        }
        serve(&self.server, AGGREGATED);
    }

    /// Lists and watches all that there is to read, in the name of a workload's account.
    pub(crate) fn read_all(&self, kind: &str, name: &str, scope: Scope) {
        let workload = Workload::read(&self.server, kind, name).unwrap();
        let kubeconfig = std::fs::read_to_string(workload.kubeconfig(&self.server).unwrap()).unwrap();
        let client = self.server.block_on(client_of(&kubeconfig)).unwrap();
        let handle = self.server.handle();
        let mut followed = Followed::new(&handle, KubeSource::new(client, scope));
        followed.wait_for("all that there is to read", Evidence::is_complete);
        // Its watches begin after its lists, and the log is behind them both. What is then still missing is said by who asserts it.
        let account = workload.account;
        let all_used = || rbac::differences(&self.server, NAMESPACE, &account).unwrap().is_empty();
        eventually(SOME_ROUNDS, all_used);
    }

    pub(crate) fn strike(self) {
        let files = self.stage.files().clone();
        self.stage.strike().unwrap();
        files.remove().unwrap();
    }
}

impl Controller {
    /// A sample of its metrics; none if it does not serve, or has no such sample.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let text = get(self.port, "/metrics")?;
        let line = text
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))?;
        line.rsplit(' ').next()?.parse().ok()
    }
}

/// calico-node's DaemonSet as its own manifests have it: settings from ConfigMaps, by key and as a whole.
fn felix_takes_from_config_maps(server: &ApiServer, stage: &Stage) {
    let applier = Applier::new(server.admin().clone());
    let apply = |object: serde_json::Value| server.block_on(applier.apply(&object)).unwrap();
    for (name, data) in [
        ("calico-config", json!({ "veth_mtu": "0" })),
        ("kubernetes-services-endpoint", json!({ "KUBERNETES_SERVICE_HOST": "172.18.0.1" })),
    ] {
        apply(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "kube-system" }, "data": data,
        }));
    }
    let from = json!({ "configMapKeyRef": { "key": "veth_mtu", "name": "calico-config" } });
    let whole = json!([ { "configMapRef": { "name": "kubernetes-services-endpoint", "optional": true } } ]);
    let state = stage.fabric().state();
    let all = manifests::render(&state).unwrap().into_iter();
    let mut all = all.flat_map(|(_, text)| documents(&text).unwrap());
    let mut set = all.find(|object| object["kind"] == "DaemonSet").unwrap();
    let container = &mut set["spec"]["template"]["spec"]["containers"][0];
    container["envFrom"] = whole;
    let variable = json!({ "name": "FELIX_VXLANMTU", "valueFrom": from });
    container["env"].as_array_mut().unwrap().push(variable);
    apply(set);
}

fn regards(event: &Event, node: &str) -> bool {
    let regarding = event.regarding.as_ref();
    regarding.is_some_and(|object| object.kind.as_deref() == Some("Node") && object.name.as_deref() == Some(node))
}

/// The body of an answer over HTTP, on loopback.
fn get(port: u16, path: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let address = (Ipv4Addr::LOCALHOST, port).into();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}
