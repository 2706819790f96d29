//! Building a netlink request.

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};

/// Length of `struct nlmsghdr`.
pub const HEADER_BYTES: usize = 16;

/// A request, without sequence number; [`super::Channel`] gives it one at each attempt.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    fn new(kind: u16, flags: u16, family_header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(family_header);
        Self { bytes }.sealed()
    }

    /// A dump of everything, with the fixed header of its family (`rtmsg`, `ndmsg`, …).
    pub fn dump(kind: u16, family_header: &[u8]) -> Self {
        Self::new(kind, NLM_F_REQUEST | NLM_F_DUMP, family_header)
    }

    /// A question with one answer and no acknowledgement.
    pub fn ask(kind: u16, family_header: &[u8]) -> Self {
        Self::new(kind, NLM_F_REQUEST, family_header)
    }

    /// A question that is answered by the thing asked for (or an error) and an acknowledgement.
    pub fn ask_acked(kind: u16, family_header: &[u8]) -> Self {
        Self::new(kind, NLM_F_REQUEST | NLM_F_ACK, family_header)
    }

    /// With an attribute more.
    #[must_use]
    pub fn attr(mut self, kind: u16, value: &[u8]) -> Self {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        // Every caller passes an address, a number or a name; the type of the field bounds it anyway.
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&value[..usize::from(length) - 4]);
        self.sealed()
    }

    fn sealed(mut self) -> Self {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// The bytes to send, with this sequence number.
    pub fn numbered(&self, sequence: u32) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}
