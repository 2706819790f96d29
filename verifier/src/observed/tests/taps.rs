//! Attaching and detaching, and what a tap records.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
};

use verifier_core::observed::Checksum;
use verifier_ebpf::record::PacketRecord;

use super::*;

fn reflects(mode: Option<Mode>, tag: &str, ends: Ends) {
    let pair = Pair::new(tag);
    let (mut observer, mut ring) = observer(Options::default(), mode);
    let netns = pair.node.netns();
    let report = observer.sync_taps(&netns, std::slice::from_ref(&pair.device));
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_eq!(observer.taps().len(), 1);

    let prober = pair.udp(&pair.node, (ends.node, 20_300));
    prober.send_to(&signed(&request(0x1234, 3)), (ends.pod, PROBE_PORT)).unwrap();
    let mut answer = [0; 200];
    let (length, from) = prober.recv_from(&mut answer).expect("no answer from the reflector");
    assert_eq!(from, SocketAddr::from((ends.pod, PROBE_PORT)));
    let reply = Header::decode_verified(&answer[..length], SipKey::from_bytes(KEY.secret)).unwrap();
    assert_eq!((reply.kind, reply.probe_id, reply.sequence), (Kind::Reply, 0x1234, 3));

    let hops = hops(&mut ring, 2);
    let seen: Vec<(u8, u8, u8)> = hops
        .iter()
        .map(|hop| (hop.direction, hop.packet.class, hop.packet.probe[5]))
        .collect();
    assert_eq!(
        seen,
        [
            (Direction::Egress as u8, Class::Udp as u8, Kind::Request as u8),
            (Direction::Ingress as u8, Class::Udp as u8, Kind::Reply as u8)
        ]
    );
    let hop = crate::observed::convert::hop(&hops[0], &NodeName::from("a"), |_| Some("cali0".to_owned())).unwrap();
    assert_eq!((hop.probe, hop.seq, hop.ifindex), (0x1234, 3, pair.device.index));
    assert_eq!(
        (hop.inner.src_port, hop.inner.dst_port, hop.inner.length_bytes),
        (20_300, PROBE_PORT, ends.header_bytes + 8 + 40)
    );
    assert_eq!((hop.inner.src, hop.inner.dst), (ends.node, ends.pod));
    assert!(hop.inner.dont_fragment || ends.pod.is_ipv4());
    // The reply's checksum holds wherever the request's did: left to the device, it stays left to it.
    let back = crate::observed::convert::hop(&hops[1], &NodeName::from("a"), |_| None).unwrap();
    assert!(matches!(back.checksum, Checksum::Good | Checksum::Partial), "{:?}", back.checksum);
    assert_eq!(observer.counters().unwrap().reflected.values().sum::<u64>(), 1);

    // Foreign programs are seen; ours are not foreign.
    let links = Tables::open(&netns).unwrap().links().seen().cloned().unwrap();
    assert_eq!(foreign_hooks(&netns, None, &links), Evidence::complete(vec![]));

    // Nothing of ours is left on the interface.
    drop(observer);
    let left = filters(&pair.node);
    assert!(!left.contains("dpv_"), "{left}");
    prober.send_to(&signed(&request(0x1235, 0)), (ends.pod, PROBE_PORT)).unwrap();
    assert!(prober.recv_from(&mut answer).is_err(), "answered without a reflector");
}

fn filters(ns: &TestNs) -> String {
    let mut text = String::new();
    for direction in ["ingress", "egress"] {
        let output = ns
            .netns()
            .run_in(|| {
                Command::new("tc")
                    .args(["filter", "show", "dev", "cali0", direction])
                    .output()
                    .unwrap()
            })
            .unwrap();
        text += &String::from_utf8_lossy(&output.stdout);
    }
    text
}

/// How many filters carry a name; tc prints it more than once on a line.
fn ours(ns: &TestNs, name: &str) -> usize {
    filters(ns).lines().filter(|line| line.contains(name)).count()
}

#[test]
fn a_request_is_seen_and_answered_and_detaching_leaves_nothing() {
    if able() {
        reflects(None, "tcx", FOUR);
    }
}

#[test]
fn the_same_through_clsact() {
    if able() {
        reflects(Some(Mode::Clsact), "clsact", FOUR);
    }
}

#[test]
fn a_request_of_ipv6_is_seen_and_answered_in_both_ways_of_attaching() {
    if able() {
        reflects(None, "tcx6", SIX);
        reflects(Some(Mode::Clsact), "clsact6", SIX);
    }
}

/// Echo requests and TCP of IPv6, through the kernel's own sockets: the pod's stack answers them.
#[test]
fn echoes_resets_and_errors_of_ipv6_are_recorded() {
    if !able() {
        return;
    }
    let pair = Pair::new("stack6");
    let (mut observer, mut ring) = observer(Options::default(), None);
    assert!(
        observer
            .sync_taps(&pair.node.netns(), std::slice::from_ref(&pair.device))
            .failed
            .is_empty()
    );
    let netns = pair.node.netns();
    let echo = netns.open_in("a raw socket", raw_icmp6).unwrap();
    let message = [&[128, 0, 0, 0, 0x7a, 0x69, 0, 1][..], &signed(&request(0x55, 4))].concat();
    send_to(&echo, &message, SIX.pod);
    let seen = hops(&mut ring, 2);
    let said: Vec<_> = seen
        .iter()
        .map(|hop| {
            (
                hop.direction,
                hop.packet.class,
                hop.packet.protocol,
                hop.packet.source_port,
                hop.packet.checksum,
            )
        })
        .collect();
    let good = verifier_ebpf::checksum::ChecksumState::Good as u8;
    assert_eq!(
        said,
        [
            (Direction::Egress as u8, Class::EchoRequest as u8, 58, 0x7a69, good),
            (Direction::Ingress as u8, Class::EchoReply as u8, 58, 0x7a69, good)
        ]
    );

    // To a closed port: SYN and RST, the id being the sequence number that the kernel chose.
    let connected = netns
        .run_in(|| {
            let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from((SIX.node, 20_150)).into()).unwrap();
            socket.connect(&SocketAddr::from((SIX.pod, 81)).into())
        })
        .unwrap();
    assert_eq!(connected.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    let seen = hops(&mut ring, 2);
    let classes: Vec<u8> = seen.iter().map(|hop| hop.packet.class).collect();
    assert_eq!(classes, [Class::TcpSyn as u8, Class::TcpReset as u8]);
    assert_eq!(seen[0].packet.length_bytes, 80, "a SYN with the kernel's options");

    // Nobody listens at the node: its error quotes the probe.
    let pod = pair.udp(&pair.pod, (SIX.pod, 20_300));
    pod.send_to(&signed(&request(0x66, 0)), (SIX.node, PROBE_PORT)).unwrap();
    let seen = hops(&mut ring, 2);
    let error = &seen[1].packet;
    assert_eq!(
        (error.class, error.protocol, error.icmp_type, error.icmp_code, error.quoted_protocol),
        (Class::IcmpError as u8, 58, 1, 4, 17)
    );
    assert_eq!(crate::observed::convert::address(error.quoted_destination), SIX.node);
    assert_eq!(Header::decode(&error.probe).unwrap().probe_id, 0x66);
}

/// A raw socket of ICMPv6, whose checksum the kernel fills in (RFC 3542, 3.1).
fn raw_icmp6() -> std::io::Result<socket2::Socket> {
    socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::RAW, Some(socket2::Protocol::ICMPV6))
}

fn send_to(socket: &socket2::Socket, message: &[u8], to: IpAddr) {
    socket.send_to(message, &SocketAddr::from((to, 0)).into()).unwrap();
}

#[test]
fn what_an_earlier_process_left_in_clsact_is_replaced() {
    if !able() {
        return;
    }
    let pair = Pair::new("left");
    let netns = pair.node.netns();
    let (mut first, _ring) = observer(Options::default(), Some(Mode::Clsact));
    assert!(first.sync_taps(&netns, std::slice::from_ref(&pair.device)).failed.is_empty());
    // As after `kill -9`: nobody removes the filters.
    std::mem::forget(first);
    assert_eq!(ours(&pair.node, "dpv_reflector"), 1);
    let (mut second, _ring) = observer(Options::default(), Some(Mode::Clsact));
    assert!(second.sync_taps(&netns, std::slice::from_ref(&pair.device)).failed.is_empty());
    assert_eq!(ours(&pair.node, "dpv_reflector"), 1);
    assert_eq!(ours(&pair.node, "dpv_wl_ingress"), 1);
}

/// A packet without a frame around it, as `tunl0` carries them: a tun device is the same to a tap on a kernel that has no IPIP.
#[test]
fn a_device_without_a_link_layer_header_is_tapped_in_both_directions() {
    if !able() {
        return;
    }
    let node = TestNs::new("tun3");
    node.ip("link set lo up");
    let netns = node.netns();
    let mut tun = netns.open_in("a tun device", || open_tun("tunl0")).unwrap();
    node.ip("addr add 10.9.0.1/32 dev tunl0");
    node.ip("link set tunl0 up");
    node.ip("route add 10.9.0.2/32 dev tunl0");
    let links = Tables::open(&netns).unwrap().links().seen().cloned().unwrap();
    let link = links.iter().find(|link| link.name == "tunl0").unwrap();
    assert_eq!(link.mac, None, "what the choice of programs rests on");
    let device = Interface {
        index: link.index,
        name: link.name.clone(),
        kind: TapKind::Tunnel,
        framed: link.mac.is_some(),
    };
    for mode in [None, Some(Mode::Clsact)] {
        let (mut observer, mut ring) = observer(Options::default(), mode);
        let report = observer.sync_taps(&netns, std::slice::from_ref(&device));
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        let socket = netns.open_in("a socket", || UdpSocket::bind("10.9.0.1:20300")).unwrap();
        socket.send_to(&signed(&request(0x77, 1)), ("10.9.0.2", PROBE_PORT)).unwrap();
        let out = hops(&mut ring, 1);
        // The same packet on its way in, its addresses swapped: that keeps both checksums right.
        let mut packet = [0; 200];
        let length = loop {
            let length = tun.read(&mut packet).unwrap();
            if packet[0] == 0x45 && packet[9] == 17 {
                break length;
            }
        };
        packet[12..20].rotate_left(4);
        tun.write_all(&packet[..length]).unwrap();
        let back = hops(&mut ring, 1);
        // The node's own complaint that nobody listens there quotes the probe, and is recorded as well.
        let seen: Vec<(u8, u8, u16, [u8; 6])> = out
            .iter()
            .chain(&back)
            .filter(|hop| hop.packet.class == Class::Udp as u8)
            .map(|hop| {
                (
                    hop.direction,
                    hop.packet.encapsulation,
                    hop.packet.length_bytes,
                    hop.packet.source_mac,
                )
            })
            .collect();
        let hop = |direction: Direction| (direction as u8, PacketRecord::BARE, 68, [0; 6]);
        assert_eq!(seen, [hop(Direction::Egress), hop(Direction::Ingress)], "{mode:?}");
        assert_eq!(
            (&out[0].packet.source[12..], &back[0].packet.source[12..]),
            (&[10, 9, 0, 1][..], &[10, 9, 0, 2][..])
        );
    }
}

/// A tun device of this name in the calling thread's namespace; it goes with its file.
fn open_tun(name: &str) -> std::io::Result<File> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // `struct ifreq`: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&((libc::IFF_TUN | libc::IFF_NO_PI) as u16).to_ne_bytes());
    // SAFETY: the kernel reads and writes a `struct ifreq`, which is what the buffer holds room for.
    match unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) } {
        0 => Ok(file),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[test]
fn an_interface_that_vanishes_leaves_nothing_half_attached() {
    if !able() {
        return;
    }
    let pair = Pair::new("gone");
    let (mut observer, _ring) = observer(Options::default(), None);
    let netns = pair.node.netns();
    let missing = Interface {
        index: 4711,
        name: "cali-none".to_owned(),
        kind: TapKind::Workload,
        framed: true,
    };
    let report = observer.sync_taps(&netns, &[missing, pair.device.clone()]);
    assert!(
        matches!(report.failed[..], [crate::observed::taps::TapError::Vanished { .. }]),
        "{:?}",
        report.failed
    );
    assert_eq!(report.attached, std::slice::from_ref(&pair.device));

    // The same name with another index is another interface.
    pair.node.ip("link del cali0");
    pair.node.ip("link add cali0 type veth peer name other0");
    let index = netns.run_in(|| nix::net::if_::if_nametoindex("cali0").unwrap()).unwrap();
    let new = Interface {
        index,
        ..pair.device.clone()
    };
    assert_ne!(new.index, pair.device.index);
    let report = observer.sync_taps(&netns, std::slice::from_ref(&new));
    assert_eq!((report.detached, report.attached), (vec![pair.device.clone()], vec![new]));
}

#[test]
fn a_foreign_filter_is_named() {
    if !able() {
        return;
    }
    let pair = Pair::new("foreign");
    pair.node.run("tc", "qdisc add dev cali0 clsact");
    pair.node.run("tc", "filter add dev cali0 egress protocol ip u32 match u32 0 0");
    let netns = pair.node.netns();
    let links = Tables::open(&netns).unwrap().links().seen().cloned().unwrap();
    let hooks = foreign_hooks(&netns, None, &links);
    assert!(hooks.is_complete(), "{:?}", hooks.gaps());
    let seen: Vec<_> = hooks
        .seen()
        .unwrap()
        .iter()
        .map(|hook| (hook.device.as_str(), hook.point, hook.program.as_str()))
        .collect();
    assert!(seen.contains(&("cali0", HookPoint::TcEgress, "u32")), "{seen:?}");
}

/// Not a test of its own: what the next test runs as another process and kills. It attaches and says so.
#[test]
fn child_that_attaches_and_waits() {
    let Some(path) = std::env::var_os("DPV_TEST_CHILD_NETNS") else {
        return;
    };
    let netns = crate::programmed::netns::Netns::open(path).unwrap();
    let index = netns.run_in(|| nix::net::if_::if_nametoindex("cali0").unwrap()).unwrap();
    let (mut observer, _ring) = observer(Options::default(), None);
    let device = Interface {
        index,
        name: "cali0".to_owned(),
        kind: TapKind::Workload,
        framed: true,
    };
    assert!(observer.sync_taps(&netns, &[device]).failed.is_empty());
    println!("attached");
    // Ends with the pipe that the parent holds, or by the parent's signal.
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

#[test]
fn links_vanish_with_the_process_however_it_dies() {
    use std::{
        io::{BufRead as _, BufReader},
        process::Stdio,
    };
    if !able() {
        return;
    }
    let pair = Pair::new("killed");
    let programs = || {
        pair.node
            .netns()
            .run_in(|| {
                aya::programs::SchedClassifier::query_tcx("cali0", aya::programs::TcAttachType::Egress)
                    .unwrap()
                    .1
                    .len()
            })
            .unwrap()
    };
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "observed::tests::taps::child_that_attaches_and_waits", "--nocapture"])
        .env("DPV_TEST_CHILD_NETNS", pair.node.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("attached")), "the child did not attach");
    assert_eq!(programs(), 2);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(3);
    while programs() > 0 {
        assert!(Instant::now() < deadline, "programs without an owner");
    }
}
