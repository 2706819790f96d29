//! What a packet costs in each program, by `BPF_PROG_TEST_RUN`: the kernel runs a program on one packet many times and says how long a
//! run took. Only differences to the empty classifier mean anything, and only within one call: the harness itself takes tens of
//! nanoseconds, and the machine has neighbours.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use ipnet::{IpNet, Ipv4Net};
use std::net::{Ipv4Addr, Ipv6Addr};
use verifier_core::{intent::Encapsulation, names::NodeName};
use verifier_ebpf::{
    siphash::SipKey,
    wire::{Header, Kind},
};

use super::{
    Key, Observer, ObserverError, Settings,
    loader::{EMPTY, LoadError, Options, classifier},
    ring::Ring,
    table::{Owned, Table},
    taps::REFLECTOR,
};
use crate::clock;

/// Blocks in intent while measuring.
pub const BLOCKS: u32 = 5000;

const PROBE_PORT: u16 = 20_011;
const VXLAN_PORT: u16 = 4789;
const VNI: u32 = 4096;
const POD: [u8; 4] = [10, 244, 200, 5];
const OTHER_POD: [u8; 4] = [10, 245, 100, 7];
/// Of a pool whose traffic travels in IPIP, and of one whose traffic is not encapsulated.
const IPIP_POD: [u8; 4] = [10, 246, 200, 5];
const OTHER_IPIP_POD: [u8; 4] = [10, 246, 100, 7];
const BARE_POD: [u8; 4] = [10, 247, 200, 5];
const OTHER_BARE_POD: [u8; 4] = [10, 247, 100, 7];

/// Of the pool that has IPv6 beside IPv4, in VXLAN over IPv6 and, from a block on, without encapsulation.
const POD6_POOL: [u8; 16] = [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const NODE6: [u8; 16] = [0xfd, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const POD6: u32 = 200 * 256 + 5;
const OTHER_POD6: u32 = 100 * 256 + 7;
/// From this block of it on, traffic is not encapsulated.
const BARE_BLOCK6: u32 = 2500;
const BARE_POD6: u32 = 700 * 256 + 5;
const OTHER_BARE_POD6: u32 = 650 * 256 + 7;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The programs could not be set up.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The kernel would not run one.
    #[error("the kernel does not run {program} for a measurement")]
    Run {
        /// Which one.
        program: &'static str,
        /// Why.
        #[source]
        source: Box<ProgramError>,
    },
    /// The programs would not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A program did not do what was to be measured.
    #[error("{path}: the program did something else than was to be measured")]
    Diverted {
        /// The path.
        path: &'static str,
    },
}

/// The cost of one path.
#[derive(Debug, Clone, PartialEq)]
pub struct Cost {
    /// What was measured.
    pub path: &'static str,
    /// One run, harness included: the median of several rounds.
    pub run_ns: f64,
    /// Over the empty classifier of the same rounds: the median of the differences.
    pub over_empty_ns: f64,
    /// What the design aims at.
    pub aim_ns: Option<f64>,
}

struct Path {
    path: &'static str,
    program: &'static str,
    packet: Vec<u8>,
    aim_ns: Option<f64>,
    returns: u32,
}

/// Measures every path: `rounds` times in turn, `repeat` runs each.
///
/// # Errors
/// The kernel refuses, or this program was built without its kernel programs.
pub fn bench_taps(rounds: u32, repeat: u32) -> Result<Vec<Cost>, BenchError> {
    let (mut observer, _) = Observer::load(Options {
        drops: false,
        measuring: true,
        ..Options::default()
    })?;
    let mut ring = set_up(&mut observer)?;
    let paths = paths();
    let mut runs: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
    let mut differences: Vec<Vec<f64>> = vec![Vec::new(); paths.len()];
    // One round to warm up: the first is slower by whatever the machine did before.
    for round in 0..=rounds {
        let mut empty = 0.0;
        for ((path, runs), differences) in paths.iter().zip(&mut runs).zip(&mut differences) {
            let ns = run(&mut observer, &mut ring, path, repeat)?;
            if path.program == EMPTY {
                empty = ns;
            }
            if round > 0 {
                runs.push(ns);
                differences.push(ns - empty);
            }
        }
    }
    if observer.counters()?.reflected.is_empty() {
        return Err(BenchError::Diverted { path: "reflected" });
    }
    Ok(paths
        .iter()
        .zip(runs.into_iter().zip(differences))
        .map(|(path, (runs, differences))| Cost {
            path: path.path,
            run_ns: median(runs),
            over_empty_ns: median(differences),
            aim_ns: path.aim_ns,
        })
        .collect())
}

/// Runs in batches between which the ring is emptied, so that a probe's record is never measured as a loss.
fn run(observer: &mut Observer, ring: &mut Ring, path: &Path, repeat: u32) -> Result<f64, BenchError> {
    /// Fits twice into the ring.
    const BATCH: u32 = 2000;
    let mut total = Duration::ZERO;
    let mut done = 0;
    while done < repeat {
        let now = BATCH.min(repeat - done);
        let result = classifier(observer.ebpf(), path.program)?
            .test_run(TestRunOptions {
                data_in: Some(&path.packet),
                repeat: now,
                ..TestRunOptions::new()
            })
            .map_err(|source| BenchError::Run {
                program: path.program,
                source: Box::new(source),
            })?;
        if result.return_value != path.returns {
            return Err(BenchError::Diverted { path: path.path });
        }
        // The kernel gives the mean of the batch in whole nanoseconds.
        total += result.duration * now;
        done += now;
        ring.drain(BATCH as usize * 2);
    }
    Ok(total.as_secs_f64() * 1e9 / f64::from(repeat.max(1)))
}

fn set_up(observer: &mut Observer) -> Result<Ring, ObserverError> {
    observer.configure(&Settings {
        probe_port: PROBE_PORT,
        tcp_ports: 20_100..=20_199,
        max_age: Duration::from_secs(3600),
        max_ahead: Duration::from_secs(3600),
        reflect_per_second: u32::MAX,
        sample_per_second: 1,
    })?;
    observer.set_keys(KEY, None)?;
    observer.set_clock(clock::unix_offset_ns())?;
    let mut table = Table {
        pools: vec![
            prefix([10, 244, 0, 0], 15).into(),
            prefix([10, 246, 0, 0], 16).into(),
            prefix([10, 247, 0, 0], 16).into(),
            prefix6(pod6(0), 48),
        ],
        vni: Some(VNI),
        vxlan_port: Some(VXLAN_PORT),
        ..Table::default()
    };
    let ways = [Encapsulation::Vxlan, Encapsulation::Ipip, Encapsulation::None, Encapsulation::Vxlan];
    let arriving: Vec<(IpNet, Encapsulation)> = table.pools.iter().copied().zip(ways).collect();
    for block in 0..BLOCKS {
        let network = Ipv4Addr::from_bits(u32::from_be_bytes([10, 244, 0, 0]) + block * 64);
        let node = block / 4;
        table.arriving.insert(NodeName::from(format!("node-{node}")), arriving.clone());
        table.owners.insert(
            prefix(network.octets(), 26).into(),
            Owned {
                peer: Some(NodeName::from(format!("node-{node}"))),
                vtep: vtep_of(network).into(),
                encapsulation: match network.octets() {
                    [_, 246, ..] => Encapsulation::Ipip,
                    [_, 247, ..] => Encapsulation::None,
                    _ => Encapsulation::Vxlan,
                },
            },
        );
        let network = pod6(block * 64);
        table.owners.insert(
            prefix6(network, 122),
            Owned {
                peer: Some(NodeName::from(format!("node-{node}"))),
                vtep: vtep6_of(network).into(),
                encapsulation: if block < BARE_BLOCK6 {
                    Encapsulation::Vxlan
                } else {
                    Encapsulation::None
                },
            },
        );
    }
    observer.set_table(&table)?;
    observer.settle()?;
    observer.take_ring()
}

const KEY: Key = Key { id: 1, secret: [5; 16] };

fn prefix(address: [u8; 4], length: u8) -> Ipv4Net {
    // Lengths here are constants below 33; a longer one would be the single address.
    Ipv4Net::new(address.into(), length).unwrap_or_else(|_| Ipv4Net::from(Ipv4Addr::from(address)))
}

fn vtep_of(address: Ipv4Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from_be_bytes([172, 16, 0, 0]) + (address.to_bits() & 0x1_ffff) / 256)
}

/// A pod of the IPv6 pool, by its number.
fn pod6(number: u32) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from_be_bytes(POD6_POOL) + u128::from(number))
}

fn prefix6(address: Ipv6Addr, length: u8) -> IpNet {
    // As `prefix`: lengths are constants below 129.
    IpNet::new(address.into(), length)
        .unwrap_or_else(|_| IpNet::from(std::net::IpAddr::from(address)))
        .trunc()
}

fn vtep6_of(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from_be_bytes(NODE6) + (address.to_bits() & 0xff_ffff) / 256)
}

/// `TC_ACT_UNSPEC` and `TC_ACT_REDIRECT` of `include/uapi/linux/pkt_cls.h`.
const CONTINUE: u32 = u32::MAX;
const REDIRECT: u32 = 7;

fn paths() -> Vec<Path> {
    let foreign = ethernet(&ipv4([192, 168, 1, 1], [192, 168, 1, 2], 6, &tcp()));
    let pods = ipv4(OTHER_POD, POD, 6, &tcp());
    // Both ports are the probe's, so that the packet stays a request however often the reflector turns it round.
    let probe = ipv4(OTHER_POD, POD, 17, &udp(PROBE_PORT, PROBE_PORT, OTHER_POD, POD, &request()));
    let in_ip = ipip(&ipv4(OTHER_IPIP_POD, IPIP_POD, 6, &tcp()));
    let probe_in_ip = ipip(&ipv4(
        OTHER_IPIP_POD,
        IPIP_POD,
        17,
        &udp(PROBE_PORT, PROBE_PORT, OTHER_IPIP_POD, IPIP_POD, &request()),
    ));
    let bare = ethernet(&ipv4(OTHER_BARE_POD, BARE_POD, 6, &tcp()));
    let foreign6 = ethernet6(&ipv6([0xfd99; 8].into(), [0xfd98; 8].into(), 6, &tcp()));
    let (from6, to6) = (pod6(OTHER_POD6), pod6(POD6));
    let pods6 = ipv6(from6, to6, 6, &tcp());
    let bare6 = ipv6(pod6(OTHER_BARE_POD6), pod6(BARE_POD6), 6, &tcp());
    let probe6 = ipv6(from6, to6, 17, &udp6(PROBE_PORT, PROBE_PORT, from6, to6, &request()));
    let path = |path, program, packet: &[u8], aim_ns, returns| Path {
        path,
        program,
        packet: packet.to_vec(),
        aim_ns,
        returns,
    };
    vec![
        path("empty", EMPTY, &foreign, None, CONTINUE),
        path("not ours, workload", "dpv_wl_egress", &ethernet(&pods), Some(5.0), CONTINUE),
        path("not ours, reflector", REFLECTOR, &ethernet(&pods), Some(5.0), CONTINUE),
        path("not ours, underlay", "dpv_ul_egress", &foreign, Some(5.0), CONTINUE),
        path("tunnel conformance", "dpv_ul_egress", &tunnelled(&pods), Some(40.0), CONTINUE),
        path("ipip conformance", "dpv_ul_egress", &in_ip, Some(40.0), CONTINUE),
        path(
            "mixed conformance, arriving",
            "dpv_ul_ingress",
            &tunnelled(&pods),
            Some(40.0),
            CONTINUE,
        ),
        path("bare conformance", "dpv_ul_egress", &bare, Some(40.0), CONTINUE),
        path("not ours, ipv6 workload", "dpv_wl_egress", &ethernet6(&pods6), None, CONTINUE),
        path("not ours, ipv6 reflector", REFLECTOR, &ethernet6(&pods6), None, CONTINUE),
        path("not ours, ipv6 underlay", "dpv_ul_egress", &foreign6, None, CONTINUE),
        path("ipv6 tunnel conformance", "dpv_ul_egress", &tunnelled6(&pods6), None, CONTINUE),
        path("ipv6 bare conformance", "dpv_ul_egress", &ethernet6(&bare6), None, CONTINUE),
        path("probe, workload", "dpv_wl_egress", &ethernet(&probe), None, CONTINUE),
        path("probe, underlay", "dpv_ul_egress", &tunnelled(&probe), None, CONTINUE),
        path("probe, ipip underlay", "dpv_ul_egress", &probe_in_ip, None, CONTINUE),
        path("probe, ipv6 workload", "dpv_wl_egress", &ethernet6(&probe6), None, CONTINUE),
        path("probe, ipv6 underlay", "dpv_ul_egress", &tunnelled6(&probe6), None, CONTINUE),
        path("reflected", REFLECTOR, &ethernet(&probe), Some(150.0), REDIRECT),
        path("reflected, ipv6", REFLECTOR, &ethernet6(&probe6), None, REDIRECT),
    ]
}

fn request() -> Vec<u8> {
    let header = Header {
        kind: Kind::Request,
        key_id: KEY.id,
        probe_id: 1,
        sequence: 2,
        incarnation: 3,
        sent_realtime_ns: clock::unix_now().0,
    };
    header.encode(SipKey::from_bytes(KEY.secret)).to_vec()
}

fn ethernet(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xee; 6];
    frame.extend([0xea; 6]);
    frame.extend([0x08, 0x00]);
    frame.extend(payload);
    frame
}

fn ipv4(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = (20 + payload.len()) as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 63, protocol, 0, 0]);
    packet.extend(source);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

fn udp(source: u16, destination: u16, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    use verifier_ebpf::checksum::{fold, pseudo_sum, sum};
    let length = (8 + payload.len()) as u16;
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    let checksum = !fold(sum(&datagram, pseudo_sum(from, to, 17, length)));
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    datagram
}

fn ethernet6(payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(payload);
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([protocol, 63]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

fn udp6(source: u16, destination: u16, from: Ipv6Addr, to: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    use verifier_ebpf::{
        address::words_of,
        checksum::{fold, pseudo_sum6, sum},
    };
    let length = (8 + payload.len()) as u16;
    let mut datagram = [source.to_be_bytes(), destination.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    datagram.extend(payload);
    let pseudo = pseudo_sum6(words_of(from.octets()), words_of(to.octets()), 17, length);
    let checksum = !fold(sum(&datagram, pseudo));
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    datagram
}

fn tcp() -> Vec<u8> {
    let mut segment = vec![0x9c, 0x40, 0x01, 0xbb];
    segment.extend([0; 8]);
    segment.extend([0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    segment.resize(1000, 0x55);
    segment
}

/// From the node of one pod to that of the other, as intent wants it.
fn tunnelled(packet: &[u8]) -> Vec<u8> {
    let (from, to) = (vtep_of(OTHER_POD.into()).octets(), vtep_of(POD.into()).octets());
    ethernet(&ipv4(from, to, 17, &vxlan(&ethernet(packet))))
}

/// The same of IPv6 in IPv6.
fn tunnelled6(packet: &[u8]) -> Vec<u8> {
    let (from, to) = (vtep6_of(pod6(OTHER_POD6)), vtep6_of(pod6(POD6)));
    ethernet6(&ipv6(from, to, 17, &vxlan(&ethernet6(packet))))
}

/// UDP and VXLAN around a frame; without a checksum, which nobody looks at.
fn vxlan(frame: &[u8]) -> Vec<u8> {
    let mut inner = vec![8, 0, 0, 0];
    inner.extend((VNI << 8).to_be_bytes());
    inner.extend(frame);
    let length = (8 + inner.len()) as u16;
    let mut outer = [50_000u16.to_be_bytes(), VXLAN_PORT.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    outer.extend(inner);
    outer
}

/// The same in IPIP.
fn ipip(packet: &[u8]) -> Vec<u8> {
    let (from, to) = (vtep_of(OTHER_IPIP_POD.into()).octets(), vtep_of(IPIP_POD.into()).octets());
    ethernet(&ipv4(from, to, 4, packet))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_is_what_it_is_called() {
        if super::super::object::embedded().is_err() || !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root and the kernel programs");
            return;
        }
        // `Diverted` would be an error; times are never asserted.
        let costs = bench_taps(5, 20_000).unwrap();
        assert_eq!(costs.len(), 20);
        for cost in costs {
            eprintln!("{:24} {:8.1} ns, {:8.1} over empty", cost.path, cost.run_ns, cost.over_empty_ns);
        }
    }
}
