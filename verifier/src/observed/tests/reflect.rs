//! What the reflector refuses, and what is counted instead of recorded.

use super::*;

#[test]
fn what_is_not_ours_or_not_fresh_is_never_reflected_and_is_counted() {
    if able() {
        refuses("refuse", FOUR);
    }
}

#[test]
fn the_same_of_ipv6() {
    if able() {
        refuses("refuse6", SIX);
    }
}

fn refuses(tag: &str, ends: Ends) {
    let pair = Pair::new(tag);
    let (mut observer, _ring) = observer(Options::default(), None);
    assert!(
        observer
            .sync_taps(&pair.node.netns(), std::slice::from_ref(&pair.device))
            .failed
            .is_empty()
    );
    // The pod listens, so that a refused request arrives there and not as an ICMP error here.
    let pod = pair.udp(&pair.pod, (ends.pod, PROBE_PORT));
    let prober = pair.udp(&pair.node, (ends.node, 20_300));
    let mut buffer = [0; 200];
    let mut refused = |payload: &[u8], what: Refusal| {
        let before = refusals(&observer, what);
        prober.send_to(payload, (ends.pod, PROBE_PORT)).unwrap();
        let (length, _) = pod
            .recv_from(&mut buffer)
            .unwrap_or_else(|error| panic!("{what:?} did not reach the pod: {error}"));
        assert_eq!(&buffer[..length], payload, "{what:?}");
        assert_eq!(refusals(&observer, what), before + 1, "{what:?}");
    };

    let mut forged = signed(&request(1, 0));
    forged[39] ^= 1;
    refused(&forged, Refusal::BadTag);
    let now = clock::unix_now().0;
    refused(
        &signed(&Header {
            sent_realtime_ns: now - 60_000_000_000,
            ..request(2, 0)
        }),
        Refusal::Stale,
    );
    refused(
        &signed(&Header {
            sent_realtime_ns: now + 60_000_000_000,
            ..request(3, 0)
        }),
        Refusal::Stale,
    );
    refused(
        &signed(&Header {
            key_id: 8,
            ..request(4, 0)
        }),
        Refusal::UnknownKey,
    );
    let mut version = signed(&request(5, 0));
    version[4] = 9;
    refused(&version, Refusal::Version);
    refused(&signed(&request(6, 0))[..20], Refusal::Truncated);

    let once = signed(&request(7, 0));
    prober.send_to(&once, (ends.pod, PROBE_PORT)).unwrap();
    let mut answer = [0; 200];
    prober.recv_from(&mut answer).expect("a fresh request is answered");
    refused(&once, Refusal::Replayed);

    // A reply is never reflected, and is nobody's refusal.
    let before = observer.counters().unwrap();
    let reply = signed(&Header {
        kind: Kind::Reply,
        ..request(8, 0)
    });
    prober.send_to(&reply, (ends.pod, PROBE_PORT)).unwrap();
    let (length, _) = pod.recv_from(&mut buffer).unwrap();
    assert_eq!(buffer[..length], reply);
    let after = observer.counters().unwrap();
    assert_eq!((before.refused, before.reflected), (after.refused, after.reflected));
}

#[test]
fn replies_are_limited() {
    if !able() {
        return;
    }
    let pair = Pair::new("limit");
    let (mut observer, _ring) = observer(Options::default(), None);
    observer
        .configure(&Settings {
            reflect_per_second: 0,
            ..settings()
        })
        .unwrap();
    assert!(
        observer
            .sync_taps(&pair.node.netns(), std::slice::from_ref(&pair.device))
            .failed
            .is_empty()
    );
    for (ends, limited) in [(FOUR, 1), (SIX, 2)] {
        let prober = pair.udp(&pair.node, (ends.node, 20_300));
        prober.send_to(&signed(&request(limited, 0)), (ends.pod, PROBE_PORT)).unwrap();
        assert!(prober.recv_from(&mut [0; 200]).is_err());
        assert_eq!(refusals(&observer, Refusal::RateLimited), limited);
    }
}

#[test]
fn a_full_ring_is_counted() {
    if !able() {
        return;
    }
    let pair = Pair::new("full");
    let options = Options {
        ring_bytes: 4096,
        ..Options::default()
    };
    let (mut observer, mut ring) = observer(options, None);
    assert!(
        observer
            .sync_taps(&pair.node.netns(), std::slice::from_ref(&pair.device))
            .failed
            .is_empty()
    );
    let pod = pair.udp(&pair.pod, (FOUR.pod, 20_300));
    let sent = 100;
    for sequence in 0..sent {
        // From the pod to nobody: one hop each, at the ingress of the node's side.
        pod.send_to(&signed(&request(1, sequence)), (FOUR.node, PROBE_PORT)).unwrap_or(0);
    }
    let deadline = Instant::now() + Duration::from_secs(3);
    let mut seen = 0;
    loop {
        let lost = observer.counters().unwrap().lost_hops;
        if lost > 0 {
            seen += ring.drain(1000).records.len();
        }
        // The ICMP errors that answer them are hops as well.
        if seen as u64 + lost >= u64::from(sent) {
            assert!(lost > 0);
            break;
        }
        assert!(Instant::now() < deadline, "{seen} seen, {lost} lost");
    }
}
