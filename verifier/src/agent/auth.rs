//! Who may ask an agent, and whether it was the agent that answered: HMAC-SHA256 with a shared key that never travels.
//!
//! A request carries the protocol number, the sender's program version, the key's id, the time, a nonce, and a MAC over all of it and
//! the method, path with query, and body. The answer carries a MAC over the request's nonce, the status and the body, so that it can be
//! neither forged nor taken from another request. The protocol number stands outside of what the MAC decides: a program of another
//! version is told so and named, instead of being taken for a forger.
//!
//! Nothing here reads a clock or a socket; time is an argument.

use super::keys::{HttpKey, Keyring};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    time::Duration,
};
use verifier_core::names::UnixNs;

/// Number of this protocol. It rises when an old program would misread a new one.
pub const PROTOCOL: u32 = 1;
/// Header: protocol number and program version, `1 0.1.0`.
pub const HEADER_PROTOCOL: &str = "dataplane-verifier";
/// Header: key id, time, nonce and MAC of a request; MAC of an answer.
pub const HEADER_AUTH: &str = "dataplane-verifier-auth";
/// How far the clocks of two nodes may differ.
pub const SKEW_MAX: Duration = Duration::from_secs(30);
/// How many nonces are remembered. More requests than this within twice [`SKEW_MAX`] are refused.
const NONCES_MAX: usize = 65_536;

/// A nonce: 16 random bytes.
pub type Nonce = [u8; 16];

/// Why a request or an answer was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no or no readable authentication.
    #[error("it carries no credentials: ask with the agents' key file (--key-file)")]
    NoCredentials,
    /// Another protocol.
    #[error("it speaks protocol {theirs} (program version {version}), this program speaks {PROTOCOL}: run the same version on both sides")]
    OtherProtocol {
        /// The other's protocol, as written.
        theirs: String,
        /// The other's program version.
        version: String,
    },
    /// No such key.
    #[error("its key {id:08x} is unknown here: give both sides the same key file")]
    UnknownKey {
        /// Id of the key.
        id: u32,
    },
    /// The MAC is wrong.
    #[error("its MAC is wrong: it was altered or forged, or the keys differ")]
    Forged,
    /// Too old or from the future.
    #[error("its time is {apart_s} s off, {} s are allowed: synchronise the clocks", SKEW_MAX.as_secs())]
    Skewed {
        /// How far.
        apart_s: u64,
    },
    /// Made before this agent started, so that it cannot be known whether it was answered before.
    #[error("it was made before this agent started: ask again")]
    BeforeStart,
    /// The nonce was used before.
    #[error("it is a repetition of an earlier request")]
    Replayed,
    /// More requests than can be remembered.
    #[error("too many requests: more than {NONCES_MAX} a minute")]
    TooMany,
}

/// What of a request is authenticated.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Method.
    pub method: &'a str,
    /// Path with query.
    pub target: &'a str,
    /// Body.
    pub body: &'a [u8],
}

/// Values of the two headers of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Value of [`HEADER_PROTOCOL`].
    pub protocol: String,
    /// Value of [`HEADER_AUTH`].
    pub auth: String,
}

/// Value of [`HEADER_PROTOCOL`] of a program of `version`.
pub fn protocol_value(version: &str) -> String {
    format!("{PROTOCOL} {version}")
}

/// Checks a [`HEADER_PROTOCOL`] and returns the other's program version.
///
/// # Errors
/// It is absent or of another protocol.
pub fn check_protocol(value: Option<&str>) -> Result<String, Refusal> {
    let value = value.ok_or(Refusal::NoCredentials)?;
    let (number, version) = value.split_once(' ').unwrap_or((value, "unknown"));
    if number == PROTOCOL.to_string() {
        Ok(version.to_owned())
    } else {
        Err(Refusal::OtherProtocol {
            theirs: number.to_owned(),
            version: version.to_owned(),
        })
    }
}

/// Signs a request.
pub fn sign(key: &HttpKey, version: &str, message: Message<'_>, now: UnixNs, nonce: &Nonce) -> Credentials {
    let protocol = protocol_value(version);
    let mac = request_mac(key, &protocol, message, now, nonce).finalize().into_bytes();
    Credentials {
        protocol,
        auth: format!("key={:08x},time={},nonce={},mac={}", key.id, now.0, hex(nonce), hex(&mac)),
    }
}

/// Value of [`HEADER_AUTH`] of an answer.
pub fn sign_answer(key: &HttpKey, nonce: &Nonce, status: u16, body: &[u8]) -> String {
    format!("mac={}", hex(&answer_mac(key, nonce, status, body).finalize().into_bytes()))
}

/// Checks an answer to the request with this nonce.
///
/// # Errors
/// It was not made by a holder of the key for this request.
pub fn check_answer(key: &HttpKey, nonce: &Nonce, status: u16, body: &[u8], auth: Option<&str>) -> Result<(), Refusal> {
    let text = auth.and_then(|value| value.strip_prefix("mac=")).ok_or(Refusal::NoCredentials)?;
    let mac: [u8; 32] = unhex(text).ok_or(Refusal::NoCredentials)?;
    answer_mac(key, nonce, status, body).verify_slice(&mac).map_err(|_| Refusal::Forged)
}

/// Who asked, after [`Gate::check`].
#[derive(Clone, Debug)]
pub struct Asker {
    /// Program version of the asker.
    pub version: String,
    /// Key with which to sign the answer.
    pub key: HttpKey,
    /// Nonce to which the answer is bound.
    pub nonce: Nonce,
}

/// An agent's door: it remembers nonces.
#[derive(Debug)]
pub struct Gate {
    keyring: Keyring,
    started_at: UnixNs,
    seen: BTreeMap<Nonce, UnixNs>,
    /// The same nonces in order of arrival, with the time after which each can be forgotten.
    expiry: VecDeque<(UnixNs, Nonce)>,
}

impl Gate {
    /// A door of an agent that started at that time.
    pub const fn new(keyring: Keyring, started_at: UnixNs) -> Self {
        Self {
            keyring,
            started_at,
            seen: BTreeMap::new(),
            expiry: VecDeque::new(),
        }
    }

    /// Takes over new keys (rotation). Nonces stay known.
    pub fn set_keyring(&mut self, keyring: Keyring) {
        self.keyring = keyring;
    }

    /// Lets a request pass, once.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&mut self, message: Message<'_>, protocol: Option<&str>, auth: Option<&str>, now: UnixNs) -> Result<Asker, Refusal> {
        let version = check_protocol(protocol)?;
        let fields = Fields::parse(auth.ok_or(Refusal::NoCredentials)?).ok_or(Refusal::NoCredentials)?;
        let key = self.keyring.http(fields.key).ok_or(Refusal::UnknownKey { id: fields.key })?;
        request_mac(&key, protocol.unwrap_or(""), message, fields.time, &fields.nonce)
            .verify_slice(&fields.mac)
            .map_err(|_| Refusal::Forged)?;
        let apart = Duration::from_nanos(fields.time.since_ns(now).max(now.since_ns(fields.time)));
        if apart > SKEW_MAX {
            return Err(Refusal::Skewed { apart_s: apart.as_secs() });
        }
        if fields.time < self.started_at {
            return Err(Refusal::BeforeStart);
        }
        self.remember(fields.nonce, now)?;
        Ok(Asker {
            version,
            key,
            nonce: fields.nonce,
        })
    }

    fn remember(&mut self, nonce: Nonce, now: UnixNs) -> Result<(), Refusal> {
        while let Some((until, old)) = self.expiry.front().copied()
            && until < now
        {
            self.expiry.pop_front();
            self.seen.remove(&old);
        }
        if self.seen.contains_key(&nonce) {
            return Err(Refusal::Replayed);
        }
        if self.seen.len() >= NONCES_MAX {
            return Err(Refusal::TooMany);
        }
        // A request may be dated up to one skew ahead and stays acceptable for one skew after that date.
        let until = UnixNs(now.0.saturating_add(2 * crate::clock::duration_ns(SKEW_MAX)));
        self.seen.insert(nonce, until);
        self.expiry.push_back((until, nonce));
        Ok(())
    }
}

struct Fields {
    key: u32,
    time: UnixNs,
    nonce: Nonce,
    mac: [u8; 32],
}

impl Fields {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut field = |name: &str| parts.next()?.strip_prefix(name)?.strip_prefix('=');
        let key = u32::from_str_radix(field("key")?, 16).ok()?;
        let time = UnixNs(field("time")?.parse().ok()?);
        let nonce = unhex(field("nonce")?)?;
        let mac = unhex(field("mac")?)?;
        parts.next().is_none().then_some(Self { key, time, nonce, mac })
    }
}

fn request_mac(key: &HttpKey, protocol: &str, message: Message<'_>, time: UnixNs, nonce: &Nonce) -> Hmac<Sha256> {
    let mut mac = keyed(key, b"dataplane-verifier request");
    for part in [
        protocol.as_bytes(),
        message.method.as_bytes(),
        message.target.as_bytes(),
        &time.0.to_be_bytes(),
        nonce,
        message.body,
    ] {
        add(&mut mac, part);
    }
    mac
}

fn answer_mac(key: &HttpKey, nonce: &Nonce, status: u16, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = keyed(key, b"dataplane-verifier answer");
    for part in [nonce.as_slice(), &status.to_be_bytes(), body] {
        add(&mut mac, part);
    }
    mac
}

fn keyed(key: &HttpKey, purpose: &[u8]) -> Hmac<Sha256> {
    // `new` takes a key as long as SHA-256's block and cannot fail; HMAC itself pads a shorter key with zeros.
    let mut block = [0; 64];
    block[..key.secret.len()].copy_from_slice(&key.secret);
    let mut mac = Hmac::<Sha256>::new(&block.into());
    add(&mut mac, purpose);
    mac
}

/// Adds one part with its length, so that no two messages have the same bytes.
fn add(mac: &mut Hmac<Sha256>, part: &[u8]) {
    mac.update(&(part.len() as u64).to_be_bytes());
    mac.update(part);
}

/// Bytes as hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        let _: Result<(), std::fmt::Error> = write!(out, "{byte:02x}");
    }
    out
}

/// Exactly `N` bytes from hexadecimal text.
pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    let mut out = [0; N];
    for (slot, digits) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.starts_with('+') {
            return None;
        }
        *slot = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests;
