//! Ids of probes, made on every node without asking anybody.
//!
//! An id is `incarnation << 32 | low`. A TCP SYN carries only `low`, and hop records name a probe by it, so `low` must be unique among
//! the probes that one node may see at the same time, whoever sent them. It is a bijection of a counter, keyed by the node's name and
//! incarnation: on one node it repeats after 2^32 probes only, and between two nodes it coincides as two random numbers do. With a
//! thousand probes alive at one node (k peers in each direction, some seconds each) two of them share `low` with a probability of about
//! 1 in 10,000; a hop record also carries the addresses, which tell most of these apart.

use crate::names::NodeName;

/// Makes ids. One per agent or command; the incarnation is drawn by the caller and is new at every start.
#[derive(Clone, Debug)]
pub struct IdSource {
    incarnation: u32,
    key: u32,
    counter: u32,
    tcp_turn: u64,
}

impl IdSource {
    /// The ids of `node` in this incarnation.
    pub fn new(node: &NodeName, incarnation: u32) -> Self {
        // FNV-1a (draft-eastlake-fnv): stable across versions and machines, which a hasher of the standard library is not.
        let key = node
            .as_str()
            .bytes()
            .chain(incarnation.to_be_bytes())
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self {
            incarnation,
            key: mix(key),
            counter: 0,
            // A program that was just restarted does not begin with the ports it ended with.
            tcp_turn: u64::from(mix(key)),
        }
    }

    /// The next id.
    pub fn next_id(&mut self) -> u64 {
        // Mixing before and after the key is added: two nodes whose sequences meet once do not stay together.
        let low = mix(mix(self.counter) ^ self.key);
        self.counter = self.counter.wrapping_add(1);
        (u64::from(self.incarnation) << 32) | u64::from(low)
    }

    /// The next turn for a TCP source port: they are used one after the other ([`super::ProbeConfig::tcp_sources`] says why).
    pub fn next_tcp_turn(&mut self) -> u64 {
        let turn = self.tcp_turn;
        self.tcp_turn = turn.wrapping_add(1);
        turn
    }

    /// The incarnation.
    pub const fn incarnation(&self) -> u32 {
        self.incarnation
    }
}

/// What a TCP SYN carries of an id, and what hop records name a probe by.
pub const fn low(id: u64) -> u32 {
    id as u32
}

/// The incarnation in an id.
pub const fn incarnation(id: u64) -> u32 {
    (id >> 32) as u32
}

/// A bijection of 32 bits that spreads every input bit (xor-shift and odd multiplications, each invertible).
const fn mix(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x7feb_352d);
    x ^= x >> 15;
    x = x.wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{collections::BTreeSet, format};

    #[test]
    fn ids_do_not_repeat_within_a_node() {
        let mut source = IdSource::new(&"node-a".into(), 7);
        let lows: BTreeSet<u32> = (0..100_000).map(|_| low(source.next_id())).collect();
        assert_eq!(lows.len(), 100_000);
        assert_eq!(incarnation(source.next_id()), 7);
    }

    #[test]
    fn probes_alive_on_many_nodes_hardly_ever_share_an_id() {
        // 50 nodes with 400 live probes each: 0.05 coincidences are expected of random numbers.
        let mut seen = BTreeSet::new();
        let mut repeated = 0;
        for node in 0..50 {
            let mut source = IdSource::new(&format!("node-{node}").into(), 1_700_000_000 + node);
            for _ in 0..400 {
                repeated += u32::from(!seen.insert(low(source.next_id())));
            }
        }
        assert!(repeated <= 2, "{repeated} of 20000 ids repeated");
    }
}
