//! One agent process on each node of a fabric, each in its own process group, so that a Ctrl-C at the terminal reaches
//! whoever started them and not them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Files, program};
use crate::netns::Netns;

/// Where the agents serve.
pub const PORT: u16 = verifier::cli::AGENT_PORT_DEFAULT;

/// How long an agent may take to attach everything and say that it is ready.
const READY_DEADLINE: Duration = Duration::from_secs(180);

/// How long an agent may take to detach everything after SIGTERM. Longer than its own deadline for draining.
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// How often something awaited is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Where agents get intent from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Intent {
    /// The fabric's manifests.
    #[default]
    Manifests,
    /// The API of a cluster, over the network of this machine. A node's own faults do not cut it, because the agents of a fabric enter
    /// their nodes' namespaces from outside.
    Cluster {
        /// Who asks, and whom.
        kubeconfig: PathBuf,
        /// More arguments: what is written into the cluster.
        arguments: Vec<String>,
    },
}

/// One agent, running.
#[derive(Debug)]
pub struct Agent {
    /// The node it runs on.
    pub node: String,
    netns: Netns,
    address: Ipv4Addr,
    child: Child,
}

impl Agent {
    /// Starts an agent on a node, with its log in the files.
    ///
    /// # Errors
    /// The binary is not there, or a file cannot be written.
    pub fn start(files: &Files, intent: &Intent, netns: &str, node: &str, address: Ipv4Addr) -> Result<Self> {
        let netns = Netns::open(netns)?;
        let log = files.log(node);
        let log = File::create(&log).with_context(|| format!("making {}", log.display()))?;
        let host_root = files.host_root(node);
        let mut command = Command::new(program::path()?);
        if host_root.is_dir() {
            command.env("VERIFIER_HOST_ROOT", host_root);
        }
        command.arg("agent").args(["--node", node]).arg("--netns").arg(netns.path());
        match intent {
            Intent::Manifests => command.arg("--intent").arg(files.manifests()),
            Intent::Cluster { kubeconfig, arguments } => command.arg("--kubeconfig").arg(kubeconfig).args(arguments),
        };
        let child = command
            .arg("--key-file")
            .arg(files.key())
            .args(["--log", "info"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting the agent of {node}"))?;
        let pid = files.pid(node);
        fs::write(&pid, format!("{}\n", child.id())).with_context(|| format!("writing {}", pid.display()))?;
        Ok(Self {
            node: node.to_owned(),
            netns,
            address,
            child,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended instead, or the deadline passed. The last lines of its log are part of the message.
    pub fn wait_ready(&mut self, files: &Files) -> Result<()> {
        let began = Instant::now();
        let mut last = String::from("nothing was heard of it");
        while began.elapsed() < READY_DEADLINE {
            if let Some(status) = self.child.try_wait().context("waiting for an agent")? {
                bail!("the agent of {} ended ({status}): {}", self.node, self.log_tail(files));
            }
            match self.get("/readyz") {
                Ok((200, _)) => return Ok(()),
                // It will never be: no reason to wait for the deadline.
                Ok((_, body)) if body.contains("without its kernel programs") => bail!("the agent of {}: {}", self.node, body.trim()),
                Ok((status, body)) => last = format!("/readyz says {status} {}", body.trim()),
                Err(error) => last = format!("{error:#}"),
            }
            sleep(POLL);
        }
        bail!(
            "the agent of {} is not ready after {READY_DEADLINE:?}: {last}; its log: {}",
            self.node,
            self.log_tail(files)
        )
    }

    fn log_tail(&self, files: &Files) -> String {
        match fs::read_to_string(files.log(&self.node)) {
            Ok(log) => program::last_lines(&log, 5),
            Err(error) => format!("(no log: {error})"),
        }
    }

    /// One GET of an endpoint that wants no key: status and body.
    fn get(&self, path: &str) -> Result<(u16, String)> {
        let address = SocketAddr::from((self.address, PORT));
        // A socket stays in the namespace in which it was opened.
        let mut stream = self
            .netns
            .run(|| Ok(TcpStream::connect_timeout(&address, Duration::from_secs(1))?))?;
        stream
            .set_read_timeout(Some(Duration::from_secs(2)))
            .context("setting a time limit")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").context("asking")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("reading the answer")?;
        let status = answer
            .split(' ')
            .nth(1)
            .and_then(|word| word.parse().ok())
            .context("not an HTTP answer")?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        Ok((status, body.to_owned()))
    }

    /// Asks it to stop, and waits until it has; past the deadline it is killed, which is an error.
    ///
    /// # Errors
    /// It did not stop by itself, or not with status 0.
    pub fn stop(&mut self) -> Result<()> {
        signal(self.child.id(), Signal::SIGTERM)?;
        let began = Instant::now();
        while began.elapsed() < STOP_DEADLINE {
            if let Some(status) = self.child.try_wait().context("waiting for an agent")? {
                if !status.success() {
                    bail!("the agent of {} stopped with {status}", self.node);
                }
                return Ok(());
            }
            sleep(POLL);
        }
        self.kill()?;
        bail!("the agent of {} did not stop within {STOP_DEADLINE:?} and was killed", self.node)
    }

    /// Lets it stand still: what it attached to the kernel goes on, and it does nothing.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn pause(&self) -> Result<()> {
        signal(self.child.id(), Signal::SIGSTOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn resume(&self) -> Result<()> {
        signal(self.child.id(), Signal::SIGCONT)
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("killing an agent")?;
        self.child.wait().context("waiting for an agent")?;
        Ok(())
    }
}

/// Stops every agent of a fabric, whoever started it, also after a crash that left no record: an agent is known by its
/// own command line, which names a namespace of that fabric.
///
/// # Errors
/// One of them could not be stopped.
pub fn stop_strays(prefix: &str) -> Result<usize> {
    let ours = format!("/run/netns/{prefix}-node-");
    let strays = find(&ours)?;
    for pid in &strays {
        signal(*pid, Signal::SIGTERM)?;
    }
    let began = Instant::now();
    loop {
        let left = find(&ours)?;
        if left.is_empty() {
            return Ok(strays.len());
        }
        if began.elapsed() > 2 * STOP_DEADLINE {
            bail!("agents {left:?} do not end, not even when killed");
        }
        if began.elapsed() > STOP_DEADLINE {
            for pid in left {
                signal(pid, Signal::SIGKILL)?;
            }
        }
        sleep(POLL);
    }
}

/// Processes `verifier agent … --netns OURS…`.
fn find(ours: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("listing processes")? {
        let entry = entry.context("listing processes")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ends while one looks has no command line any more; nor has a zombie.
        let Ok(line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if is_agent_of(&line, ours) {
            found.push(pid);
        }
    }
    Ok(found)
}

fn is_agent_of(line: &[u8], ours: &str) -> bool {
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let program = words.first().map(|word| Path::new(std::ffi::OsStr::from_bytes(word)));
    program.and_then(Path::file_name).is_some_and(|name| name == "verifier")
        && words.get(1).is_some_and(|word| *word == b"agent")
        && words.iter().any(|word| word.starts_with(ours.as_bytes()))
}

/// A signal to a process that may have ended already.
fn signal(pid: u32, signal: Signal) -> Result<()> {
    let raw = i32::try_from(pid).context("a process id out of range")?;
    match kill(Pid::from_raw(raw), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("sending {signal} to {pid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_known_by_its_command_line() {
        let line = b"/x/target/debug/verifier\0agent\0--node\0node-a\0--netns\0/run/netns/dpv-node-a\0";
        assert!(is_agent_of(line, "/run/netns/dpv-"));
        assert!(!is_agent_of(line, "/run/netns/other-"));
        assert!(!is_agent_of(b"vim\0agent\0/run/netns/dpv-node-a\0", "/run/netns/dpv-"));
        assert!(!is_agent_of(
            b"/x/verifier\0validate\0--netns\0/run/netns/dpv-switch\0",
            "/run/netns/dpv-"
        ));
        assert!(!is_agent_of(b"", "/run/netns/dpv-"));
    }
}
