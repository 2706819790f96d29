//! Names of what a drop record holds as numbers: reasons by the running kernel's `enum skb_drop_reason`, places by `/proc/kallsyms`.
//! Nothing is compiled in: both differ from kernel to kernel. What cannot be resolved stays a number, and the gap says why.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{self, BufRead, BufReader},
};

use verifier_core::evidence::Gap;
use verifier_ebpf::record::DropRecord;

use super::btf::{Btf, BtfError};

const KALLSYMS: &str = "/proc/kallsyms";
const PREFIX: &str = "SKB_DROP_REASON_";

/// Names by number, for one kernel.
#[derive(Debug, Default)]
pub struct Symbols {
    reasons: BTreeMap<u32, String>,
    locations: BTreeMap<u64, Option<String>>,
    reasons_gap: Option<Gap>,
    locations_gap: Option<Gap>,
}

impl Symbols {
    /// Reads the reasons; places are looked up when they occur.
    pub fn of_kernel(btf: Result<&Btf, &BtfError>) -> Self {
        let source = "observed/drop-reasons";
        let named = match btf {
            Ok(btf) => btf.enumerators("skb_drop_reason").map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let (reasons, reasons_gap) = match named {
            Ok(list) => (list.into_iter().map(|(number, name)| (number, short(&name))).collect(), None),
            Err(why) => (BTreeMap::new(), Some(Gap::new(source, why))),
        };
        Self {
            reasons,
            reasons_gap,
            ..Self::default()
        }
    }

    /// The reason's name, without the prefix that all have.
    pub fn reason(&self, number: u32) -> Option<String> {
        if number == DropRecord::NO_REASON {
            return None;
        }
        self.reasons.get(&number).cloned()
    }

    /// The function that holds an address, after [`Self::look_up`].
    pub fn location(&self, address: u64) -> Option<String> {
        self.locations.get(&address).cloned().flatten()
    }

    /// Looks up addresses that are not known yet: one pass over kallsyms for all of them. It takes tens of milliseconds and happens only
    /// when a place drops for the first time.
    pub fn look_up(&mut self, addresses: &BTreeSet<u64>) {
        let new: BTreeSet<u64> = addresses
            .iter()
            .copied()
            .filter(|address| !self.locations.contains_key(address))
            .collect();
        if new.is_empty() {
            return;
        }
        let found = File::open(KALLSYMS).and_then(|file| resolve(BufReader::new(file), &new));
        let mut found = match found {
            Ok(found) => found,
            Err(error) => {
                self.locations_gap = Some(Gap::new("observed/drop-locations", format!("{KALLSYMS}: {error}")));
                return;
            }
        };
        if found.is_empty() {
            self.locations_gap = Some(Gap::new(
                "observed/drop-locations",
                "kallsyms hides addresses; remedy: CAP_SYSLOG, or sysctl kernel.kptr_restrict=0",
            ));
        }
        // What is in no symbol is remembered as such, or every drop would read all symbols again.
        self.locations.extend(new.iter().map(|address| (*address, found.remove(address))));
    }

    /// What could not be resolved, and why.
    pub fn gaps(&self) -> Vec<Gap> {
        self.reasons_gap.iter().chain(&self.locations_gap).cloned().collect()
    }
}

fn short(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

/// For each address the last function at or before it. Symbols without an address (hidden) find nothing.
pub(crate) fn resolve(symbols: impl BufRead, addresses: &BTreeSet<u64>) -> io::Result<BTreeMap<u64, String>> {
    let mut best: BTreeMap<u64, (u64, String)> = BTreeMap::new();
    let (Some(&lowest), Some(&highest)) = (addresses.first(), addresses.last()) else {
        return Ok(BTreeMap::new());
    };
    for line in symbols.lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let (Some(start), Some("t" | "T" | "w" | "W"), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(start) = u64::from_str_radix(start, 16) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a symbol: {line}")));
        };
        // No function of the kernel is a megabyte long: a symbol that far below belongs to another region.
        if start == 0 || start > highest || start.saturating_add(1 << 20) < lowest {
            continue;
        }
        for address in addresses.range(start..start.saturating_add(1 << 20)) {
            match best.get(address) {
                Some((known, _)) if *known >= start => {}
                _ => {
                    best.insert(*address, (start, name.to_owned()));
                }
            }
        }
    }
    Ok(best.into_iter().map(|(address, (_, name))| (address, name)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYMBOLS: &str = "ffffffff81000000 T _stext\nffffffff81000100 t ip_forward\nffffffff81000300 T ip_error\n\
        ffffffff81000280 d some_data\nffffffffc0000000 t vxlan_xmit\t[vxlan]\n";

    #[test]
    fn an_address_belongs_to_the_last_function_before_it() {
        let addresses = [0xffff_ffff_8100_02a0, 0xffff_ffff_8100_0300, 0xffff_ffff_c000_0123, 0x10].into();
        let found = resolve(SYMBOLS.as_bytes(), &addresses).unwrap();
        assert_eq!(found.get(&0xffff_ffff_8100_02a0).map(String::as_str), Some("ip_forward"));
        assert_eq!(found.get(&0xffff_ffff_8100_0300).map(String::as_str), Some("ip_error"));
        assert_eq!(found.get(&0xffff_ffff_c000_0123).map(String::as_str), Some("vxlan_xmit"));
        assert_eq!(found.get(&0x10), None);
    }

    #[test]
    fn hidden_addresses_find_nothing_and_damage_is_an_error() {
        let hidden = "0000000000000000 T _stext\n0000000000000000 t ip_forward\n";
        assert_eq!(
            resolve(hidden.as_bytes(), &[0xffff_ffff_8100_0100].into()).unwrap(),
            BTreeMap::new()
        );
        assert!(resolve("zz t name\n".as_bytes(), &[1].into()).is_err());
    }

    #[test]
    fn an_unknown_reason_stays_unnamed() {
        let symbols = Symbols::of_kernel(Err(&BtfError::Malformed { offset: 0 }));
        assert_eq!(symbols.reason(2), None);
        assert_eq!(symbols.gaps().len(), 1);
        assert_eq!(short("SKB_DROP_REASON_NO_SOCKET"), "NO_SOCKET");
    }
}
