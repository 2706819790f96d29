use super::*;
use crate::address::words_of;
use crate::checksum::{ChecksumState, adjusted, fold, sum, with_sum, without_sum};
use crate::plain::Field as _;

const KEY: KeySlot = KeySlot {
    k0: 3,
    k1: 4,
    id: 2,
    valid: 1,
    reserved: [0; 6],
};
const CONFIG: Config = Config {
    probe_port: 9,
    max_age_ns: 10,
    max_ahead_ns: 5,
    ..Config::NOTHING
};

/// UDP and the probe, and the checksum over them.
fn finished<const P: usize, const H: usize>(mut frame: Frame<P, H>) -> Frame<P, H>
where
    Frame<P, H>: Head,
{
    let header = Header {
        kind: Kind::Request,
        key_id: 2,
        probe_id: 77,
        sequence: 1,
        incarnation: 5,
        sent_realtime_ns: 1000,
    };
    frame.head[..6].fill(0xaa);
    frame.head[6..12].fill(0xbb);
    frame.head[H - 8..H - 2].copy_from_slice(&[0x9c, 0x40, 0, 9, 0, 48]);
    frame.probe = header.encode(SipKey { k0: 3, k1: 4 });
    let all = fold(udp_sum(&frame, frame.pseudo_sum(48)));
    frame.set_checksum(!all);
    frame
}

fn four() -> Frame4 {
    let mut frame = Frame4::ZERO;
    frame.head[12] = 8;
    frame.head[IP_AT] = 0x45;
    frame.head[IP_AT + 3] = 68;
    frame.head[IP_AT + 9] = 17;
    frame.head[IP_AT + 12..IP_AT + 20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    finished(frame)
}

const A: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 2];

fn six() -> Frame6 {
    let mut frame = Frame6::ZERO;
    frame.head[12..14].copy_from_slice(&[0x86, 0xdd]);
    frame.head[IP_AT] = 0x60;
    frame.head[IP_AT + 5] = 48;
    frame.head[IP_AT + 6] = 17;
    frame.head[IP_AT + 7] = 63;
    frame.head[IP_AT + 8..IP_AT + 24].copy_from_slice(&A);
    frame.head[IP_AT + 24..IP_AT + 40].copy_from_slice(&B);
    finished(frame)
}

fn udp_sum<const P: usize, const H: usize>(frame: &Frame<P, H>, seed: u32) -> u32 {
    sum(&frame.probe, sum(&frame.head[H - 8..], seed))
}

fn judge<const P: usize, const H: usize>(frame: &Frame<P, H>, key: &KeySlot, now: Option<u64>) -> Result<SipKey, Option<Refusal>>
where
    Frame<P, H>: Head,
{
    let request = request(frame)?;
    authenticate(&request, &frame.probe, [&KeySlot::ZERO, key], now, &CONFIG).map_err(Some)
}

/// What holds for a fresh request of either family; the answer comes back.
fn answered<const P: usize, const H: usize>(mut frame: Frame<P, H>) -> Frame<P, H>
where
    Frame<P, H>: Head,
{
    assert!(frame.is_addressed_to_probe_port(&CONFIG));
    let key = judge(&frame, &KEY, Some(1005)).unwrap();
    let difference = answer(&mut frame, key);
    frame.set_checksum(adjusted(frame.checksum(), difference));
    assert_eq!(frame.udp_sum(), fold(udp_sum(&frame, 0)));
    assert_eq!(frame.head[..12], [[0xbb; 6], [0xaa; 6]].concat()[..]);
    assert_eq!(frame.head[H - 8..H - 4], [0, 9, 0x9c, 0x40]);
    let transport = <Frame<P, H> as Head>::TRANSPORT;
    let pseudo = frame.pseudo_sum(48);
    assert_eq!(without_sum(transport, pseudo, frame.checksum()), None);
    assert_eq!(with_sum(transport, pseudo, fold(udp_sum(&frame, 0))), ChecksumState::Good);
    let reply = Header::decode_verified(&frame.probe, key).unwrap();
    assert_eq!((reply.kind, reply.probe_id), (Kind::Reply, 77));
    // A reply is never answered again, even when it comes to the probe port.
    assert_eq!(judge(&frame, &KEY, Some(1005)), Err(None));
    frame
}

#[test]
fn a_fresh_request_is_answered_with_valid_checksum_and_tag() {
    assert_eq!(is_addressed_to_probe_port(&four().head[..], &CONFIG), Addressed::Yes);
    let answer = answered(four());
    assert_eq!((answer.source(), answer.destination()), (0x0a00_0002, 0x0a00_0001));
}

#[test]
fn a_fresh_request_of_ipv6_is_answered_the_same_way() {
    assert_eq!(is_addressed_to_probe_port(&six().head[..], &CONFIG), Addressed::Six);
    assert_eq!(is_addressed_to_probe_port_six(&six().head[..], &CONFIG), Addressed::Yes);
    let answer = answered(six());
    assert_eq!((answer.source(), answer.destination()), (words_of(B), words_of(A)));
    // The hop limit stays, as the TTL does: the answer goes one way less far than a pod's own would.
    assert_eq!(answer.head[IP_AT + 7], 63);
}

fn every_refusal<const P: usize, const H: usize>(good: &Frame<P, H>)
where
    Frame<P, H>: Head,
{
    assert_eq!(judge(good, &KEY, Some(1011)), Err(Some(Refusal::Stale)));
    assert_eq!(judge(good, &KEY, Some(994)), Err(Some(Refusal::Stale)));
    assert_eq!(judge(good, &KEY, None), Err(Some(Refusal::Stale)));
    assert_eq!(
        judge(good, &KeySlot { valid: 0, ..KEY }, Some(1000)),
        Err(Some(Refusal::UnknownKey))
    );
    assert_eq!(judge(good, &KeySlot { id: 4, ..KEY }, Some(1000)), Err(Some(Refusal::UnknownKey)));
    assert_eq!(judge(good, &KeySlot { k0: 9, ..KEY }, Some(1000)), Err(Some(Refusal::BadTag)));
    let in_probe = |at: usize, value: u8| {
        let mut frame = *good;
        frame.probe[at] = value;
        judge(&frame, &KEY, Some(1000))
    };
    assert_eq!(in_head(good, H - 3, 47), Err(Some(Refusal::Truncated)));
    assert_eq!(in_probe(0, 0), Err(None));
    assert_eq!(in_probe(4, 9), Err(Some(Refusal::Version)));
    assert_eq!(in_probe(20, 9), Err(Some(Refusal::BadTag)));
}

fn in_head<const P: usize, const H: usize>(good: &Frame<P, H>, at: usize, value: u8) -> Result<SipKey, Option<Refusal>>
where
    Frame<P, H>: Head,
{
    let mut frame = *good;
    frame.head[at] = value;
    judge(&frame, &KEY, Some(1000))
}

#[test]
fn every_refusal_has_its_reason() {
    every_refusal(&four());
    assert_eq!(in_head(&four(), IP_AT, 0x46), Err(Some(Refusal::Truncated)));
    assert_eq!(in_head(&four(), IP_AT + 6, 0x20), Err(Some(Refusal::Truncated)));
    every_refusal(&six());
    assert_eq!(in_head(&six(), IP_AT + 6, 60), Err(Some(Refusal::Truncated)));
}

#[test]
fn what_is_addressed_to_the_probe_port_is_told_behind_extension_headers_too() {
    let plain = six().head;
    let with = |first: u8, extensions: &[u8], length: u8| {
        let mut frame = plain.to_vec();
        frame[IP_AT + 5] = length;
        frame[IP_AT + 6] = first;
        frame.splice(IP_AT + 40..IP_AT + 40, extensions.iter().copied());
        is_addressed_to_probe_port_six(&frame[..], &CONFIG)
    };
    // Destination options of eight bytes; of sixteen; a first fragment; a later one; more than the packet claims to hold.
    assert_eq!(with(60, &[17, 0, 1, 4, 0, 0, 0, 0], 56), Addressed::Yes);
    assert_eq!(with(60, &[&[17, 1][..], &[0; 14]].concat(), 64), Addressed::Yes);
    assert_eq!(with(44, &[17, 0, 0, 1, 0, 0, 0, 9], 56), Addressed::Yes);
    assert_eq!(with(44, &[17, 0, 0, 9, 0, 0, 0, 9], 56), Addressed::No);
    assert_eq!(with(60, &[17, 1, 1, 4, 0, 0, 0, 0], 8), Addressed::No);
    assert_eq!(with(60, &[6, 0, 1, 4, 0, 0, 0, 0], 56), Addressed::No);
    assert_eq!(with(17, &[], 48), Addressed::Yes);
    assert_eq!(with(6, &[], 48), Addressed::No);
    assert_eq!(is_addressed_to_probe_port_six(&plain[..IP_AT + 41], &CONFIG), Addressed::Unknown);
    assert_eq!(is_addressed_to_probe_port_six(&plain[..IP_AT + 7], &CONFIG), Addressed::Unknown);
    assert_eq!(is_addressed_to_probe_port(&plain[..IP_AT + 19], &CONFIG), Addressed::Unknown);
    let other = Config { probe_port: 10, ..CONFIG };
    assert_eq!(is_addressed_to_probe_port_six(&plain[..], &other), Addressed::No);
}

#[test]
fn no_two_counts_share_a_slot() {
    let slots: std::collections::BTreeSet<u32> = (0..3).flat_map(|peer| Refusal::ALL.map(|refusal| slot(peer, refusal))).collect();
    assert_eq!(slots.len(), 3 * REFUSALS as usize);
}
