//! Reads the host account: files below a root directory, nothing else, and nothing is written. What they mean is decided in
//! `verifier_core::host`.
//!
//! Each section is one function from the root to evidence. A file that does not exist is a fact; one that cannot be read is a gap, and a
//! root without `/proc` or `/etc` makes its sections unavailable.

mod cni;
mod daemons;
mod gobuild;
mod kernel;
mod paths;
mod root;
mod runtime;
mod settings;

pub use root::Root;

use crate::clock;
use root::Gaps;
use std::{
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};
use verifier_core::{
    evidence::Evidence,
    host::{CloudInitFacts, HostAccount, OsFacts},
    names::UnixNs,
};

/// Reads everything there is to read of the host whose file system is at `root`.
///
/// # Errors
/// The root itself cannot be opened.
pub fn read(root: &Path, now: UnixNs) -> io::Result<HostAccount> {
    let root = Root::open(root)?;
    let etc = root.exists("etc");
    let account = HostAccount {
        root: root.path().display().to_string(),
        read_at: now,
        is_node: is_node(&root),
        os: os(&root),
        kernel: kernel::kernel(&root),
        modules: kernel::modules(&root),
        sysctls: settings::sysctls(&root),
        sysctl_files: settings::sysctl_files(&root),
        iptables: settings::iptables(&root),
        cni: cni::cni(&root),
        calico: paths::calico(&root),
        paths: paths::paths(&root),
        runtime: runtime::runtime(&root),
        network_manager: daemons::network_manager(&root),
        networkd: daemons::networkd(&root),
        link_files: daemons::link_files(&root),
        udev: daemons::udev(&root),
        enabled_units: daemons::enabled_units(&root),
    };
    // Without /etc nothing that lies there can be said to be absent.
    Ok(match etc {
        Ok(true) => account,
        Ok(false) => without_etc(account, "there is no /etc below this root: is it the host's file system?"),
        Err(gap) => without_etc(account, &gap.why),
    })
}

/// The account as evidence: a root that cannot be opened makes it unavailable.
pub fn evidence(root: &Path, now: UnixNs) -> Evidence<HostAccount> {
    match read(root, now) {
        Ok(account) => Evidence::complete(account),
        Err(error) => Evidence::unavailable("host", format!("cannot open {}: {error}", root.display())),
    }
}

/// How long an account is good for: what it reads changes when somebody installs something.
const FRESH_NS: u64 = 30_000_000_000;

/// An account that is read again when it is old.
#[derive(Debug)]
pub struct Cached {
    root: PathBuf,
    last: Mutex<Option<(u64, Evidence<HostAccount>)>>,
}

impl Cached {
    /// Of the host whose file system is at `root`. Nothing is read yet.
    pub fn new(root: PathBuf) -> Self {
        Self {
            root,
            last: Mutex::new(None),
        }
    }

    /// The account, at most half a minute old.
    pub fn account(&self) -> Evidence<HostAccount> {
        let now_ns = clock::monotonic_ns();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((at, account)) if now_ns.saturating_sub(*at) < FRESH_NS => account.clone(),
            _ => {
                let account = evidence(&self.root, clock::unix_now());
                *last = Some((now_ns, account.clone()));
                account
            }
        }
    }
}

fn without_etc(account: HostAccount, why: &str) -> HostAccount {
    fn none<T>(why: &str) -> Evidence<T> {
        Evidence::unavailable("host/etc", why)
    }
    HostAccount {
        is_node: none(why),
        os: none(why),
        sysctl_files: none(why),
        iptables: none(why),
        cni: none(why),
        runtime: none(why),
        network_manager: none(why),
        networkd: none(why),
        link_files: none(why),
        udev: none(why),
        enabled_units: none(why),
        ..account
    }
}

fn is_node(root: &Root) -> Evidence<bool> {
    let mut gaps = Gaps::default();
    let mut any = false;
    for path in ["var/lib/kubelet", "etc/kubernetes"] {
        any |= gaps.note(root.exists(path).map(Some)).unwrap_or(false);
    }
    Evidence::partial(any, gaps.0)
}

/// The marks of cloud-init. Its data source is cut before anything that names a machine.
fn cloud_init(root: &Root, gaps: &mut Gaps) -> Option<CloudInitFacts> {
    if !gaps.note(root.exists("var/lib/cloud/instance").map(Some))? {
        return None;
    }
    let source = gaps.note(root.text("var/lib/cloud/instance/datasource"));
    let datasource = source
        .and_then(|text| text.split([':', ' ', '[', '\n']).next().map(str::to_owned))
        .filter(|text| !text.is_empty());
    let result = gaps.note(root.text("var/lib/cloud/data/result.json"));
    let errors = result.and_then(|text| {
        let value: serde_json::Value = serde_json::from_str(&text).ok()?; // a half-written result is as good as none
        Some(value.pointer("/v1/errors")?.as_array()?.len())
    });
    Some(CloudInitFacts {
        datasource,
        finished: gaps
            .note(root.exists("var/lib/cloud/instance/boot-finished").map(Some))
            .unwrap_or(false),
        errors,
    })
}

fn os(root: &Root) -> Evidence<OsFacts> {
    let mut gaps = Gaps::default();
    let text = gaps
        .note(root.text("etc/os-release"))
        .or_else(|| gaps.note(root.text("usr/lib/os-release")))
        .unwrap_or_default();
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let facts = OsFacts {
        name: value("PRETTY_NAME").unwrap_or_default(),
        id: value("ID").unwrap_or_default(),
        version: value("VERSION_ID"),
        image: value("IMAGE_VERSION").or_else(|| value("BUILD_ID")),
        cloud_init: gaps.note(root.exists("var/lib/cloud/instance").map(Some)).unwrap_or(false),
        cloud: cloud_init(root, &mut gaps),
    };
    Evidence::partial(facts, gaps.0)
}
