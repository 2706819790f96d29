//! Broken ways that lie in files: CNI, Calico's own, paths, the runtime, network daemons.

use crate::{
    broken::{Case, case, knowing},
    healthy::{CONFLIST, NOW_S, kubeconfig},
};
use verifier_core::{host::HostContext, names::NodeName, verdict::CauseCode::*};

/// The cases.
pub const CASES: &[Case] = &[
    // CNI
    case(
        "no CNI configuration",
        |f| {
            f.remove("etc/cni/net.d/10-calico.conflist");
        },
        &[CniConfigMissing],
    ),
    case(
        "no CNI directory",
        |f| {
            f.remove("etc/cni");
        },
        &[CniConfigMissing],
    ),
    case(
        "only a foreign CNI configuration",
        |f| {
            f.remove("etc/cni/net.d/10-calico.conflist");
            f.write(
                "etc/cni/net.d/10-flannel.conflist",
                r#"{"name":"cbr0","plugins":[{"type":"flannel"}]}"#,
            );
        },
        &[CniConfigMissing],
    ),
    case(
        "truncated CNI configuration",
        |f| {
            f.write("etc/cni/net.d/10-calico.conflist", &CONFLIST[..120]);
        },
        &[CniConfigInvalid],
    ),
    case(
        "empty file before Calico's",
        |f| {
            f.write("etc/cni/net.d/00-new.conf", "");
        },
        &[CniConfigInvalid],
    ),
    case(
        "podman's network before Calico's",
        |f| {
            f.write(
                "etc/cni/net.d/05-podman-bridge.conflist",
                r#"{"name":"podman","plugins":[{"type":"bridge"},{"type":"portmap"}]}"#,
            );
        },
        &[CniConfigShadowed],
    ),
    case(
        "podman's network behind Calico's",
        |f| {
            f.write(
                "etc/cni/net.d/87-podman-bridge.conflist",
                r#"{"name":"podman","plugins":[{"type":"bridge"}]}"#,
            );
        },
        &[CniConfigLeftover],
    ),
    case(
        "plugin missing",
        |f| {
            f.remove("opt/cni/bin/portmap");
        },
        &[CniBinaryMissing],
    ),
    case(
        "plugin not executable",
        |f| {
            f.mode("opt/cni/bin/calico", 0o644);
        },
        &[CniBinaryMissing],
    ),
    case(
        "plugin cut short",
        |f| {
            f.write("opt/cni/bin/calico-ipam", "");
        },
        &[CniBinaryMissing],
    ),
    case(
        "plugin is an error page",
        |f| {
            f.write("opt/cni/bin/calico", "<html>404 Not Found</html>");
        },
        &[CniBinaryMissing],
    ),
    case(
        "kubeconfig missing",
        |f| {
            f.remove("etc/cni/net.d/calico-kubeconfig");
        },
        &[CniKubeconfigMissing],
    ),
    case(
        "kubeconfig is no YAML",
        |f| {
            f.write("etc/cni/net.d/calico-kubeconfig", "users: [\n");
        },
        &[CniKubeconfigMissing],
    ),
    case(
        "kubeconfig without a token",
        |f| {
            f.write("etc/cni/net.d/calico-kubeconfig", "users:\n- name: calico\n  user: {}\n");
        },
        &[CniKubeconfigMissing],
    ),
    case(
        "token expired",
        |f| {
            f.write("etc/cni/net.d/calico-kubeconfig", kubeconfig(NOW_S - 90_000, NOW_S - 3_600));
        },
        &[CniTokenExpired],
    ),
    knowing(
        "CNI configuration of another node",
        |f| {
            f.replace("etc/cni/net.d/10-calico.conflist", "node-a", "node-z");
        },
        |c| c,
        &[NodenameFileMismatch],
    ),
    // Calico's files
    case(
        "nodename missing",
        |f| {
            f.remove("var/lib/calico/nodename");
        },
        &[NodenameFileMissing],
    ),
    knowing(
        "nodename of the machine it was cloned from",
        |f| {
            f.replace("etc/cni/net.d/10-calico.conflist", "node-a", "node-b");
        },
        |c| HostContext {
            node: Some(NodeName::from("node-b")),
            ..c
        },
        &[NodenameFileMismatch],
    ),
    case(
        "MTU file missing",
        |f| {
            f.remove("var/lib/calico/mtu");
        },
        &[MtuFileMissing],
    ),
    case(
        "MTU file is no number",
        |f| {
            f.write("var/lib/calico/mtu", "auto\n");
        },
        &[MtuFileMissing],
    ),
    case(
        "pods' MTU of the underlay without VXLAN's overhead",
        |f| {
            f.write("var/lib/calico/mtu", "1500\n");
        },
        &[MtuFileTooLarge],
    ),
    case(
        "underlay smaller than thought",
        |f| {
            f.write("sys/class/net/eth0/mtu", "1400\n");
        },
        &[MtuFileTooLarge],
    ),
    case(
        "MTU in the CNI configuration too large",
        |f| {
            f.replace("etc/cni/net.d/10-calico.conflist", "\"mtu\":0", "\"mtu\":9000");
        },
        &[MtuFileTooLarge],
    ),
    // paths
    case(
        "xtables.lock is a directory",
        |f| {
            f.remove("run/xtables.lock").dir("run/xtables.lock");
        },
        &[HostPathWrong],
    ),
    case(
        "/opt/cni/bin mounted noexec",
        |f| {
            f.write(
                "proc/1/mounts",
                "/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /opt ext4 rw,nosuid,noexec 0 0\n",
            );
        },
        &[HostPathWrong],
    ),
    case(
        "/var/lib/calico on a read-only mount",
        |f| {
            f.write(
                "proc/1/mounts",
                "/dev/sda1 / ext4 rw 0 0\n/dev/sdb1 /var/lib ext4 ro,relatime 0 0\n",
            );
        },
        &[HostPathWrong],
    ),
    case(
        "everybody writes to the CNI configuration",
        |f| {
            f.mode("etc/cni/net.d", 0o777);
        },
        &[HostPathWrong],
    ),
    // runtime
    case(
        "containerd v2 with cgroupfs, kubelet with systemd",
        |f| {
            f.replace("etc/containerd/config.toml", "true", "false");
        },
        &[CgroupDriverMismatch],
    ),
    knowing(
        "containerd v3 with cgroupfs, a kubelet that does not ask",
        |f| {
            f.write(
                "etc/containerd/config.toml",
                "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]\nSystemdCgroup = false\n",
            );
        },
        |c| HostContext { kubernetes: None, ..c },
        &[CgroupDriverMismatch],
    ),
    case(
        "containerd v1 with its old switch, kubelet with cgroupfs",
        |f| {
            f.write("etc/containerd/config.toml", "[plugins.cri]\nsystemd_cgroup = true\n");
            f.replace("var/lib/kubelet/config.yaml", "cgroupDriver: systemd\n", "");
        },
        &[CgroupDriverMismatch],
    ),
    case(
        "an import of containerd undoes it",
        |f| {
            let main = "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n";
            f.write("etc/containerd/config.toml", main);
            f.write(
                "etc/containerd/conf.d/50-nvidia.toml",
                main.replace("true", "false").replace("imports", "# imports"),
            );
        },
        &[CgroupDriverMismatch],
    ),
    knowing(
        "CRI-O with cgroupfs, kubelet flags with systemd",
        |f| {
            f.remove("etc/containerd")
                .write("etc/crio/crio.conf.d/10.conf", "[crio.runtime]\ncgroup_manager = \"cgroupfs\"\n");
            f.replace("var/lib/kubelet/config.yaml", "containerd/containerd.sock", "crio/crio.sock");
            f.write(
                "var/lib/kubelet/kubeadm-flags.env",
                "KUBELET_KUBEADM_ARGS=\"--cgroup-driver=systemd\"\n",
            );
        },
        |c| HostContext {
            kubernetes: Some((1, 29)),
            calico: None,
            ..c
        },
        &[CgroupDriverMismatch],
    ),
    // network daemons
    case(
        "NetworkManager manages everything",
        |f| {
            f.remove("etc/NetworkManager/conf.d/calico.conf");
        },
        &[NetworkManagerManagesCalico],
    ),
    case(
        "NetworkManager leaves cali* alone and not vxlan.calico",
        |f| {
            f.write(
                "etc/NetworkManager/conf.d/calico.conf",
                "[keyfile]\nunmanaged-devices=interface-name:cali*;interface-name:tunl*\n",
            );
        },
        &[NetworkManagerManagesCalico],
    ),
    case(
        "a later file of NetworkManager replaces the list",
        |f| {
            f.write(
                "etc/NetworkManager/conf.d/zz.conf",
                "[keyfile]\nunmanaged-devices=interface-name:docker0\n",
            );
        },
        &[NetworkManagerManagesCalico],
    ),
    case(
        "networkd matches every device",
        |f| {
            f.write("etc/systemd/network/00-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n");
        },
        &[NetworkdManagesCalico],
    ),
    case(
        "networkd matches every Ethernet device",
        |f| {
            f.remove("etc/systemd/network/05-calico.network");
            f.write("etc/systemd/network/20-lan.network", "[Match]\nType=ether\n[Network]\nDHCP=yes\n");
        },
        &[NetworkdManagesCalico],
    ),
    case(
        "networkd removes foreign routes",
        |f| {
            f.remove("etc/systemd/networkd.conf.d/calico.conf");
        },
        &[NetworkdRemovesRoutes],
    ),
    case(
        "a .link file gives vxlan devices a MAC",
        |f| {
            f.write(
                "etc/systemd/network/10-vx.link",
                "[Match]\nOriginalName=vxlan*\n[Link]\nMACAddress=02:00:00:00:00:01\n",
            );
        },
        &[LinkFileChangesTunnel],
    ),
    case(
        "a udev rule renames tunnel devices",
        |f| {
            f.write(
                "etc/udev/rules.d/90-vx.rules",
                "SUBSYSTEM==\"net\", ACTION==\"add\", KERNEL==\"vxlan*\", NAME=\"vx0\"\n",
            );
        },
        &[UdevRuleTouchesCalico],
    ),
    case(
        "a udev rule runs ethtool for every device",
        |f| {
            f.write(
                "etc/udev/rules.d/90-eth.rules",
                "SUBSYSTEM==\"net\", KERNEL==\"*\", RUN+=\"/sbin/ethtool -K %k tx off\"\n",
            );
        },
        &[UdevRuleTouchesCalico],
    ),
    case(
        "firewalld enabled",
        |f| {
            f.link(
                "etc/systemd/system/multi-user.target.wants/firewalld.service",
                "/usr/lib/systemd/system/firewalld.service",
            );
        },
        &[HostFirewallEnabled],
    ),
];
