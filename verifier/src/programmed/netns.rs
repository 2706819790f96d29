//! Network namespaces: hold one, visit one, open a socket in one.
//!
//! The namespace of a thread is a property of that thread, so a visit runs on a thread of its own that is discarded afterwards:
//! no thread of the async runtime ever changes its namespace, and nothing has to be restored. A socket stays in the namespace in
//! which it was made, whoever uses it: where a socket suffices, make it with [`Netns::open_in`] and use it anywhere.
//!
//! A [`Netns`] holds an open file and so keeps its namespace alive, as an open socket does. Hold the node's as long as you like. A
//! pod's must be held for the length of a visit only: otherwise the verifier would keep the devices of deleted pods standing.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// `NSFS_MAGIC` of `include/uapi/linux/magic.h`: the file system that namespace files live on.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// The namespace of the calling thread, as a path.
const OWN: &str = "/proc/thread-self/ns/net";

/// Why a namespace could not be opened or visited.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing is there (any more).
    #[error("network namespace {path} is gone")]
    Vanished {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file exists, but the namespace behind it is another one than it was.
    #[error("network namespace {path} is another one now (inode {now}, was {was})")]
    Replaced {
        /// The file.
        path: PathBuf,
        /// Inode number expected.
        was: u64,
        /// Inode number found.
        now: u64,
    },
    /// The file is no network namespace: a name left behind after a reboot or a crash, or a typing error.
    #[error("{path} is no network namespace; `ip netns list` and /proc/PID/ns/net name some")]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// Entering needs `CAP_SYS_ADMIN`.
    #[error("no permission to enter network namespace {path}: run as root or grant CAP_SYS_ADMIN and CAP_NET_ADMIN")]
    Permission {
        /// The file.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The namespace file could not be opened or entered for another reason.
    #[error("cannot enter network namespace {path}")]
    Enter {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The namespace was entered, and what was to be opened in it could not be.
    #[error("cannot open {what} in network namespace {path}")]
    Open {
        /// What.
        what: &'static str,
        /// The namespace.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread could be started for the visit.
    #[error("cannot start a thread for a visit to network namespace {path}")]
    Thread {
        /// The namespace.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The visit panicked: a fault of this program.
    #[error("internal fault during a visit to network namespace {path}")]
    Panicked {
        /// The namespace.
        path: PathBuf,
    },
}

impl NetnsError {
    /// Whether the namespace does not exist any more, which is no fault for a pod that was just deleted.
    pub const fn vanished(&self) -> bool {
        matches!(self, Self::Vanished { .. } | Self::Replaced { .. })
    }

    /// The errno below, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Permission { source, .. } | Self::Enter { source, .. } | Self::Open { source, .. } | Self::Thread { source, .. } => {
                source.raw_os_error()
            }
            Self::Vanished { .. } | Self::Replaced { .. } | Self::NotANamespace { .. } | Self::Panicked { .. } => None,
        }
    }
}

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    inum: u64,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// If procfs is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(OWN)
    }

    /// The namespace behind a file: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If there is none, or it may not be opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, NetnsError> {
        let path = path.as_ref().to_path_buf();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) => {
                return Err(match source.kind() {
                    io::ErrorKind::NotFound => NetnsError::Vanished { path },
                    io::ErrorKind::PermissionDenied => NetnsError::Permission { path, source },
                    // A process that ends during the look makes its /proc entry fail with ESRCH.
                    _ if source.raw_os_error() == Some(libc::ESRCH) => NetnsError::Vanished { path },
                    _ => NetnsError::Enter { path, source },
                });
            }
        };
        let enter = |source| NetnsError::Enter {
            path: path.clone(),
            source,
        };
        let on = nix::sys::statfs::fstatfs(&file).map_err(|e| enter(e.into()))?;
        #[allow(
            clippy::unnecessary_cast,
            clippy::useless_conversion,
            reason = "the type differs between architectures"
        )]
        let magic = on.filesystem_type().0 as i64;
        if magic != NSFS_MAGIC || !is_network_namespace(file.as_fd()) {
            return Err(NetnsError::NotANamespace { path });
        }
        let inum = file.metadata().map_err(enter)?.ino();
        Ok(Self { file, path, inum })
    }

    /// The namespace behind a file, if it still is the one with this inode number. Inode numbers of namespaces are unique among those
    /// that exist at one time.
    ///
    /// # Errors
    /// If it is gone, replaced, or may not be opened.
    pub fn reopen(path: impl AsRef<Path>, inum: u64) -> Result<Self, NetnsError> {
        let ns = Self::open(path)?;
        if ns.inum == inum {
            Ok(ns)
        } else {
            Err(NetnsError::Replaced {
                path: ns.path,
                was: inum,
                now: ns.inum,
            })
        }
    }

    /// Another handle of the same namespace.
    ///
    /// # Errors
    /// If the file cannot be duplicated.
    pub fn try_clone(&self) -> Result<Self, NetnsError> {
        match self.file.try_clone() {
            Ok(file) => Ok(Self {
                file,
                path: self.path.clone(),
                inum: self.inum,
            }),
            Err(source) => Err(NetnsError::Enter {
                path: self.path.clone(),
                source,
            }),
        }
    }

    /// The file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Inode number: the kernel's own name for a namespace (`net->ns.inum`).
    pub const fn inum(&self) -> u64 {
        self.inum
    }

    /// The open namespace file.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Run `visit` inside, on a thread of its own that ends with the visit. The caller is blocked meanwhile; from async code use
    /// [`run_in_async`].
    ///
    /// # Errors
    /// If the namespace cannot be entered. What happens inside is `visit`'s own result.
    pub fn run_in<T: Send>(&self, visit: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let path = || self.path.clone();
        thread::scope(|scope| {
            let visitor = thread::Builder::new()
                .name("netns-visit".into())
                .spawn_scoped(scope, || {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
                    Ok(visit())
                })
                .map_err(|source| NetnsError::Thread { path: path(), source })?;
            match visitor.join() {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(source)) => Err(entering_failed(path(), source)),
                Err(_) => Err(NetnsError::Panicked { path: path() }),
            }
        })
    }

    /// Open something inside (a socket, a file of `/proc/thread-self/net`) and use it outside. `what` names it in the error.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the thing cannot be opened.
    pub fn open_in<T: Send>(&self, what: &'static str, open: impl FnOnce() -> io::Result<T> + Send) -> Result<T, NetnsError> {
        self.run_in(open)?.map_err(|source| NetnsError::Open {
            what,
            path: self.path.clone(),
            source,
        })
    }

    /// A netlink socket of this namespace, bound to a port of the kernel's choice.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the protocol is not there.
    pub fn netlink(&self, protocol: isize) -> Result<netlink_sys::Socket, NetnsError> {
        self.open_in("a netlink socket", || {
            let mut socket = netlink_sys::Socket::new(protocol)?;
            socket.bind_auto()?;
            Ok(socket)
        })
    }

    /// A socket of this namespace of any domain, type and protocol: `socket_in(Domain::IPV4, Type::DGRAM, None)`.
    ///
    /// # Errors
    /// If the namespace cannot be entered or the socket cannot be made (a raw socket needs `CAP_NET_RAW`).
    pub fn socket_in(
        &self,
        domain: socket2::Domain,
        kind: socket2::Type,
        protocol: Option<socket2::Protocol>,
    ) -> Result<socket2::Socket, NetnsError> {
        self.open_in("a socket", || socket2::Socket::new(domain, kind, protocol))
    }
}

/// [`Netns::run_in`] as a function.
///
/// # Errors
/// If the namespace cannot be entered.
pub fn run_in<T: Send>(ns: &Netns, visit: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    ns.run_in(visit)
}

/// [`Netns::run_in`] for async code: the waiting is done by a blocking thread of the runtime, the visit by a thread of its own.
///
/// # Errors
/// If the namespace cannot be entered.
pub async fn run_in_async<T: Send + 'static>(ns: &Netns, visit: impl FnOnce() -> T + Send + 'static) -> Result<T, NetnsError> {
    let ns = ns.try_clone()?;
    let path = ns.path.clone();
    match tokio::task::spawn_blocking(move || ns.run_in(visit)).await {
        Ok(result) => result,
        Err(_) => Err(NetnsError::Panicked { path }),
    }
}

fn entering_failed(path: PathBuf, source: io::Error) -> NetnsError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => NetnsError::Permission { path, source },
        Some(libc::EINVAL) => NetnsError::NotANamespace { path },
        _ => NetnsError::Enter { path, source },
    }
}

/// `ioctl_ns(2)`: a namespace file tells its type since Linux 4.11.
fn is_network_namespace(file: BorrowedFd<'_>) -> bool {
    // `_IO(0xb7, 0x3)` of include/uapi/linux/nsfs.h.
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the descriptor is open, and NS_GET_NSTYPE takes no argument and writes to no memory of ours.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE as _) };
    kind == libc::CLONE_NEWNET
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::programmed::testing::{TestNs, root};

    #[test]
    fn own_namespace_opens_and_has_an_inode() {
        let ns = Netns::current().unwrap();
        assert_ne!(ns.inum(), 0);
        assert_eq!(ns.inum(), Netns::open("/proc/self/ns/net").unwrap().inum());
    }

    #[test]
    fn a_missing_file_has_vanished_and_an_ordinary_file_is_none() {
        assert!(Netns::open("/run/netns/there-is-no-such-name").unwrap_err().vanished());
        assert!(matches!(
            Netns::open("/proc/self/status").unwrap_err(),
            NetnsError::NotANamespace { .. }
        ));
        assert!(matches!(
            Netns::open("/proc/self/ns/mnt").unwrap_err(),
            NetnsError::NotANamespace { .. }
        ));
    }

    #[test]
    fn a_visit_leaves_the_caller_where_it_was() {
        if !root() {
            return;
        }
        let before = Netns::current().unwrap().inum();
        let test = TestNs::new("visit");
        let ns = test.netns();
        let inside = ns.run_in(|| Netns::current().unwrap().inum()).unwrap();
        assert_eq!(inside, ns.inum());
        assert_ne!(inside, before);
        assert_eq!(Netns::current().unwrap().inum(), before);
    }

    #[test]
    fn a_panic_inside_is_an_error_outside() {
        if !root() {
            return;
        }
        let test = TestNs::new("panic");
        let result = test.netns().run_in(|| panic!("on purpose"));
        assert!(matches!(result, Err(NetnsError::Panicked { .. })));
    }

    #[test]
    fn a_socket_stays_in_its_namespace() {
        if !root() {
            return;
        }
        let test = TestNs::new("socket");
        let socket = test.netns().socket_in(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        // Nothing is up there, not even loopback: a bound address of this machine would be refused, the wildcard is not.
        socket.bind(&std::net::SocketAddr::from(([0, 0, 0, 0], 0)).into()).unwrap();
        let to = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        let error = socket.send_to(b"x", &to.into()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETUNREACH));
    }

    #[test]
    fn a_namespace_that_vanishes_is_an_error_value() {
        if !root() {
            return;
        }
        let test = TestNs::new("vanish");
        let (path, inum) = (test.path().to_path_buf(), test.netns().inum());
        assert!(Netns::reopen(&path, inum).is_ok());
        assert!(matches!(Netns::reopen(&path, inum + 1).unwrap_err(), NetnsError::Replaced { .. }));
        drop(test);
        assert!(Netns::reopen(&path, inum).unwrap_err().vanished());
    }
}
