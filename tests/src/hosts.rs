//! File systems of hosts, as an agent reads them for its host account: a healthy machine, and one whose kernel was upgraded without its
//! extra modules. Devices, routes and packets of a fabric are real; only these files are made up.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

use anyhow::{Context, Result};

/// `uname -r` of the host.
pub const RELEASE: &str = "6.8.0-45-generic";
/// The kernel before the upgrade.
const RELEASE_BEFORE: &str = "6.8.0-31-generic";

/// Modules that Calico needs, as `modules.dep` lists them.
const MODULES: &[&str] = &[
    "kernel/drivers/net/veth.ko.zst",
    "kernel/drivers/net/vxlan/vxlan.ko.zst",
    "kernel/net/ipv4/ipip.ko.zst",
    "kernel/net/ipv4/netfilter/ipt_rpfilter.ko.zst",
    "kernel/net/netfilter/ipset/ip_set.ko.zst",
    "kernel/net/netfilter/nf_conntrack.ko.zst",
    "kernel/net/netfilter/nf_tables.ko.zst",
    "kernel/net/netfilter/xt_addrtype.ko.zst",
    "kernel/net/netfilter/xt_comment.ko.zst",
    "kernel/net/netfilter/xt_conntrack.ko.zst",
    "kernel/net/netfilter/xt_mark.ko.zst",
    "kernel/net/netfilter/xt_multiport.ko.zst",
    "kernel/net/netfilter/xt_set.ko.zst",
];

/// Files whose content is the same on every host.
const FILES: &[(&str, &str)] = &[
    (
        "etc/os-release",
        "ID=ubuntu\nVERSION_ID=\"24.04\"\nPRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\n",
    ),
    (
        "proc/modules",
        "vxlan 147456 0 - Live 0x0\nnf_conntrack 200704 5 xt_conntrack, Live 0x0\nveth 45056 0 - Live 0x0\n",
    ),
    ("etc/modules-load.d/calico.conf", "vxlan\n"),
    ("proc/sys/net/ipv4/ip_forward", "1\n"),
    ("proc/sys/net/ipv4/conf/all/forwarding", "1\n"),
    ("proc/sys/net/ipv4/conf/all/rp_filter", "2\n"),
    ("proc/sys/net/netfilter/nf_conntrack_max", "131072\n"),
    ("proc/sys/net/netfilter/nf_conntrack_count", "512\n"),
    (
        "etc/sysctl.d/99-kubernetes.conf",
        "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.rp_filter=2\n",
    ),
    ("proc/net/ip_tables_names", ""),
    // A token without an expiry: what it says does not depend on the day.
    (
        "etc/cni/net.d/calico-kubeconfig",
        "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n    server: https://10.96.0.1:443\nusers:\n- name: calico\n  user:\n    tokenFile: /var/run/token\ncontexts: []\n",
    ),
    ("var/lib/calico/mtu", "1450\n"),
    ("run/xtables.lock", ""),
    (
        "proc/1/mounts",
        "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n",
    ),
    ("sys/class/net/eth0/mtu", "1500\n"),
    ("sys/class/net/eth0/operstate", "up\n"),
    (
        "var/lib/kubelet/config.yaml",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: systemd\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
    ),
    (
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n",
    ),
];

fn put(root: &Path, path: &str, text: &str) -> Result<()> {
    let path = root.join(path);
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    }
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

fn modules_dep(without: &str) -> String {
    let kept = MODULES.iter().filter(|path| without.is_empty() || !path.contains(without));
    kept.map(|path| format!("{path}:\n")).collect()
}

/// A healthy host for a node, in the place of whatever was there.
///
/// # Errors
/// A file cannot be written.
pub fn healthy(root: &Path, node: &str) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("removing {}", root.display()))?;
    }
    for (path, text) in FILES {
        put(root, path, text)?;
    }
    put(root, "proc/sys/kernel/osrelease", &format!("{RELEASE}\n"))?;
    put(root, &format!("usr/lib/modules/{RELEASE}/modules.dep"), &modules_dep(""))?;
    put(
        root,
        &format!("usr/lib/modules/{RELEASE}/modules.builtin"),
        "kernel/fs/ext4/ext4.ko\n",
    )?;
    put(root, "var/lib/calico/nodename", node)?;
    put(
        root,
        "etc/cni/net.d/10-calico.conflist",
        &format!(
            r#"{{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[{{"type":"calico","nodename":"{node}","mtu":0,"ipam":{{"type":"calico-ipam"}},"kubernetes":{{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"}}}},{{"type":"portmap","snat":true,"capabilities":{{"portMappings":true}}}}]}}"#
        ),
    )?;
    for plugin in ["calico", "calico-ipam", "portmap", "loopback"] {
        let path = format!("opt/cni/bin/{plugin}");
        put(root, &path, "\x7fELF\x02\x01\x01")?;
        fs::set_permissions(root.join(&path), fs::Permissions::from_mode(0o755)).context("making a plugin executable")?;
    }
    for directory in ["run/calico", "usr/sbin", "etc/alternatives"] {
        fs::create_dir_all(root.join(directory)).with_context(|| format!("making {directory}"))?;
    }
    for (path, target) in [
        ("lib", "/usr/lib"),
        ("var/run", "/run"),
        ("etc/alternatives/iptables", "/usr/sbin/iptables-nft"),
    ] {
        symlink(target, root.join(path)).with_context(|| format!("linking {path}"))?;
    }
    Ok(())
}

/// After a reboot into a newer kernel whose package has no vxlan module; the tree of the kernel before has it.
///
/// # Errors
/// A file cannot be written.
pub fn upgrade_without_modules(root: &Path) -> Result<()> {
    put(root, "proc/modules", "nf_conntrack 200704 0 - Live 0x0\nveth 45056 0 - Live 0x0\n")?;
    put(root, &format!("usr/lib/modules/{RELEASE}/modules.dep"), &modules_dep("vxlan"))?;
    put(root, &format!("usr/lib/modules/{RELEASE_BEFORE}/modules.dep"), &modules_dep(""))
}
