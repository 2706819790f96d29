use super::*;
use crate::programmed::{decode::route, netlink::attr};

/// `RTM_NEWROUTE`.
const NEW: u16 = 24;
const SEQUENCE: u32 = 7;

fn message(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(16 + payload.len()).unwrap();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A route to `10.0.0.N/32`, `struct rtmsg` and `RTA_DST`.
fn a_route(n: u8, flags: u16) -> Vec<u8> {
    let payload = [2, 32, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, n];
    message(NEW, flags, SEQUENCE, &payload)
}

fn done(result: i32) -> Vec<u8> {
    message(NLMSG_DONE, 2, SEQUENCE, &result.to_ne_bytes())
}

/// One attempt that is given these datagrams, and then nothing.
fn attempt(datagrams: &[Vec<u8>]) -> (Dumped<verifier_core::programmed::Route>, bool) {
    let mut assembly = Assembly::new(SEQUENCE, |kind, payload: &[u8]| route::decode(2, kind, payload));
    let mut fault = Some(DumpFault::NoEnd);
    for datagram in datagrams {
        match assembly.feed(datagram) {
            Ok(Progress::More) => {}
            Ok(Progress::Ended) => {
                fault = None;
                break;
            }
            Err(error) => {
                fault = Some(error);
                break;
            }
        }
    }
    let interrupted = assembly.interrupted();
    (assembly.finish(fault), interrupted)
}

/// The dump that these attempts make, one after the other.
fn dump(attempts: &[&[Vec<u8>]]) -> (Dumped<verifier_core::programmed::Route>, usize) {
    let mut taken = 0;
    let dumped = repeated(|| {
        let datagrams = attempts[taken.min(attempts.len() - 1)];
        taken += 1;
        attempt(datagrams)
    });
    (dumped, taken)
}

#[test]
fn a_dump_interrupted_half_way_is_taken_again() {
    let whole = [[a_route(1, 2), a_route(2, 2)].concat(), done(0)];
    let interrupted = [[a_route(1, 2), a_route(3, 2 | NLM_F_DUMP_INTR)].concat(), done(0)];
    let (dumped, taken) = dump(&[&interrupted, &interrupted, &whole]);
    assert_eq!((dumped.is_whole(), taken, dumped.retries), (true, 3, 2));
    // Nothing of the attempts before is left in it.
    assert_eq!(dumped.values.len(), 2);
    assert!(dumped.into_evidence("programmed/routes").is_complete());
}

#[test]
fn one_that_is_always_interrupted_is_partial_and_says_so() {
    let interrupted = [a_route(1, 2 | NLM_F_DUMP_INTR), done(0)];
    let (dumped, taken) = dump(&[&interrupted]);
    assert_eq!(u32::try_from(taken).unwrap(), ATTEMPTS);
    let evidence = dumped.into_evidence("programmed/routes");
    assert!(evidence.all().is_err());
    assert_eq!(evidence.seen().map(Vec::len), Some(1));
    assert!(
        evidence.gaps()[0].why.contains("changed during each of 8 dumps"),
        "{:?}",
        evidence.gaps()
    );
}

#[test]
fn an_overrun_is_taken_again_and_a_refusal_is_not() {
    let overrun = [message(NLMSG_OVERRUN, 0, SEQUENCE, &[])];
    let whole = [a_route(1, 2), done(0)];
    let (dumped, taken) = dump(&[&overrun, &whole]);
    assert_eq!((dumped.is_whole(), taken), (true, 2));
    let busy = [message(NLMSG_ERROR, 0, SEQUENCE, &(-libc::EBUSY).to_ne_bytes())];
    assert_eq!(dump(&[&busy, &whole]).1, 2);
    let refused = [message(NLMSG_ERROR, 0, SEQUENCE, &(-libc::EPERM).to_ne_bytes())];
    let (dumped, taken) = dump(&[&refused, &whole]);
    assert_eq!(taken, 1);
    let evidence = dumped.into_evidence("programmed/routes");
    assert!(evidence.seen().is_none(), "refused, and something was seen");
}

#[test]
fn without_its_end_marker_a_dump_is_never_whole() {
    for datagrams in [&[a_route(1, 2)] as &[Vec<u8>], &[], &[a_route(1, 2), done(-libc::EINTR)]] {
        let (dumped, _) = attempt(datagrams);
        assert!(!dumped.is_whole());
        assert!(!dumped.into_evidence("programmed/routes").is_complete());
    }
}

#[test]
fn what_does_not_decode_or_is_cut_off_makes_it_partial() {
    let mut broken = a_route(1, 2);
    broken[16 + 12] = 2; // an attribute shorter than its own header
    let (dumped, _) = attempt(&[[broken, a_route(2, 2)].concat(), done(0)]);
    assert_eq!((dumped.values.len(), dumped.undecodable), (1, 1));
    assert_eq!(dumped.first_undecodable, Some(attr::Malformed::Attributes));
    assert!(!dumped.into_evidence("programmed/routes").is_complete());
    let mut cut = a_route(1, 2);
    cut.truncate(20);
    let (dumped, _) = attempt(&[cut, done(0)]);
    assert!(matches!(dumped.fault, Some(DumpFault::Framing)));
}

#[test]
fn the_rest_of_an_abandoned_dump_is_none_of_ours() {
    let payload = [2, 32, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0, 8, 0, 1, 0, 10, 0, 0, 9];
    let stale = [
        message(NEW, 2 | NLM_F_DUMP_INTR, SEQUENCE - 1, &payload),
        message(NLMSG_DONE, 2, SEQUENCE - 1, &[0; 4]),
    ]
    .concat();
    let (dumped, interrupted) = attempt(&[stale, a_route(1, 2), done(0)]);
    assert!(dumped.is_whole() && !interrupted);
    assert_eq!(dumped.values.len(), 1);
}
