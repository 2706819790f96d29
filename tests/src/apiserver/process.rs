//! One daemon of the control plane: its log in a file, its end with its value, and with the next start if this program was killed.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::lab::program;

/// How long a stray may take to die.
const KILL_DEADLINE: Duration = Duration::from_secs(5);
/// How long one may take that was asked to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// How long etcd may take to answer.
const ETCD_TIMEOUT: Duration = Duration::from_secs(20);

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts one; `DIRECTORY/NAME.log` is appended to.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Path, arguments: &[String], directory: &Path, name: &str) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        Self::spawn(command, directory, name)
    }

    /// Starts what a command says; `DIRECTORY/NAME.log` is appended to. So that a killed test's are found by the next, an option of it
    /// names a file below the directory.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(mut command: Command, directory: &Path, name: &str) -> Result<Self> {
        let log = directory.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let errors = file.try_clone().context("sharing a log")?;
        let child = command
            .stdout(file)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// That it still runs.
    ///
    /// # Errors
    /// It ended; the end of its log is part of the message.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("waiting for a daemon")? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.log_tail()),
        }
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        match fs::read_to_string(&self.log) {
            Ok(text) => program::last_lines(&text, 8),
            Err(error) => format!("(no log: {error})"),
        }
    }

    /// All of its log.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn log(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Errors
    /// It does not, or not with status 0.
    pub fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("a process id out of range")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stopping {}", self.name))?;
        let began = Instant::now();
        while began.elapsed() < STOP_DEADLINE {
            match self.child.try_wait().context("waiting for a daemon")? {
                None => sleep(Duration::from_millis(20)),
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{} stopped with {status}: {}", self.name, self.log_tail()),
            }
        }
        bail!("{} does not stop: {}", self.name, self.log_tail())
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("killing {}", self.name))?;
        self.child.wait().with_context(|| format!("waiting for {}", self.name))?;
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Nothing of it is kept: it need not be asked politely.
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// Ends the daemons and removes the directories that a killed test left below `parent`: a directory `PREFIX<pid>-<n>` whose process
/// is gone. A daemon is known by its command line, which names that directory.
///
/// # Errors
/// Something cannot be listed, ended or removed.
pub fn clear_strays(parent: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(parent).with_context(|| format!("listing {}", parent.display()))? {
        let entry = entry.with_context(|| format!("listing {}", parent.display()))?;
        let name = entry.file_name();
        let Some(pid) = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.split('-').next()?.parse::<u32>().ok())
        else {
            continue;
        };
        if Path::new("/proc").join(pid.to_string()).exists() {
            continue;
        }
        kill_naming(&entry.path())?;
        match fs::remove_dir_all(entry.path()) {
            Ok(()) => {}
            // Another test clears the same.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("removing {}", entry.path().display())),
        }
    }
    Ok(())
}

fn kill_naming(directory: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        let found = naming(&format!("{}/", directory.display()))?;
        if found.is_empty() {
            return Ok(());
        }
        ensure!(began.elapsed() < KILL_DEADLINE, "daemons {found:?} do not end");
        for pid in found {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("killing {pid}")),
            }
        }
        sleep(Duration::from_millis(10));
    }
}

/// Processes `…/etcd`, `…/kube-apiserver` or `…/verifier` one of whose options names a file below this directory.
fn naming(directory: &str) -> Result<Vec<i32>> {
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
        let line = String::from_utf8_lossy(&line);
        let mut words = line.split('\0');
        let ours = words
            .next()
            .is_some_and(|program| ["/etcd", "/kube-apiserver", "/verifier"].iter().any(|name| program.ends_with(name)));
        if ours && words.any(|word| word.starts_with("--") && word.contains(directory)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Compacts etcd at its newest revision, by its JSON gateway.
pub(super) fn compact(address: std::net::Ipv4Addr, port: u16) -> Result<()> {
    // Any answer's header has the revision; this key is none of Kubernetes'.
    let key = STANDARD.encode("none");
    let answer = ask(address.into(), port, "/v3/kv/range", &format!("{{\"key\":\"{key}\"}}"))?;
    let answer: serde_json::Value = serde_json::from_str(&answer).context("reading etcd's answer")?;
    let revision = answer["header"]["revision"].as_str().context("etcd told no revision")?;
    ask(
        address.into(),
        port,
        "/v3/kv/compaction",
        &format!("{{\"revision\":\"{revision}\",\"physical\":true}}"),
    )?;
    Ok(())
}

fn ask(address: IpAddr, port: u16, path: &str, body: &str) -> Result<String> {
    let address = SocketAddr::new(address, port);
    let mut stream = TcpStream::connect_timeout(&address, ETCD_TIMEOUT).context("reaching etcd")?;
    stream.set_read_timeout(Some(ETCD_TIMEOUT)).context("setting a time limit")?;
    // HTTP/1.0: the answer ends with the connection.
    write!(
        stream,
        "POST {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .context("asking etcd")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading etcd's answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("etcd's answer is not HTTP")?;
    ensure!(head.split(' ').nth(1) == Some("200"), "etcd refuses {path}: {head} {body}");
    Ok(body.to_owned())
}
