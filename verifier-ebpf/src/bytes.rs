//! How a parser reads a packet it does not own: bounded, and wherever the packet lies.
//!
//! On the host a packet is a slice. In the kernel it is the linear part of a socket buffer (`data..data_end`) or a copy of
//! its first bytes in a per-CPU buffer. The parsers are written once, over [`Bytes`]. A read has two steps, as the kernel's
//! verifier wants it: one check that `N` bytes are there gives a [`View`], whose fields then cost nothing but the load.

/// Bounded reads from a packet.
pub trait Bytes {
    /// `N` bytes known to be there.
    type View<'a, const N: usize>: View
    where
        Self: 'a;

    /// A view of `N` bytes at `offset`, or `None` when they are not all there.
    fn view<const N: usize>(&self, offset: usize) -> Option<Self::View<'_, N>>;

    /// A copy of `N` bytes at `offset`.
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.view::<N>(offset).map(|view| view.copy(0))
    }

    /// The same value, as if nobody knew how it came about. The kernel's verifier follows every way through a program apart for as long as
    /// it knows something else on each; where ways meet again, what it need not know is taken from it, and it follows them as one.
    #[inline(always)]
    fn forgotten(&self, value: u64) -> u64 {
        value
    }
}

/// Bytes that are known to be there. The caller's offsets are constants that lie within.
pub trait View: Copy {
    /// The byte at `at`.
    fn byte(self, at: usize) -> u8;
    /// Big-endian 16 bits at `at`.
    fn be16(self, at: usize) -> u16;
    /// Big-endian 32 bits at `at`.
    fn be32(self, at: usize) -> u32;
    /// Big-endian 64 bits at `at`.
    fn be64(self, at: usize) -> u64;
    /// A copy of `M` bytes at `at`.
    fn copy<const M: usize>(self, at: usize) -> [u8; M];
}

impl Bytes for [u8] {
    type View<'a, const N: usize> = &'a [u8; N];

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..)?.first_chunk::<N>()
    }
}

impl<const N: usize> View for &[u8; N] {
    #[inline(always)]
    fn byte(self, at: usize) -> u8 {
        self[at]
    }

    #[inline(always)]
    fn be16(self, at: usize) -> u16 {
        be16(self, at)
    }

    #[inline(always)]
    fn be32(self, at: usize) -> u32 {
        be32(self, at)
    }

    #[inline(always)]
    fn be64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.copy(at))
    }

    #[inline(always)]
    fn copy<const M: usize>(self, at: usize) -> [u8; M] {
        let mut copied = [0; M];
        let mut i = 0;
        while i < M {
            copied[i] = self[at + i];
            i += 1;
        }
        copied
    }
}

/// Big-endian 16 bits at a fixed place of a header that was read whole.
#[inline(always)]
pub const fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// Big-endian 32 bits at a fixed place of a header that was read whole.
#[inline(always)]
pub const fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Big-endian 64 bits at a fixed place of a header that was read whole.
#[inline(always)]
pub const fn be64<const N: usize>(header: &[u8; N], at: usize) -> u64 {
    (be32(header, at) as u64) << 32 | be32(header, at + 4) as u64
}
