//! What is known of a cause: one [`Cause`] per code, in the tables beside this file. Text, class, what it explains, who repairs it.

use super::{CauseCode, Class, Severity};
use crate::intent::Owner;
use alloc::{
    format,
    string::{String, ToString},
};
use serde::{Deserialize, Serialize};

/// What a cause is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// A whole node: all its traffic to other nodes.
    Node,
    /// One node's way to one peer.
    Pair,
    /// One pod.
    Pod,
    /// The machine under a node. By itself it says nothing about packets: only what follows from it does.
    Host,
    /// The network between nodes.
    Fabric,
    /// The cluster's objects.
    Cluster,
}

/// Who repairs it, and when (calico.md 1.9). Felix's timers are jittered by up to a tenth, hence 100 for 90 seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repairs {
    /// Felix's loop over the tunnel device, every 10 s.
    DeviceLoop,
    /// The same, but the MAC is compared from 3.30 on only (PR #8924).
    DeviceLoopMac,
    /// Felix's route and FDB refresh, every 90 s.
    RouteRefresh,
    /// Felix's route refresh, but a route changed in place is not noticed by 3.29.0 to 3.31.6 and 3.32.0 (PR #12959), and 3.27 and
    /// 3.28 cannot replace a route that is not theirs.
    RouteInPlace,
    /// Felix writes it once, at the interface's next up event or at its own start.
    InterfaceUp,
    /// Never by Calico.
    Never,
    /// It is not Calico's to repair.
    NotCalicos,
}

/// [`Repairs`] for a version, as it stands in reports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Repair {
    /// Whether Calico repairs it without help.
    pub automatic: bool,
    /// Within how many seconds at the latest, if it does.
    pub within_seconds: Option<u32>,
    /// In words.
    pub note: String,
}

/// BIRD compares the kernel's routes with its own this often (`scan time` of `protocol kernel` in confd's `bird.cfg.template`).
const BIRD_SCAN_SECONDS: u32 = 2;

impl Repairs {
    /// The same for what `owner` programs, where it is known: BIRD's routes are not Felix's to refresh. What became of a route that was
    /// changed in place depends on who recognises the one that stands there now as its own ([`Finding::recognised_by`]).
    ///
    /// [`Finding::recognised_by`]: super::Finding::recognised_by
    pub fn by_owner(
        self,
        owner: Option<Owner>,
        recognised_by: Option<Owner>,
        version: Option<(u16, u16, u16)>,
        refresh_seconds: u32,
    ) -> Repair {
        let bird = |automatic: bool, note: &str| Repair {
            automatic,
            within_seconds: automatic.then_some(BIRD_SCAN_SECONDS),
            note: note.to_string(),
        };
        match (owner, self) {
            (Some(Owner::Bird), Self::RouteRefresh) => bird(
                true,
                "BIRD's scan of the kernel's routes repairs it within 2 s while its BGP session stands",
            ),
            (Some(Owner::Bird), Self::RouteInPlace) if recognised_by == Some(Owner::Bird) => bird(
                true,
                "BIRD's scan of the kernel's routes changes its own route within 2 s while its BGP session stands",
            ),
            // Felix removes what it takes for its own and does not want, and nothing is in BIRD's way any more.
            (Some(Owner::Bird), Self::RouteInPlace) if recognised_by == Some(Owner::Felix) => {
                let within = with_jitter(refresh_seconds).saturating_add(BIRD_SCAN_SECONDS);
                Repair {
                    automatic: true,
                    within_seconds: Some(within),
                    note: format!("Felix's route refresh removes what stands there, then BIRD's scan puts its own back: within {within} s"),
                }
            }
            // It adds what is missing and changes what it wrote itself; it does not replace others' (`krt_prune`, NLM_F_EXCL). Tried with BIRD
            // 1.6.8 and confd's `protocol kernel`, IPv4 and IPv6: a route of `proto bird` was right again with the next scan, one of any other
            // writer stood until it was deleted, and then BIRD's came back.
            (Some(Owner::Bird), Self::RouteInPlace) => bird(
                false,
                "never: BIRD's scan changes only routes of its own (within 2 s) and leaves another writer's where it stands, \
                 logging `Netlink: File exists`",
            ),
            // To Felix its own route is missing while one stands there that is none of its: it puts its own in its place (calico.md 1.9).
            (Some(Owner::Felix), Self::RouteInPlace) if recognised_by != Some(Owner::Felix) => match version {
                Some(v) if v < (3, 29, 0) => Repair {
                    automatic: false,
                    within_seconds: None,
                    note: "never: before v3.29 Felix does not replace another writer's route, and logs `file exists`".to_string(),
                },
                Some(_) => Self::RouteRefresh.by(version, refresh_seconds),
                None => Repair {
                    automatic: false,
                    within_seconds: None,
                    note: "unknown: depends on Calico's version (before v3.29 never, later ones within 100 s)".to_string(),
                },
            },
            _ => self.by(version, refresh_seconds),
        }
    }

    /// What this version of Calico does, `refresh_seconds` being the configured `routeRefreshInterval`.
    pub fn by(self, version: Option<(u16, u16, u16)>, refresh_seconds: u32) -> Repair {
        let within = |seconds: u32, who: &str| Repair {
            automatic: true,
            within_seconds: Some(seconds),
            note: format!("{who} repairs it within {seconds} s"),
        };
        let never = |why: &str| Repair {
            automatic: false,
            within_seconds: None,
            note: why.to_string(),
        };
        let refresh = with_jitter(refresh_seconds);
        match self {
            Self::DeviceLoop => within(10, "Felix's tunnel device loop"),
            Self::DeviceLoopMac => match version {
                Some(v) if v < (3, 30, 0) => never("never: Felix compares the device's MAC only from v3.30 on"),
                Some(_) => within(10, "Felix's tunnel device loop"),
                None => never("unknown: depends on Calico's version (v3.30 and later repair it within 10 s, earlier ones never)"),
            },
            Self::RouteRefresh => within(refresh, "Felix's route refresh"),
            Self::RouteInPlace => match version {
                Some(v) if ((3, 29, 0)..(3, 31, 7)).contains(&v) || v == (3, 32, 0) => {
                    never("never: this version does not notice a route that was changed in place (fixed in v3.31.7 and v3.32.1)")
                }
                Some(_) => within(refresh, "Felix's route refresh"),
                None => never("unknown: depends on Calico's version (v3.29.0 to v3.31.6 and v3.32.0 never do, others within 100 s)"),
            },
            Self::InterfaceUp => never("only at the interface's next up event or when Felix restarts"),
            Self::Never => never("never: Felix does not look at this"),
            Self::NotCalicos => never("never: it is not Calico's to repair"),
        }
    }
}

/// Felix's timers are late by up to a tenth.
const fn with_jitter(seconds: u32) -> u32 {
    seconds.saturating_add(seconds / 10 + 1)
}

/// Everything that is known of one cause.
#[derive(Clone, Copy, Debug)]
pub struct Cause {
    /// Its code.
    pub code: CauseCode,
    /// Its class.
    pub class: Class,
    /// Its severity while traffic suffers.
    pub severity: Severity,
    /// What it is about.
    pub scope: Scope,
    /// One line.
    pub title: &'static str,
    /// What it means for traffic, and how it comes about.
    pub meaning: &'static str,
    /// What decides it.
    pub detected: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// How to see that it is gone.
    pub verify: &'static str,
    /// How the remedy survives a reboot; none where it does so by itself.
    pub persist: Option<&'static str>,
    /// Who repairs it.
    pub repairs: Repairs,
    /// For how many seconds a known transient looks the same (calico.md 1.13); 0 if none does.
    pub hold_off_seconds: u32,
    /// Causes on the same node that follow from it.
    pub explains: &'static [CauseCode],
    /// Causes at other nodes that follow from it.
    pub explains_at_peers: &'static [CauseCode],
    /// Real incidents, by repository and number.
    pub incidents: &'static [&'static str],
}

impl CauseCode {
    /// What is known of it.
    pub fn cause(self) -> &'static Cause {
        super::table::lookup(self)
    }

    /// Its class.
    pub fn class(self) -> Class {
        self.cause().class
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn birds_routes_are_not_for_felix_to_refresh() {
        let version = Some((3, 30, 7));
        let by = |repairs: Repairs, owner| repairs.by_owner(owner, None, version, 90);
        let birds = by(Repairs::RouteRefresh, Some(Owner::Bird));
        assert_eq!((birds.automatic, birds.within_seconds), (true, Some(2)));
        assert!(birds.note.starts_with("BIRD"), "{}", birds.note);
        let in_place = by(Repairs::RouteInPlace, Some(Owner::Bird));
        assert!(!in_place.automatic && in_place.note.starts_with("never: BIRD"), "{}", in_place.note);
        for owner in [None, Some(Owner::Felix)] {
            assert_eq!(by(Repairs::RouteRefresh, owner), Repairs::RouteRefresh.by(version, 90));
        }
        // What is no route is Felix's even where BIRD programs the routes.
        let device = Repairs::DeviceLoop;
        assert_eq!(by(device, Some(Owner::Bird)), device.by(version, 90));
    }

    #[test]
    fn who_recognises_what_stands_there_decides_who_repairs_it() {
        let within = |owner, recognised_by, version| {
            let repair = Repairs::RouteInPlace.by_owner(Some(owner), recognised_by, version, 90);
            assert_eq!(repair.automatic, repair.within_seconds.is_some(), "{}", repair.note);
            repair.within_seconds
        };
        let (felix, bird) = (Some(Owner::Felix), Some(Owner::Bird));
        let (old, deaf, new) = (Some((3, 28, 5)), Some((3, 30, 7)), Some((3, 32, 1)));
        // What Felix takes for its own is compared wrongly by some versions; what is a stranger's to it stands for a missing route.
        assert_eq!(
            [old, deaf, new].map(|v| within(Owner::Felix, felix, v)),
            [Some(100), None, Some(100)]
        );
        for stranger in [bird, None] {
            let by_version = [old, deaf, new, None].map(|v| within(Owner::Felix, stranger, v));
            assert_eq!(by_version, [None, Some(100), Some(100), None]);
        }
        // BIRD changes its own, and leaves a stranger's, which Felix may remove.
        assert_eq!(
            [bird, felix, None].map(|by| within(Owner::Bird, by, deaf)),
            [Some(2), Some(102), None]
        );
    }
}
