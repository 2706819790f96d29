//! What the taps take of TCP's throughput: one connection from a pod to a pod on another node, and on both nodes all taps, which are
//! attached and detached in turn while it sends.
//!
//! The machine is shared and two trials a second apart differ by a tenth, which is more than what is looked for. So the slices are short,
//! each with taps is compared with the two without beside it, and the figure is the median of those ratios.
//!
//! The drop tracepoint stays attached throughout: it runs for dropped packets only, and there are none.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use verifier::observed::table::Table;
use verifier::observed::taps::Interface;
use verifier::observed::{Observer, Settings, loader};
use verifier::programmed::netns::Netns;
use verifier_core::names::NodeName;
use verifier_core::observed::TapKind;
use verifier_tests::fabric::plan::{TUNNEL_DEVICE, UNDERLAY_DEVICE};
use verifier_tests::lab::Stage;
use verifier_tests::nl::Rtnl;

use crate::row::{Figure, Row, median};

/// How long one slice is.
const SLICE: Duration = Duration::from_millis(250);

/// How many slices with taps; there is one more without.
const PAIRS: usize = 40;

/// What one write hands over.
const CHUNK_BYTES: usize = 128 * 1024;

const AIM: f64 = 0.98;

/// Gbit/s of the slices.
pub(crate) struct Toggled {
    off: Vec<f64>,
    on: Vec<f64>,
}

impl Toggled {
    /// What is left of the throughput with taps.
    pub(crate) fn ratio(&self) -> f64 {
        let beside = self.off.windows(2).map(|two| two.iter().sum::<f64>() / 2.0);
        let ratios: Vec<f64> = self.on.iter().zip(beside).map(|(on, off)| on / off).collect();
        median(&ratios)
    }

    /// The row. The reference is chosen so that its ratio is the median of the ratios.
    pub(crate) fn row(&self) -> Row {
        let value = median(&self.on);
        Row {
            name: "TCP over the tunnel, taps on".to_owned(),
            unit: "Gbit/s",
            reference: "taps off, in turn",
            aim: ">= 0.98 of off",
            figure: Figure::Measured {
                value,
                against: Some(value / self.ratio()),
                met: self.ratio() >= AIM,
            },
            trials: self.on.clone(),
        }
    }
}

/// One node's taps.
struct Node {
    observer: Observer,
    netns: Netns,
    wanted: Vec<Interface>,
}

impl Node {
    fn set(&mut self, on: bool) -> Result<()> {
        let wanted: &[Interface] = if on { &self.wanted } else { &[] };
        let report = self.observer.sync_taps(&self.netns, wanted);
        match report.failed.into_iter().next() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

/// Measures. The agents must not run.
pub(crate) fn measure(stage: &Stage) -> Result<Toggled> {
    let fabric = stage.fabric();
    let (from, to) = (fabric.pod("pod-a1")?, fabric.pod("pod-b1")?);
    let mut nodes = [load(stage, from.node)?, load(stage, to.node)?];
    let listener = fabric.pod_netns(&to)?.run(|| Ok(TcpListener::bind((to.ip, 0))?))?;
    let address = SocketAddr::from((to.ip, listener.local_addr().context("asking for the port")?.port()));
    let mut sending = fabric
        .pod_netns(&from)?
        .run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5))?))?;
    sending
        .set_write_timeout(Some(Duration::from_secs(5)))
        .context("setting a time limit")?;
    let (mut receiving, _) = listener.accept().context("accepting")?;
    let (received, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let receiver = scope.spawn(|| -> Result<()> {
            let mut buffer = vec![0; CHUNK_BYTES];
            loop {
                match receiving.read(&mut buffer).context("receiving")? {
                    0 => return Ok(()),
                    read => received.fetch_add(read as u64, Ordering::Relaxed),
                };
            }
        });
        let sender = scope.spawn(|| -> Result<()> {
            let chunk = vec![0x5a; CHUNK_BYTES];
            while !done.load(Ordering::Relaxed) {
                sending.write_all(&chunk).context("sending")?;
            }
            drop(sending);
            Ok(())
        });
        let slices = slices(&mut nodes, &received);
        done.store(true, Ordering::Relaxed);
        for thread in [sender, receiver] {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        slices
    })
}

fn slices(nodes: &mut [Node], received: &AtomicU64) -> Result<Toggled> {
    let mut toggled = Toggled {
        off: Vec::new(),
        on: Vec::new(),
    };
    // The first slice lets the connection get up to speed, and is not kept.
    slice(received);
    toggled.off.push(slice(received));
    for _ in 0..PAIRS {
        nodes.iter_mut().try_for_each(|node| node.set(true))?;
        toggled.on.push(slice(received));
        nodes.iter_mut().try_for_each(|node| node.set(false))?;
        toggled.off.push(slice(received));
    }
    if toggled.off.iter().chain(&toggled.on).any(|rate| *rate <= 0.0) {
        bail!("nothing arrived during a whole slice");
    }
    Ok(toggled)
}

/// Gbit/s during one slice, as the receiver counts.
fn slice(received: &AtomicU64) -> f64 {
    let (began, before) = (Instant::now(), received.load(Ordering::Relaxed));
    thread::sleep(SLICE);
    let bytes = received.load(Ordering::Relaxed) - before;
    bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9
}

/// Loads what an agent loads, with the node's intent in it.
fn load(stage: &Stage, node: usize) -> Result<Node> {
    let fabric = stage.fabric();
    let node = fabric.nodes().get(node).context("a pod without a node")?;
    let (mut observer, _) = Observer::load(loader::Options::default())?;
    let probes = verifier_core::probe::config::ProbeConfig::default();
    observer.configure(&Settings {
        probe_port: probes.udp_port,
        tcp_ports: probes.tcp_sources.first..=probes.tcp_sources.last(),
        max_age: Duration::from_secs(5),
        max_ahead: Duration::from_secs(5),
        reflect_per_second: 1_000,
        sample_per_second: 10,
    })?;
    let name = NodeName::from(node.name.as_str());
    let cluster = verifier::config::read_manifests(&stage.files().manifests()).map_err(|failure| anyhow!("{failure}"))?;
    observer.set_table(&Table::of(&cluster.node_intent(&name)?))?;
    observer.settle()?;
    let netns = Netns::open(fabric.node_netns(node)?.path())?;
    let mut devices = vec![
        (UNDERLAY_DEVICE.to_owned(), TapKind::Underlay),
        (TUNNEL_DEVICE.to_owned(), TapKind::Tunnel),
    ];
    let pods = fabric.pods();
    let of_node = pods
        .iter()
        .filter(|pod| fabric.nodes().get(pod.node).is_some_and(|on| on.name == node.name));
    devices.extend(of_node.map(|pod| (pod.host_device.clone(), TapKind::Workload)));
    let wanted = netns.run_in(|| -> Result<Vec<Interface>> {
        let mut rtnl = Rtnl::open()?;
        devices
            .into_iter()
            .map(|(name, kind)| {
                Ok(Interface {
                    index: rtnl.index(&name)?,
                    name,
                    kind,
                    framed: true,
                })
            })
            .collect()
    })??;
    Ok(Node { observer, netns, wanted })
}
