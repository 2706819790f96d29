//! Namespaces for the tests of this module: unique names, removed with the guard.

use super::netns::Netns;
use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// Whether the test may use namespaces. Says so in one line if not.
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for network namespaces");
    }
    root
}

/// A network namespace with a name below `/run/netns`, gone with this value.
pub(crate) struct TestNs {
    path: PathBuf,
}

impl TestNs {
    /// A fresh namespace. The name is unique on this machine.
    pub(crate) fn new(tag: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("programmed-{tag}-{}-{count}", std::process::id());
        std::fs::create_dir_all("/run/netns").unwrap();
        let path = Path::new("/run/netns").join(name);
        File::create(&path).unwrap();
        let target = path.clone();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            mount(
                Some("/proc/thread-self/ns/net"),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .unwrap();
        })
        .join()
        .unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn netns(&self) -> Netns {
        Netns::open(&self.path).unwrap()
    }

    /// Run `ip` inside: tests set the kernel up with another program than the one under test.
    pub(crate) fn ip(&self, args: &str) {
        self.run("ip", args);
    }

    /// Run a program inside.
    pub(crate) fn run(&self, program: &str, args: &str) {
        let status = self.command(program, args, |command| command.status());
        assert!(status.success(), "{program} {args}");
    }

    /// Run a program inside and discard what it prints.
    pub(crate) fn quiet(&self, program: &str, args: &str) {
        let status = self.command(program, args, |command| command.stdout(Stdio::null()).status());
        assert!(status.success(), "{program} {args}");
    }

    fn command(&self, program: &str, args: &str, run: impl FnOnce(&mut Command) -> io::Result<ExitStatus> + Send) -> ExitStatus {
        let mut command = Command::new(program);
        command.args(args.split_whitespace());
        self.netns().run_in(|| run(&mut command)).unwrap().unwrap()
    }

    /// Run lines of `ip` in one process.
    pub(crate) fn batch(&self, lines: String) {
        let mut command = Command::new("ip");
        command.args(["-force", "-batch", "-"]).stdin(Stdio::piped());
        let mut child = self.netns().run_in(|| command.spawn()).unwrap().unwrap();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    }

    /// This many blackhole routes below 10.1.0.0/8.
    pub(crate) fn routes(&self, count: usize) {
        let lines = (0..count).map(|i| format!("route add blackhole 10.1{}.{}.{}/32\n", i / 62_500, i / 250 % 250, i % 250));
        self.batch(lines.collect());
    }
}

impl Drop for TestNs {
    fn drop(&mut self) {
        if let Err(e) = umount2(&self.path, MntFlags::MNT_DETACH) {
            eprintln!("{}: {e}", self.path.display());
        }
        if let Err(e) = std::fs::remove_file(&self.path) {
            eprintln!("{}: {e}", self.path.display());
        }
    }
}
