//! Permanent neighbours and forwarding entries of the peers' VTEPs.

use super::{Looked, Out, View, mac_text};
use crate::{
    intent::Dataplane,
    programmed::{ChangedObject, NUD_FAILED, NUD_INCOMPLETE, Neighbor},
    verdict::CauseCode,
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Each peer's tunnel address resolves to its VTEP MAC.
pub(super) fn neighbors(view: &View<'_>, out: &mut Out) {
    for want in &view.intent.neighbors {
        let index = match view.link(&want.device, "neighbors", out) {
            Looked::Found(link) => Some(link.index),
            Looked::Absent => None,
            Looked::Unknown => continue,
        };
        let entry = view
            .state
            .neighbors
            .seen()
            .into_iter()
            .flatten()
            .find(|n| Some(n.index) == index && n.ip == want.ip);
        let (code, have) = match entry {
            Some(n) if usable(n) && n.mac == Some(want.mac) => continue,
            Some(n) if usable(n) => (CauseCode::NeighborWrongMac, format!("{} lladdr {}", n.ip, mac_text(n.mac))),
            Some(n) => (CauseCode::NeighborMissing, format!("{} is {}", n.ip, state_text(n.state))),
            None => {
                if let Err(gaps) = view.state.neighbors.all() {
                    out.cannot("neighbors", &gaps);
                    continue;
                }
                (CauseCode::NeighborMissing, format!("no entry for {} on {}", want.ip, want.device))
            }
        };
        let mut f = view.finding(code, format!("{} on {}", want.ip, want.device));
        f.peer = Some(want.peer.clone());
        f.evidence.intent = Some(format!(
            "{} lladdr {} PERMANENT dev {} ({}'s VTEP)",
            want.ip, want.mac, want.device, want.peer
        ));
        f.evidence.programmed = Some(have);
        f.value("TUNNEL_ADDRESS", want.ip);
        f.value("MAC", want.mac);
        f.value("vxlan.calico", &want.device);
        f.since = match code {
            CauseCode::NeighborMissing => view.removed_at(|o| matches!(o, ChangedObject::Neighbor(n) if n.ip == want.ip && usable(n))),
            _ => view.added_at(|o| matches!(o, ChangedObject::Neighbor(n) if n.ip == want.ip)),
        };
        out.findings.push(f);
    }
}

/// FAILED and INCOMPLETE entries count as missing (kernel.md).
fn usable(n: &Neighbor) -> bool {
    n.mac.is_some() && n.state & (NUD_FAILED | NUD_INCOMPLETE) == 0
}

fn state_text(state: u16) -> String {
    match state {
        s if s & NUD_FAILED != 0 => "FAILED".to_string(),
        s if s & NUD_INCOMPLETE != 0 => "INCOMPLETE".to_string(),
        s => format!("in state {s:#x} without a MAC"),
    }
}

/// Each peer's VTEP MAC leads to its node, and to it alone.
pub(super) fn fdb(view: &View<'_>, out: &mut Out) {
    if view.intent.settings.dataplane.value() == Some(&Dataplane::Bpf) {
        return;
    }
    for want in &view.intent.fdb {
        let index = match view.link(&want.device, "fdb", out) {
            Looked::Found(link) => Some(link.index),
            Looked::Absent => None,
            Looked::Unknown => continue,
        };
        let mut have: Vec<_> = view
            .state
            .fdb
            .seen()
            .into_iter()
            .flatten()
            .filter(|e| Some(e.index) == index && e.mac == want.mac)
            .filter_map(|e| e.dst)
            .collect();
        have.sort_unstable();
        if !have.is_empty() && have.iter().all(|dst| *dst == want.dst) {
            continue;
        }
        if let Err(gaps) = view.state.fdb.all() {
            out.cannot("fdb", &gaps);
            continue;
        }
        let code = if have.is_empty() {
            CauseCode::FdbMissing
        } else {
            CauseCode::FdbWrongVtep
        };
        let mut f = view.finding(code, format!("{} on {}", want.mac, want.device));
        f.peer = Some(want.peer.clone());
        f.evidence.intent = Some(format!(
            "{} dev {} dst {} self permanent ({}'s VTEP)",
            want.mac, want.device, want.dst, want.peer
        ));
        f.evidence.programmed = Some(if have.is_empty() {
            format!("no entry for {} on {}", want.mac, want.device)
        } else {
            format!(
                "{} dst {}",
                want.mac,
                have.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
            )
        });
        f.value("NODE_ADDRESS", want.dst);
        f.value("MAC", want.mac);
        f.value("vxlan.calico", &want.device);
        if let Some(wrong) = have.iter().find(|dst| **dst != want.dst) {
            f.value("WRONG", wrong);
        }
        f.since = match code {
            CauseCode::FdbMissing => view.removed_at(|o| matches!(o, ChangedObject::Fdb(e) if e.mac == want.mac)),
            _ => view.added_at(|o| matches!(o, ChangedObject::Fdb(e) if e.mac == want.mac)),
        };
        out.findings.push(f);
    }
}
