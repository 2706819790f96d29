//! Arguments of what runs in a cluster, or changes something there.

use super::{AGENT_PORT_DEFAULT, KubernetesArgs, PlainOutput, parse_duration};
use clap::{Args, ValueHint};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// What an agent writes into the cluster's API. Nothing, unless told.
#[derive(Clone, Debug, Args)]
pub struct ResultArgs {
    /// Write the verdict as the node's NodeDataplane object, on change and as a heartbeat
    #[arg(long, help_heading = "Results")]
    pub write_results: bool,
    /// Write the node condition DataplaneForwarding, on a transition
    #[arg(long, help_heading = "Results")]
    pub write_condition: bool,
    /// Write an Event about the Node, on a transition
    #[arg(long, help_heading = "Results")]
    pub write_events: bool,
    /// Time between two heartbeats, at least 60s
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_heartbeat, help_heading = "Results")]
    pub heartbeat: Duration,
    /// Name of this instance in events
    #[arg(
        long,
        value_name = "NAME",
        env = "POD_NAME",
        default_value = "verifier",
        hide_env_values = true,
        help_heading = "Results"
    )]
    pub instance: String,
}

/// Arguments of `controller`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  verifier controller --key-file /etc/dataplane-verifier/key --log info

It asks every agent for its verdict, judges the cluster, and writes what no agent can write of itself: that it is silent (after three
missed heartbeats its node is Unknown), and that all nodes together judge it otherwise than it does itself.")]
pub struct Controller {
    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Key file shared with the agents (see `verifier keygen`)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, env = "VERIFIER_KEY_FILE")]
    pub key_file: PathBuf,
    /// Network namespace from which to reach the agents, if not this one
    #[arg(long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub netns: Option<PathBuf>,
    /// Port the agents serve on
    #[arg(long, value_name = "PORT", default_value_t = AGENT_PORT_DEFAULT, env = "VERIFIER_AGENT_PORT")]
    pub agent_port: u16,
    /// Where to serve health and metrics
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9798")]
    pub listen: SocketAddr,
    /// Time between two judgements
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = parse_duration)]
    pub interval: Duration,
    /// Heartbeat of the agents, as they were told
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_heartbeat)]
    pub heartbeat: Duration,
    /// Name of this candidate
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "verifier", hide_env_values = true)]
    pub identity: String,
    /// Namespace of the Lease
    #[arg(
        long,
        value_name = "NAMESPACE",
        env = "POD_NAMESPACE",
        default_value = "dataplane-verifier",
        hide_env_values = true
    )]
    pub namespace: String,
    /// Name of the Lease
    #[arg(long, value_name = "NAME", default_value = "dataplane-verifier-controller")]
    pub lease: String,
    /// Taint a node that does not forward, and take the taint away when it does
    #[arg(long)]
    pub taint: bool,
    /// How long a stopping controller waits for its tasks
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub drain_timeout: Duration,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  verifier status
  verifier status --output json
  verifier status --node node-a --npd

Exit status: 0 all nodes forward, 1 some do not, 3 of some it is not known or the verdict is too old. With --npd, as
node-problem-detector wants it of a plugin: 0 forwards, 1 does not, 2 not known.")]
pub struct Status {
    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
    /// Only this node (repeat for several)
    #[arg(long = "node", value_name = "NAME")]
    pub nodes: Vec<String>,
    /// Answer as a plugin of node-problem-detector, for one node: one line, exit status 0, 1 or 2
    #[arg(long, requires = "nodes", conflicts_with = "output")]
    pub npd: bool,
    /// Age beyond which a verdict counts as unknown
    #[arg(long, value_name = "TIME", default_value = "180s", value_parser = parse_duration)]
    pub max_age: Duration,
    /// What to print
    #[arg(long, short, value_enum, default_value_t = PlainOutput::Text)]
    pub output: PlainOutput,
}

/// How stale pods are made anew.
#[derive(Clone, Debug, Args)]
pub struct RecreateArgs {
    /// Say which stale pods can be made anew, and with --yes do it: by eviction, which respects disruption budgets
    #[arg(long, help_heading = "Recreation")]
    pub recreate: bool,
    /// Really do it
    #[arg(long, requires = "recreate", help_heading = "Recreation")]
    pub yes: bool,
    /// How many pods at once whose replacement is not yet proven to work
    #[arg(long, value_name = "N", default_value_t = 1, requires = "recreate", value_parser = clap::value_parser!(u32).range(1..=100), help_heading = "Recreation")]
    pub max_in_flight: u32,
    /// How long to ask for one pod's eviction while its budget refuses
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration, requires = "recreate", help_heading = "Recreation")]
    pub eviction_timeout: Duration,
    /// How long a new pod may take until its network is proven to work
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration, requires = "recreate", help_heading = "Recreation")]
    pub replacement_timeout: Duration,
    /// Time between the two looks at a pod that must both find it stale
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration, requires = "recreate", help_heading = "Recreation")]
    pub between_samples: Duration,
}

/// What `validate` does besides, in a recovery.
#[derive(Clone, Debug, Args)]
pub struct RecoveryArgs {
    /// Before anything else, wait this long at most until calico-node of the named nodes (or of all) is Running and ready
    #[arg(long, value_name = "TIME", value_parser = parse_duration, help_heading = "Recovery")]
    pub wait_for_running: Option<Duration>,
    /// Uncordon the named nodes, if all of it was verified and passes, and else not
    #[arg(long, requires = "nodes", help_heading = "Recovery")]
    pub uncordon: bool,
    /// Also write the report into this ConfigMap (keys report.json, report.txt, junit.xml)
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_namespaced, help_heading = "Recovery")]
    pub report_configmap: Option<(String, String)>,
    /// Also write verdict, causes and time as annotation dataplane-verifier.io/validated of the named nodes
    #[arg(long, requires = "nodes", help_heading = "Recovery")]
    pub report_annotation: bool,
    /// If no agent answers on this node, which is the one this runs on, do its work from here: then only what one node can tell is verified
    #[arg(long, value_name = "NODE", help_heading = "Recovery")]
    pub alone_on: Option<String>,
    /// Exit with 0, and uncordon, also if that is all that was verified
    #[arg(long, requires = "alone_on", help_heading = "Recovery")]
    pub alone_suffices: bool,
}

/// Arguments of `canary`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  verifier canary")]
pub struct Canary {}

/// Where `keygen` makes the key, if not in a file.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// A Secret of the cluster instead of a file: made if it is not there, left alone if it is
    #[arg(long, value_name = "NAMESPACE/NAME", value_parser = parse_namespaced, conflicts_with = "file")]
    pub secret: Option<(String, String)>,
    /// How to reach the API server.
    #[command(flatten)]
    pub kubernetes: KubernetesArgs,
}

/// `NAMESPACE/NAME`.
fn parse_namespaced(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err(format!("{text:?} is not NAMESPACE/NAME")),
    }
}

fn parse_heartbeat(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    if time.as_secs() < verifier_core::report::publish::HEARTBEAT_MIN_SECONDS {
        return Err(format!("{text:?} is too short: every node writes that often, so at least 60s"));
    }
    Ok(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_heartbeats_are_checked() {
        assert_eq!(parse_namespaced("a/b"), Ok(("a".to_owned(), "b".to_owned())));
        for bad in ["a", "/b", "a/", "a/b/c"] {
            assert!(parse_namespaced(bad).is_err(), "{bad}");
        }
        assert!(parse_heartbeat("59s").is_err());
        assert_eq!(parse_heartbeat("2m"), Ok(Duration::from_secs(120)));
    }
}
