//! `cargo xtask lab`: a fabric that is left standing, with an agent on every node.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use verifier_tests::fabric::{self, Encapsulation, Fabric, FabricSpec, Pod};
use verifier_tests::faults::{self, Fault, Outcome, Undo};
use verifier_tests::lab::{Files, LAB_PREFIX, Stage, Turn, agents, program};

/// EX_USAGE of sysexits.h, as the verifier itself uses it.
const USAGE: u8 = 64;

/// A fabric that is left standing, with an agent on every node.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask lab", disable_help_subcommand = true)]
struct Cli {
    /// First part of every namespace's name.
    #[arg(long, default_value = LAB_PREFIX, hide = true, global = true)]
    prefix: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Raise it, start the agents, write the manifests. Replaces one that stands.
    Up {
        /// Nodes: node-a, node-b, …
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        /// Pods on each node: pod-a1, pod-a2, …
        #[arg(long, default_value_t = 2)]
        pods: usize,
        /// How pod traffic travels between the nodes.
        #[arg(long, value_enum, default_value_t = Encapsulation::Vxlan, value_name = "MODE")]
        encapsulation: Encapsulation,
        /// Start no agents: a bare fabric, to look at or to run an agent on by hand.
        #[arg(long)]
        no_agents: bool,
    },
    /// `verifier validate ARGS`, with its exit status.
    Validate {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// `verifier trace A B`.
    Trace {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Put a fault into it, so that `validate` has something to find. Without a name, list them.
    Break {
        /// Its name.
        fault: Option<String>,
    },
    /// Take the fault out again.
    Mend,
    /// Stop the agents and remove every trace.
    Down,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.action {
        Action::Up {
            nodes,
            pods,
            encapsulation,
            no_agents,
        } => {
            let spec = FabricSpec {
                nodes,
                pods_per_node: pods,
                ..FabricSpec::of(&cli.prefix, encapsulation)
            };
            up(spec, no_agents).map(|()| ExitCode::SUCCESS)
        }
        Action::Validate { arguments } => ask(&cli.prefix, "validate", arguments),
        Action::Trace { arguments } => ask(&cli.prefix, "trace", arguments),
        Action::Break { fault } => break_it(&cli.prefix, fault.as_deref()),
        Action::Mend => mend(&cli.prefix),
        Action::Down => down(&cli.prefix).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn up(spec: FabricSpec, no_agents: bool) -> Result<()> {
    let began = Instant::now();
    if let Some(why) = fabric::lacking(&spec)? {
        bail!("{}: {why}", spec.encapsulation);
    }
    let files = Files::of_lab(&spec.prefix)?;
    // Half a lab is no lab: until all of it stands, an error removes it again. The logs stay, for whoever asks why.
    let mut stage = Stage::raise(spec, files)?;
    if !no_agents {
        stage.start_agents()?;
    }
    stage.leave_standing();
    let agents = if no_agents { "without agents" } else { "and every agent is ready" };
    println!("The fabric stands, {agents} ({:.1} s).\n", began.elapsed().as_secs_f64());
    describe(stage.fabric(), stage.files());
    Ok(())
}

fn describe(fabric: &Fabric, files: &Files) {
    row(["node", "namespace", "underlay", "tunnel", "block", "pods"]);
    for node in fabric.nodes() {
        let pods = |address: fn(&Pod) -> Option<IpAddr>| -> String {
            let of_node = fabric.pods().into_iter().filter(|pod| pod.node == node.index);
            let named = of_node.filter_map(|pod| Some(format!("{} {}", pod.name, address(&pod)?)));
            named.collect::<Vec<_>>().join(", ")
        };
        // Without a tunnel device its address is nowhere.
        let of_tunnel = |ip: IpAddr| {
            let device = fabric.spec().encapsulation.device();
            device.map_or_else(|| "-".to_owned(), |_| ip.to_string())
        };
        let (host, tunnel) = (node.host_ip.to_string(), of_tunnel(node.tunnel_ip.into()));
        let block = node.block().to_string();
        row([&node.name, &node.netns, &host, &tunnel, &block, &pods(|pod| Some(pod.ip.into()))]);
        if let Some(v6) = &node.v6 {
            let (host, tunnel, block) = (v6.host_ip.to_string(), of_tunnel(v6.tunnel_ip.into()), v6.block().to_string());
            row(["", "", &host, &tunnel, &block, &pods(|pod| pod.ip6.map(Into::into))]);
        }
    }
    println!("\nmanifests  {}", files.manifests().display());
    println!("logs       {}", files.directory().join("agent-*.log").display());
    println!("\ncargo xtask lab validate | trace pod-a1 pod-b1 | break FAULT | mend | down");
    if let (Some(node), Some(device)) = (fabric.nodes().last(), fabric.spec().encapsulation.device()) {
        println!("break it   ip netns exec {} ip link set {device} down", node.netns);
    }
}

/// As wide as addresses of IPv6 are here.
fn row([node, namespace, underlay, tunnel, block, pods]: [&str; 6]) {
    println!("{node:8} {namespace:12} {underlay:14} {tunnel:20} {block:24} {pods}");
}

fn down(prefix: &str) -> Result<()> {
    let _turn = Turn::take(prefix)?;
    let stopped = agents::stop_strays(prefix)?;
    Fabric::down(prefix)?;
    Files::of_lab(prefix)?.remove()?;
    println!("{stopped} agents stopped, the fabric is gone");
    Ok(())
}

/// The fabric that stands; none, with one line said, if there is none.
fn standing(prefix: &str) -> Option<Fabric> {
    match Fabric::attach(prefix) {
        Ok(fabric) => Some(fabric),
        Err(error) => {
            eprintln!("lab: {error:#}: raise one with `cargo xtask lab up`");
            None
        }
    }
}

fn break_it(prefix: &str, fault: Option<&str>) -> Result<ExitCode> {
    let Some(name) = fault else {
        let encapsulation = Fabric::attach(prefix).map_or(Encapsulation::Vxlan, |fabric| fabric.spec().encapsulation);
        let (standing, passing): (Vec<_>, Vec<_>) = faults::catalogue_of(encapsulation).into_iter().partition(|fault| fault.stands());
        let tell = |fault: &Fault| println!("{:40} {}", fault.name, fault.description);
        standing.into_iter().for_each(tell);
        if !passing.is_empty() {
            let mode = encapsulation.name();
            println!("\nOnly `cargo xtask demo --encapsulation {mode} --only NAME` plays these:\n");
            passing.into_iter().for_each(tell);
        }
        return Ok(ExitCode::SUCCESS);
    };
    let Some(fabric) = standing(prefix) else {
        return Ok(ExitCode::from(USAGE));
    };
    let encapsulation = fabric.spec().encapsulation;
    let mut known = faults::catalogue_of(encapsulation).into_iter().chain(faults::impairments());
    let Some(fault) = known.find(|fault| fault.name == name) else {
        eprintln!("lab: no fault {name} for {encapsulation}: `cargo xtask lab break` lists those that it can have");
        return Ok(ExitCode::from(USAGE));
    };
    if fabric.state().undo.is_some() {
        eprintln!("lab: a fault is in it already: `cargo xtask lab mend` takes it out");
        return Ok(ExitCode::from(USAGE));
    }
    match fault.inject(&fabric)? {
        Outcome::Injected(undo) => {
            println!("{}", fault.description);
            say_when(&undo);
        }
        Outcome::Skipped(why) => {
            eprintln!("lab: {name} cannot be had here: {why}");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever validates at once would be told what the agents knew before.
fn say_when(undo: &Undo) {
    if undo.changes_objects() {
        println!("the manifests changed: the agents follow within 2 s");
    }
}

fn mend(prefix: &str) -> Result<ExitCode> {
    let Some(fabric) = standing(prefix) else {
        return Ok(ExitCode::from(USAGE));
    };
    let undo = fabric.state().undo.clone();
    faults::undo(&fabric)?;
    println!("mended: no fault is in the fabric any more");
    undo.iter().for_each(say_when);
    Ok(ExitCode::SUCCESS)
}

/// Becomes the verifier, so that its output and its exit status are passed on untouched.
fn ask(prefix: &str, verb: &str, arguments: Vec<OsString>) -> Result<ExitCode> {
    let Some(fabric) = standing(prefix) else {
        return Ok(ExitCode::from(USAGE));
    };
    let arguments = match verb {
        "trace" => arguments.into_iter().map(|word| full_name(&fabric, word)).collect(),
        _ => arguments,
    };
    let error = program::asking(&Files::of_lab(prefix)?, &fabric.switch_netns()?.path(), verb, &arguments)?.exec();
    Err(error).context("running the verifier")
}

/// `pod-a1` is `default/pod-a1`; everything else stays as it is.
fn full_name(fabric: &Fabric, word: OsString) -> OsString {
    let Some(text) = word.to_str() else { return word };
    if text.parse::<IpAddr>().is_ok() {
        return word;
    }
    match fabric.pod(text) {
        Ok(pod) => pod.key().into(),
        Err(_) => word,
    }
}
