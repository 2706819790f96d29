//! The golden snapshots of `verifier/tests/golden`: what the verifier saw of each fault of the catalogue on a real kernel.

use flate2::read::GzDecoder;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{LazyLock, OnceLock},
};
use verifier_core::{
    evidence::Evidence,
    names::NodeName,
    verdict::{ClusterReport, NodeReport, NodeSnapshot, Policy, judge_cluster, judge_node},
};

/// What `validate --snapshot-out` writes, as far as the judge reads it.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    pub policy: Policy,
    pub nodes: BTreeMap<NodeName, Evidence<NodeSnapshot>>,
}

/// Both steps of a judgement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub reports: BTreeMap<NodeName, Evidence<NodeReport>>,
    pub cluster: ClusterReport,
}

impl Cluster {
    pub fn judge(&self) -> Judged {
        let reports = self.nodes.iter().map(|(name, snapshot)| {
            let report = snapshot.clone().map(|snapshot| judge_node(&snapshot, &self.policy));
            (name.clone(), report)
        });
        let reports = reports.collect();
        let cluster = judge_cluster(&reports, &self.policy);
        Judged { reports, cluster }
    }
}

/// One of them: by the name of its fault, read when it is first asked for.
#[derive(Debug)]
pub struct Golden {
    pub name: String,
    path: PathBuf,
    cluster: OnceLock<Cluster>,
}

impl Golden {
    pub fn cluster(&self) -> &Cluster {
        self.cluster.get_or_init(|| {
            let snapshot = GzDecoder::new(fs::File::open(&self.path).unwrap());
            serde_json::from_reader(snapshot).unwrap_or_else(|error| panic!("{}: {error}", self.name))
        })
    }
}

/// All of them.
pub static ALL: LazyLock<Vec<Golden>> = LazyLock::new(|| {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut all: Vec<Golden> = fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".json.gz")?.to_owned();
            // One that is being made.
            (!name.starts_with("draft.")).then_some(Golden {
                name,
                path,
                cluster: OnceLock::new(),
            })
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!all.is_empty(), "no golden snapshot below {}", directory.display());
    all
});

/// The one of this name.
pub fn named(name: &str) -> Cluster {
    let golden = ALL.iter().find(|golden| golden.name == name);
    golden.unwrap_or_else(|| panic!("no golden snapshot {name}")).cluster().clone()
}
