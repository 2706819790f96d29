//! The running kernel, its configuration, and its modules: loaded, built in, on disk, listed at boot, forbidden.

use super::root::{Gaps, Looked, Root, family, gap};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
};
use verifier_core::{
    evidence::Evidence,
    host::{KernelFacts, ModuleFacts, NEEDS},
};

/// No kernel's configuration is larger.
const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// Release and configuration.
pub fn kernel(root: &Root) -> Evidence<KernelFacts> {
    let release = match release(root) {
        Ok(release) => release,
        Err(evidence) => return Evidence::Unavailable { gap: evidence },
    };
    let mut gaps = Gaps::default();
    let (config, config_from) = match config(root, &release, &mut gaps) {
        Some((text, from)) => (Some(symbols(&text)), Some(from)),
        None => (None, None),
    };
    // A configuration that cannot be found is a fact: modules.builtin and modules.dep say as much.
    Evidence::partial(
        KernelFacts {
            release,
            config,
            config_from,
        },
        gaps.0,
    )
}

fn release(root: &Root) -> Result<String, verifier_core::evidence::Gap> {
    match root.text("proc/sys/kernel/osrelease")? {
        Some(text) => Ok(text.trim().to_owned()),
        None => Err(gap("proc", "there is no /proc below this root: the running kernel cannot be told")),
    }
}

fn config(root: &Root, release: &str, gaps: &mut Gaps) -> Option<(String, String)> {
    let packed: Looked<String> = root.bytes("proc/config.gz").and_then(|bytes| {
        let Some(bytes) = bytes else { return Ok(None) };
        let mut text = String::new();
        flate2::read::GzDecoder::new(bytes.as_slice())
            .take(CONFIG_BYTES_MAX)
            .read_to_string(&mut text)
            .map_err(|error| gap("proc/config.gz", &error.to_string()))?;
        Ok(Some(text))
    });
    if let Some(text) = gaps.note(packed) {
        return Some((text, "/proc/config.gz".to_owned()));
    }
    [format!("boot/config-{release}"), format!("lib/modules/{release}/config")]
        .into_iter()
        .find_map(|path| gaps.note(root.text(&path)).map(|text| (text, format!("/{path}"))))
}

/// Symbols of the table: `CONFIG_X=y`; one that is not set stands in a comment, or not at all.
fn symbols(text: &str) -> BTreeMap<String, char> {
    let mut found: BTreeMap<String, char> = NEEDS.iter().map(|need| (need.symbol.to_owned(), 'n')).collect();
    for line in text.lines() {
        if let Some((symbol, value)) = line.split_once('=')
            && let (Some(entry), Some(c @ ('y' | 'm'))) = (found.get_mut(symbol), value.trim().chars().next())
        {
            *entry = c;
        }
    }
    found
}

/// Modules of the table.
pub fn modules(root: &Root) -> Evidence<ModuleFacts> {
    let release = match release(root) {
        Ok(release) => release,
        Err(gap) => return Evidence::Unavailable { gap },
    };
    let mut gaps = Gaps::default();
    let mut facts = ModuleFacts::default();
    // A kernel without module support has no /proc/modules.
    if let Some(text) = gaps.note(root.text("proc/modules")) {
        facts.loaded = needed(text.lines().filter_map(|line| line.split_whitespace().next()));
    }
    for need in NEEDS {
        if gaps.note(root.exists(&format!("sys/module/{}", need.module)).map(Some)) == Some(true) {
            facts.loaded.insert(need.module.to_owned());
        }
    }
    let tree = format!("lib/modules/{release}");
    if let Some(text) = gaps.note(root.text(&format!("{tree}/modules.builtin"))) {
        facts.builtin = needed(text.lines());
    }
    if let Some(text) = gaps.note(root.text(&format!("{tree}/modules.dep"))) {
        facts.tree_present = true;
        facts.on_disk = in_dep(&text);
    }
    for other in gaps.note(root.names("lib/modules")).unwrap_or_default() {
        if other != release
            && let Some(text) = gaps.note(root.text(&format!("lib/modules/{other}/modules.dep")))
        {
            facts.other_trees.insert(other, in_dep(&text));
        }
    }
    facts.at_boot = at_boot(root, &mut gaps);
    facts.blocked = blocked(root, &mut gaps);
    Evidence::partial(facts, gaps.0)
}

/// `kernel/drivers/net/vxlan/vxlan.ko.zst: …`
fn in_dep(text: &str) -> BTreeSet<String> {
    needed(text.lines().filter_map(|line| line.split_once(':')).map(|(path, _)| path))
}

/// Those of the table, by name or by path.
fn needed<'a>(names: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    names
        .map(module_name)
        .filter(|name| NEEDS.iter().any(|need| need.module == *name))
        .collect()
}

fn module_name(path: &str) -> String {
    let name = path.trim().rsplit('/').next().unwrap_or(path);
    let name = name.split(".ko").next().unwrap_or(name);
    name.replace('-', "_")
}

fn at_boot(root: &Root, gaps: &mut Gaps) -> BTreeMap<String, String> {
    let directories = [
        "etc/modules-load.d",
        "run/modules-load.d",
        "usr/local/lib/modules-load.d",
        "usr/lib/modules-load.d",
    ];
    let mut files = family(root, &directories, ".conf", gaps);
    files.push("etc/modules".to_owned());
    let mut found = BTreeMap::new();
    for file in files {
        let text = gaps.note(root.text(&file)).unwrap_or_default();
        for name in text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
        {
            found.entry(module_name(name)).or_insert_with(|| format!("/{file}"));
        }
    }
    found.retain(|name, _| NEEDS.iter().any(|need| need.module == name));
    found
}

fn blocked(root: &Root, gaps: &mut Gaps) -> BTreeMap<String, String> {
    let directories = ["etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d"];
    let mut found = BTreeMap::new();
    for file in family(root, &directories, ".conf", gaps) {
        let text = gaps.note(root.text(&file)).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let mut words = line.split_whitespace();
            let forbidden = match (words.next(), words.next(), words.next()) {
                (Some("blacklist"), Some(name), _) => Some(name),
                (Some("install"), Some(name), Some(program)) if program.ends_with("/false") || program.ends_with("/true") => Some(name),
                _ => None,
            };
            if let Some(name) = forbidden.map(module_name)
                && NEEDS.iter().any(|need| need.module == name)
            {
                found.entry(name).or_insert_with(|| format!("/{file}:{}", number + 1));
            }
        }
    }
    found
}
