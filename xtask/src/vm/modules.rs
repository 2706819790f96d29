//! The modules that go into an initramfs, and the index by which the guest loads them: names, what each needs, and by
//! which aliases the kernel asks for it. Debian's package has no `modules.dep` (it is made when a kernel is installed), so
//! each module's own `.modinfo` is read.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection};
use serde::Serialize;

/// Parts of the tree that can have to do with a dataplane.
const TREES: [&str; 5] = [
    "kernel/net",
    "kernel/drivers/net",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
];
/// Of a directory with every kind of hardware in it, only these.
const DEVICES: [&str; 9] = ["veth", "vxlan", "tun", "tap", "macvlan", "ifb", "dummy", "geneve", "wireguard"];
/// Below `kernel/net`, what no node of a cluster needs.
const LEFT_OUT: [&str; 14] = [
    "sunrpc",
    "ceph",
    "9p",
    "bluetooth",
    "wireless",
    "mac80211",
    "rds",
    "tipc",
    "sctp",
    "dccp",
    "can",
    "nfc",
    "smc",
    "openvswitch",
];

/// One module as the guest finds it.
#[derive(Debug, Default, Clone, Serialize, PartialEq, Eq)]
pub(super) struct Module {
    /// Its file in the guest.
    pub(super) file: String,
    /// Names of the modules that must be there first.
    pub(super) needs: Vec<String>,
    /// Patterns by which the kernel may ask for it.
    pub(super) aliases: Vec<String>,
}

/// Every module that is taken, by name, with its uncompressed bytes.
pub(super) fn collect(tree: &Path) -> Result<BTreeMap<String, (Module, Vec<u8>)>> {
    let mut files = Vec::new();
    for part in TREES {
        let directory = tree.join(part);
        if directory.is_dir() {
            walk(&directory, &mut files)?;
        }
    }
    let mut found = BTreeMap::new();
    for path in files {
        let Some(name) = module_name(&path) else { continue };
        if !is_wanted(tree, &path, &name) || found.contains_key(&name) {
            continue;
        }
        let bytes = read(&path)?;
        let module = describe(&name, &bytes).with_context(|| format!("reading {}", path.display()))?;
        found.insert(name, (module, bytes));
    }
    ensure!(!found.is_empty(), "{} has no modules", tree.display());
    Ok(found)
}

fn walk(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let path = entry.with_context(|| format!("listing {}", directory.display()))?.path();
        if path.is_dir() {
            walk(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn is_wanted(tree: &Path, path: &Path, name: &str) -> bool {
    let relative = path.strip_prefix(tree).unwrap_or(path).to_string_lossy();
    if relative.starts_with("kernel/drivers/net/") {
        return DEVICES.contains(&name);
    }
    !LEFT_OUT.iter().any(|part| relative.starts_with(&format!("kernel/net/{part}/")))
}

/// `nf_nat` of `…/nf-nat.ko.xz`: in names the kernel takes both strokes for one.
fn module_name(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let (name, _) = file.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("reading {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => bail!("{}: compressed in a way that is not known here", path.display()),
    };
    let output = Command::new(tool)
        .args(["--decompress", "--stdout", "--quiet"])
        .arg(path)
        .output()
        .with_context(|| format!("running {tool}; remedy: install {tool}"))?;
    ensure!(output.status.success(), "{tool} {} failed ({})", path.display(), output.status);
    Ok(output.stdout)
}

/// From the strings `key=value` of the section `.modinfo`, each ended by a NUL (`include/linux/moduleparam.h`).
fn describe(name: &str, elf: &[u8]) -> Result<Module> {
    let elf = object::File::parse(elf)?;
    let section = elf.section_by_name(".modinfo").context("it has no section .modinfo")?;
    let mut module = Module {
        file: format!("/lib/modules/{name}.ko"),
        ..Module::default()
    };
    for text in section.data()?.split(|byte| *byte == 0) {
        let Ok(text) = std::str::from_utf8(text) else { continue };
        if let Some(names) = text.strip_prefix("depends=") {
            module.needs = names
                .split(',')
                .filter(|name| !name.is_empty())
                .map(|name| name.replace('-', "_"))
                .collect();
        } else if let Some(alias) = text.strip_prefix("alias=") {
            module.aliases.push(alias.replace('-', "_"));
        }
    }
    Ok(module)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Architecture, BinaryFormat, Endianness, SectionKind, write::Object};

    /// A relocatable object with this section behind one that does not end with a NUL, as in vxlan.ko of Debian's 7.2.
    fn elf(modinfo: &[u8]) -> Vec<u8> {
        let mut elf = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
        for (name, data) in [(".init.text", &b"\xe8\0\0\0\0\xfb"[..]), (".modinfo", modinfo)] {
            let section = elf.add_section(Vec::new(), name.into(), SectionKind::ReadOnlyData);
            elf.append_section_data(section, data, 1);
        }
        elf.write().unwrap()
    }

    #[test]
    fn needs_and_aliases_are_read_from_the_section() {
        let bytes = elf(b"alias=rtnl-link-vxlan\0license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0");
        assert!(bytes.windows(7).any(|w| w == b"\xfbalias="), "the case is not the one that failed");
        let module = describe("vxlan", &bytes).unwrap();
        assert_eq!(module.needs, ["udp_tunnel", "ip6_udp_tunnel"]);
        assert_eq!(module.aliases, ["rtnl_link_vxlan"]);
        assert_eq!(module.file, "/lib/modules/vxlan.ko");
        assert_eq!(describe("a", &elf(b"depends=\0")).unwrap().needs, Vec::<String>::new());
        assert!(describe("a", b"depends=\0").is_err());
    }

    #[test]
    fn names_come_from_files_of_every_compression() {
        assert_eq!(module_name(Path::new("/x/nf-nat.ko")).as_deref(), Some("nf_nat"));
        assert_eq!(module_name(Path::new("/x/nf_nat.ko.xz")).as_deref(), Some("nf_nat"));
        assert_eq!(module_name(Path::new("/x/modules.order")), None);
    }

    #[test]
    fn of_the_devices_only_some_are_taken() {
        let tree = Path::new("/m");
        assert!(is_wanted(tree, Path::new("/m/kernel/drivers/net/veth.ko"), "veth"));
        assert!(!is_wanted(tree, Path::new("/m/kernel/drivers/net/ethernet/e1000.ko"), "e1000"));
        assert!(is_wanted(tree, Path::new("/m/kernel/net/ipv4/ipip.ko"), "ipip"));
        assert!(!is_wanted(tree, Path::new("/m/kernel/net/ceph/libceph.ko"), "libceph"));
    }
}
