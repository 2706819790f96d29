//! What this machine offers: each feature is tried, never derived from a version number. What is missing is told with what it disables
//! and how to get it; a probe that failed is told apart from a feature that is not there.

mod capabilities;

use crate::{
    observed::{
        Observer,
        loader::{DropSource, Options},
    },
    programmed::netns::Netns,
};
use aya::{
    maps::MapType,
    programs::{ProgramError, ProgramType, SchedClassifier, TcAttachType},
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use serde::Serialize;
use std::{
    fs, io,
    io::{BufRead as _, BufReader},
    path::Path,
};

/// Where the running kernel's BTF is.
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// How a check ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum State {
    /// It is there.
    Present,
    /// It is not there.
    Missing {
        /// What was seen.
        why: String,
    },
    /// It could not be found out.
    Unknown {
        /// Why.
        why: String,
    },
}

/// One thing this program needs or uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether the agent can do nothing without it.
    pub essential: bool,
    /// Whether it is there.
    #[serde(flatten)]
    pub state: State,
    /// What its absence disables.
    pub disables: &'static str,
    /// How to get it.
    pub remedy: &'static str,
}

impl Check {
    /// Whether it is there.
    pub fn present(&self) -> bool {
        self.state == State::Present
    }

    /// One line about what is missing, with the remedy; none if nothing is.
    pub fn complaint(&self) -> Option<String> {
        let (what, why) = match &self.state {
            State::Present => return None,
            State::Missing { why } => ("missing", why),
            State::Unknown { why } => ("unknown", why),
        };
        Some(format!(
            "{} is {what} ({why}): disables {}; {}",
            self.name, self.disables, self.remedy
        ))
    }
}

/// What an agent cannot do without, of this process alone: asked before it opens or attaches anything.
///
/// # Errors
/// One line with everything that is missing and the remedy.
pub fn essentials(ebpf: bool) -> Result<(), String> {
    let missing: Vec<String> = capabilities::all(fs::read_to_string("/proc/self/status"))
        .iter()
        .filter(|check| check.essential && (ebpf || check.name != "CAP_BPF"))
        .filter_map(Check::complaint)
        .collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join(". ")) }
}

/// Tries everything, in the node's namespace where that matters.
pub fn run(netns: &Netns) -> Vec<Check> {
    let mut checks = capabilities::all(fs::read_to_string("/proc/self/status"));
    checks.extend([
        check(
            "namespace",
            true,
            netns.run_in(|| ()).map_err(|error| unknown(&error)),
            "everything",
            "run as root, and name the node's namespace with --netns",
        ),
        check(
            "kernel-object",
            true,
            object_embedded(),
            "taps and the reflector",
            "build with `cargo xtask build`, which makes the eBPF object first",
        ),
        check(
            "btf",
            true,
            btf(Path::new(BTF)),
            "drop reasons, and with some kernels every tap",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF, and mount /sys",
        ),
        check(
            "classifier",
            true,
            program(ProgramType::SchedClassifier),
            "taps and the reflector",
            "use a kernel built with CONFIG_BPF_SYSCALL and CONFIG_NET_CLS_BPF",
        ),
        check(
            "ring-buffer",
            true,
            map(MapType::RingBuf),
            "hop and drop records",
            "use Linux 5.8 or later",
        ),
        check(
            "tcx",
            false,
            tcx(netns),
            "being asked first on a device: clsact filters are used instead and are cleaned up by the next start",
            "use Linux 6.6 or later",
        ),
        check(
            "redirect",
            false,
            helper(),
            "the reflector: UDP probes are answered by nobody and prove delivery only",
            "use a kernel built with CONFIG_NET_CLS_ACT",
        ),
        check(
            "kallsyms",
            false,
            kallsyms(Path::new("/proc/kallsyms")),
            "names of the functions that drop packets",
            "set kernel.kptr_restrict to 0 or 1 and grant CAP_SYSLOG",
        ),
        check(
            "conntrack",
            false,
            conntrack(netns),
            "the fill and the losses of connection tracking",
            "load nf_conntrack and nf_conntrack_netlink; a namespace without any rule that tracks has none",
        ),
        check(
            "host-processes",
            false,
            host_processes(Path::new("/proc")),
            "finding the namespaces of pods",
            "give the agent the host's process namespace (hostPID: true)",
        ),
    ]);
    checks.extend(kernel_programs());
    checks
}

/// Loads what an agent loads, attaches it to no interface, and lets it go again.
fn kernel_programs() -> [Check; 2] {
    let small = Options {
        ring_bytes: 1 << 16,
        owners_max: 64,
        peers_max: 64,
        ..Options::default()
    };
    let (programs, drops) = match Observer::load(small) {
        Ok((observer, _)) => (
            Ok(()),
            match observer.drop_source() {
                DropSource::BtfTracepoint | DropSource::Tracepoint => Ok(()),
                DropSource::None(gap) => Err(missing(&gap.why)),
            },
        ),
        Err(error) => (Err(refused(&error)), Err(refused(&error))),
    };
    [
        check(
            "kernel-programs",
            true,
            programs,
            "taps and the reflector: no hops, no place of a failure",
            "see what is missing above; with nothing missing, report this line",
        ),
        check(
            "drop-records",
            false,
            drops,
            "drop reasons: where a packet was lost is told by taps alone",
            "use a kernel built with CONFIG_DEBUG_INFO_BTF and CONFIG_BPF_EVENTS, grant CAP_PERFMON, or mount tracefs",
        ),
    ]
}

fn refused(error: &(dyn std::error::Error + 'static)) -> State {
    match unknown(error) {
        State::Unknown { why } => State::Missing {
            // The verifier's log can be pages long; its first line says which program.
            why: why.lines().next().unwrap_or("").to_owned(),
        },
        other => other,
    }
}

fn check(name: &'static str, essential: bool, found: Result<(), State>, disables: &'static str, remedy: &'static str) -> Check {
    Check {
        name,
        essential,
        state: found.err().unwrap_or(State::Present),
        disables,
        remedy,
    }
}

fn missing(why: impl ToString) -> State {
    State::Missing { why: why.to_string() }
}

fn unknown(error: &(dyn std::error::Error + 'static)) -> State {
    // The whole chain: the outermost words alone seldom tell why.
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        why.push_str(": ");
        why.push_str(&inner.to_string());
        source = inner.source();
    }
    State::Unknown { why }
}

fn object_embedded() -> Result<(), State> {
    if env!("VERIFIER_EBPF_HASH") == "none" {
        Err(missing("this program was built without it"))
    } else {
        Ok(())
    }
}

fn btf(path: &Path) -> Result<(), State> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(format!("no {}", path.display()))),
        Err(error) => return Err(unknown(&error)),
    };
    // BTF_MAGIC of include/uapi/linux/btf.h, in the machine's byte order.
    if bytes.starts_with(&0xeb9f_u16.to_ne_bytes()) {
        Ok(())
    } else {
        Err(missing(format!("{} is no BTF", path.display())))
    }
}

fn program(kind: ProgramType) -> Result<(), State> {
    match is_program_supported(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing("the kernel refuses such a program")),
        Err(error) => Err(unknown(&error)),
    }
}

fn map(kind: MapType) -> Result<(), State> {
    match is_map_supported(kind) {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing("the kernel refuses such a map")),
        Err(error) => Err(unknown(&error)),
    }
}

fn helper() -> Result<(), State> {
    match is_helper_supported(ProgramType::SchedClassifier, BpfHelper::BPF_FUNC_redirect) {
        Ok(true) => Ok(()),
        Ok(false) => Err(missing("the kernel refuses the helper")),
        Err(error) => Err(unknown(&error)),
    }
}

/// Asks which programs are attached to `lo` through tcx: a kernel without tcx does not know the question (EINVAL).
fn tcx(netns: &Netns) -> Result<(), State> {
    let asked = netns.run_in(|| SchedClassifier::query_tcx("lo", TcAttachType::Ingress));
    tcx_answer(asked.map_err(|error| unknown(&error))?)
}

fn tcx_answer<T>(asked: Result<T, ProgramError>) -> Result<(), State> {
    match asked {
        Ok(_) => Ok(()),
        Err(ProgramError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EINVAL) => {
            Err(missing("the kernel does not know the attach type"))
        }
        Err(error) => Err(unknown(&error)),
    }
}

fn kallsyms(path: &Path) -> Result<(), State> {
    let file = fs::File::open(path).map_err(|error| unknown(&error))?;
    let mut first = String::new();
    // With kptr_restrict every address reads as zero; the first symbols of a per-CPU kernel are zero anyway, so look further.
    for line in BufReader::new(file).lines().take(20_000) {
        first = line.map_err(|error| unknown(&error))?;
        if first
            .trim_start_matches('0')
            .split_whitespace()
            .next()
            .is_some_and(|address| address.len() > 8)
        {
            return Ok(());
        }
    }
    Err(missing(if first.is_empty() {
        "it is empty"
    } else {
        "its addresses are hidden"
    }))
}

fn conntrack(netns: &Netns) -> Result<(), State> {
    let path = "/proc/sys/net/netfilter/nf_conntrack_max";
    match netns.run_in(|| fs::read_to_string(path)).map_err(|error| unknown(&error))? {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing(format!("no {path}"))),
        Err(error) => return Err(unknown(&error)),
    }
    let netfilter = isize::try_from(libc::NETLINK_NETFILTER).map_err(|error| unknown(&error))?;
    netns.netlink(netfilter).map(|_| ()).map_err(|error| unknown(&error))
}

/// In a process namespace of its own the agent sees only itself, with number 1.
fn host_processes(proc: &Path) -> Result<(), State> {
    let entries = fs::read_dir(proc).map_err(|error| unknown(&error))?;
    let mut processes = 0;
    for entry in entries {
        let name = entry.map_err(|error| unknown(&error))?.file_name();
        processes += usize::from(name.to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    }
    if processes > 1 && std::process::id() != 1 {
        Ok(())
    } else {
        Err(missing("no other process is visible"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    #[test]
    fn a_kernel_without_btf_is_told_so() {
        assert!(matches!(btf(Path::new("/nonexistent")), Err(State::Missing { .. })));
        assert!(matches!(btf(Path::new("/proc/self/status")), Err(State::Missing { .. })));
    }

    #[test]
    fn a_kernel_without_tcx_is_told_so_and_a_refusal_is_none() {
        let answer = |errno| {
            tcx_answer::<()>(Err(ProgramError::SyscallError(SyscallError {
                call: "bpf_prog_query",
                io_error: io::Error::from_raw_os_error(errno),
            })))
        };
        assert!(matches!(answer(libc::EINVAL), Err(State::Missing { .. })));
        assert!(matches!(answer(libc::EPERM), Err(State::Unknown { .. })));
        assert!(tcx_answer(Ok(())).is_ok());
    }

    #[test]
    fn hidden_kernel_symbols_are_told_so() {
        let path = std::env::temp_dir().join(format!("verifier-kallsyms-{}", std::process::id()));
        fs::write(&path, "0000000000000000 T _stext\n").unwrap();
        let found = kallsyms(&path);
        fs::remove_file(&path).unwrap();
        assert!(matches!(found, Err(State::Missing { .. })), "{found:?}");
    }

    #[test]
    fn every_missing_thing_says_what_to_do_in_one_line() {
        for check in run(&Netns::current().unwrap()) {
            assert!(check.remedy.len() > 5 && check.disables.len() > 5, "{}", check.name);
            if let Some(complaint) = check.complaint() {
                assert!(!complaint.contains('\n'), "{complaint}");
            }
        }
    }
}
