//! A fabric whose nodes and pods are the cluster's: its agents know of it from the API alone, and judge it as they do from files.

use std::{path::PathBuf, time::Duration};

use verifier_core::verdict::CauseCode;
use verifier_tests::{
    apiserver::{ApiServer, mirror::Mirror, run_verifier},
    fabric::FabricSpec,
    faults::{self, Outcome},
    lab::{
        Files, Stage,
        agents::Intent,
        judge, program,
        report::Report,
        watch::{Watch, is_healthy},
    },
};

use crate::{
    STORED, eventually, serve, server,
    source::reader,
    support::{can_run, unique_prefix},
};

/// A cluster, a fabric in it, and agents that know of it from the API.
struct Scene {
    server: ApiServer,
    mirror: Mirror,
    stage: Stage,
    kubeconfig: PathBuf,
}

impl Scene {
    fn raise(test: &str) -> Option<Self> {
        if !can_run(test) {
            return None;
        }
        let server = server()?;
        program::path().unwrap();
        serve(&server, STORED);
        reader(&server);
        let prefix = unique_prefix();
        let files = Files::new(&format!("test-{prefix}")).unwrap();
        let spec = FabricSpec {
            prefix,
            ..FabricSpec::default()
        };
        let mut stage = Stage::raise(spec, files).unwrap();
        let mut mirror = Mirror::new(&server).unwrap().with_canaries();
        mirror.sync(&server, &stage.fabric().state()).unwrap();
        let kubeconfig = server.kubeconfig_of("default", "reader", server.port()).unwrap();
        stage.set_intent(Intent::Cluster {
            kubeconfig: kubeconfig.clone(),
            arguments: Vec::new(),
        });
        stage.start_agents().unwrap();
        Some(Self {
            server,
            mirror,
            stage,
            kubeconfig,
        })
    }

    fn validate(&self) -> (Option<i32>, Report) {
        let path = |path: PathBuf| path.to_str().unwrap().to_owned();
        let netns = path(self.stage.fabric().switch_netns().unwrap().path());
        let (key, kubeconfig) = (path(self.stage.files().key()), path(self.kubeconfig.clone()));
        let said = run_verifier(&[
            "validate",
            "--output",
            "json",
            "--kubeconfig",
            &kubeconfig,
            "--key-file",
            &key,
            "--netns",
            &netns,
        ])
        .unwrap();
        let report = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", said.stderr));
        (said.status, Report::read(report).unwrap())
    }

    /// Puts a fault in, brings the cluster up to it, and returns in what the report differs from what is right.
    fn with_fault(&mut self, name: &str, ask: impl Fn(&Self) -> Vec<String>) -> Vec<String> {
        let fault = faults::find(name).unwrap();
        assert!(matches!(fault.inject(self.stage.fabric()).unwrap(), Outcome::Injected(_)), "{name}");
        self.mirror.sync(&self.server, &self.stage.fabric().state()).unwrap();
        let found = ask(self);
        faults::undo(self.stage.fabric()).unwrap();
        self.mirror.sync(&self.server, &self.stage.fabric().state()).unwrap();
        found
    }

    fn strike(self) {
        let files = self.stage.files().clone();
        self.stage.strike().unwrap();
        files.remove().unwrap();
    }
}

#[test]
fn agents_judge_from_the_api_and_go_on_without_it() {
    let Some(mut scene) = Scene::raise("agents_judge_from_the_api_and_go_on_without_it") else {
        return;
    };
    let (status, report) = scene.validate();
    assert_eq!((report.complaints(), status), (Vec::new(), Some(0)));
    assert_eq!((report.nodes.len(), report.pods.len()), (3, 6));

    // In the kernel, in a pod, in the datastore: the same verdict as from files.
    for name in ["tunnel-device-deleted", "pod-route-missing", "duplicate-pod-ip"] {
        let differences = scene.with_fault(name, |scene| {
            let expected = faults::find(name).unwrap().expectation(scene.stage.fabric()).unwrap();
            let (status, report) = scene.validate();
            judge::differences(&expected, &report, status)
        });
        assert_eq!(differences, Vec::<String>::new(), "{name}");
    }

    // The API server dies. What the agents knew last stays in force, and each says how old it is.
    let watch = Watch::new(scene.stage.fabric(), scene.stage.files()).unwrap();
    let within = Duration::from_secs(30);
    assert!(eventually(within, || is_healthy(&watch.now())), "{:?}", watch.now());
    scene.server.kill_server().unwrap();
    let says_so = || {
        watch
            .reports()
            .values()
            .all(|report| format!("{report:?}").contains("stays in force"))
    };
    assert!(eventually(within, says_so), "{:?}", watch.reports());
    let fault = faults::find("tunnel-device-deleted").unwrap();
    assert!(matches!(fault.inject(scene.stage.fabric()).unwrap(), Outcome::Injected(_)));
    let blames = || {
        let report = watch.now();
        let node = report.nodes.iter().find(|node| node.name.as_str() == "node-b");
        node.is_some_and(|node| node.causes.iter().any(|cause| cause.code == CauseCode::TunnelDeviceMissing))
    };
    assert!(eventually(within, blames), "{:?}", watch.now());
    faults::undo(scene.stage.fabric()).unwrap();

    // It comes back, where it was.
    scene.server.start_server().unwrap();
    let again = || {
        is_healthy(&watch.now())
            && !watch
                .reports()
                .values()
                .any(|report| format!("{report:?}").contains("stays in force"))
    };
    assert!(eventually(Duration::from_secs(60), again), "{:?}", watch.reports());
    let (status, report) = scene.validate();
    assert_eq!((report.complaints(), status), (Vec::new(), Some(0)));
    scene.strike();
}
