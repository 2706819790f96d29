//! The command line as it is written. No I/O here: `config.rs` resolves it.

mod cluster;
mod why;

pub use cluster::{Canary, Controller, RecoveryArgs, RecreateArgs, ResultArgs, SecretArgs, Status};
pub use why::{Compare, Gather, Host, Logs, Triage};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::{path::PathBuf, time::Duration};

/// Port the agents serve on, unless told otherwise.
pub const AGENT_PORT_DEFAULT: u16 = 9799;

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (kernel object ", env!("VERIFIER_EBPF_HASH"), ")");

const EXIT_STATUS: &str = "\
Exit status:
  0   all verified and forwarding
  1   something is degraded, not forwarding, or a pod is stale
  3   could not verify
  64  wrong use: an argument, a manifest, a key file
  70  internal fault
1 wins over 3. The report goes to stdout and nothing else does; logs and progress go to stderr.";

/// Does this node really forward pod traffic, and if not, where, why and what now?
#[derive(Debug, Parser)]
#[command(name = "verifier", version = VERSION, after_help = EXIT_STATUS, subcommand_required = true, arg_required_else_help = false)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// What to log to stderr, as `tracing` filters it: `info`, `warn,verifier::probe=debug`
    #[arg(long, global = true, value_name = "FILTER", env = "VERIFIER_LOG", help_heading = "Output")]
    pub log: Option<String>,
    /// How to write log lines
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, help_heading = "Output")]
    pub log_format: LogFormat,
    /// When to use colour on a terminal; `NO_COLOR` in the environment means never
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = "Output")]
    pub color: Color,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Test every node against every other through the agents, and judge
    Validate(Validate),
    /// List the pods with what their networks are worth, and make stale ones anew on request
    Pods(Pods),
    /// Judge a snapshot again: same snapshot, same bytes
    Replay(Replay),
    /// Follow one probe from SRC to DST, hop by hop
    Trace(Trace),
    /// Compare intent with what one node's kernel was told; sends nothing
    Inspect(Inspect),
    /// Look at the machine under a node: kernel, modules, sysctls, CNI, runtime, network daemons; reads files only
    Host(Host),
    /// Say what lines of logs mean, which alarming ones mean nothing, and list unknown errors
    Logs(Logs),
    /// Say in what two nodes of a snapshot differ, or one from most, the likeliest to matter first
    Compare(Compare),
    /// Say which branch of the runbook applies, what the affected nodes have in common, and what comes next; runs none of it
    Triage(Triage),
    /// Collect all that a verdict is made from, and more, into one archive for somebody else
    Gather(Gather),
    /// Run the agent of one node
    Agent(Agent),
    /// Judge the cluster from all agents' verdicts, and write what concerns a node that cannot speak for itself
    Controller(Controller),
    /// Show the verdicts that stand in the cluster's API
    Status(Status),
    /// Hold a pod's network open, so that there is somebody to probe
    Canary(Canary),
    /// Say all that is known of a cause, or list the causes
    Explain(Explain),
    /// List what this machine lacks, what that disables, and how to get it
    Preflight(Preflight),
    /// Make the key that agents, controller and `validate` share, as a file or as a Secret
    Keygen(Keygen),
    /// Print the CustomResourceDefinition of NodeDataplane, the object that holds a node's verdict
    #[command(after_help = "Example:\n  verifier crd | kubectl apply --server-side -f -")]
    Crd,
    /// Print shell completions
    Completions(Completions),
}

/// Where intent comes from: files where they are named, else the cluster's API.
#[derive(Debug, Args)]
pub struct IntentArgs {
    /// Directory with what `kubectl get … -o json|yaml` printed: nodes, pods and Calico's objects. Without it the API server is asked
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, env = "VERIFIER_INTENT", help_heading = "Intent")]
    pub intent: Option<PathBuf>,
    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Args)]
pub struct KubernetesArgs {
    /// Kubeconfig; by default $KUBECONFIG, ~/.kube/config, or the service account of the pod this runs in
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Intent")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, if not its current one
    #[arg(long, value_name = "NAME", help_heading = "Intent")]
    pub context: Option<String>,
}

/// How to reach the agents.
#[derive(Debug, Args)]
pub struct PeerArgs {
    /// Key file shared with the agents (see `verifier keygen`)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = "VERIFIER_KEY_FILE")]
    pub key_file: PathBuf,
    /// Network namespace from which to reach the agents, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Port the agents serve on
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT_DEFAULT, env = "VERIFIER_AGENT_PORT")]
    pub agent_port: u16,
}

/// Arguments of `validate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl get nodes,pods -A -o json > manifests/core.json
  verifier validate --intent manifests --key-file key
  verifier validate --intent manifests --key-file key --node node-a --node node-b
  verifier validate --intent manifests --key-file key --output json --snapshot-out bug.json
  verifier validate --key-file key --node node-b --wait-for-running 10m --uncordon")]
pub struct Validate {
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// How to reach the agents.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// Only this node, as source and as target (repeat for several)
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// How long to wait for all agents
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Also write what was judged, for `verifier replay` or a bug report (`.gz` compresses)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub snapshot_out: Option<PathBuf>,
    /// Also write a JUnit report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub junit_file: Option<PathBuf>,
    /// Also write the JSON report
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub json_file: Option<PathBuf>,
    /// What else is done in a recovery.
    #[command(flatten)]
    pub recovery: RecoveryArgs,
}

/// Arguments of `pods`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier pods --intent manifests --key-file key
  verifier pods --stale --node node-b -o wide --intent manifests --key-file key
  verifier pods --recreate --key-file key          what would be done
  verifier pods --recreate --yes --key-file key    and done")]
pub struct Pods {
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// How to reach the agents.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// Only pods that run without a network
    #[arg(long)]
    pub stale: bool,
    /// Only pods of this node (repeat for several)
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// How long to wait for all agents
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PodsOutput::Text)]
    pub output: PodsOutput,
    /// How stale pods are made anew.
    #[command(flatten)]
    pub recreate: RecreateArgs,
}

/// Arguments of `replay`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier replay bug.json --output json")]
pub struct Replay {
    /// Snapshot written by `validate --snapshot-out`
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier trace default/web-1 default/db-0 --intent manifests --key-file key
  verifier trace 192.168.1.4 192.168.9.1 --count 100 --transport icmp --intent manifests --key-file key")]
pub struct Trace {
    /// From: a pod (`NAMESPACE/NAME`) or its address
    #[arg(value_name = "SRC")]
    pub src: String,
    /// To: a pod (`NAMESPACE/NAME`) or its address
    #[arg(value_name = "DST")]
    pub dst: String,
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// How to reach the agents.
    #[command(flatten)]
    pub peers: PeerArgs,
    /// How many probes to send; more than one prints minimum, median and p99 of each hop
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// Transport of the probe
    #[arg(long, value_enum, default_value_t = TraceTransport::Udp)]
    pub transport: TraceTransport,
    /// Between the IPv6 addresses of ends that are named, where they have addresses of both families
    #[arg(long)]
    pub ipv6: bool,
    /// Length of the inner IP packet in bytes; as small as it gets unless told
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=65535))]
    pub size: Option<u32>,
    /// How long to wait
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier inspect --node node-a --intent manifests")]
pub struct Inspect {
    /// The node to look at
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: String,
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// The node's network namespace, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Also read the host account below this directory: `/`, or where the host's file system is mounted
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, env = "VERIFIER_HOST_ROOT")]
    pub host_root: Option<PathBuf>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Also write what was judged, for `verifier replay` or a bug report (`.gz` compresses)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub snapshot_out: Option<PathBuf>,
}

/// Arguments of `agent`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier agent --node node-a --intent /etc/verifier/manifests --key-file /etc/verifier/key --log info")]
pub struct Agent {
    /// The node it runs on, as its Node object is named
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node: String,
    /// Where intent comes from.
    #[command(flatten)]
    pub intent: IntentArgs,
    /// Key file shared with the other agents (see `verifier keygen`)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = "VERIFIER_KEY_FILE")]
    pub key_file: PathBuf,
    /// The node's network namespace, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Port to serve on, at the node's address
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT_DEFAULT, env = "VERIFIER_AGENT_PORT")]
    pub listen_port: u16,
    /// Time between two rounds of continuous probes
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub probe_interval: Duration,
    /// What is written into the cluster's API.
    #[command(flatten)]
    pub results: ResultArgs,
    /// Load no kernel programs: where a packet is lost is then not known, nor why
    #[arg(long)]
    pub no_ebpf: bool,
    /// Also read the host account below this directory, where the host's file system is mounted read-only
    #[arg(long, value_name = "PATH", value_hint = ValueHint::DirPath, env = "VERIFIER_HOST_ROOT")]
    pub host_root: Option<PathBuf>,
    /// How long a stopping agent waits for its tasks before it says which one hung
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  verifier explain\n  verifier explain vtep-mac-mismatch")]
pub struct Explain {
    /// The cause; without it all are listed
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `preflight`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier preflight --output json")]
pub struct Preflight {
    /// The node's network namespace, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// Arguments of `keygen`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier keygen key                      make a key file
  verifier keygen key --rotate add         accept a second key; distribute, then
  verifier keygen key --rotate promote     sign with it; distribute, then
  verifier keygen key --rotate retire      accept the old one no longer
  verifier keygen --secret dataplane-verifier/dataplane-verifier-key")]
pub struct Keygen {
    /// The key file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, required_unless_present = "secret")]
    pub file: Option<PathBuf>,
    /// A Secret instead of a file.
    #[command(flatten)]
    pub secret: SecretArgs,
    /// Change an existing key file instead, one step at a time
    #[arg(long, value_enum, value_name = "STEP")]
    pub rotate: Option<RotateStep>,
}

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier completions bash > /etc/bash_completion.d/verifier")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// One object, schema `dataplane-verifier/v1`.
    Json,
    /// JUnit XML.
    Junit,
}

/// Format of a list of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PodsOutput {
    /// A table.
    Text,
    /// A table with controller, evidence and remark.
    Wide,
    /// One object.
    Json,
    /// `NAMESPACE/NAME`, one a line.
    Name,
}

/// Format of what is no report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PlainOutput {
    /// For people.
    Text,
    /// One object.
    Json,
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Transport of a traced probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceTransport {
    /// UDP, answered at the pod's door.
    Udp,
    /// ICMP echo, answered by the pod.
    Icmp,
    /// TCP SYN to a closed port, answered by the pod.
    Tcp,
}

/// A step of a key's rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RotateStep {
    /// Accept a second, new key.
    Add,
    /// Sign with the second key.
    Promote,
    /// Accept only the first key.
    Retire,
}

/// A time like `500ms`, `60s`, `2m`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| format!("{text:?} is not a time like 500ms, 60s or 2m"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        "h" => Ok(Duration::from_secs(number.saturating_mul(3600))),
        _ => Err(format!("{text:?} is not a time like 500ms, 60s or 2m")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("7"), Ok(Duration::from_secs(7)));
        assert!(parse_duration("soon").is_err());
        assert_eq!(parse_duration("5h"), Ok(Duration::from_secs(18_000)));
        assert!(parse_duration("5d").is_err());
    }

    #[test]
    fn every_subcommand_that_takes_arguments_shows_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has none", command.get_name());
        }
    }
}
