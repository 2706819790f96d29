//! The first process: file systems, suites one after another, off.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use crate::plan::{Plan, Suite};
use crate::say;

/// Where the protocol leaves the machine.
const PORT: &str = "/dev/ttyS1";

/// How often one who waits for a process looks.
const POLL: Duration = Duration::from_millis(20);

/// What is mounted where, of which kind.
const MOUNTS: [(&str, &str); 8] = [
    ("/proc", "proc"),
    ("/sys", "sysfs"),
    ("/dev", "devtmpfs"),
    ("/run", "tmpfs"),
    ("/tmp", "tmpfs"),
    ("/sys/fs/bpf", "bpf"),
    ("/sys/kernel/tracing", "tracefs"),
    ("/sys/fs/cgroup", "cgroup2"),
];

/// Modules that no program and no kernel asks for, and that a node of a cluster has.
const MODULES: [&str; 3] = ["nf_conntrack", "nf_conntrack_netlink", "br_netfilter"];

/// Never returns while all is well: the machine is off then.
pub(crate) fn run() -> Result<()> {
    let outcome = boot_and_play();
    if let Err(error) = &outcome {
        eprintln!("guest: {error:#}");
    }
    switch_off()
}

fn switch_off() -> Result<()> {
    nix::unistd::sync();
    // Some machines cannot be switched off; QEMU ends at a restart as well (-no-reboot).
    reboot(RebootMode::RB_POWER_OFF).or_else(|_| reboot(RebootMode::RB_AUTOBOOT))?;
    Ok(())
}

fn boot_and_play() -> Result<()> {
    for (place, kind) in MOUNTS {
        let made = fs::create_dir_all(place).map_err(anyhow::Error::from);
        made.and_then(|()| Ok(mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)?))
            .with_context(|| format!("mounting {place}"))
            // A kernel without one of them shows it in what its suites find.
            .unwrap_or_else(|error| eprintln!("guest: {error:#}"));
    }
    let plan = Plan::read()?;
    let limit = Duration::from_secs(plan.seconds);
    thread::spawn(move || {
        thread::sleep(limit);
        eprintln!("guest: {} s are over", limit.as_secs());
        switch_off()
    });
    let mut port = OpenOptions::new()
        .write(true)
        .open(PORT)
        .with_context(|| format!("opening {PORT}"))?;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    tell(&mut port, &say::booted(release.trim()))?;
    for name in MODULES {
        if let Err(error) = crate::modules::load(name) {
            eprintln!("guest: {error:#}");
        }
    }
    for suite in &plan.suites {
        tell(&mut port, &say::begun(&suite.name))?;
        let began = Instant::now();
        let broken = play(&mut port, suite).err().map(|error| format!("{error:#}"));
        tell(&mut port, &say::ended(&suite.name, broken.as_deref(), began.elapsed()))?;
    }
    tell(&mut port, &say::over())
}

fn tell(port: &mut File, what: &Value) -> Result<()> {
    write_line(port, &what.to_string())
}

/// In one write, so that nothing comes between.
fn write_line(port: &mut File, line: &str) -> Result<()> {
    port.write_all(format!("{line}\n").as_bytes()).context("writing to the serial port")
}

/// Plays one suite in a process of its own, and lets no process outlive it.
fn play(port: &mut File, suite: &Suite) -> Result<()> {
    let mut child = Command::new("/proc/self/exe")
        .args(["suite", &suite.name])
        .env("PATH", "/bin:/sbin")
        .env("VERIFIER_TARGET_DIR", "/dpv")
        .env("NO_COLOR", "1")
        .env("RUST_BACKTRACE", "1")
        .current_dir(Path::new("/dpv"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting the suite")?;
    let stdout = child.stdout.take().context("the suite has no standard output")?;
    let (sender, lines) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let until = Instant::now() + Duration::from_secs(suite.seconds);
    let pid = Pid::from_raw(i32::try_from(child.id()).context("a process id out of range")?);
    let mut status = None;
    let timed_out = loop {
        match lines.recv_timeout(POLL) {
            Ok(line) if say::is_protocol(&line) => write_line(port, &line)?,
            Ok(line) => eprintln!("{line}"),
            Err(RecvTimeoutError::Timeout) => {}
            // Its output is closed: all that is left to do is to end.
            Err(RecvTimeoutError::Disconnected) => thread::sleep(POLL),
        }
        status = status.or(reap(pid)?);
        if status.is_some() || Instant::now() > until {
            break status.is_none();
        }
    };
    // Everything but this process: agents that a suite left, and the suite if it hangs.
    match kill(Pid::from_raw(-1), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error).context("ending what the suite left"),
    }
    status = status.or(reap_all(pid)?);
    // The reader ends with the last process that had the pipe.
    if reader.join().is_err() {
        bail!("the thread that reads the suite panicked");
    }
    for line in lines.try_iter() {
        if say::is_protocol(&line) {
            write_line(port, &line)?;
        }
    }
    if timed_out {
        bail!("it was not over after {} s", suite.seconds);
    }
    match status {
        Some(WaitStatus::Exited(_, 0)) => Ok(()),
        Some(WaitStatus::Exited(_, code)) => bail!("it ended with status {code}"),
        other => bail!("it ended with {other:?}"),
    }
}

/// Reaps who has ended; the status of `wanted` if it is among them.
fn reap(wanted: Pid) -> Result<Option<WaitStatus>> {
    let mut found = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(found),
            Ok(status) if status.pid() == Some(wanted) => found = Some(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for processes"),
        }
    }
}

/// Reaps until nobody is left.
fn reap_all(wanted: Pid) -> Result<Option<WaitStatus>> {
    let mut found = None;
    loop {
        match waitpid(None, None) {
            Err(Errno::ECHILD) => return Ok(found),
            Ok(status) if status.pid() == Some(wanted) => found = Some(status),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waiting for processes"),
        }
    }
}
