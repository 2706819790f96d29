//! Taps on interfaces: attached as tcx links, asked to be first, or as clsact filters where the kernel has no tcx.
//!
//! A tcx link lives as long as its descriptor: when this process dies, however it dies, the kernel detaches it. A clsact filter stays,
//! so in that mode whatever carries our names is removed from an interface before a new filter is added. Programs are attached from a
//! thread inside the interface's namespace: the kernel looks an interface up where the caller is.

use std::{collections::BTreeMap, fmt, io, mem::ManuallyDrop};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError,
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, qdisc_add_clsact, qdisc_detach_program},
    },
};
use verifier_core::observed::TapKind;

use super::loader::{LoadError, classifier};
use crate::programmed::netns::{Netns, NetnsError};

/// The program that answers requests.
pub(super) const REFLECTOR: &str = "dpv_reflector";
/// What all our program names start with.
pub const OUR_PREFIX: &str = "dpv_";

/// An interface that is to have a tap.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    /// Index, unique in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What it is to us.
    pub kind: TapKind,
    /// Whether its packets come in Ethernet frames; `tunl0` and its kin have no link-layer header.
    pub framed: bool,
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (index {})", self.name, self.index)
    }
}

/// How taps are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// tcx links.
    Tcx,
    /// clsact filters.
    Clsact,
}

/// Why an interface has no tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// It went away meanwhile, or another one has its name now. Not a fault: the next look at the links settles it.
    #[error("interface {interface} vanished while attaching")]
    Vanished {
        /// Which one.
        interface: Interface,
    },
    /// The kernel refused.
    #[error("cannot attach {program} to interface {interface}; remedy: run as root, or grant CAP_BPF and CAP_NET_ADMIN")]
    Refused {
        /// Which one.
        interface: Interface,
        /// Which program.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The namespace could not be entered.
    #[error("cannot attach in the node's namespace")]
    Namespace(#[from] NetnsError),
    /// A fault of the build.
    #[error(transparent)]
    Object(#[from] LoadError),
}

/// The links of one interface. Dropping them detaches.
struct Attached {
    interface: Interface,
    links: Vec<SchedClassifierLink>,
    /// For clsact: filters are removed from inside the namespace, or from the wrong interface.
    visit: Option<Netns>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let links = std::mem::take(&mut self.links);
        if let Some(netns) = &self.visit {
            // Should the visit fail, the links must not be dropped here: that would remove filters from a foreign interface.
            let links = ManuallyDrop::new(links);
            if let Err(error) = netns.run_in(move || drop(ManuallyDrop::into_inner(links))) {
                tracing::debug!(interface = %self.interface, %error, "filters not removed");
            }
        }
    }
}

/// What a call of [`Taps::sync`] did.
#[derive(Debug, Default)]
pub struct SyncReport {
    /// Interfaces that have a tap now and had none before.
    pub attached: Vec<Interface>,
    /// Interfaces that had one, and are gone or not wanted any more.
    pub detached: Vec<Interface>,
    /// Interfaces that should have one and do not.
    pub failed: Vec<TapError>,
}

/// All taps of one namespace.
pub struct Taps {
    mode: Mode,
    attached: BTreeMap<u32, Attached>,
}

impl Taps {
    /// No taps yet.
    pub const fn new(mode: Mode) -> Self {
        Self {
            mode,
            attached: BTreeMap::new(),
        }
    }

    /// How they are attached.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Interfaces with a tap.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.attached.values().map(|attached| &attached.interface)
    }

    /// Makes the taps those of `wanted`: each interface has all its programs or none.
    pub fn sync(&mut self, ebpf: &mut Ebpf, netns: &Netns, wanted: &[Interface]) -> SyncReport {
        let mut report = SyncReport::default();
        let stale: Vec<u32> = self
            .attached
            .iter()
            .filter(|(_, attached)| !wanted.contains(&attached.interface))
            .map(|(index, _)| *index)
            .collect();
        for index in stale {
            if let Some(gone) = self.attached.remove(&index) {
                report.detached.push(gone.interface.clone());
            }
        }
        for interface in wanted {
            if self.attached.contains_key(&interface.index) {
                continue;
            }
            match attach(ebpf, netns, self.mode, interface) {
                Ok(attached) => {
                    self.attached.insert(interface.index, attached);
                    report.attached.push(interface.clone());
                }
                Err(error) => report.failed.push(error),
            }
        }
        report
    }
}

/// Which mode this kernel allows: tcx is tried, on the interface that every namespace has.
pub(super) fn probe_mode() -> Mode {
    match SchedClassifier::query_tcx("lo", TcAttachType::Ingress) {
        Ok(_) => Mode::Tcx,
        Err(error) => {
            tracing::debug!(%error, "no tcx, using clsact");
            Mode::Clsact
        }
    }
}

/// Programs of an interface, in the order of attaching.
const fn programs(interface: &Interface) -> &'static [(&'static str, TcAttachType)] {
    match (interface.kind, interface.framed) {
        // A pod's device is one end of a veth pair: always framed.
        (TapKind::Workload, _) => &[
            ("dpv_wl_ingress", TcAttachType::Ingress),
            ("dpv_wl_egress", TcAttachType::Egress),
            (REFLECTOR, TcAttachType::Egress),
        ],
        (TapKind::Tunnel, true) => &[("dpv_tun_ingress", TcAttachType::Ingress), ("dpv_tun_egress", TcAttachType::Egress)],
        (TapKind::Tunnel, false) => &[
            ("dpv_tun3_ingress", TcAttachType::Ingress),
            ("dpv_tun3_egress", TcAttachType::Egress),
        ],
        (TapKind::Underlay, false) => &[("dpv_ul3_ingress", TcAttachType::Ingress), ("dpv_ul3_egress", TcAttachType::Egress)],
        (TapKind::Underlay, true) => &[("dpv_ul_ingress", TcAttachType::Ingress), ("dpv_ul_egress", TcAttachType::Egress)],
    }
}

fn attach(ebpf: &mut Ebpf, netns: &Netns, mode: Mode, interface: &Interface) -> Result<Attached, TapError> {
    let mut attached = Attached {
        interface: interface.clone(),
        links: Vec::new(),
        visit: match mode {
            Mode::Tcx => None,
            Mode::Clsact => Some(netns.try_clone()?),
        },
    };
    // On an error `attached` is dropped, and with it what was attached so far.
    netns.run_in(|| attach_inside(ebpf, mode, &mut attached))??;
    Ok(attached)
}

/// Inside the namespace.
fn attach_inside(ebpf: &mut Ebpf, mode: Mode, attached: &mut Attached) -> Result<(), TapError> {
    let interface = attached.interface.clone();
    is_still_there(&interface)?;
    let refused = |program, source| refused(&interface, program, source);
    if mode == Mode::Clsact {
        prepare_clsact(&interface).map_err(|source| refused("clsact", ProgramError::TcError(source)))?;
    }
    for &(name, direction) in programs(&interface) {
        let last = name == REFLECTOR;
        let options = match (mode, last) {
            (Mode::Tcx, false) => TcAttachOptions::TcxOrder(LinkOrder::first()),
            (Mode::Tcx, true) => TcAttachOptions::TcxOrder(LinkOrder::last()),
            (Mode::Clsact, _) => TcAttachOptions::Netlink(NlOptions {
                priority: if last { u16::MAX } else { 1 },
                ..NlOptions::default()
            }),
        };
        let program = classifier(ebpf, name)?;
        let link = program
            .attach_with_options(&interface.name, direction, options)
            .and_then(|id| program.take_link(id))
            .map_err(|source| refused(name, source))?;
        attached.links.push(link);
    }
    // The programs were attached by name: if the name changed hands meanwhile, they sit on the wrong interface and go again.
    is_still_there(&interface)
}

fn is_still_there(interface: &Interface) -> Result<(), TapError> {
    match nix::net::if_::if_nametoindex(interface.name.as_str()) {
        Ok(index) if index == interface.index => Ok(()),
        _ => Err(TapError::Vanished {
            interface: interface.clone(),
        }),
    }
}

fn refused(interface: &Interface, program: &'static str, source: ProgramError) -> TapError {
    let interface = interface.clone();
    if matches!(errno(&source), Some(libc::ENODEV | libc::ENXIO)) {
        return TapError::Vanished { interface };
    }
    TapError::Refused {
        interface,
        program,
        source: Box::new(source),
    }
}

/// The errno at the bottom of an error.
pub(super) fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut source = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        source = error.source();
    }
    None
}

/// Adds the qdisc, and removes filters that an earlier process of ours left behind.
fn prepare_clsact(interface: &Interface) -> Result<(), TcError> {
    if let Err(error) = qdisc_add_clsact(&interface.name)
        && errno(&error) != Some(libc::EEXIST)
    {
        return Err(error);
    }
    for &(name, direction) in programs(interface) {
        match qdisc_detach_program(&interface.name, direction, name) {
            Err(TcError::IoError(error)) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}
