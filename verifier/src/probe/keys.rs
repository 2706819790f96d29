//! The keys that sign and verify the header of a probe.
//!
//! They come from the key file that agents share (`agent::keys`). On the wire, and in the kernel programs, a key is named by one byte, the
//! lowest of its id: two keys that are valid at once must differ in it. [`Keyring::add_key`] draws a new key until they do.

use crate::agent::keys::{Keyring, ProbeKey};
use verifier_ebpf::{
    siphash::SipKey,
    wire::{Header, WireError},
};

/// Why the keys of a keyring cannot be used for probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyClash {
    /// There is none.
    #[error("there is no key: make one with `verifier keygen`")]
    NoKey,
    /// Two keys that cannot be valid at once.
    #[error(
        "keys {first:08x} and {second:08x} cannot be valid for probes at once (their ids end in the same byte): remove the second and add another with `verifier keygen --rotate add`"
    )]
    SameByte {
        /// Id of the first.
        first: u32,
        /// Id of the second.
        second: u32,
    },
}

/// A key as it is named on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WireKey {
    /// Lowest byte of the key's id.
    pub id: u8,
    /// The key.
    pub key: SipKey,
}

impl std::fmt::Debug for WireKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key ..{:02x}", self.id)
    }
}

impl From<&ProbeKey> for WireKey {
    fn from(key: &ProbeKey) -> Self {
        Self {
            id: key.id as u8,
            key: SipKey::from_bytes(key.secret),
        }
    }
}

/// The keys in force: the first signs, all verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeKeys {
    signing: WireKey,
    accepted: Option<WireKey>,
}

/// Why a payload is not a reply to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untrusted {
    /// Shorter than a header.
    Truncated,
    /// Not a probe, of another version, of an unknown key, or its tag does not match.
    Forged,
}

impl ProbeKeys {
    /// One key.
    pub const fn new(signing: WireKey) -> Self {
        Self { signing, accepted: None }
    }

    /// The probe keys of a key file.
    ///
    /// # Errors
    /// There is none, or its two keys have one name.
    pub fn from_keyring(keyring: &Keyring) -> Result<Self, KeyClash> {
        match keyring.probe_keys().as_slice() {
            [] => Err(KeyClash::NoKey),
            [first, second, ..] if first.id as u8 == second.id as u8 => Err(KeyClash::SameByte {
                first: first.id,
                second: second.id,
            }),
            [first, rest @ ..] => Ok(Self {
                signing: first.into(),
                accepted: rest.first().map(WireKey::from),
            }),
        }
    }

    /// The key that signs.
    pub const fn signing(&self) -> WireKey {
        self.signing
    }

    /// All keys, the signing one first.
    pub fn all(&self) -> impl Iterator<Item = WireKey> {
        std::iter::once(self.signing).chain(self.accepted)
    }

    /// The header of a payload, if one of the keys signed it.
    ///
    /// # Errors
    /// It is too short, or not to be trusted.
    pub fn verify(&self, payload: &[u8]) -> Result<Header, Untrusted> {
        let header = Header::decode(payload).map_err(|error| match error {
            WireError::Truncated { .. } => Untrusted::Truncated,
            _ => Untrusted::Forged,
        })?;
        let key = self.all().find(|key| key.id == header.key_id).ok_or(Untrusted::Forged)?;
        Header::decode_verified(payload, key.key).map_err(|_| Untrusted::Forged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verifier_ebpf::wire::Kind;

    fn key(id: u8, byte: u8) -> WireKey {
        WireKey {
            id,
            key: SipKey::from_bytes([byte; 16]),
        }
    }

    #[test]
    fn either_key_verifies_and_no_other() {
        let keys = ProbeKeys {
            signing: key(4, 1),
            accepted: Some(key(9, 2)),
        };
        let header = |key_id| Header {
            kind: Kind::Reply,
            key_id,
            probe_id: 1,
            sequence: 0,
            incarnation: 0,
            sent_realtime_ns: 0,
        };
        for signer in keys.all() {
            assert_eq!(keys.verify(&header(signer.id).encode(signer.key)), Ok(header(signer.id)));
        }
        assert_eq!(keys.verify(&header(4).encode(key(4, 2).key)), Err(Untrusted::Forged));
        assert_eq!(keys.verify(&header(5).encode(key(4, 1).key)), Err(Untrusted::Forged));
        assert_eq!(keys.verify(&header(4).encode(key(4, 1).key)[..39]), Err(Untrusted::Truncated));
        assert_eq!(keys.verify(&[0; 64]), Err(Untrusted::Forged));
    }

    #[test]
    fn a_rotated_keyring_has_two_names() {
        for byte in 0..=255 {
            let ring = Keyring::from_secret([byte; 32]).add_key(std::path::Path::new("key")).unwrap();
            assert_eq!(ProbeKeys::from_keyring(&ring).unwrap().all().count(), 2);
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        assert_eq!(format!("{:?}", key(0x2a, 0xab)), "key ..2a");
    }
}
