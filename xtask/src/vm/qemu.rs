//! One virtual machine: started, listened to, and ended, whatever it does.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::fetch::Unpacked;
use super::image::PROGRAMS;

const PROGRAM: &str = "qemu-system-x86_64";

/// How long a kernel may take under KVM to find out that it has nothing to run. There are machines whose `/dev/kvm` opens,
/// and whose guests get no further than their first instructions.
const KVM_PATIENCE: Duration = Duration::from_secs(10);
/// What every kernel says then.
const NOTHING_TO_RUN: &str = "Kernel panic";

/// How a guest's instructions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    /// By the processor.
    Kvm,
    /// By translation: several times slower.
    Tcg,
}

impl Accelerator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn argument(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg,thread=multi",
        }
    }
}

/// Whether there is a QEMU at all.
pub(super) fn is_here() -> bool {
    Command::new(PROGRAM)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// KVM where a kernel gets through all of its own start under it.
pub(super) fn accelerator(kernel: &Unpacked) -> Result<Accelerator> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let mut command = machine(Accelerator::Kvm, kernel);
    command
        .args(["-serial", "stdio", "-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut guest = Guest::start(command)?;
    let until = Instant::now() + KVM_PATIENCE;
    let works = loop {
        match guest.line(until.saturating_duration_since(Instant::now())) {
            Heard::Line(line) if line.contains(NOTHING_TO_RUN) => break true,
            Heard::Line(_) => {}
            Heard::Nothing | Heard::End => break false,
        }
    };
    guest.end()?;
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

fn machine(accelerator: Accelerator, kernel: &Unpacked) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-monitor",
            "none",
        ])
        .args(["-accel", accelerator.argument(), "-cpu", "max", "-smp", "2", "-m", "2048"])
        .arg("-kernel")
        .arg(&kernel.image)
        .stdin(Stdio::null());
    command
}

/// What came of waiting for a line.
pub(super) enum Heard {
    Line(String),
    /// Nothing, for so long.
    Nothing,
    /// The machine is off.
    End,
}

/// A machine that runs. It ends when this value goes.
pub(super) struct Guest {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Guest {
    /// Boots with our first process; the kernel's console goes to the file, the protocol is read by [`Guest::line`].
    pub(super) fn boot(accelerator: Accelerator, kernel: &Unpacked, initramfs: &Path, console: &Path) -> Result<Self> {
        let mut to_console = std::ffi::OsString::from("file:");
        to_console.push(console);
        let mut command = machine(accelerator, kernel);
        command
            .arg("-initrd")
            .arg(initramfs)
            .arg("-append")
            // A panic ends the machine at once.
            .arg(format!("console=ttyS0 rdinit={PROGRAMS}/guest panic=-1 oops=panic loglevel=5"))
            .arg("-serial")
            .arg(to_console)
            .args(["-serial", "stdio"])
            .stdout(Stdio::piped());
        Self::start(command)
    }

    fn start(mut command: Command) -> Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("running {PROGRAM}; remedy: install qemu-system-x86"))?;
        let Some(stdout) = child.stdout.take() else {
            bail!("{PROGRAM} has no standard output")
        };
        let (sender, lines) = mpsc::channel();
        // Ends with the machine.
        thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    pub(super) fn line(&mut self, patience: Duration) -> Heard {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Heard::Line(line),
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Waits a little for a machine that switches itself off, then ends it.
    pub(super) fn off(mut self, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || matches!(self.line(left), Heard::End) {
                return self.end();
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        self.child.kill().context("ending a virtual machine")?;
        self.child.wait().context("waiting for a virtual machine")?;
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("xtask: {error:#}");
        }
    }
}

/// The last lines of a console.
pub(super) fn tail(console: &PathBuf, count: usize) -> String {
    match std::fs::read(console) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            lines[lines.len().saturating_sub(count)..].join("\n")
        }
        Err(error) => format!("(no console: {error})"),
    }
}
