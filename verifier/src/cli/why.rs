//! Arguments of the commands that say why: the machine, logs, the runbook, node against node, what is taken along.

use super::{AGENT_PORT_DEFAULT, IntentArgs, KubernetesArgs, PeerArgs, PlainOutput, parse_duration};
use clap::{Args, ValueHint};
use std::{path::PathBuf, time::Duration};

/// Arguments of `host`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier host
  verifier host --root /host --node node-a --intent manifests
  verifier host --root /mnt/image --output json

Exit status: 0 nothing is wrong, 1 something is, 3 something could not be read.")]
pub struct Host {
    /// Where the host's file system is
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, default_value = "/", env = "VERIFIER_HOST_ROOT")]
    pub root: PathBuf,
    /// Manifests of the cluster, as `validate` takes them: for its encapsulation and settings. Without them VXLAN and iptables are assumed
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "VERIFIER_INTENT", requires = "node")]
    pub intent: Option<PathBuf>,
    /// Name of this host's Node
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: Option<String>,
    /// Version of Calico, if no manifests tell
    #[arg(long, value_name = "X.Y.Z")]
    pub calico_version: Option<String>,
    /// Version of Kubernetes, for the table of versions
    #[arg(long, value_name = "X.Y")]
    pub kubernetes_version: Option<String>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl logs -n calico-system calico-node-x | verifier logs -
  verifier logs /var/log/calico/cni/cni.log /var/log/syslog.1.gz
  verifier logs calico-system/calico-node-x
  journalctl -u kubelet -u containerd --since -1h | verifier logs - --output json

Exit status: 0 no line tells of a fault, 1 some do, 3 errors that nobody knows, or a log that could not be read whole.")]
pub struct Logs {
    /// Files; `-` is standard input; `NAMESPACE/POD` where there is no such file: all its containers through the API, those before them too
    #[arg(value_name = "FILE|POD", value_hint = ValueHint::FilePath, required = true)]
    pub files: Vec<PathBuf>,
    /// Of pods only this container (repeat for several)
    #[arg(long = "container", short = 'c', value_name = "NAME")]
    pub containers: Vec<String>,
    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Also list what means nothing, and why
    #[arg(long)]
    pub benign: bool,
    /// Read only this much of the end of each file, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=65536))]
    pub last_mib: u64,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier compare node-a node-b --key-file key
  verifier compare --majority --intent manifests --key-file key
  verifier compare --majority --snapshot now.json

Exit status: 0 no difference, 1 some, 3 something could not be compared.")]
pub struct Compare {
    /// Two nodes: a healthy one, and the one in question
    #[arg(
        value_name = "NODE",
        num_args = 2,
        required_unless_present = "majority",
        conflicts_with = "majority"
    )]
    pub nodes: Vec<String>,
    /// All nodes: who differs from most
    #[arg(long)]
    pub majority: bool,
    /// Snapshot written by `validate --snapshot-out`, or an archive of `gather` (repeat for several). Without one the agents are asked
    #[arg(long = "snapshot", value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "key_file")]
    pub snapshots: Vec<PathBuf>,
    /// Where intent comes from, if the agents are asked.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// Key file shared with the agents
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = "VERIFIER_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Network namespace from which to reach the agents, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Port the agents serve on
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT_DEFAULT, env = "VERIFIER_AGENT_PORT")]
    pub agent_port: u16,
    /// How long to wait for all agents
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `triage`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier triage
  verifier triage --key-file key --output json
  kubectl get nodes,pods,events,daemonsets,deployments,endpointslices,leases -A -o json > manifests/core.json
  verifier triage --intent manifests

Exit status: 0 nothing is wrong, 1 a branch applies or something else is wrong, 3 something could not be read.")]
pub struct Triage {
    /// Where the cluster is described.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// Key file shared with the agents: with it they are asked too
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = "VERIFIER_KEY_FILE")]
    pub key_file: Option<PathBuf>,
    /// Network namespace from which to reach the agents, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Port the agents serve on
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT_DEFAULT, env = "VERIFIER_AGENT_PORT")]
    pub agent_port: u16,
    /// How long to wait for all agents
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What changed within this time is listed
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    pub since: Duration,
    /// When the files were written, if not now: ages are counted from there
    #[arg(long, value_name = "RFC3339", requires = "intent")]
    pub at: Option<String>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `gather`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier gather --key-file key --node node-b --out node-b.tar.gz
  verifier gather --intent manifests --key-file key --node node-b --host-root / --log-file /var/log/calico/cni/cni.log
  verifier replay case.tar.gz

The archive has the snapshot (which `replay` judges again), the report, the journal, the host account, the logs that were named;
from the API what triage reads and says, a description of each node and its calico-node with their events, and the logs of all
containers of calico-node, those before a restart too; and a manifest of what is in it and what could not be had. Secrets do not
get in: the types of what is typed cannot hold them, and what is text goes through a filter.

Exit status: 0 all of it was had, 3 something was not; the manifest says what.")]
pub struct Gather {
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// How to reach the agents.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// Only this node, as source and as target (repeat for several)
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// The archive to write
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, default_value = "verifier-gather.tar.gz")]
    pub out: PathBuf,
    /// Also read the account of the host this runs on, below this directory
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, env = "VERIFIER_HOST_ROOT")]
    pub host_root: Option<PathBuf>,
    /// A log to take along, filtered (repeat for several)
    #[arg(long = "log-file", value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub logs: Vec<PathBuf>,
    /// How much goes in at most, before it is compressed, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub max_mib: u64,
    /// How long to wait for all agents
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}
