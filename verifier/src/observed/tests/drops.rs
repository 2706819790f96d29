//! Drops of probes: where, why, and only in namespaces that were asked about.

use verifier_core::observed::Where;

use super::*;
use crate::observed::convert::{DropContext, dropped};

#[test]
fn a_dropped_probe_is_recorded_with_reason_and_place_and_only_where_asked() {
    if able() {
        drops(Options::default(), "drop");
    }
}

#[test]
fn the_same_through_the_plain_tracepoint() {
    if !able() {
        return;
    }
    // tracefs in a mount namespace of this thread's own: the machine may not have it mounted.
    std::thread::spawn(|| {
        use nix::{
            mount::{MsFlags, mount},
            sched::{CloneFlags, unshare},
        };
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        if let Err(error) = mount(Some("tracefs"), "/sys/kernel/tracing", Some("tracefs"), MsFlags::empty(), none) {
            eprintln!("skipped: no tracefs: {error}");
            return;
        }
        let options = Options {
            plain_tracepoint: true,
            ..Options::default()
        };
        drops(options, "droptp");
    })
    .join()
    .unwrap();
}

fn drops(options: Options, tag: &str) {
    for ends in [FOUR, SIX] {
        drops_of(options, tag, ends);
    }
}

fn drops_of(options: Options, tag: &str, ends: Ends) {
    let pair = Pair::new(tag);
    let (mut observer, mut symbols) = Observer::load(options).unwrap();
    match observer.drop_source() {
        DropSource::None(gap) => {
            eprintln!("skipped: {}", gap.why);
            return;
        }
        DropSource::Tracepoint => assert!(options.plain_tracepoint),
        DropSource::BtfTracepoint => assert!(!options.plain_tracepoint),
    }
    observer.configure(&settings()).unwrap();
    let mut ring = observer.take_ring().unwrap();
    let inum = u32::try_from(pair.node.netns().inum()).unwrap();
    let pod = pair.udp(&pair.pod, (ends.pod, 20_300));

    // Nobody asked about that namespace: counted, not recorded.
    pod.send_to(&signed(&request(1, 0)), (ends.node, PROBE_PORT)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    while observer.counters().unwrap().unattributed_drops == 0 {
        assert!(Instant::now() < deadline, "no unattributed drop");
    }
    assert!(ring.drain(100).records.is_empty());

    observer.set_namespaces(&[inum].into()).unwrap();
    let pod = pair.udp(&pair.pod, (ends.pod, 20_301));
    pod.send_to(&signed(&request(2, 5)), (ends.node, PROBE_PORT)).unwrap();
    let drop = loop {
        let found = ring.drain(100).records.into_iter().find_map(|record| match record {
            Record::Drop(drop) if drop.packet.class == Class::Udp as u8 => Some(drop),
            _ => None,
        });
        if let Some(drop) = found {
            break drop;
        }
        assert!(Instant::now() < deadline, "no drop");
    };
    assert_eq!((drop.netns, drop.ifindex), (inum, pair.device.index));
    assert_eq!(crate::observed::convert::address(drop.packet.source), ends.pod);
    symbols.look_up(&[drop.location].into());
    // The kernel names both, if it shows them at all (`kernel.md` of the design: no socket, at the UDP receiver).
    assert_eq!(symbols.reason(drop.reason).as_deref().unwrap_or("NO_SOCKET"), "NO_SOCKET");
    let location = symbols.location(drop.location).unwrap_or_default();
    assert!(location.contains("udp") || !symbols.gaps().is_empty(), "{location}");
}

/// A node that has IPv6 switched off on a device drops what looks for it there: without that, the drop behind a cold neighbour is hidden.
#[test]
fn a_dropped_lookup_of_a_neighbour_names_who_looked_and_for_whom() {
    if !able() {
        return;
    }
    let pair = Pair::new("nd");
    let (mut observer, symbols) = Observer::load(Options::default()).unwrap();
    observer.configure(&settings()).unwrap();
    let mut ring = observer.take_ring().unwrap();
    if let DropSource::None(gap) = observer.drop_source() {
        eprintln!("skipped: {}", gap.why);
        return;
    }
    let inum = u32::try_from(pair.node.netns().inum()).unwrap();
    observer.set_namespaces(&[inum].into()).unwrap();
    pair.node.run("sysctl", "-q -w net.ipv6.conf.cali0.disable_ipv6=1");
    let pod = pair.udp(&pair.pod, (SIX.pod, 20_300));
    pod.send_to(b"anything", (SIX.node, 9)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    let drop = loop {
        let found = ring.drain(100).records.into_iter().find_map(|record| match record {
            Record::Drop(drop) => Some(drop),
            _ => None,
        });
        if let Some(drop) = found {
            break drop;
        }
        assert!(Instant::now() < deadline, "no drop");
    };
    let packet = &drop.packet;
    assert_eq!((packet.class, packet.icmp_type), (Class::Arp as u8, 135));
    let addresses = [packet.source, packet.destination].map(crate::observed::convert::address);
    assert_eq!(addresses, [SIX.pod, SIX.node]);
    assert_ne!(packet.source_mac, [0; 6], "a solicitation carries its sender's MAC address");
    // Only probes are reported further.
    let context = DropContext {
        node: &"a".into(),
        symbols: &symbols,
        device: |_: u32, _: u32| None,
        place: |_: u32| Some(Where::Node),
        is_local: |_: IpAddr| true,
    };
    assert_eq!(dropped(&drop, &context), Ok(None));
}
