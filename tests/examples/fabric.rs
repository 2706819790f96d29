//! Raises and removes a fabric by hand:
//! `cargo run -p verifier-tests --example fabric -- up [--prefix P] [--manifests DIR]`.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use verifier_tests::{
    fabric::{Encapsulation, Fabric, FabricSpec},
    faults::{self, Outcome},
    netns::Netns,
    reach,
};

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// first part of every namespace's name
    #[arg(long, global = true, default_value = "dpv")]
    prefix: String,
}

#[derive(Subcommand)]
enum Command {
    /// Builds a fabric, replacing an older one
    Up {
        #[arg(long, default_value_t = 3)]
        nodes: usize,
        #[arg(long, default_value_t = 2)]
        pods: usize,
        /// how pod traffic travels between nodes
        #[arg(long, value_enum, default_value_t = Encapsulation::Vxlan)]
        encapsulation: Encapsulation,
        /// where to write the manifests
        #[arg(long)]
        manifests: Option<PathBuf>,
    },
    /// Removes every trace of it
    Down,
    /// Puts a fault in
    Inject {
        /// its name, see `list`
        fault: String,
    },
    /// Takes the fault out again
    Undo,
    /// Empties all dynamic neighbour tables
    Cool,
    /// Prints the fault catalogue
    List,
    /// Sends ICMP, UDP and TCP from every pod and node to every pod
    Ping,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Command::Up {
            nodes,
            pods,
            encapsulation,
            manifests,
        } => {
            let spec = FabricSpec {
                nodes,
                pods_per_node: pods,
                ..FabricSpec::of(&arguments.prefix, encapsulation)
            };
            let fabric = Fabric::up(spec, manifests.as_deref())?;
            for node in fabric.nodes() {
                println!("{} {} {} {:?}", node.netns, node.host_ip, node.tunnel_ip, node.all_blocks());
            }
            for pod in fabric.pods() {
                println!("{} {:?} {}", pod.netns, pod.addresses(), pod.host_device);
            }
        }
        Command::Down => Fabric::down(&arguments.prefix)?,
        Command::Inject { fault } => inject(&Fabric::attach(&arguments.prefix)?, &fault)?,
        Command::Undo => faults::undo(&Fabric::attach(&arguments.prefix)?)?,
        Command::Cool => Fabric::attach(&arguments.prefix)?.cool_neighbours()?,
        Command::List => {
            for fault in faults::catalogue() {
                println!("{:40} {}", fault.name, fault.description);
            }
        }
        Command::Ping => ping(&Fabric::attach(&arguments.prefix)?)?,
    }
    Ok(())
}

fn inject(fabric: &Fabric, name: &str) -> Result<()> {
    let fault = faults::find(name)?;
    faults::undo(fabric)?;
    match fault.inject(fabric)? {
        Outcome::Injected(_) => println!("{:#?}", fault.expectation(fabric)?),
        Outcome::Skipped(why) => println!("skipped: {why}"),
    }
    Ok(())
}

fn ping(fabric: &Fabric) -> Result<()> {
    let timeout = Duration::from_millis(500);
    let mut sources: Vec<(String, Netns)> = Vec::new();
    for node in fabric.nodes() {
        sources.push((node.name.clone(), fabric.node_netns(node)?));
    }
    for pod in fabric.pods() {
        sources.push((pod.name.clone(), fabric.pod_netns(&pod)?));
    }
    for (name, source) in &sources {
        for pod in fabric.pods() {
            let target = fabric.pod_netns(&pod)?;
            for address in pod.addresses() {
                let largest = fabric.spec().pod_mtu_bytes() as usize - if address.is_ipv4() { 28 } else { 48 };
                let icmp = reach::icmp(source, address, 56, timeout)?;
                let udp = reach::udp(source, None, &target, address, 64, timeout)?;
                let large = reach::udp(source, None, &target, address, largest, timeout)?;
                let tcp = reach::tcp(source, address, 9, timeout)?;
                println!(
                    "{name} -> {} {address}: icmp {icmp} udp {udp:?} large {} tcp {tcp}",
                    pod.name,
                    large.is_some()
                );
            }
        }
    }
    Ok(())
}
