//! The facts of a host, typed. Read by `verifier::host`; nothing here decides.
//!
//! No secret can stand in these types: of a token only its times are kept, of a configuration only the settings that a check names.

use crate::{evidence::Evidence, names::UnixNs};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    string::String,
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// Everything that was read of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAccount {
    /// Below which directory the host's file system was read.
    pub root: String,
    /// When.
    pub read_at: UnixNs,
    /// Whether it looks like a Kubernetes node at all: `/var/lib/kubelet` or `/etc/kubernetes` exists.
    pub is_node: Evidence<bool>,
    /// Distribution and image.
    pub os: Evidence<OsFacts>,
    /// The running kernel.
    pub kernel: Evidence<KernelFacts>,
    /// Kernel modules, of those that Calico needs ([`NEEDS`](super::NEEDS)).
    pub modules: Evidence<ModuleFacts>,
    /// Sysctls in force, by dotted name.
    pub sysctls: Evidence<BTreeMap<String, String>>,
    /// Sysctls that files set at boot, in the order in which they are applied.
    pub sysctl_files: Evidence<Vec<SysctlLine>>,
    /// Which iptables.
    pub iptables: Evidence<IptablesFacts>,
    /// CNI configuration and plugins.
    pub cni: Evidence<CniFacts>,
    /// What Calico leaves in `/var/lib/calico`.
    pub calico: Evidence<CalicoFiles>,
    /// Paths that Calico's pods mount.
    pub paths: Evidence<Vec<PathFact>>,
    /// Container runtime and kubelet.
    pub runtime: Evidence<RuntimeFacts>,
    /// NetworkManager's configuration; none if it is not in use.
    pub network_manager: Evidence<Option<NetworkManagerFacts>>,
    /// systemd-networkd's configuration; none if it is not in use.
    pub networkd: Evidence<Option<NetworkdFacts>>,
    /// systemd `.link` files.
    pub link_files: Evidence<Vec<LinkFile>>,
    /// udev rules about network devices that administrators added.
    pub udev: Evidence<Vec<UdevRule>>,
    /// Units that systemd starts at boot, of those that matter here.
    pub enabled_units: Evidence<BTreeSet<String>>,
}

/// Distribution and image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OsFacts {
    /// `PRETTY_NAME` of `/etc/os-release`.
    pub name: String,
    /// `ID`.
    pub id: String,
    /// `VERSION_ID`.
    pub version: Option<String>,
    /// Image build, where the distribution says (`IMAGE_VERSION`, `BUILD_ID`).
    pub image: Option<String>,
    /// Whether cloud-init set this machine up.
    pub cloud_init: bool,
    /// The marks it left; none if it left none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<CloudInitFacts>,
}

/// What cloud-init left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInitFacts {
    /// Kind of its data source, without addresses and paths: `DataSourceEc2Local`.
    pub datasource: Option<String>,
    /// Whether it came to its end.
    pub finished: bool,
    /// How many errors its result names; none if it left no result.
    pub errors: Option<usize>,
}

/// The running kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// `uname -r`.
    pub release: String,
    /// Symbols of [`NEEDS`](super::NEEDS) in its configuration: `y`, `m`, or `n`. None if its configuration cannot be found.
    pub config: Option<BTreeMap<String, char>>,
    /// Where the configuration came from.
    pub config_from: Option<String>,
}

/// Kernel modules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleFacts {
    /// Loaded now (`/proc/modules`, `/sys/module`). A kernel without module support has none.
    pub loaded: BTreeSet<String>,
    /// Built into the running kernel (`modules.builtin`).
    pub builtin: BTreeSet<String>,
    /// Whether `/lib/modules/RELEASE/modules.dep` of the running kernel exists.
    pub tree_present: bool,
    /// In the tree of the running kernel (`modules.dep`).
    pub on_disk: BTreeSet<String>,
    /// In the trees of other kernels, by release.
    pub other_trees: BTreeMap<String, BTreeSet<String>>,
    /// Listed to be loaded at boot (`modules-load.d`, `/etc/modules`), with the file.
    pub at_boot: BTreeMap<String, String>,
    /// Forbidden by `modprobe.d` (blacklisted, or installed as `/bin/false`), with the file.
    pub blocked: BTreeMap<String, String>,
}

/// A sysctl as a file sets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlLine {
    /// Dotted name.
    pub key: String,
    /// Value.
    pub value: String,
    /// File.
    pub file: String,
}

/// Which iptables this host uses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IptablesFacts {
    /// Tables of the legacy backend that exist in the kernel (`/proc/net/ip_tables_names`).
    pub legacy_tables: BTreeSet<String>,
    /// What the host's own `iptables` is: `nft` or `legacy`, from the alternatives link.
    pub alternative: Option<String>,
}

/// CNI configuration and plugins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniFacts {
    /// Whether `/etc/cni/net.d` exists.
    pub config_dir: bool,
    /// Its configuration files in the order in which the runtime reads them: the first wins.
    pub files: Vec<CniFile>,
    /// Plugins in `/opt/cni/bin`.
    pub binaries: BTreeMap<String, CniBinary>,
    /// The kubeconfig that the winning Calico configuration names.
    pub kubeconfig: Option<Kubeconfig>,
}

/// One file in `/etc/cni/net.d`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniFile {
    /// File name.
    pub name: String,
    /// What it says; why it cannot be parsed.
    pub network: Result<CniNetwork, String>,
}

/// A CNI network configuration, as far as it matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniNetwork {
    /// `name`.
    pub name: String,
    /// `cniVersion`.
    pub version: Option<String>,
    /// Plugin types in order.
    pub plugins: Vec<String>,
    /// `nodename` of the calico plugin.
    pub nodename: Option<String>,
    /// `mtu` of the calico plugin.
    pub mtu: Option<u32>,
    /// `kubernetes.kubeconfig` of the calico plugin.
    pub kubeconfig: Option<String>,
}

/// A plugin binary.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniBinary {
    /// Permission bits.
    pub mode: u32,
    /// Size in bytes.
    pub size_bytes: u64,
    /// Whether it begins as a program of this kind of machine does (ELF), or as a script.
    pub program: bool,
    /// What it says of its version, if it is a Go program that was told one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// A kubeconfig, without what is secret in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubeconfig {
    /// Path on the host.
    pub path: String,
    /// Its content; why it cannot be read.
    pub content: Result<KubeconfigContent, String>,
}

/// What a kubeconfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubeconfigContent {
    /// API server.
    pub server: Option<String>,
    /// Whether it has a token, a client certificate, or names a file with one.
    pub has_credential: bool,
    /// When the token was issued, seconds since 1970.
    pub issued_s: Option<u64>,
    /// When the token expires, seconds since 1970.
    pub expires_s: Option<u64>,
}

/// Files in `/var/lib/calico`. Absent is a fact; unreadable is a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalicoFiles {
    /// Content of `nodename`.
    pub nodename: Option<String>,
    /// Content of `mtu`.
    pub mtu: Option<String>,
    /// Smallest MTU among the host's Ethernet-like devices, and which.
    pub underlay: Option<(String, u32)>,
}

/// Kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Anything else.
    Other,
}

/// A path that Calico's pods mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathFact {
    /// Path on the host.
    pub path: String,
    /// What is there; none if nothing is.
    pub found: Option<FoundPath>,
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPath {
    /// Kind.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Options of the mount it lies on, if the mount table could be read.
    pub mount_options: Option<Vec<String>>,
}

/// Who makes containers, and in which cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeFacts {
    /// `containerd` or `crio`.
    pub name: Option<String>,
    /// Version of containerd's configuration format.
    pub config_version: Option<u32>,
    /// Its cgroup driver, `systemd` or `cgroupfs`, with the file that decides it (or `default`).
    pub cgroup_driver: Option<(String, String)>,
    /// The kubelet's cgroup driver, with the file that decides it (or `default`).
    pub kubelet_driver: Option<(String, String)>,
}

/// NetworkManager.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkManagerFacts {
    /// `unmanaged-devices` in force, split at `;` and `,`.
    pub unmanaged: Vec<String>,
    /// The file it came from.
    pub from: Option<String>,
}

/// systemd-networkd.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkdFacts {
    /// `.network` files in the order in which they are tried.
    pub networks: Vec<NetworkFile>,
    /// `ManageForeignRoutes=`; default yes.
    pub manage_foreign_routes: bool,
    /// `ManageForeignRoutingPolicyRules=`; default yes.
    pub manage_foreign_rules: bool,
}

/// One `.network` file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkFile {
    /// Path.
    pub path: String,
    /// `[Match] Name=`, globs.
    pub names: Vec<String>,
    /// `[Match] Type=`, globs.
    pub types: Vec<String>,
    /// `[Match] Kind=`, globs.
    pub kinds: Vec<String>,
    /// Other keys of `[Match]`: with one of them it cannot be told from here which device matches.
    pub other_match: bool,
    /// `[Link] Unmanaged=yes`.
    pub unmanaged: bool,
}

/// One `.link` file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFile {
    /// Path.
    pub path: String,
    /// `[Match] OriginalName=`, globs.
    pub names: Vec<String>,
    /// `[Match] Kind=` or `Driver=`, globs.
    pub kinds: Vec<String>,
    /// Settings of `[Link]` that change a tunnel device: `Name`, `MACAddress`, `MTUBytes`.
    pub sets: BTreeMap<String, String>,
}

/// A line of a udev rule about a network device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdevRule {
    /// File.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// The rule.
    pub text: String,
}
