//! The programs on the running kernel: two namespaces with a veth between them, probes sent through it.
//!
//! The side under test plays a node with its workload's veth; the far side plays the pod that probes and is probed.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use verifier_core::{evidence::Evidence, names::NodeName, observed::TapKind, programmed::HookPoint};
use verifier_ebpf::{
    record::{Class, Direction, HopRecord, Record},
    reflect::Refusal,
    siphash::SipKey,
    wire::{HEADER_BYTES, Header, Kind},
};

mod conformance;
mod drops;
mod reflect;
mod taps;

use super::{
    Key, Observer, Settings,
    foreign::foreign_hooks,
    loader::{DropSource, Options},
    object::embedded,
    ring::Ring,
    taps::{Interface, Mode},
};
use crate::{
    clock,
    programmed::{
        dump::Tables,
        testing::{TestNs, root},
    },
};

const PROBE_PORT: u16 = 20_011;
const KEY: Key = Key { id: 7, secret: [9; 16] };

/// Whether the test can run here; says so in one line if not.
pub(super) fn able() -> bool {
    if embedded().is_err() {
        eprintln!("skipped: built without the kernel programs (cargo xtask build)");
        return false;
    }
    root()
}

struct Pair {
    node: TestNs,
    pod: TestNs,
    device: Interface,
}

impl Pair {
    /// `cali0` (10.9.0.1, fd00:9::1) here, `eth0` (10.9.0.2, fd00:9::2) there.
    fn new(tag: &str) -> Self {
        let (node, pod) = (TestNs::new(tag), TestNs::new(tag));
        node.ip("link set lo up");
        node.ip(&format!("link add cali0 type veth peer name eth0 netns {}", name(&pod)));
        node.ip("addr add 10.9.0.1/24 dev cali0");
        // Without detecting duplicates, so that the addresses can be used at once.
        node.ip("addr add fd00:9::1/64 dev cali0 nodad");
        node.ip("link set cali0 up");
        pod.ip("link set lo up");
        pod.ip("addr add 10.9.0.2/24 dev eth0");
        pod.ip("addr add fd00:9::2/64 dev eth0 nodad");
        pod.ip("link set eth0 up");
        let index = node.netns().run_in(|| nix::net::if_::if_nametoindex("cali0").unwrap()).unwrap();
        Self {
            node,
            pod,
            device: Interface {
                index,
                name: "cali0".to_owned(),
                kind: TapKind::Workload,
                framed: true,
            },
        }
    }

    fn udp(&self, ns: &TestNs, address: impl Into<SocketAddr>) -> UdpSocket {
        let address = address.into();
        let socket = ns.netns().open_in("a socket", move || UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket
    }
}

/// The addresses of a [`Pair`] in one family.
#[derive(Clone, Copy)]
struct Ends {
    node: IpAddr,
    pod: IpAddr,
    /// Of an IP header without options or extensions.
    header_bytes: u32,
}

const FOUR: Ends = Ends {
    node: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
    pod: IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2)),
    header_bytes: 20,
};
const SIX: Ends = Ends {
    node: IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1)),
    pod: IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2)),
    header_bytes: 40,
};

fn name(ns: &TestNs) -> String {
    ns.path().file_name().unwrap().to_str().unwrap().to_owned()
}

pub(super) fn settings() -> Settings {
    Settings {
        probe_port: PROBE_PORT,
        tcp_ports: 20_100..=20_199,
        max_age: Duration::from_secs(2),
        max_ahead: Duration::from_secs(1),
        reflect_per_second: 1000,
        sample_per_second: 10,
    }
}

pub(super) fn observer(options: Options, mode: Option<Mode>) -> (Observer, Ring) {
    let loaded = match mode {
        Some(mode) => Observer::load_with_mode(options, mode),
        None => Observer::load(options),
    };
    let (mut observer, _) = loaded.unwrap_or_else(|error| panic!("{error:?}"));
    observer.configure(&settings()).unwrap();
    observer.set_keys(KEY, None).unwrap();
    observer.set_clock(clock::unix_offset_ns()).unwrap();
    let ring = observer.take_ring().unwrap();
    (observer, ring)
}

fn request(probe_id: u64, sequence: u32) -> Header {
    Header {
        kind: Kind::Request,
        key_id: KEY.id,
        probe_id,
        sequence,
        incarnation: 1,
        sent_realtime_ns: clock::unix_now().0,
    }
}

fn signed(header: &Header) -> [u8; HEADER_BYTES] {
    header.encode(SipKey::from_bytes(KEY.secret))
}

/// Hops of a probe, polled for until there are `count` or a deadline passes.
fn hops(ring: &mut Ring, count: usize) -> Vec<HopRecord> {
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut hops = Vec::new();
    while hops.len() < count && Instant::now() < deadline {
        for record in ring.drain(1000).records {
            if let Record::Hop(hop) = record {
                hops.push(hop);
            }
        }
    }
    hops
}

fn refusals(observer: &Observer, refusal: Refusal) -> u64 {
    let counters = observer.counters().unwrap();
    counters
        .refused
        .iter()
        .filter(|((_, kind), _)| *kind == refusal)
        .map(|(_, count)| count)
        .sum()
}
