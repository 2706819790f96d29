//! The reverse path filter: `fib_validate_source` of `net/ipv4/fib_frontend.c`. IPv6 has none in the kernel.

use super::{Decision, Fib, Flow, ReversePath, rp_filter};
use crate::{evidence::Gap, programmed::NodeState};
use alloc::{string::String, vec::Vec};

impl Fib {
    /// What reverse path filtering does to a packet of `flow` that arrives on `flow.iif`.
    ///
    /// The kernel looks the source up as a destination, with the addresses swapped. As input interface it takes the one that the
    /// packet would leave by, or `lo` if the packet is for this host, which matters to rules with `iif`.
    pub fn reverse_path(&self, flow: &Flow, state: &NodeState) -> ReversePath {
        let (Some(iif), Some(src)) = (flow.iif, flow.src) else {
            return ReversePath::Passes;
        };
        if flow.dst.is_ipv6() {
            return ReversePath::Passes;
        }
        let mode = match rp_filter(state, iif) {
            Ok(0) => return ReversePath::Passes,
            Ok(mode) => mode,
            Err(gaps) => return unknown(&gaps),
        };
        let ways_out: Vec<Option<u32>> = match self.lookup(flow) {
            Decision::Forward { next_hops, .. } => next_hops.iter().map(|hop| hop.oif).collect(),
            // Nothing is validated of a packet that goes nowhere: the lookup fails first.
            Decision::Discard { .. } | Decision::NoRoute => return ReversePath::Passes,
            Decision::Local { .. } => [None].into(),
            Decision::Unknown { why } => return ReversePath::Unknown { why },
        };
        let mut answer = None;
        for leaves_by in ways_out {
            // The mark counts with `src_valid_mark` only, which netconf does not tell.
            for mark in [0, flow.mark] {
                let back = Flow {
                    src: Some(flow.dst),
                    dst: src,
                    iif: leaves_by,
                    oif: None,
                    mark,
                    tos: flow.tos,
                    protocol: flow.protocol,
                };
                let this = self.validate(back, iif, mode, state);
                match &answer {
                    None => answer = Some(this),
                    Some(before) if *before == this => {}
                    Some(_) => {
                        return ReversePath::Unknown {
                            why: String::from("the answer depends on src_valid_mark or on the path that a hash of the flow chooses"),
                        };
                    }
                }
            }
        }
        answer.unwrap_or(ReversePath::Passes)
    }

    /// `__fib_validate_source` with `rp_filter` on.
    fn validate(&self, back: Flow, iif: u32, mode: u8, state: &NodeState) -> ReversePath {
        let by = self.lookup(&back);
        match &by {
            // `fib_info_nh_uses_dev` asks about all next hops of the route, dead ones included.
            Decision::Forward { route, .. } if route.next_hops.iter().any(|hop| hop.oif == Some(iif)) => ReversePath::Passes,
            // Loose: any way back will do, provided that the interface has an address; workload interfaces have none.
            Decision::Forward { .. } if mode != 1 => match state.addresses.all() {
                Ok(addresses) if addresses.iter().any(|a| a.index == iif && a.ip.addr().is_ipv4()) => ReversePath::Passes,
                Ok(_) => ReversePath::Dropped { by },
                Err(gaps) => unknown(&gaps),
            },
            Decision::Unknown { why } => ReversePath::Unknown { why: why.clone() },
            _ => ReversePath::Dropped { by },
        }
    }
}

fn unknown(gaps: &[Gap]) -> ReversePath {
    ReversePath::Unknown {
        why: gaps.first().map_or_else(String::new, |gap| gap.why.clone()),
    }
}
