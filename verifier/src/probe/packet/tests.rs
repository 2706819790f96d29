use super::*;
use crate::probe::keys::WireKey;
use proptest::prelude::*;
use std::net::{Ipv4Addr, Ipv6Addr};
use verifier_core::probe::{Endpoint, PairKind, Size, Transport};
use verifier_ebpf::{siphash::SipKey, wire::into_reply};

const FROM4: Ipv4Addr = Ipv4Addr::new(10, 65, 1, 2);
const TO4: Ipv4Addr = Ipv4Addr::new(10, 65, 2, 3);
const FROM: IpAddr = IpAddr::V4(FROM4);
const TO: IpAddr = IpAddr::V4(TO4);
const FROM6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0xfff0, 0xffff, 0xffff, 0xffff, 1, 2));
const TO6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 0xfff0, 0xffff, 0xffff, 0xffff, 2, 3));

fn keys() -> ProbeKeys {
    ProbeKeys::new(WireKey {
        id: 3,
        key: SipKey::from_bytes([7; 16]),
    })
}

fn probe(transport: Transport, length_bytes: u32) -> Probe {
    between(FROM, TO, transport, length_bytes)
}

fn between(from: IpAddr, to: IpAddr, transport: Transport, length_bytes: u32) -> Probe {
    let end = |ip| Endpoint {
        node: "n".into(),
        pod: None,
        ip,
    };
    let config = ProbeConfig::default();
    Probe {
        id: 0x0000_0009_ffff_fff0,
        seq: 1,
        from: end(from),
        to: end(to),
        pair: PairKind::PodToRemotePod,
        transport,
        size: Size::Small,
        src_port: 63_001,
        dst_port: config.tcp_port,
        length_bytes,
    }
}

/// An IPv4 packet as a raw socket delivers it.
fn in_ip(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    use pnet::packet::ipv4::MutableIpv4Packet;
    let mut packet = vec![0; 20 + payload.len()];
    let mut ip = MutableIpv4Packet::new(&mut packet).unwrap();
    ip.set_version(4);
    ip.set_header_length(5);
    ip.set_total_length(20 + payload.len() as u16);
    let v4 = |ip| match ip {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip}"),
    };
    ip.set_source(v4(from));
    ip.set_destination(v4(to));
    ip.set_payload(payload);
    packet
}

/// What a kernel answers to a SYN: to a closed port RST with the padding acknowledged, to an open one SYN-ACK.
fn answer(syn: &[u8], flags: u8) -> Vec<u8> {
    answer_between(TO, FROM, syn, flags)
}

fn answer_between(from: IpAddr, to: IpAddr, syn: &[u8], flags: u8) -> Vec<u8> {
    let syn = TcpPacket::new(syn).unwrap();
    let padding = if flags & TcpFlags::RST != 0 {
        syn.packet().len() as u32 - 20
    } else {
        0
    };
    let mut bytes = vec![0; 20];
    let mut tcp = MutableTcpPacket::new(&mut bytes).unwrap();
    tcp.set_source(syn.get_destination());
    tcp.set_destination(syn.get_source());
    tcp.set_acknowledgement(syn.get_sequence().wrapping_add(1).wrapping_add(padding));
    tcp.set_data_offset(5);
    tcp.set_flags(flags);
    let sum = tcp_checksum(&tcp.to_immutable(), from, to);
    tcp.set_checksum(sum);
    bytes
}

#[test]
fn the_ip_length_is_the_probes() {
    for length in [68, 69, 1_450, 9_000] {
        assert_eq!(udp_payload(&probe(Transport::Udp, length), &keys(), 1).len() as u32, length - 28);
        assert_eq!(echo_request(&probe(Transport::Icmp, length), &keys(), 1).len() as u32, length - 20);
        assert_eq!(tcp_syn(&probe(Transport::Tcp, length), FROM, TO).len() as u32, length - 20);
    }
    for length in [88, 89, 1_430, 9_000] {
        let probe = |transport| between(FROM6, TO6, transport, length);
        assert_eq!(udp_payload(&probe(Transport::Udp), &keys(), 1).len() as u32, length - 48);
        assert_eq!(echo_request(&probe(Transport::Icmp), &keys(), 1).len() as u32, length - 40);
        assert_eq!(tcp_syn(&probe(Transport::Tcp), FROM6, TO6).len() as u32, length - 40);
    }
}

#[test]
fn of_ipv6_the_checksum_covers_the_longer_addresses() {
    for length in [60, 61, 1_430] {
        let syn = tcp_syn(&between(FROM6, TO6, Transport::Tcp, length), FROM6, TO6);
        // The sum over pseudo-header and segment is all ones, by RFC 1071 and RFC 8200, 8.1.
        let bytes = match (FROM6, TO6) {
            (IpAddr::V6(from), IpAddr::V6(to)) => [
                &from.octets()[..],
                &to.octets(),
                &(syn.len() as u32).to_be_bytes(),
                &[0, 0, 0, 6],
                &syn,
            ]
            .concat(),
            _ => unreachable!(),
        };
        let mut sum: u64 = bytes
            .chunks(2)
            .map(|two| u64::from(two[0]) << 8 | two.get(1).map_or(0, |low| u64::from(*low)))
            .sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        assert_eq!(sum, 0xffff);

        let reset = answer_between(TO6, FROM6, &syn, TcpFlags::RST | TcpFlags::ACK);
        let read = |bytes: &[u8]| tcp_segment(bytes, TO6, FROM6, &ProbeConfig::default(), 5);
        let good = Read::Event(Event::TcpReply {
            id_low: 0xffff_fff0,
            reset: true,
            src_port: 63_001,
            from: TO6,
            mono_ns: 5,
        });
        assert_eq!(read(&reset), good);
        let with_sum = |sum: u16| {
            let mut bytes = reset.clone();
            MutableTcpPacket::new(&mut bytes).unwrap().set_checksum(sum);
            read(&bytes)
        };
        let right = TcpPacket::new(&reset).unwrap().get_checksum();
        assert_eq!(with_sum(right ^ 0x0100), Read::Event(Event::BadChecksum));
        // What both addresses share, twice; their ends 1 2 and 2 3; protocol 6 and length 20.
        let all: u32 = 2 * (0xfd00 + 0x10 + 0xfff0 + 3 * 0xffff) + 8 + 6 + 20;
        assert_eq!(with_sum(((all >> 16) + (all & 0xffff)) as u16), good);
        assert_eq!(read(&reset[..19]), Read::Event(Event::Truncated));
    }
}

#[test]
fn an_echo_reply_of_one_family_is_none_of_the_other() {
    let keys = keys();
    let mut echo = echo_request(&between(FROM6, TO6, Transport::Icmp, 88), &keys, 1);
    assert_eq!((echo[0], &echo[2..4]), (128, &[0, 0][..]));
    assert_eq!(echo_reply(&echo, 63_001, TO6, &keys, 5), Read::Foreign);
    echo[0] = 129;
    assert!(matches!(
        echo_reply(&echo, 63_001, TO6, &keys, 5),
        Read::Event(Event::Reply { from: TO6, .. })
    ));
    assert_eq!(echo_reply(&echo, 63_002, TO6, &keys, 5), Read::Foreign);
    assert_eq!(echo_reply(&echo, 63_001, TO, &keys, 5), Read::Foreign);
    echo[0] = 0;
    assert_eq!(echo_reply(&echo, 63_001, TO6, &keys, 5), Read::Foreign);
}

#[test]
fn a_reset_names_the_probe_whatever_its_size() {
    for length in [40, 41, 1_450] {
        let probe = probe(Transport::Tcp, length);
        let syn = tcp_syn(&probe, FROM, TO);
        let packet = in_ip(TO, FROM, &answer(&syn, TcpFlags::RST | TcpFlags::ACK));
        assert_eq!(
            tcp_reply(&packet, &ProbeConfig::default(), 5),
            Read::Event(Event::TcpReply {
                id_low: 0xffff_fff0,
                reset: true,
                src_port: 63_001,
                from: TO,
                mono_ns: 5,
            })
        );
    }
}

#[test]
fn a_corrupted_answer_is_none_and_one_left_to_a_device_is() {
    let syn = tcp_syn(&probe(Transport::Tcp, 40), FROM, TO);
    let reset = answer(&syn, TcpFlags::RST | TcpFlags::ACK);
    let with_sum = |sum: u16| {
        let mut bytes = reset.clone();
        MutableTcpPacket::new(&mut bytes).unwrap().set_checksum(sum);
        tcp_reply(&in_ip(TO, FROM, &bytes), &ProbeConfig::default(), 5)
    };
    let good = TcpPacket::new(&reset).unwrap().get_checksum();
    assert_eq!(with_sum(good ^ 0x0100), Read::Event(Event::BadChecksum));
    // 10.65.2.3 + 10.65.1.2 + protocol 6 + length 20, folded.
    let partial = 0x0a41 + 0x0203 + 0x0a41 + 0x0102 + 6 + 20;
    assert!(matches!(with_sum(partial), Read::Event(Event::TcpReply { .. })));
}

#[test]
fn anothers_segments_are_foreign() {
    let mut other = probe(Transport::Tcp, 40);
    other.dst_port = 443;
    let packet = in_ip(TO, FROM, &answer(&tcp_syn(&other, FROM, TO), TcpFlags::RST | TcpFlags::ACK));
    assert_eq!(tcp_reply(&packet, &ProbeConfig::default(), 5), Read::Foreign);
    let data = answer(&tcp_syn(&probe(Transport::Tcp, 40), FROM, TO), TcpFlags::ACK);
    assert_eq!(tcp_reply(&in_ip(TO, FROM, &data), &ProbeConfig::default(), 5), Read::Foreign);
}

#[test]
fn only_a_signed_reply_is_a_reply() {
    let keys = keys();
    let request: [u8; 40] = udp_payload(&probe(Transport::Udp, 68), &keys, 1).try_into().unwrap();
    let mut reply = request;
    into_reply(&mut reply, keys.signing().key);
    assert!(matches!(udp_reply(&reply, TO, &keys, 5), Read::Event(Event::Reply { seq: 1, .. })));
    assert_eq!(udp_reply(&request, TO, &keys, 5), Read::Event(Event::Forged));
    assert_eq!(udp_reply(&reply[..39], TO, &keys, 5), Read::Event(Event::Truncated));
    let mut forged = reply;
    forged[20] ^= 1;
    assert_eq!(udp_reply(&forged, TO, &keys, 5), Read::Event(Event::Forged));
}

#[test]
fn an_echo_reply_carries_the_request_and_its_checksum_is_looked_at() {
    let keys = keys();
    let mut echo = echo_request(&probe(Transport::Icmp, 100), &keys, 1);
    assert_eq!(
        icmp_checksum(&IcmpPacket::new(&echo).unwrap()),
        IcmpPacket::new(&echo).unwrap().get_checksum()
    );
    // A reply differs in the type alone (RFC 792), so its sum is larger by the old type.
    echo[0] = 0;
    let packet = in_ip(TO, FROM, &echo);
    assert_eq!(raw_echo_reply(&packet, 63_001, &keys, 5), Read::Event(Event::BadChecksum));
    let sum = icmp_checksum(&IcmpPacket::new(&echo).unwrap());
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    let packet = in_ip(TO, FROM, &echo);
    assert!(matches!(
        raw_echo_reply(&packet, 63_001, &keys, 5),
        Read::Event(Event::Reply { .. })
    ));
    assert_eq!(raw_echo_reply(&packet, 63_002, &keys, 5), Read::Foreign);
    assert_eq!(raw_echo_reply(&packet[..22], 63_001, &keys, 5), Read::Event(Event::Truncated));
}

#[test]
fn quotes_name_the_probe_as_far_as_they_reach() {
    let keys = keys();
    let udp = udp_payload(&probe(Transport::Udp, 68), &keys, 1);
    assert_eq!(quoted_udp(&udp, &keys), Some(0xffff_fff0));
    assert_eq!(quoted_udp(&udp[..20], &keys), None);
    let echo = echo_request(&probe(Transport::Icmp, 68), &keys, 1);
    assert_eq!(quoted_echo(&echo, &keys), Some((63_001, Some(0xffff_fff0))));
    assert_eq!(quoted_echo(&echo[..8], &keys), Some((63_001, None)));
    let echo = echo_request(&between(FROM6, TO6, Transport::Icmp, 88), &keys, 1);
    assert_eq!(quoted_echo(&echo, &keys), Some((63_001, Some(0xffff_fff0))));
    let syn = tcp_syn(&probe(Transport::Tcp, 40), FROM, TO);
    assert_eq!(quoted_tcp(&syn[..8], &ProbeConfig::default()), Some(63_001));
    assert_eq!(quoted_tcp(&[0; 8], &ProbeConfig::default()), None);
    assert_eq!(quoted_tcp(&syn[..3], &ProbeConfig::default()), None);
}

proptest! {
    #[test]
    fn no_bytes_can_upset_the_readers(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (keys, config) = (keys(), ProbeConfig::default());
        let _ = udp_reply(&bytes, TO, &keys, 1);
        let _ = raw_echo_reply(&bytes, 1, &keys, 1);
        let _ = echo_reply(&bytes, 1, TO, &keys, 1);
        let _ = tcp_reply(&bytes, &config, 1);
        let _ = echo_reply(&bytes, 1, TO6, &keys, 1);
        let _ = tcp_segment(&bytes, TO6, FROM6, &config, 1);
        let _ = quoted_udp(&bytes, &keys);
        let _ = quoted_echo(&bytes, &keys);
        let _ = quoted_tcp(&bytes, &config);
        // With a plausible header in front.
        let mut ip = vec![0x45, 0, 0, bytes.len() as u8];
        ip.extend(&bytes);
        let _ = tcp_reply(&ip, &config, 1);
        let _ = raw_echo_reply(&ip, 1, &keys, 1);
    }
}
