//! The golden snapshots of `verifier/tests/golden`: what the verifier saw of each fault of the catalogue on a real kernel.

use flate2::read::GzDecoder;
use serde::Deserialize;
use std::{collections::BTreeMap, fs, path::PathBuf, sync::LazyLock};
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

/// All of them, by the name of the fault.
pub static ALL: LazyLock<Vec<(String, Cluster)>> = LazyLock::new(|| {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let mut all: Vec<(String, Cluster)> = fs::read_dir(&directory)
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name()?.to_str()?.strip_suffix(".json.gz")?.to_owned();
            // One that is being made.
            if name.starts_with("draft.") {
                return None;
            }
            let snapshot = GzDecoder::new(fs::File::open(&path).unwrap());
            Some((name, serde_json::from_reader(snapshot).unwrap()))
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!all.is_empty(), "no golden snapshot below {}", directory.display());
    all
});
