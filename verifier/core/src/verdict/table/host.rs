//! Causes that lie in the machine under a node: its kernel, its files, its daemons. They explain causes of the dataplane.

use crate::verdict::{
    Cause,
    CauseCode::{self, *},
    Class, Repairs, Scope, Severity,
};

/// Shorthand: what most of them share.
const HOST: Cause = Cause {
    code: KernelModuleMissing,
    class: Class::NotProgrammed,
    severity: Severity::Error,
    scope: Scope::Host,
    title: "",
    meaning: "",
    detected: "",
    remedy: "",
    verify: "`verifier host --root /`, then `verifier validate --node NODE`.",
    persist: None,
    repairs: Repairs::NotCalicos,
    hold_off_seconds: 0,
    explains: &[],
    explains_at_peers: &[],
    incidents: &[],
};

/// What a daemon that manages the tunnel device, or all devices, does to it.
const DAEMON_DOES: &[CauseCode] = &[
    TunnelDeviceDown,
    TunnelDeviceMissing,
    TunnelAddressMissingOnDevice,
    TunnelAddressWrong,
    VtepMacMismatch,
    RouteMissing,
];

/// The part of the table.
pub const CAUSES: &[Cause] = &[
    Cause {
        code: KernelModuleMissing,
        title: "The running kernel lacks a module that Calico needs",
        meaning: "Without `vxlan` (or `ipip`) Felix cannot make the tunnel device, and its tunnel loop reports no health: calico-node stays Running and Ready while the node forwards nothing. Without `ip_set` or a match of iptables no rule is ever applied.",
        detected: "The module is not loaded, not built in (`modules.builtin`, the kernel's configuration) and not in `modules.dep` of the running kernel.",
        remedy: "Install the package with the modules of the running kernel (`linux-modules-extra-$(uname -r)`, `kernel-modules-extra`, `linux-modules-extra-raspi`), then `modprobe MODULE`; Felix makes the device within 10 s.",
        persist: Some(
            "Install the metapackage that follows the kernel (`linux-modules-extra-KIND`, not one version of it), and name the module in `/etc/modules-load.d/calico.conf`.",
        ),
        explains: &[TunnelDeviceMissing],
        incidents: &[
            "canonical/microk8s#2680",
            "flannel-io/flannel#1502",
            "projectcalico/calico#3507",
            "projectcalico/felix#2501",
        ],
        ..HOST
    },
    Cause {
        code: KernelUpgraded,
        title: "The kernel was upgraded and its extra modules were not",
        meaning: "A module that Calico needs is in the tree of another kernel and not in the running one's: the kernel package moved on, the package with its extra modules did not. Everything worked until the reboot.",
        detected: "A needed module is missing for the running kernel and present below `/lib/modules` of another release.",
        remedy: "`apt-get install linux-modules-extra-$(uname -r)` (or the distribution's like), then `modprobe MODULE`. Until then: boot the kernel that has the modules.",
        persist: Some(
            "Let the package manager keep them together: install the metapackage of kernel and extra modules, and pin or hold both or none (`apt-mark showhold`). Check every image before it is rolled out: `verifier host --root IMAGE`.",
        ),
        explains: &[KernelModuleMissing],
        incidents: &["canonical/microk8s#2680", "flannel-io/flannel#1502"],
        ..HOST
    },
    Cause {
        code: KernelModuleBlocked,
        title: "A module that Calico needs is forbidden by modprobe.d",
        meaning: "The module is on disk, and a hardening rule (`blacklist`, `install … /bin/false`) keeps it from being loaded, by Felix too.",
        detected: "`modprobe.d` names the module and it is not loaded.",
        remedy: "Remove the line, then `modprobe MODULE`.",
        persist: Some(
            "Remove the line from what writes it (CIS hardening role, image build), or it comes back; rebuild the initramfs if it stands there too.",
        ),
        explains: &[TunnelDeviceMissing],
        incidents: &["projectcalico/felix#2501"],
        ..HOST
    },
    Cause {
        code: KernelLacksSupport,
        title: "The running kernel was built without something that Calico needs",
        meaning: "No package mends this: the kernel's configuration does not have it. Typical of custom ARM and appliance kernels.",
        detected: "The kernel's configuration (`/proc/config.gz`, `/boot/config-RELEASE`) does not set the symbol, and no tree has the module.",
        remedy: "Boot a kernel of the distribution, rebuild this one with the symbol, or choose an encapsulation that it has (VXLAN instead of IP in IP).",
        persist: Some("Make that kernel the default of the boot loader, and of the image."),
        explains: &[TunnelDeviceMissing],
        incidents: &["projectcalico/calico#3507"],
        ..HOST
    },
    Cause {
        code: KernelTreeMissing,
        severity: Severity::Warning,
        title: "The module tree of the running kernel is gone",
        meaning: "The kernel's package was removed or replaced while it runs. What is loaded goes on working; whatever Felix needs next cannot be loaded.",
        detected: "`/lib/modules/RELEASE/modules.dep` of the running kernel does not exist, and its configuration has modules.",
        remedy: "Reboot into the installed kernel (cordon and drain first), or reinstall the running one's package.",
        persist: Some("Reboot as part of a kernel upgrade, node by node."),
        explains: &[KernelModuleMissing],
        incidents: &["flannel-io/flannel#1502"],
        ..HOST
    },
    Cause {
        code: KernelTooOld,
        title: "The running kernel is older than Calico accepts",
        meaning: "Felix refuses to start, or silently leaves the eBPF dataplane for iptables.",
        detected: "The kernel's release against the floors of Felix's feature detection.",
        remedy: "Boot a newer kernel; for eBPF 5.3 or newer (RHEL: 4.18.0-193 or newer).",
        persist: Some("Make it the default of the boot loader, and of the image."),
        incidents: &["projectcalico/calico#4384"],
        ..HOST
    },
    Cause {
        code: VersionsIncompatible,
        severity: Severity::Warning,
        title: "This Calico was never tested with this Kubernetes",
        meaning: "It may work. What breaks first are API versions that were removed, and changes of kube-proxy.",
        detected: "The dated table of versions in `verifier/core/src/host/compat.rs`.",
        remedy: "Upgrade Calico before Kubernetes, one minor at a time.",
        persist: Some("Pin both versions in what deploys the cluster."),
        incidents: &["projectcalico/calico#4570", "projectcalico/calico#6461"],
        ..HOST
    },
    Cause {
        code: SysctlWrong,
        class: Class::NotForwarded,
        title: "A sysctl that Calico sets has another value",
        meaning: "Felix writes these once, when a device comes up; who changes them later is not noticed. Without `proxy_arp` a pod's gateway 169.254.1.1 does not answer; without `forwarding` nothing of that pod is forwarded.",
        detected: "`/proc/sys/net/ipv4/conf/cali*/`, and `all/rp_filter` with the eBPF dataplane.",
        remedy: "`sysctl -w KEY=1` (`rp_filter`: 0), or delete the pod; find who writes it: `grep -r KEY /etc/sysctl.d /usr/lib/sysctl.d`, tuned, hardening agents.",
        persist: Some("Take the key out of every file below `sysctl.d` and out of tuned's profile: Felix sets it itself."),
        repairs: Repairs::InterfaceUp,
        explains: &[RpFilterDrop],
        incidents: &["projectcalico/calico#3270", "projectcalico/cni-plugin#283"],
        ..HOST
    },
    Cause {
        code: SysctlNotPersistent,
        class: Class::NotForwarded,
        severity: Severity::Warning,
        title: "A file will switch off at the next boot what Calico needs",
        meaning: "Forwarding works now because Felix switched it on at its start. The file switches it off whenever it is applied: at boot before Felix, but also later with every `sysctl --system` of a package or an agent, and Felix never looks again.",
        detected: "The last line about the key in `/etc/sysctl.conf` and `sysctl.d`, in the order in which systemd applies them.",
        remedy: "Remove the line, or set it to 1 in a file that is applied later; then `sysctl --system`.",
        persist: Some("`echo net.ipv4.ip_forward=1 > /etc/sysctl.d/99-zz-calico.conf`; change what writes the other file."),
        explains: &[IpForwardDisabled, RpFilterDrop],
        incidents: &["projectcalico/cni-plugin#283"],
        ..HOST
    },
    Cause {
        code: ConntrackNearlyFull,
        class: Class::NotForwarded,
        severity: Severity::Warning,
        title: "The conntrack table is nearly full",
        meaning: "When it is full the kernel drops the first packet of every new connection.",
        detected: "`nf_conntrack_count` against `nf_conntrack_max`.",
        remedy: "`sysctl -w net.netfilter.nf_conntrack_max=…`, and find what holds so many entries (`conntrack -S`, `conntrack -L`).",
        persist: Some(
            "kube-proxy sets the size at its start (`conntrack.maxPerCore`, `min` of its configuration): change it there, a sysctl file is overwritten.",
        ),
        explains: &[ConntrackFull],
        incidents: &[
            "kubernetes/kubernetes#71261",
            "projectcalico/calico#8676",
            "projectcalico/felix#617",
        ],
        ..HOST
    },
    Cause {
        code: IptablesBackendMismatch,
        class: Class::NotProgrammed,
        title: "Felix writes to another iptables backend than kubelet and kube-proxy",
        meaning: "The kernel evaluates legacy and nft rules, and neither tool shows the other's. Pods from before the wrong choice go on working; new ones miss their chains or meet a FORWARD policy that nobody sees.",
        detected: "The backend that Felix was told against the host's own `iptables`; chains that begin with cali- against those that begin with KUBE-.",
        remedy: "Set `iptablesBackend: Auto` (or the host's backend) in FelixConfiguration, remove `FELIX_IPTABLESBACKEND` from calico-node, delete the node's calico-node pod, then remove the chains in the wrong backend.",
        persist: Some(
            "Set the host's backend in the image (`update-alternatives --set iptables /usr/sbin/iptables-nft`), the same on every node.",
        ),
        explains: &[FilterDrop],
        incidents: &[
            "projectcalico/calico#8243",
            "projectcalico/calico#2322",
            "projectcalico/calico#4520",
            "kubernetes/kubernetes#72370",
        ],
        ..HOST
    },
    Cause {
        code: IptablesBothBackends,
        class: Class::NotProgrammed,
        severity: Severity::Warning,
        title: "Calico's chains stand in both iptables backends",
        meaning: "What an earlier choice left behind is still evaluated: a pod that came later is unknown there, and dropped.",
        detected: "Chains that begin with cali- in the legacy and in the nft backend.",
        remedy: "Find which one Felix uses (its log: `Updated ip(6)tables`), remove the other's chains (`iptables-legacy-save | grep -v cali- | iptables-legacy-restore`), or reboot.",
        persist: Some("A reboot removes them for good once the backend is settled."),
        explains: &[FilterDrop],
        incidents: &["projectcalico/calico#8243"],
        ..HOST
    },
    Cause {
        code: CniConfigMissing,
        title: "There is no CNI configuration of Calico",
        meaning: "The kubelet reports `cni config uninitialized` and the node NotReady, or another network makes the pods.",
        detected: "No file in `/etc/cni/net.d` is a configuration with the plugin `calico`.",
        remedy: "Look at calico-node's init container: `kubectl logs -n calico-system POD -c install-cni`. Delete the node's calico-node pod to run it again.",
        persist: Some(
            "Nothing that cleans `/etc/cni/net.d` may run after calico-node: check cloud-init, configuration management and the runtime's package.",
        ),
        incidents: &[
            "kubernetes/kops#3694",
            "kubernetes/kubernetes#48798",
            "kubernetes/kubernetes#113003",
        ],
        ..HOST
    },
    Cause {
        code: CniConfigInvalid,
        title: "The first CNI configuration cannot be parsed",
        meaning: "The runtime stops at the first file: no new pod gets a network, although a good configuration may stand behind it.",
        detected: "The first file in `/etc/cni/net.d`, in order of name, is not a CNI network configuration.",
        remedy: "Move the file away; delete the node's calico-node pod to have Calico's written again.",
        persist: Some("Find what wrote it (a template with an empty variable, a copy that was cut short when the disk was full)."),
        incidents: &[
            "projectcalico/cni-plugin#903",
            "containerd/containerd#8662",
            "kubernetes/kubernetes#53536",
        ],
        ..HOST
    },
    Cause {
        code: CniConfigShadowed,
        title: "Another CNI configuration comes before Calico's",
        meaning: "The runtime takes the first file by name. New pods get another plugin's network, on which Calico's routes and policies do not apply.",
        detected: "The first file in `/etc/cni/net.d` is not Calico's, and a later one is.",
        remedy: "Move the file away and restart the pods that were made meanwhile.",
        persist: Some("Remove the package or role that puts it there (podman, cri-o's bridge, a former CNI)."),
        incidents: &["projectcalico/calico#4869"],
        ..HOST
    },
    Cause {
        code: CniConfigLeftover,
        severity: Severity::Warning,
        title: "Another CNI configuration waits behind Calico's",
        meaning: "Nothing fails. While Calico is reinstalled, or if its file is removed, pods are made by the other one.",
        detected: "More than one file in `/etc/cni/net.d`, Calico's first.",
        remedy: "Remove that file.",
        persist: Some("Remove the package or role that puts it there."),
        incidents: &[
            "kubernetes-sigs/kubespray#2122",
            "kubernetes/kubernetes#87884",
            "projectcalico/calico#1388",
        ],
        ..HOST
    },
    Cause {
        code: CniBinaryMissing,
        title: "A CNI plugin is missing or cannot be started",
        meaning: "Every new pod fails with `failed to find plugin` or `exec format error`; pods that run go on working.",
        detected: "A plugin of the winning configuration is not in `/opt/cni/bin`, not executable, empty, or no program.",
        remedy: "Delete the node's calico-node pod: install-cni copies `calico` and `calico-ipam`. `portmap`, `bandwidth` and `loopback` come with the package `kubernetes-cni` or `containernetworking-plugins`.",
        persist: Some(
            "Nothing may replace `/opt/cni/bin` after calico-node (package upgrades do); some distributions use another directory, set `spec.cni.binDir`.",
        ),
        incidents: &[
            "projectcalico/calico#8138",
            "projectcalico/calico#5763",
            "gardener/gardener-extension-networking-calico#70",
        ],
        ..HOST
    },
    Cause {
        code: CniKubeconfigMissing,
        title: "The CNI plugin has no credential",
        meaning: "The plugin cannot ask the API: new pods fail, pods that are deleted leave their addresses behind.",
        detected: "The kubeconfig that the CNI configuration names does not exist, cannot be parsed, or has no credential.",
        remedy: "Delete the node's calico-node pod: install-cni and the service `cni` write it anew.",
        persist: Some("Nothing that cleans `/etc/cni/net.d` may run after calico-node."),
        incidents: &["projectcalico/calico#5712"],
        ..HOST
    },
    Cause {
        code: CniTokenExpired,
        title: "The CNI plugin's token has expired",
        meaning: "Running pods go on working; every new one fails with `connection is unauthorized: Unauthorized`. The token lives for 24 h and a service inside calico-node refreshes it; nobody probes that service.",
        detected: "The time `exp` in the token of `/etc/cni/net.d/calico-kubeconfig`, by this host's clock.",
        remedy: "Delete the node's calico-node pod. If it comes back: check the host's clock, and that the ServiceAccount may create `serviceaccounts/token` for `calico-cni-plugin`.",
        persist: Some(
            "Keep the clock synchronised (chrony); upgrade to v3.31.6 or later, which refreshes after a rotation of the signing key too.",
        ),
        incidents: &[
            "projectcalico/calico#9428",
            "projectcalico/calico#5712",
            "projectcalico/calico#6546",
            "projectcalico/calico#8379",
        ],
        ..HOST
    },
    Cause {
        code: NodenameFileMissing,
        title: "`/var/lib/calico/nodename` does not exist",
        meaning: "The CNI plugin refuses every new pod, and readiness cannot tell how long BIRD has been up.",
        detected: "A complete look at `/var/lib/calico` has no such file.",
        remedy: "See whether calico-node runs on this node and mounts `/var/lib/calico` from the host; delete its pod.",
        persist: Some("`/var/lib/calico` must lie on a disk that survives a reboot, or calico-node must start before pods do."),
        incidents: &["projectcalico/calico#1795", "projectcalico/calico#6309"],
        ..HOST
    },
    Cause {
        code: NodenameFileMismatch,
        title: "Calico's files on this host name another node",
        meaning: "New pods are registered with another node: routes to them lead elsewhere. Typical of a cloned machine, or a host name that changed.",
        detected: "`/var/lib/calico/nodename`, or `nodename` of the CNI configuration, against the Node object's name.",
        remedy: "Drain the node, remove `/var/lib/calico` and `/etc/cni/net.d/10-calico.conflist`, delete its calico-node pod.",
        persist: Some(
            "Take both out of the image from which machines are cloned, and give every machine its own machine-id and host name.",
        ),
        incidents: &["projectcalico/calico#7192"],
        ..HOST
    },
    Cause {
        code: MtuFileMissing,
        severity: Severity::Warning,
        title: "`/var/lib/calico/mtu` is missing or unreadable",
        meaning: "The CNI plugin does not know the pods' MTU: new pods fail, or get 1500.",
        detected: "The file is absent or no number, and the CNI configuration has no MTU of its own.",
        remedy: "Felix writes it at its start: look for `Failed to auto-detect host MTU` in its log (`verifier logs`), then delete the node's calico-node pod.",
        persist: Some("Set `mtuIfacePattern` in FelixConfiguration where network cards have unusual names (bond0, team0)."),
        explains: &[MtuBlackhole],
        incidents: &["projectcalico/calico#9718", "projectcalico/calico#10270"],
        ..HOST
    },
    Cause {
        code: MtuFileTooLarge,
        class: Class::NotForwarded,
        severity: Severity::Warning,
        title: "New pods get a larger MTU than the network carries",
        meaning: "Small packets pass and large ones vanish: logins work, downloads hang.",
        detected: "The pods' MTU plus the encapsulation's overhead against the smallest MTU of the host's network cards.",
        remedy: "Set `mtu` of the Installation (or `veth_mtu` of the ConfigMap calico-config, or `vxlanMTU`) to what fits, delete the node's calico-node pod, then restart its pods: existing ones keep theirs.",
        persist: Some("Set the network card's MTU in what configures it (netplan, networkd, the cloud's network), the same on every node."),
        explains: &[MtuBlackhole],
        incidents: &["projectcalico/calico#7651", "projectcalico/calico#8953"],
        ..HOST
    },
    Cause {
        code: HostPathWrong,
        title: "A path that calico-node mounts is not what it must be",
        meaning: "A directory where a file must be (kubelet makes one when the file is not there yet), a read-only or noexec mount, or another owner: calico-node or the CNI plugin cannot read, write or start what lies there.",
        detected: "Kind, owner, mode and mount options of the path.",
        remedy: "Put it right (`rmdir`, `chown root`, `chmod 755`, `mount -o remount,exec`), then delete the node's calico-node pod.",
        persist: Some(
            "Change `/etc/fstab`, the image or the hardening role; for `/run/xtables.lock` set `type: FileOrCreate` in the pod's hostPath.",
        ),
        explains: &[FilterDrop],
        incidents: &["projectcalico/cni-plugin#891", "projectcalico/calico#7486"],
        ..HOST
    },
    Cause {
        code: CgroupDriverMismatch,
        title: "Kubelet and container runtime use different cgroup drivers",
        meaning: "Containers are killed without a word in their logs; calico-node restarts with exit status 0 or 137 and a clean log.",
        detected: "`SystemdCgroup` of containerd (configuration versions 1, 2 and 3) or `cgroup_manager` of CRI-O against `cgroupDriver` of the kubelet.",
        remedy: "Set both to `systemd` on hosts with systemd, restart the runtime, then the kubelet; drain the node first.",
        persist: Some("Set it in the image: runtime packages and `containerd config default` write `SystemdCgroup = false`."),
        incidents: &[
            "projectcalico/calico#7951",
            "projectcalico/calico#5157",
            "containerd/containerd#7276",
        ],
        ..HOST
    },
    Cause {
        code: NetworkManagerManagesCalico,
        severity: Severity::Warning,
        title: "NetworkManager may manage Calico's devices",
        meaning: "It takes new devices, sets them down or removes their addresses: vxlan.calico goes down seconds after Felix set it up.",
        detected: "NetworkManager is in use, and `unmanaged-devices` does not cover `cali*` and the tunnel device.",
        remedy: "Write `/etc/NetworkManager/conf.d/calico.conf` with `[keyfile]` and `unmanaged-devices=interface-name:cali*;interface-name:tunl*;interface-name:vxlan.calico;interface-name:vxlan-v6.calico;interface-name:wireguard.cali;interface-name:wg-v6.cali`, then `systemctl reload NetworkManager`.",
        persist: Some("Put that file into the image."),
        explains: DAEMON_DOES,
        incidents: &[
            "projectcalico/calico#3271",
            "projectcalico/calico#4262",
            "projectcalico/calico#3454",
        ],
        ..HOST
    },
    Cause {
        code: NetworkdManagesCalico,
        severity: Severity::Warning,
        title: "systemd-networkd manages Calico's devices",
        meaning: "A .network file with a wide match (`Name=*`, `Type=ether`) claims cali* or the tunnel device: networkd removes addresses and routes, and asks for DHCP on them.",
        detected: "The first .network file that matches the device does not say Unmanaged=yes.",
        remedy: "Narrow its `[Match]`, or add `/etc/systemd/network/10-calico.network` with `Name=cali* vxlan.calico vxlan-v6.calico tunl0` and `Unmanaged=yes`; `networkctl reload`.",
        persist: Some("Put that file into the image; with netplan narrow the match there."),
        explains: DAEMON_DOES,
        incidents: &["projectcalico/calico#2471", "projectcalico/calico#4779", "flatcar/init#26"],
        ..HOST
    },
    Cause {
        code: NetworkdRemovesRoutes,
        severity: Severity::Info,
        title: "systemd-networkd removes routes and rules that others added",
        meaning: "When it is restarted (a package upgrade does) it removes foreign routes from devices that it manages, and foreign rules: with CrossSubnet or no encapsulation those are Calico's routes, with WireGuard its rule.",
        detected: "networkd is in use and its configuration does not say ManageForeignRoutes=no and ManageForeignRoutingPolicyRules=no.",
        remedy: "Write `/etc/systemd/networkd.conf.d/calico.conf` with `[Network]`, `ManageForeignRoutes=no` and `ManageForeignRoutingPolicyRules=no`; restart systemd-networkd, then delete the node's calico-node pod.",
        persist: Some("Put that file into the image."),
        explains: &[RouteMissing, BlackholeMissing],
        incidents: &["projectcalico/calico#2471", "systemd/systemd#25451", "systemd/systemd#29716"],
        ..HOST
    },
    Cause {
        code: LinkFileChangesTunnel,
        title: "A .link file changes the tunnel device",
        meaning: "udev renames it, or gives it another MAC or MTU than every other node was told, right after Felix made it.",
        detected: "The first .link file that matches the tunnel device sets Name, MACAddress or MTUBytes.",
        remedy: "Narrow its `[Match]`, then `ip link del vxlan.calico`; Felix makes it anew.",
        persist: Some("Change it in the image, and in the initramfs if it was copied there."),
        explains: &[VtepMacMismatch, TunnelDeviceMissing, MtuBlackhole],
        incidents: &[
            "aws/amazon-vpc-cni-k8s#2103",
            "projectcalico/calico#10209",
            "projectcalico/calico#7757",
        ],
        ..HOST
    },
    Cause {
        code: UdevRuleTouchesCalico,
        severity: Severity::Warning,
        title: "A udev rule acts on Calico's devices",
        meaning: "It runs a program for, or renames, every new cali* or tunnel device: pods wait for their network, devices vanish under their names.",
        detected: "A rule below `/etc/udev/rules.d` about network devices that can match cali*, veth*, tunl* or vxlan* and has RUN or NAME.",
        remedy: "Narrow the rule to the network cards that it is meant for; `udevadm control --reload`.",
        persist: Some("Change it in the image, and in the initramfs if it was copied there."),
        explains: &[TunnelDeviceMissing, VtepMacMismatch],
        incidents: &["projectcalico/calico#8689", "projectcalico/calico#6157"],
        ..HOST
    },
    Cause {
        code: HostFirewallEnabled,
        class: Class::NotForwarded,
        severity: Severity::Warning,
        title: "A host firewall starts at boot",
        meaning: "Nothing may fail now. When it starts or is reloaded it flushes Calico's chains, or puts a REJECT before them; Felix puts them back within three minutes.",
        detected: "firewalld, ufw, iptables.service or nftables.service is enabled.",
        remedy: "`systemctl disable --now UNIT`, and use Calico's HostEndpoints for what it was for; or teach it to leave pod traffic and UDP 4789 between nodes alone.",
        persist: Some("`systemctl mask UNIT` in the image."),
        explains: &[FilterDrop],
        incidents: &["firewalld/firewalld#863", "projectcalico/calico#6342"],
        ..HOST
    },
];
