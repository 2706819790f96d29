//! Loading modules by the index that came with the initramfs: by name or alias, with what each needs first. The kernel
//! itself calls this program as `modprobe -q -- ALIAS`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use serde::Deserialize;

const INDEX: &str = "/lib/modules/index.json";

#[derive(Debug, Deserialize)]
struct Module {
    file: String,
    needs: Vec<String>,
    aliases: Vec<String>,
}

type Index = BTreeMap<String, Module>;

/// Loads everything that answers to `alias`; one that is loaded already is fine.
///
/// # Errors
/// Nothing answers, or the kernel refuses a module.
pub(crate) fn load(alias: &str) -> Result<()> {
    let text = fs::read(INDEX).with_context(|| format!("reading {INDEX}"))?;
    let index: Index = serde_json::from_slice(&text).with_context(|| format!("reading {INDEX}"))?;
    let names = answering(&index, alias);
    if names.is_empty() {
        bail!("no module answers to {alias}");
    }
    for name in in_order(&index, &names)? {
        let module = index.get(name).with_context(|| format!("no module {name}"))?;
        let file = File::open(&module.file).with_context(|| format!("opening {}", module.file))?;
        match finit_module(&file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => {
                // The kernel throws away what its `modprobe` says: only the console shows why a device cannot be made.
                let _ = fs::write("/dev/kmsg", format!("guest: loading module {name} for {alias}: {error}\n"));
                return Err(error).with_context(|| format!("loading module {name}"));
            }
        }
    }
    Ok(())
}

fn answering<'i>(index: &'i Index, alias: &str) -> Vec<&'i str> {
    let alias = alias.replace('-', "_");
    let answers = index
        .iter()
        .filter(|(name, module)| **name == alias || module.aliases.contains(&alias));
    answers.map(|(name, _)| name.as_str()).collect()
}

/// The modules and all that they need, each after what it needs. A need without a file is part of the kernel itself.
fn in_order<'i>(index: &'i Index, names: &[&'i str]) -> Result<Vec<&'i str>> {
    fn visit<'i>(index: &'i Index, name: &'i str, seen: &mut BTreeSet<&'i str>, order: &mut Vec<&'i str>) {
        if let Some(module) = index.get(name)
            && seen.insert(name)
        {
            module.needs.iter().for_each(|need| visit(index, need, seen, order));
            order.push(name);
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    names.iter().for_each(|name| visit(index, name, &mut seen, &mut order));
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let module = |needs: &[&str], aliases: &[&str]| Module {
            file: String::new(),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
        };
        Index::from([
            (
                "ipip".to_owned(),
                module(&["tunnel4", "ip_tunnel"], &["rtnl_link_ipip", "netdev_tunl0"]),
            ),
            ("ip_tunnel".to_owned(), module(&["built_in"], &[])),
            ("tunnel4".to_owned(), module(&[], &[])),
        ])
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let index = index();
        assert_eq!(in_order(&index, &["ipip", "tunnel4"]).unwrap(), ["tunnel4", "ip_tunnel", "ipip"]);
    }

    #[test]
    fn a_module_answers_to_its_name_and_its_aliases() {
        let index = index();
        assert_eq!(answering(&index, "rtnl-link-ipip"), ["ipip"]);
        assert_eq!(answering(&index, "ip-tunnel"), ["ip_tunnel"]);
        assert_eq!(answering(&index, "veth"), Vec::<&str>::new());
    }
}
