//! TCP from a pod to a pod on another node: without taps, with agents at work, and with tcpdump on the same interfaces, in turn. What the
//! taps alone take is in `toggled`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use verifier_tests::fabric::Fabric;
use verifier_tests::fabric::plan::{TUNNEL_DEVICE, UNDERLAY_DEVICE};
use verifier_tests::lab::Stage;
use verifier_tests::lab::watch::{Watch, is_healthy};

use crate::row::{Figure, Row, median};
use crate::toggled;

/// How long one trial sends.
const TRIAL: Duration = Duration::from_secs(2);

/// How many times each is tried, in turn.
const ROUNDS: usize = 5;

/// How long agents may take until the continuous verdict is healthy.
const SETTLING: Duration = Duration::from_secs(60);

/// What one write hands over.
const CHUNK_BYTES: usize = 128 * 1024;

/// The rows.
pub(crate) fn rows(stage: &mut Stage) -> Result<Vec<Row>> {
    let tcpdump = find_tcpdump();
    let (mut off, mut agents, mut dumped) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        stage.stop_agents()?;
        off.push(trial(stage.fabric())?);
        if let Some(tcpdump) = tcpdump {
            let running = start_dumps(stage.fabric(), tcpdump)?;
            let rate = trial(stage.fabric());
            stop_dumps(running)?;
            dumped.push(rate?);
        }
        stage.start_agents()?;
        // An agent that has just started has more to do than one that runs.
        let watch = Watch::new(stage.fabric(), stage.files())?;
        watch
            .wait_for(Instant::now(), SETTLING, is_healthy)
            .context("the fabric is not healthy")?;
        agents.push(trial(stage.fabric())?);
    }
    stage.stop_agents()?;
    let toggled = toggled::measure(stage)?;
    stage.start_agents()?;
    let dump_name = "TCP over the tunnel, tcpdump";
    let dump_aim = "below taps on";
    let dump = if dumped.is_empty() {
        Row::missing(dump_name, dump_aim, "tcpdump is not installed")
    } else {
        let met = median(&dumped) / median(&off) < toggled.ratio();
        row(dump_name, dump_aim, dumped, &off, met)
    };
    Ok(vec![
        toggled.row(),
        dump,
        row(
            "TCP over the tunnel, 3 agents probing on these processors",
            "shown",
            agents,
            &off,
            true,
        ),
    ])
}

fn row(name: &str, aim: &'static str, rates: Vec<f64>, off: &[f64], met: bool) -> Row {
    Row {
        name: name.to_owned(),
        unit: "Gbit/s",
        reference: "taps off",
        aim,
        figure: Figure::Measured {
            value: median(&rates),
            against: Some(median(off)),
            met,
        },
        trials: rates,
    }
}

/// Gbit/s, as the receiver counts.
fn trial(fabric: &Fabric) -> Result<f64> {
    let (from, to) = (fabric.pod("pod-a1")?, fabric.pod("pod-b1")?);
    let listener = fabric.pod_netns(&to)?.run(|| Ok(TcpListener::bind((to.ip, 0))?))?;
    let address = SocketAddr::from((to.ip, listener.local_addr().context("asking for the port")?.port()));
    let mut sending = fabric
        .pod_netns(&from)?
        .run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(5))?))?;
    sending
        .set_write_timeout(Some(Duration::from_secs(5)))
        .context("setting a time limit")?;
    let (mut receiving, _) = listener.accept().context("accepting")?;
    thread::scope(|scope| {
        let receiver = scope.spawn(move || -> Result<f64> {
            let mut buffer = vec![0; CHUNK_BYTES];
            let (began, mut bytes) = (Instant::now(), 0_u64);
            loop {
                match receiving.read(&mut buffer).context("receiving")? {
                    0 => return Ok(bytes as f64 * 8.0 / began.elapsed().as_secs_f64() / 1e9),
                    read => bytes += read as u64,
                }
            }
        });
        let chunk = vec![0x5a; CHUNK_BYTES];
        let began = Instant::now();
        while began.elapsed() < TRIAL {
            sending.write_all(&chunk).context("sending")?;
        }
        drop(sending);
        receiver.join().map_err(|_| anyhow!("the receiver panicked"))?
    })
}

fn find_tcpdump() -> Option<&'static Path> {
    ["/usr/bin/tcpdump", "/usr/sbin/tcpdump"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.is_file())
}

/// One tcpdump on every interface that has a tap, of both nodes, writing to nowhere.
fn start_dumps(fabric: &Fabric, tcpdump: &Path) -> Result<Vec<Child>> {
    let mut running = Vec::new();
    for pod in [fabric.pod("pod-a1")?, fabric.pod("pod-b1")?] {
        let node = fabric.nodes().get(pod.node).context("a pod without a node")?;
        for device in [pod.host_device.as_str(), TUNNEL_DEVICE, UNDERLAY_DEVICE] {
            let child = fabric.node_netns(node)?.run(|| {
                // A child inherits the namespace of the thread that starts it.
                Ok(Command::new(tcpdump)
                    .args(["-n", "-U", "-w", "/dev/null", "-i", device])
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()?)
            })?;
            running.push(child);
        }
    }
    for child in &mut running {
        wait_until_capturing(child)?;
    }
    Ok(running)
}

/// tcpdump says on stderr that it listens; the socket is open by then.
fn wait_until_capturing(child: &mut Child) -> Result<()> {
    let stderr = child.stderr.take().context("tcpdump has no stderr")?;
    let mut said = String::new();
    for line in BufReader::new(stderr).lines() {
        let line = line.context("reading what tcpdump says")?;
        if line.contains("listening on") {
            return Ok(());
        }
        said.push_str(&line);
    }
    Err(anyhow!("tcpdump ended before it captured anything: {said}"))
}

fn stop_dumps(running: Vec<Child>) -> Result<()> {
    for mut child in running {
        child.kill().context("stopping tcpdump")?;
        child.wait().context("waiting for tcpdump")?;
    }
    Ok(())
}
