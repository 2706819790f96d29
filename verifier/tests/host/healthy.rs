//! A healthy host's file system, built by hand: Ubuntu's kernel layout, containerd, NetworkManager and networkd in use and taught to
//! leave Calico alone. It proves how files are read and judged, not that a distribution's files look so; the test
//! `the_machine_that_runs_the_tests_can_be_read` looks at a real `/`.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// `uname -r` of the fake.
pub const RELEASE: &str = "6.8.0-45-generic";
/// The moment at which it is looked at, seconds since 1970.
pub const NOW_S: u64 = 1_800_000_000;

/// A root directory that goes when it is dropped.
pub struct Fake {
    pub root: PathBuf,
}

impl Drop for Fake {
    fn drop(&mut self) {
        // A left-over directory below the target directory harms nobody.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Fake {
    pub fn empty() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("host-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    pub fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    pub fn dir(&self, path: &str) -> &Self {
        fs::create_dir_all(self.at(path)).unwrap();
        self
    }

    pub fn remove(&self, path: &str) -> &Self {
        let path = self.at(path);
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            fs::remove_file(path).unwrap();
        }
        self
    }

    pub fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Self {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    pub fn replace(&self, path: &str, from: &str, to: &str) -> &Self {
        let text = fs::read_to_string(self.at(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from:?}");
        self.write(path, text.replace(from, to))
    }
}

const MODULES: &[&str] = &[
    "kernel/drivers/net/veth.ko.zst",
    "kernel/drivers/net/vxlan/vxlan.ko.zst",
    "kernel/net/ipv4/ipip.ko.zst",
    "kernel/net/netfilter/nf_conntrack.ko.zst",
    "kernel/net/netfilter/ipset/ip_set.ko.zst",
    "kernel/net/netfilter/xt_set.ko.zst",
    "kernel/net/netfilter/xt_addrtype.ko.zst",
    "kernel/net/netfilter/xt_conntrack.ko.zst",
    "kernel/net/netfilter/xt_mark.ko.zst",
    "kernel/net/netfilter/xt_multiport.ko.zst",
    "kernel/net/netfilter/xt_comment.ko.zst",
    "kernel/net/ipv4/netfilter/ipt_rpfilter.ko.zst",
    "kernel/net/netfilter/nf_tables.ko.zst",
];

/// `modules.dep` without the modules whose path has one of these words.
pub fn modules_dep(without: &[&str]) -> String {
    MODULES
        .iter()
        .filter(|path| !without.iter().any(|word| path.contains(word)))
        .map(|path| format!("{path}: kernel/lib/something.ko.zst\n"))
        .collect()
}

/// A kubeconfig whose token was issued and expires at these seconds since 1970.
pub fn kubeconfig(issued_s: u64, expires_s: u64) -> String {
    let part = |text: &str| base64(text.as_bytes());
    let token = format!(
        "{}.{}.c2lnbmF0dXJl",
        part(r#"{"alg":"RS256"}"#),
        part(&format!(
            r#"{{"iat":{issued_s},"exp":{expires_s},"sub":"system:serviceaccount:kube-system:calico-cni-plugin"}}"#
        )),
    );
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: local\n  cluster:\n    server: https://10.96.0.1:443\nusers:\n- name: calico\n  user:\n    token: \"{token}\"\ncontexts: []\n"
    )
}

/// RFC 4648 section 5, without padding: written out, so that the reader is not tested with itself.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for i in 0..=chunk.len() {
            out.push(char::from(LETTERS[(word >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

pub const CONFLIST: &str = r#"{"name":"k8s-pod-network","cniVersion":"1.0.0","plugins":[
 {"type":"calico","log_level":"info","datastore_type":"kubernetes","nodename":"node-a","mtu":0,"ipam":{"type":"calico-ipam"},
  "policy":{"type":"k8s"},"kubernetes":{"kubeconfig":"/etc/cni/net.d/calico-kubeconfig"}},
 {"type":"portmap","snat":true,"capabilities":{"portMappings":true}}]}"#;

/// The healthy host.
pub fn healthy() -> Fake {
    let fake = Fake::empty();
    // Absolute, as merged-/usr distributions have it: it must be followed below the root, not on the machine that runs the test.
    fake.dir("usr/lib").link("lib", "/usr/lib").dir("usr/sbin");
    fake.write(
        "etc/os-release",
        "ID=ubuntu\nVERSION_ID=\"24.04\"\nPRETTY_NAME=\"Ubuntu 24.04.1 LTS\"\n",
    );
    fake.write("proc/sys/kernel/osrelease", format!("{RELEASE}\n"));
    fake.write(
        "proc/modules",
        "vxlan 147456 0 - Live 0x0\nnf_conntrack 200704 5 xt_conntrack, Live 0x0\nveth 45056 0 - Live 0x0\n",
    );
    fake.write(&format!("usr/lib/modules/{RELEASE}/modules.dep"), modules_dep(&[]));
    fake.write(&format!("usr/lib/modules/{RELEASE}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
    fake.write("etc/modules-load.d/calico.conf", "vxlan\n");
    fake.write("etc/modprobe.d/blacklist.conf", "blacklist pcspkr\n");
    let net = "proc/sys/net";
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/forwarding", "1"),
        ("ipv4/conf/all/rp_filter", "2"),
        ("ipv4/conf/cali86a12876b92/proxy_arp", "1"),
        ("ipv4/conf/cali86a12876b92/forwarding", "1"),
        ("ipv4/conf/cali86a12876b92/route_localnet", "1"),
        // As a kernel has it that nobody told otherwise: where no pod has IPv6 it is no cause.
        ("ipv6/conf/all/forwarding", "0"),
        ("netfilter/nf_conntrack_max", "131072"),
        ("netfilter/nf_conntrack_count", "512"),
    ] {
        fake.write(&format!("{net}/{key}"), format!("{value}\n"));
    }
    fake.write("etc/sysctl.d/10-network.conf", "net.ipv4.conf.all.rp_filter = 2\n");
    fake.write("usr/lib/sysctl.d/50-default.conf", "-net/ipv4/ip_forward = 0\n");
    fake.write("etc/sysctl.d/99-kubernetes.conf", "net.ipv4.ip_forward=1\n");
    fake.write("proc/net/ip_tables_names", "")
        .link("etc/alternatives/iptables", "/usr/sbin/iptables-nft");
    fake.write("etc/cni/net.d/10-calico.conflist", CONFLIST);
    fake.write("etc/cni/net.d/calico-kubeconfig", kubeconfig(NOW_S - 3600, NOW_S + 82_800));
    for plugin in ["calico", "calico-ipam", "portmap", "bandwidth", "loopback"] {
        let path = format!("opt/cni/bin/{plugin}");
        fake.write(&path, b"\x7fELF\x02\x01\x01").mode(&path, 0o755);
    }
    fake.write("var/lib/calico/nodename", "node-a")
        .write("var/lib/calico/mtu", "1450\n");
    fake.dir("run/calico").link("var/run", "/run").write("run/xtables.lock", "");
    fake.write(
        "proc/1/mounts",
        "/dev/sda1 / ext4 rw,relatime 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n",
    );
    fake.write("sys/class/net/eth0/mtu", "1500\n")
        .write("sys/class/net/eth0/operstate", "up\n");
    fake.write("sys/class/net/eth1/mtu", "900\n")
        .write("sys/class/net/eth1/operstate", "down\n");
    fake.write(
        "var/lib/kubelet/config.yaml",
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncgroupDriver: systemd\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
    );
    fake.write(
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\n  SystemdCgroup = true\n",
    );
    fake.dir("run/NetworkManager")
        .write("etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=ifupdown,keyfile\n");
    fake.write(
        "etc/NetworkManager/conf.d/calico.conf",
        "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico\n",
    );
    fake.write("run/systemd/netif/state", "OPER_STATE=routable\n");
    fake.write(
        "etc/systemd/network/05-calico.network",
        "[Match]\nName=cali* vxlan.calico vxlan-v6.calico tunl0\n[Link]\nUnmanaged=yes\n",
    );
    fake.write(
        "etc/systemd/network/10-eth.network",
        "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n",
    );
    fake.write(
        "usr/lib/systemd/network/99-default.link",
        "[Match]\nOriginalName=*\n[Link]\nNamePolicy=keep kernel\nMACAddressPolicy=persistent\n",
    );
    fake.write(
        "etc/systemd/networkd.conf.d/calico.conf",
        "[Network]\nManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n",
    );
    fake.write(
        "etc/udev/rules.d/70-nic.rules",
        "SUBSYSTEM==\"net\", ATTR{address}==\"52:54:00:12:34:56\", NAME=\"eth0\"\n",
    );
    fake.link(
        "etc/systemd/system/multi-user.target.wants/containerd.service",
        "/usr/lib/systemd/system/containerd.service",
    );
    fake
}
