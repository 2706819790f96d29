//! The command line, as types. No decision is made here.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand};

/// Build, test, show and measure the dataplane verifier.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build everything: the eBPF object from source (setting up its toolchain if need be), then the verifier.
    Build {
        /// With optimisation.
        #[arg(long)]
        release: bool,
    },
    /// Build kube-apiserver for the suite on a real API server, if it is not built yet. `test` and `bench` do it too. Needs Go.
    Apiserver,
    /// Build an OCI archive with the static program, without an engine: target/image/dataplane-verifier-VERSION.oci.tar.
    Image,
    /// Run every test. Needs root: the suites raise fabrics out of network namespaces.
    Test(TestArguments),
    /// Raise a three-node fabric, break it in every way we know, and check every verdict. Needs root.
    Demo {
        /// Passed on: --list, --only NAME, --keep (see `cargo xtask demo -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Raise a fabric and leave it standing, with an agent on every node. Needs root.
    Lab {
        #[command(subcommand)]
        action: LabAction,
    },
    /// Measure: taps, throughput, detection time, the agent's cost. Writes target/bench.json. Needs root.
    Bench {
        /// Passed on: --list, --only ROW (see `cargo xtask bench -- --help`).
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Play the suites on other kernels, each in a virtual machine. Needs QEMU, and Debian's package sources.
    Vm(VmArguments),
    /// Make the golden snapshots anew: break a fabric in every way, keep what the verifier saw where its verdict was right. Needs root.
    Golden(GoldenArguments),
    /// Check the rules of this repository that neither the compiler nor clippy can check.
    Tidy,
    /// Write docs/causes/*.md from the cause table.
    Docs {
        /// Write nothing; fail if a page is not what the table says.
        #[arg(long)]
        check: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct TestArguments {
    /// Only the tests that need no privileges.
    #[arg(long)]
    pub(crate) unprivileged: bool,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct VmArguments {
    /// Only these kernels of tests/vm/kernels.toml (separated by commas).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) kernel: Vec<String>,
    /// Only these suites (separated by commas).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) suite: Vec<String>,
    /// Only these cases of a suite that has a choice: faults, encapsulations, impairments (separated by commas).
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// How often a healthy fabric is validated before anything is broken.
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    /// The short run: the kernels and suites that are marked for continuous integration.
    #[arg(long)]
    pub(crate) ci: bool,
    /// Ask the mirror for newer kernels than those unpacked before.
    #[arg(long)]
    pub(crate) refresh: bool,
    /// Print the kernels and the suites and do nothing.
    #[arg(long)]
    pub(crate) list: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GoldenArguments {
    /// Only write the reports anew, from the snapshots as they are. Needs no root.
    #[arg(long)]
    pub(crate) replay: bool,
    /// Only this fault (repeat for several).
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LabAction {
    /// Raise the fabric, start the agents, write the manifests to target/lab/manifests. Replaces one that stands.
    Up {
        /// Nodes: node-a, node-b, …
        #[arg(long, default_value_t = 3)]
        nodes: u8,
        /// Pods on each node: pod-a1, pod-a2, …
        #[arg(long, default_value_t = 2)]
        pods: u8,
        /// Start no agents: a bare fabric, to look at or to run an agent on by hand.
        #[arg(long)]
        no_agents: bool,
        /// How pod traffic travels between the nodes.
        #[arg(long, value_name = "MODE", default_value = "vxlan", value_parser = ["vxlan", "vxlan-cross-subnet", "vxlan-dual-stack", "vxlan-and-none", "ipip", "ipip-cross-subnet", "none", "none-dual-stack"])]
        encapsulation: String,
    },
    /// `verifier validate ARGS` against the fabric, with its exit status.
    Validate {
        /// Arguments of `verifier validate`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// `verifier trace A B` against the fabric: the hops of one probe, in one table.
    Trace {
        /// Source and destination (pods or addresses), then arguments of `verifier trace`.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Put a fault into the fabric, so that `validate` has something to find. Without a name, list them.
    Break {
        /// Its name.
        fault: Option<String>,
    },
    /// Take the fault out again.
    Mend,
    /// Stop the agents and remove every trace of the fabric.
    Down,
}

impl LabAction {
    /// The same words for the binary `lab`, which parses them itself.
    pub(crate) fn to_arguments(&self) -> Vec<OsString> {
        let (verb, rest): (&str, Vec<OsString>) = match self {
            LabAction::Up {
                nodes,
                pods,
                no_agents,
                encapsulation,
            } => {
                let mut rest: Vec<OsString> = vec!["--nodes".into(), nodes.to_string().into()];
                rest.extend(["--pods".into(), pods.to_string().into()]);
                rest.extend(no_agents.then(|| "--no-agents".into()));
                rest.extend(["--encapsulation".into(), encapsulation.into()]);
                ("up", rest)
            }
            LabAction::Validate { arguments } => ("validate", arguments.clone()),
            LabAction::Trace { arguments } => ("trace", arguments.clone()),
            LabAction::Break { fault } => ("break", fault.iter().map(OsString::from).collect()),
            LabAction::Mend => ("mend", Vec::new()),
            LabAction::Down => ("down", Vec::new()),
        };
        std::iter::once(OsString::from(verb)).chain(rest).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn lab_validate_passes_flags_through_untouched() {
        let cli = Cli::parse_from(["cargo xtask", "lab", "validate", "--output", "json", "--node", "node-a"]);
        let Command::Lab { action } = cli.command else { panic!("not lab") };
        assert_eq!(action.to_arguments(), ["validate", "--output", "json", "--node", "node-a"]);
    }

    #[test]
    fn lab_up_passes_everything_on() {
        let cli = Cli::parse_from(["cargo xtask", "lab", "up", "--pods", "3", "--encapsulation", "none"]);
        let Command::Lab { action } = cli.command else { panic!("not lab") };
        assert_eq!(
            action.to_arguments(),
            ["up", "--nodes", "3", "--pods", "3", "--encapsulation", "none"]
        );
    }
}
