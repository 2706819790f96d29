//! Forged, replayed, stale, altered, and of another version: each refused, each with its own reason.

use super::*;

const NOW: UnixNs = UnixNs(1_700_000_000_000_000_000);
const NONCE: Nonce = [7; 16];
const MESSAGE: Message<'static> = Message {
    method: "GET",
    target: "/v1/report?x=1",
    body: b"",
};

fn keyring() -> Keyring {
    Keyring::from_secret([3; 32])
}

fn gate() -> Gate {
    Gate::new(keyring(), UnixNs(NOW.0 - 3_600_000_000_000))
}

fn signed(message: Message<'_>, at: UnixNs, nonce: &Nonce) -> Credentials {
    sign(&keyring().signing(), "0.1.0", message, at, nonce)
}

fn pass(gate: &mut Gate, message: Message<'_>, credentials: &Credentials, now: UnixNs) -> Result<Asker, Refusal> {
    gate.check(message, Some(&credentials.protocol), Some(&credentials.auth), now)
}

fn later(by: Duration) -> UnixNs {
    UnixNs(NOW.0 + crate::clock::duration_ns(by))
}

#[test]
fn a_signed_request_passes_and_names_its_sender() {
    let asker = pass(&mut gate(), MESSAGE, &signed(MESSAGE, NOW, &NONCE), NOW).unwrap();
    assert_eq!(asker.version, "0.1.0");
    assert_eq!(asker.nonce, NONCE);
}

#[test]
fn without_credentials_nothing_passes() {
    let credentials = signed(MESSAGE, NOW, &NONCE);
    assert_eq!(gate().check(MESSAGE, None, None, NOW).unwrap_err(), Refusal::NoCredentials);
    assert_eq!(
        gate().check(MESSAGE, Some(&credentials.protocol), None, NOW).unwrap_err(),
        Refusal::NoCredentials
    );
    for garbage in [
        "",
        "key=1",
        "key=zz,time=1,nonce=00,mac=00",
        &format!("{},more=1", credentials.auth),
    ] {
        assert_eq!(
            gate().check(MESSAGE, Some(&credentials.protocol), Some(garbage), NOW).unwrap_err(),
            Refusal::NoCredentials,
            "{garbage}"
        );
    }
}

#[test]
fn every_part_is_authenticated() {
    let credentials = signed(MESSAGE, NOW, &NONCE);
    let altered = [
        Message { method: "POST", ..MESSAGE },
        Message {
            target: "/v1/report?x=2",
            ..MESSAGE
        },
        Message { body: b"x", ..MESSAGE },
    ];
    for message in altered {
        assert_eq!(pass(&mut gate(), message, &credentials, NOW).unwrap_err(), Refusal::Forged);
    }
    let time = credentials.auth.replace(&NOW.0.to_string(), &(NOW.0 + 1).to_string());
    assert_eq!(
        gate().check(MESSAGE, Some(&credentials.protocol), Some(&time), NOW).unwrap_err(),
        Refusal::Forged
    );
    let nonce = credentials.auth.replace(&hex(&NONCE), &hex(&[8; 16]));
    assert_eq!(
        gate().check(MESSAGE, Some(&credentials.protocol), Some(&nonce), NOW).unwrap_err(),
        Refusal::Forged
    );
    assert_eq!(
        gate().check(MESSAGE, Some("1 9.9.9"), Some(&credentials.auth), NOW).unwrap_err(),
        Refusal::Forged
    );
}

#[test]
fn bytes_cannot_move_between_the_parts() {
    let one = Message {
        method: "GET",
        target: "/ab",
        body: b"c",
    };
    let other = Message {
        method: "GET",
        target: "/a",
        body: b"bc",
    };
    assert_eq!(
        pass(&mut gate(), other, &signed(one, NOW, &NONCE), NOW).unwrap_err(),
        Refusal::Forged
    );
}

#[test]
fn another_key_is_named_by_its_id() {
    let other = Keyring::from_secret([4; 32]).signing();
    let credentials = sign(&other, "0.1.0", MESSAGE, NOW, &NONCE);
    assert_eq!(
        pass(&mut gate(), MESSAGE, &credentials, NOW).unwrap_err(),
        Refusal::UnknownKey { id: other.id }
    );
}

#[test]
fn a_repetition_is_refused_for_as_long_as_its_time_would_be_accepted() {
    let mut gate = gate();
    let ahead = later(SKEW_MAX);
    let credentials = signed(MESSAGE, ahead, &NONCE);
    pass(&mut gate, MESSAGE, &credentials, NOW).unwrap();
    for seconds in [0, 1, 30, 59, 60] {
        let again = pass(&mut gate, MESSAGE, &credentials, later(Duration::from_secs(seconds)));
        assert_eq!(again.unwrap_err(), Refusal::Replayed, "after {seconds} s");
    }
    let late = pass(&mut gate, MESSAGE, &credentials, later(Duration::from_secs(61)));
    assert_eq!(late.unwrap_err(), Refusal::Skewed { apart_s: 31 });
}

#[test]
fn a_forged_request_does_not_use_up_a_nonce() {
    let mut gate = gate();
    let credentials = signed(MESSAGE, NOW, &NONCE);
    let altered = Message { body: b"x", ..MESSAGE };
    pass(&mut gate, altered, &credentials, NOW).unwrap_err();
    pass(&mut gate, MESSAGE, &credentials, NOW).unwrap();
}

#[test]
fn clocks_that_are_too_far_apart_are_told_how_far() {
    let credentials = signed(MESSAGE, NOW, &NONCE);
    let old = pass(&mut gate(), MESSAGE, &credentials, later(Duration::from_secs(45)));
    assert_eq!(old.unwrap_err(), Refusal::Skewed { apart_s: 45 });
    let future = signed(MESSAGE, later(Duration::from_secs(45)), &NONCE);
    assert_eq!(
        pass(&mut gate(), MESSAGE, &future, NOW).unwrap_err(),
        Refusal::Skewed { apart_s: 45 }
    );
}

#[test]
fn a_restart_does_not_open_a_window_for_repetitions() {
    let mut gate = Gate::new(keyring(), later(Duration::from_secs(1)));
    let credentials = signed(MESSAGE, NOW, &NONCE);
    assert_eq!(
        pass(&mut gate, MESSAGE, &credentials, later(Duration::from_secs(2))).unwrap_err(),
        Refusal::BeforeStart
    );
}

#[test]
fn another_version_is_named_and_not_taken_for_a_forger() {
    let refusal = gate().check(MESSAGE, Some("2 1.4.0"), Some("whatever=1"), NOW).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "it speaks protocol 2 (program version 1.4.0), this program speaks 1: run the same version on both sides"
    );
}

#[test]
fn both_keys_of_a_rotation_are_accepted() {
    let two = keyring()
        .add_key(std::path::Path::new("key"))
        .unwrap()
        .promote(std::path::Path::new("key"))
        .unwrap();
    let mut gate = Gate::new(two.clone(), UnixNs(0));
    pass(&mut gate, MESSAGE, &signed(MESSAGE, NOW, &NONCE), NOW).unwrap();
    let new = sign(&two.signing(), "0.1.0", MESSAGE, NOW, &[9; 16]);
    pass(&mut gate, MESSAGE, &new, NOW).unwrap();
    gate.set_keyring(two.retire());
    let old = pass(&mut gate, MESSAGE, &signed(MESSAGE, NOW, &[10; 16]), NOW);
    assert!(matches!(old, Err(Refusal::UnknownKey { .. })));
}

#[test]
fn an_answer_is_bound_to_its_request() {
    let key = keyring().signing();
    let auth = sign_answer(&key, &NONCE, 200, b"{}");
    check_answer(&key, &NONCE, 200, b"{}", Some(&auth)).unwrap();
    assert_eq!(check_answer(&key, &[8; 16], 200, b"{}", Some(&auth)), Err(Refusal::Forged));
    assert_eq!(check_answer(&key, &NONCE, 503, b"{}", Some(&auth)), Err(Refusal::Forged));
    assert_eq!(check_answer(&key, &NONCE, 200, b"[]", Some(&auth)), Err(Refusal::Forged));
    assert_eq!(check_answer(&key, &NONCE, 200, b"{}", None), Err(Refusal::NoCredentials));
    let request_as_answer = signed(MESSAGE, NOW, &NONCE).auth;
    assert_eq!(
        check_answer(&key, &NONCE, 200, b"{}", Some(&request_as_answer)),
        Err(Refusal::NoCredentials)
    );
}

#[test]
fn the_memory_of_nonces_is_bounded_and_forgets_the_old() {
    let mut gate = gate();
    for index in 0..NONCES_MAX as u128 {
        gate.remember(index.to_be_bytes(), NOW).unwrap();
    }
    assert_eq!(gate.remember([0xff; 16], NOW), Err(Refusal::TooMany));
    gate.remember([0xff; 16], later(Duration::from_secs(61))).unwrap();
    assert_eq!(gate.seen.len(), 1);
    assert_eq!(gate.expiry.len(), 1);
}
