//! Building the parts in their order, and becoming one of the binaries of `verifier-tests`.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::workspace::{Workspace, cargo};
use crate::{Outcome, ebpf, terminal};

/// Without root nothing here can work, and nothing was tried: EX_NOPERM of sysexits.h.
const NO_PERMISSION: u8 = 77;

/// How to compile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
    /// For virtual machines.
    Guest,
}

impl Profile {
    pub(crate) fn of(release: bool) -> Self {
        if release { Profile::Release } else { Profile::Dev }
    }

    fn directory(self) -> &'static str {
        match self {
            Profile::Dev => "debug",
            Profile::Release => "release",
            Profile::Guest => "guest",
        }
    }
}

/// The eBPF object, then everything that runs on the host.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Outcome {
    build_ebpf(workspace)?;
    build_host(workspace, profile)?;
    println!("{}", binary(workspace, profile, "verifier").display());
    Ok(ExitCode::SUCCESS)
}

/// The object that the verifier loads, from source, with the toolchain set up first.
pub(crate) fn build_ebpf(workspace: &Workspace) -> Result<()> {
    ebpf::build(&workspace.root).map(|_| ())
}

pub(crate) fn build_host(workspace: &Workspace, profile: Profile) -> Result<()> {
    let mut command = cargo();
    command
        .current_dir(&workspace.root)
        .args(["build", "--package", "verifier", "--package", "verifier-tests", "--bins"]);
    match profile {
        Profile::Dev => {}
        Profile::Release | Profile::Guest => {
            command.args(["--profile", profile.directory()]);
        }
    }
    run_to_success(&mut command)
}

pub(crate) fn binary(workspace: &Workspace, profile: Profile, name: &str) -> PathBuf {
    workspace.target.join(profile.directory()).join(name)
}

/// Builds all, then replaces this process with a binary, so that signals and the exit status are that binary's own.
pub(crate) fn become_binary(workspace: &Workspace, profile: Profile, name: &str, arguments: &[OsString]) -> Outcome {
    // What only prints needs no privileges.
    if !only_prints(arguments)
        && let Some(refusal) = need_root(name)
    {
        return Ok(refusal);
    }
    build_ebpf(workspace)?;
    build_host(workspace, profile)?;
    let path = binary(workspace, profile, name);
    let error = Command::new(&path)
        .current_dir(&workspace.root)
        .env("VERIFIER_TARGET_DIR", &workspace.target)
        .args(arguments)
        .exec();
    Err(error).with_context(|| format!("running {}", path.display()))
}

/// Whether a program that is passed these only prints.
pub(crate) fn only_prints(arguments: &[OsString]) -> bool {
    let prints = ["--list", "--help", "-h"];
    arguments.iter().any(|argument| prints.iter().any(|print| argument == print))
}

/// One clear line and the exit status, where this is not root.
pub(crate) fn need_root(command: &str) -> Option<ExitCode> {
    if is_root() {
        return None;
    }
    eprintln!(
        "{} `{command}` needs root (it makes network namespaces and loads eBPF programs): sudo --preserve-env=PATH cargo xtask {command}",
        terminal::stderr().red("xtask:")
    );
    Some(ExitCode::from(NO_PERMISSION))
}

/// procfs gives a process's directory to its effective user.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Runs a command that reports for itself; its failure is ours.
pub(crate) fn run_to_success(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| format!("running {program}"))?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        bail!("`cargo {}` failed ({status})", words.join(" "));
    }
    Ok(())
}
