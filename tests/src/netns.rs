//! Named network namespaces, as `ip netns add` makes them: a bind mount of the namespace's file
//! under `/run/netns`, so that `ip netns exec NAME …` works on a fabric that is left standing.
//!
//! Code enters a namespace on a dedicated thread with `setns`. `ip netns exec` is never used: it
//! remounts `/sys`, which hides tracefs and bpffs.

use std::{
    fs::{self, File},
    os::fd::AsFd,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Where named namespaces live.
const DIR: &str = "/run/netns";

/// How long processes found inside a namespace may take to die.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// One named network namespace. Dropping the value does not delete the namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a new namespace, replacing what a crashed run may have left under that name.
    pub fn create(name: &str) -> Result<Self> {
        check_name(name)?;
        delete(name)?;
        fs::create_dir_all(DIR).with_context(|| format!("create {DIR}"))?;
        let path = Path::new(DIR).join(name);
        // The mount needs something to be mounted on.
        File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        let made = thread::scope(|scope| {
            scope
                .spawn(move || -> Result<()> {
                    unshare(CloneFlags::CLONE_NEWNET).context("unshare the network namespace")?;
                    mount(
                        Some("/proc/thread-self/ns/net"),
                        &target,
                        None::<&str>,
                        MsFlags::MS_BIND,
                        None::<&str>,
                    )
                    .with_context(|| format!("bind mount {}", target.display()))?;
                    Ok(())
                })
                .join()
        });
        match made {
            Ok(Ok(())) => Ok(Self { name: name.to_owned() }),
            Ok(Err(error)) => {
                fs::remove_file(&path).with_context(|| format!("{error:#}; and removing {}", path.display()))?;
                Err(error)
            }
            Err(_) => bail!("the thread that makes namespace {name} panicked"),
        }
    }

    /// A namespace that exists already.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let netns = Self { name: name.to_owned() };
        netns.file()?;
        Ok(netns)
    }

    /// Its name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path that stands for it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIR).join(&self.name)
    }

    /// A handle that keeps the namespace alive and names it in netlink (`IFLA_NET_NS_FD`).
    pub fn file(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("open namespace {}", path.display()))
    }

    /// Runs `work` on a thread of its own inside the namespace and hands back what it returns.
    ///
    /// Sockets opened inside stay in the namespace after the thread has ended.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.file()?;
        let name = &self.name;
        let done = thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(file.as_fd(), CloneFlags::CLONE_NEWNET).with_context(|| format!("enter namespace {name}"))?;
                    work().with_context(|| format!("in namespace {name}"))
                })
                .join()
        });
        done.map_err(|_| anyhow!("the thread inside namespace {name} panicked"))?
    }
}

/// Names of all namespaces that start with `prefix`, sorted.
pub fn list(prefix: &str) -> Result<Vec<String>> {
    let entries = match fs::read_dir(DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("list {DIR}")),
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry.with_context(|| format!("list {DIR}"))?.file_name();
        if let Some(name) = name.to_str()
            && name.starts_with(prefix)
        {
            names.push(name.to_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Deletes a namespace whatever state it is in: mounted, mounted twice, or a bare file that a
/// crash left before the mount. Processes that live inside are killed first, because they would
/// keep it alive. Deleting what is not there succeeds.
pub fn delete(name: &str) -> Result<()> {
    check_name(name)?;
    let path = Path::new(DIR).join(name);
    if !path.try_exists().with_context(|| format!("look for {}", path.display()))? {
        return Ok(());
    }
    if is_netns(&path)? {
        kill_inside(&path)?;
    }
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error).with_context(|| format!("unmount {}", path.display())),
        }
    }
    match fs::remove_file(&path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
    }
}

/// Deletes every namespace whose name starts with `prefix`.
pub fn delete_all(prefix: &str) -> Result<()> {
    for name in list(prefix)? {
        delete(&name)?;
    }
    Ok(())
}

/// Processes whose main thread is in the namespace behind `path`.
pub fn processes_inside(path: &Path) -> Result<Vec<i32>> {
    use std::os::unix::fs::MetadataExt;
    let wanted = fs::metadata(path).with_context(|| format!("stat {}", path.display()))?.ino();
    let wanted = format!("net:[{wanted}]");
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("list /proc")? {
        let entry = entry.context("list /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        // A process may end between the listing and this look: then it is not inside any more.
        if let Ok(link) = fs::read_link(entry.path().join("ns/net"))
            && link.to_str() == Some(wanted.as_str())
        {
            found.push(pid);
        }
    }
    Ok(found)
}

fn kill_inside(path: &Path) -> Result<()> {
    let deadline = Instant::now() + KILL_DEADLINE;
    let me = std::process::id() as i32;
    loop {
        let mut inside = processes_inside(path)?;
        inside.retain(|&pid| pid != me);
        if inside.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {inside:?} inside {} do not die", path.display());
        }
        for pid in inside {
            match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("kill {pid}")),
            }
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A bare file (left by a crash before the mount) is not a namespace; `NS_GET_NSTYPE` would say so
/// as well, but the file system's kind is enough.
fn is_netns(path: &Path) -> Result<bool> {
    let stat = nix::sys::statfs::statfs(path).with_context(|| format!("statfs {}", path.display()))?;
    Ok(stat.filesystem_type() == nix::sys::statfs::NSFS_MAGIC)
}

fn check_name(name: &str) -> Result<()> {
    let good = !name.is_empty() && name.len() < 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if good {
        Ok(())
    } else {
        bail!("{name:?} is no usable namespace name: letters, digits, '-' and '_' only")
    }
}
