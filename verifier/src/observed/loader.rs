//! Loads the kernel programs: all taps and the reflector, and one of the two drop programs, whichever this kernel can run.

use std::io;

use aya::{
    Ebpf, EbpfError, EbpfLoader, VerifierLogLevel,
    programs::{BtfTracePoint, ProgramError, SchedClassifier, TracePoint},
};
use verifier_core::evidence::Gap;
use verifier_ebpf::{config::Layout, conformance::slots, plain::Field as _, reflect::REFUSALS};

use super::{
    btf::Btf,
    layout,
    object::{NotEmbedded, embedded},
    symbols::Symbols,
    taps::errno,
};

/// Every classifier in the object.
pub(super) const CLASSIFIERS: [&str; 12] = [
    "dpv_wl_ingress",
    "dpv_wl_egress",
    "dpv_tun_ingress",
    "dpv_tun_egress",
    "dpv_ul_ingress",
    "dpv_ul_egress",
    "dpv_tun3_ingress",
    "dpv_tun3_egress",
    "dpv_ul3_ingress",
    "dpv_ul3_egress",
    super::taps::REFLECTOR,
    EMPTY,
];
/// The classifier that does nothing.
pub(super) const EMPTY: &str = "dpv_empty";
const DROP_BTF: &str = "dpv_drop_btf";
const DROP_TRACEPOINT: &str = "dpv_drop_tp";

/// Sizes, and what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Room for records on their way to user space, in bytes; a power of two of at least a page.
    pub ring_bytes: u32,
    /// Blocks and exceptions that intent may have, of both families.
    pub owners_max: u32,
    /// Peers that are counted apart.
    pub peers_max: u32,
    /// Whether drops are watched. They are global to the machine.
    pub drops: bool,
    /// Whether drops are seen by the plain tracepoint even where the better one works: for tests of the fallback.
    pub plain_tracepoint: bool,
    /// Only to measure: the reflector leaves a request a request and sees no replay. Never attach such programs.
    pub measuring: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ring_bytes: 1 << 20,
            owners_max: 65_536,
            peers_max: 8192,
            drops: true,
            plain_tracepoint: false,
            measuring: false,
        }
    }
}

/// Why nothing could be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built without them.
    #[error(transparent)]
    NotEmbedded(#[from] NotEmbedded),
    /// The object's maps could not be made.
    #[error("the kernel refuses the maps of the kernel programs")]
    Object {
        /// Why.
        #[source]
        source: Box<EbpfError>,
    },
    /// The object lacks something: a fault of the build.
    #[error("the object has no {what} {name}")]
    Missing {
        /// `program` or `map`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The kernel does not let us.
    #[error("not permitted to load kernel programs; remedy: run as root, or grant CAP_BPF and CAP_NET_ADMIN, and CAP_PERFMON for drops")]
    Permission {
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// The kernel's verifier refused a program: this kernel is unlike those it was made for.
    #[error("this kernel's verifier refuses program {program}; remedy: report it with the log at debug level")]
    Rejected {
        /// Which one.
        program: &'static str,
        /// The refusal.
        #[source]
        source: io::Error,
        /// What the verifier says: many lines.
        log: String,
    },
    /// A program could not be loaded or attached for another reason.
    #[error("the kernel refuses program {program}")]
    Program {
        /// Which one.
        program: &'static str,
        /// Why, with the verifier's log.
        #[source]
        source: Box<ProgramError>,
    },
}

impl LoadError {
    fn program(program: &'static str, source: ProgramError) -> Self {
        let permission = |errno| matches!(errno, Some(libc::EPERM | libc::EACCES));
        match source {
            // The verifier says EACCES as well, but it says why.
            ProgramError::LoadError { io_error, verifier_log } => {
                let log = verifier_log.to_string();
                if permission(io_error.raw_os_error()) && log.trim().is_empty() {
                    return Self::Permission { source: io_error };
                }
                tracing::debug!(program, log, "rejected");
                Self::Rejected {
                    program,
                    source: io_error,
                    log,
                }
            }
            source => Self::Program {
                program,
                source: Box::new(source),
            },
        }
    }

    fn object(source: EbpfError) -> Self {
        match errno(&source) {
            Some(number @ (libc::EPERM | libc::EACCES)) => Self::Permission {
                source: io::Error::from_raw_os_error(number),
            },
            _ => Self::Object { source: Box::new(source) },
        }
    }
}

/// How drops are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DropSource {
    /// `tp_btf/kfree_skb`.
    BtfTracepoint,
    /// The plain tracepoint.
    Tracepoint,
    /// Not at all.
    None(Gap),
}

/// What loading gave.
pub(super) struct Loaded {
    pub(super) ebpf: Ebpf,
    pub(super) drops: DropSource,
    pub(super) symbols: Symbols,
}

pub(super) fn load(options: &Options) -> Result<Loaded, LoadError> {
    let object = embedded()?;
    let kernel_btf = Btf::of_kernel();
    let symbols = Symbols::of_kernel(kernel_btf.as_ref());
    let resolved = match &kernel_btf {
        _ if !options.drops => Err(Gap::new("observed/drops", "not asked for")),
        Ok(btf) => layout::resolve(btf).map_err(|error| Gap::new("observed/drops", error.to_string())),
        Err(error) => Err(Gap::new("observed/drops", error.to_string())),
    };
    drop(kernel_btf);
    let (resolved, tracepoint_gap) = match resolved {
        Ok(layout) => match layout::with_tracepoint(layout) {
            Ok(layout) => (Ok(layout), None),
            Err(error) => (Ok(layout), Some(format!("tracefs: {error}"))),
        },
        Err(gap) => (Err(gap), None),
    };

    let frozen = resolved.as_ref().map_or(Layout::ZERO, |layout| *layout).to_bytes();
    let measuring = u8::from(options.measuring);
    let mut ebpf = EbpfLoader::new()
        // The log is wanted when a program is refused, not otherwise; aya asks for it then.
        .verifier_log_level(VerifierLogLevel::DEBUG)
        .override_global("LAYOUT", &frozen, true)
        .override_global("MEASURING", &measuring, true)
        .map_max_entries("RING", options.ring_bytes)
        .map_max_entries("OWNERS", options.owners_max)
        .map_max_entries("OWNERS6", options.owners_max)
        .map_max_entries("CONFORMANCE", slots(options.peers_max))
        .map_max_entries("REFUSALS", options.peers_max.saturating_mul(REFUSALS))
        .map_max_entries("REFLECTED", options.peers_max)
        .load(object)
        .map_err(LoadError::object)?;

    for name in CLASSIFIERS {
        classifier(&mut ebpf, name)?
            .load()
            .map_err(|source| LoadError::program(name, source))?;
    }
    let drops = match resolved {
        Ok(_) => attach_drops(&mut ebpf, options, tracepoint_gap)?,
        Err(gap) => DropSource::None(gap),
    };
    release_memory();
    Ok(Loaded { ebpf, drops, symbols })
}

/// Hands back what reading the kernel's BTF took: twenty megabytes that are never needed again, and that the allocator would keep.
fn release_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// A classifier by name.
pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut SchedClassifier, LoadError> {
    program(ebpf, name)
}

fn program<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut T, LoadError>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found = ebpf.program_mut(name).ok_or(LoadError::Missing { what: "program", name })?;
    found.try_into().map_err(|source| LoadError::program(name, source))
}

/// The better drop program that works. A kernel without either leaves a gap, not an error: hops alone tell much.
fn attach_drops(ebpf: &mut Ebpf, options: &Options, tracepoint_gap: Option<String>) -> Result<DropSource, LoadError> {
    let with_btf = match aya::Btf::from_sys_fs() {
        Ok(_) if options.plain_tracepoint => Err(ProgramError::NotAttached),
        Ok(btf) => {
            let program: &mut BtfTracePoint = program(ebpf, DROP_BTF)?;
            program.load("kfree_skb", &btf).and_then(|()| program.attach().map(drop))
        }
        Err(error) => Err(ProgramError::Btf(error)),
    };
    let with_btf = match with_btf {
        Ok(()) => return Ok(DropSource::BtfTracepoint),
        Err(error) => chain(&error),
    };
    let plain = match tracepoint_gap {
        None => {
            let program: &mut TracePoint = program(ebpf, DROP_TRACEPOINT)?;
            program
                .load()
                .and_then(|()| program.attach("skb", "kfree_skb").map(drop))
                .map_err(|error| chain(&error))
        }
        Some(why) => Err(why),
    };
    Ok(match plain {
        Ok(()) => DropSource::Tracepoint,
        Err(plain) => DropSource::None(Gap::new("observed/drops", format!("tp_btf: {with_btf}; tracepoint: {plain}"))),
    })
}

/// An error with its causes, on one line; a verifier's log is left to whoever prints the error itself.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text.lines().next().unwrap_or_default().to_owned()
}
