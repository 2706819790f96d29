//! The other agents: what they saw of our probes, and how contact with them went.

use super::{
    api::{self, EVIDENCE_IDS_MAX},
    client::{AskError, Client},
    keys::HttpKey,
};
use crate::clock;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use verifier_core::{
    evidence::{Evidence, Gap},
    intent::{NodeIntent, Peer},
    names::{NodeName, UnixNs},
    verdict::{PeerContact, RemoteEvidence},
};

/// Peers asked at one time.
const ASKED_AT_ONCE: usize = 16;

/// What is known of one peer's agent.
#[derive(Clone, Debug)]
struct Known {
    contact: PeerContact,
    /// When it began not to answer.
    silent_since: Option<UnixNs>,
}

/// The other agents.
#[derive(Debug)]
pub struct Peers {
    client: RwLock<Client>,
    port: u16,
    known: Mutex<BTreeMap<NodeName, Known>>,
}

impl Peers {
    /// Peers whose agents listen on `port`, unless intent says otherwise.
    pub const fn new(client: Client, port: u16) -> Self {
        Self {
            client: RwLock::new(client),
            port,
            known: Mutex::new(BTreeMap::new()),
        }
    }

    /// Signs with this key from now on.
    pub fn set_key(&self, key: HttpKey) {
        self.client.write().unwrap_or_else(PoisonError::into_inner).set_key(key);
    }

    /// What each of `whom` saw of these probes. Every one of them has an entry in the answer.
    pub async fn evidence(
        &self,
        intent: &NodeIntent,
        whom: &BTreeSet<NodeName>,
        probes: &BTreeSet<u32>,
        patience: Duration,
    ) -> BTreeMap<NodeName, Evidence<RemoteEvidence>> {
        // Boxed: the compiler cannot prove that a closure over borrowed names is general enough for the server's futures.
        let asked: Vec<BoxFuture<'_, (NodeName, Evidence<RemoteEvidence>)>> = whom
            .iter()
            .map(|name| {
                let asking = async move {
                    let evidence = match intent.peers.get(name) {
                        Some(peer) => self.ask(name, peer, probes, patience).await,
                        None => Evidence::unavailable(source(name), "intent knows no such node"),
                    };
                    (name.clone(), evidence)
                };
                asking.boxed()
            })
            .collect();
        stream::iter(asked).buffer_unordered(ASKED_AT_ONCE).collect().await
    }

    async fn ask(&self, name: &NodeName, peer: &Peer, probes: &BTreeSet<u32>, patience: Duration) -> Evidence<RemoteEvidence> {
        let Some(ip) = peer.host_ip else {
            return Evidence::unavailable(source(name), "intent has no address of this node");
        };
        let client = self.client.read().unwrap_or_else(PoisonError::into_inner).clone();
        let address = SocketAddr::new(ip, peer.agent_port.unwrap_or(self.port));
        let ids: Vec<u32> = probes.iter().copied().collect();
        // Without ids it is asked once all the same: whether it answers is evidence too.
        let parts: Vec<&[u32]> = if ids.is_empty() {
            vec![&[]]
        } else {
            ids.chunks(EVIDENCE_IDS_MAX).collect()
        };
        let mut merged: Option<RemoteEvidence> = None;
        for part in parts {
            let target = format!("{}?probes={}", api::EVIDENCE, api::write_ids(&part.iter().copied().collect()));
            match client.get::<RemoteEvidence>(address, &target, patience).await {
                Ok(answer) => {
                    self.answered(name, answer.version);
                    merged = Some(match merged {
                        None => answer.value,
                        Some(earlier) => merge(earlier, answer.value),
                    });
                }
                Err(error) => {
                    self.failed(name, &error);
                    return Evidence::unavailable(source(name), one_line(&error));
                }
            }
        }
        match merged {
            Some(evidence) => Evidence::complete(evidence),
            None => Evidence::unavailable(source(name), "it was not asked"),
        }
    }

    fn answered(&self, name: &NodeName, version: String) {
        let known = Known {
            contact: PeerContact::Answered { version },
            silent_since: None,
        };
        self.lock().insert(name.clone(), known);
    }

    fn failed(&self, name: &NodeName, error: &AskError) {
        let now = clock::unix_now();
        let mut all = self.lock();
        let since = all.get(name).and_then(|known| known.silent_since).unwrap_or(now);
        let contact = error.contact(since);
        let silent_since = matches!(contact, PeerContact::Silent { .. }).then_some(since);
        if !all.get(name).is_some_and(|known| known.contact == contact) {
            tracing::info!(peer = %name, %error, "no evidence from this peer");
        }
        all.insert(name.clone(), Known { contact, silent_since });
    }

    /// Contact with all peers that intent knows.
    pub fn contacts(&self, intent: &NodeIntent) -> BTreeMap<NodeName, PeerContact> {
        let all = self.lock();
        let contact = |name: &NodeName| all.get(name).map_or(PeerContact::NotAsked, |known| known.contact.clone());
        intent.peers.keys().map(|name| (name.clone(), contact(name))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Address at which the agent of a node listens.
pub const fn agent_address(ip: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(ip, port)
}

fn source(name: &NodeName) -> String {
    format!("agent/{name}")
}

/// An error with its causes, in one line.
pub(crate) fn one_line(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn merge(first: RemoteEvidence, second: RemoteEvidence) -> RemoteEvidence {
    RemoteEvidence {
        hops: both(first.hops, second.hops),
        drops: both(first.drops, second.drops),
        taps: second.taps,
        taps_since: second.taps_since,
        // A restart between the two answers counts from the later one.
        agent_started_at: first.agent_started_at.max(second.agent_started_at),
    }
}

/// Two parts of one look: it is as complete as the worse of them.
fn both<T>(first: Evidence<Vec<T>>, second: Evidence<Vec<T>>) -> Evidence<Vec<T>> {
    let mut missing: Vec<Gap> = first.gaps().iter().chain(second.gaps()).cloned().collect();
    missing.sort();
    missing.dedup();
    let mut all = Vec::new();
    let mut seen = false;
    for part in [first, second] {
        match part {
            Evidence::Complete { value } | Evidence::Partial { value, .. } => {
                seen = true;
                all.extend(value);
            }
            Evidence::Unavailable { .. } => {}
        }
    }
    match missing.first() {
        Some(gap) if !seen => Evidence::Unavailable { gap: gap.clone() },
        _ => Evidence::partial(all, missing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_parts_are_as_complete_as_the_worse() {
        let gone = || Evidence::<Vec<u8>>::unavailable("observed/hops", "no taps");
        assert_eq!(
            both(Evidence::complete(vec![1]), Evidence::complete(vec![2])),
            Evidence::complete(vec![1, 2])
        );
        assert_eq!(both(gone(), gone()), gone());
        let mixed = both(Evidence::complete(vec![1]), gone());
        assert_eq!(mixed.seen(), Some(&vec![1]));
        assert!(!mixed.is_complete());
    }
}
