//! Two ways to a packet's bytes: straight from the socket buffer, and from a copy of its first bytes.

use core::marker::PhantomData;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_skb_load_bytes};
use aya_ebpf::programs::TcContext;
use verifier_ebpf::bytes::{Bytes, View};
use verifier_ebpf::checksum::{ChecksumState, fold, with_sum, without_sum};
use verifier_ebpf::parse::{Found, WINDOW_BYTES};

/// The longest transport whose checksum a tap sums up.
pub const SEGMENT_BYTES: usize = 512;

/// Room for copies, one on each CPU.
#[repr(C, align(8))]
pub struct Scratch {
    /// A packet's first bytes.
    pub window: [u8; WINDOW_BYTES],
    /// Its transport.
    pub segment: [u8; SEGMENT_BYTES],
    /// Where a number is put down and taken up again: see [`Bytes::forgotten`].
    pub number: u64,
}

/// A mask that leaves every offset into a window as it is, and keeps any other within the [`Scratch`] around it.
const OFFSETS: usize = 0x1ff;
const _: () = assert!(WINDOW_BYTES <= OFFSETS && OFFSETS + 64 <= size_of::<Scratch>());

/// The linear part of a socket buffer, read in place.
#[derive(Clone, Copy)]
pub struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    /// Of the packet of a classifier.
    #[inline(always)]
    pub fn of(ctx: &TcContext) -> Self {
        Self {
            start: ctx.data(),
            end: ctx.data_end(),
        }
    }
}

impl Bytes for Linear {
    type View<'a, const N: usize> = InPlace<'a, N>;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<InPlace<'_, N>> {
        let at = self.start + offset;
        if at + N > self.end {
            return None;
        }
        Some(InPlace { at, lifetime: PhantomData })
    }
}

/// `N` bytes of a packet in place.
#[derive(Clone, Copy)]
pub struct InPlace<'a, const N: usize> {
    at: usize,
    lifetime: PhantomData<&'a [u8; N]>,
}

impl<const N: usize> View for InPlace<'_, N> {
    #[inline(always)]
    fn byte(self, at: usize) -> u8 {
        // SAFETY: `Linear::view` checked that `N` bytes are there, and callers stay within; the kernel's verifier proves it again.
        unsafe { *((self.at + at) as *const u8) }
    }

    #[inline(always)]
    fn be16(self, at: usize) -> u16 {
        // SAFETY: as in `byte`. A plain load: this machine has no alignment of packet data, and the compiler would otherwise load bytes.
        u16::from_be(unsafe { *((self.at + at) as *const u16) })
    }

    #[inline(always)]
    fn be32(self, at: usize) -> u32 {
        // SAFETY: as in `be16`.
        u32::from_be(unsafe { *((self.at + at) as *const u32) })
    }

    #[inline(always)]
    fn be64(self, at: usize) -> u64 {
        // SAFETY: as in `be16`.
        u64::from_be(unsafe { *((self.at + at) as *const u64) })
    }

    #[inline(always)]
    fn copy<const M: usize>(self, at: usize) -> [u8; M] {
        // SAFETY: as in `byte`; an array of bytes has no alignment.
        unsafe { *((self.at + at) as *const [u8; M]) }
    }
}

/// A copy of a packet's first bytes in a map.
pub struct Window {
    start: *const u8,
    length: usize,
    number: *mut u64,
}

impl Window {
    /// Copies up to [`WINDOW_BYTES`] of a classifier's packet.
    #[inline(always)]
    pub fn copy_of(ctx: &TcContext, scratch: *mut Scratch) -> Option<Self> {
        let length = bounded((ctx.len() as usize).min(WINDOW_BYTES), WINDOW_BYTES)?;
        // SAFETY: `scratch` is a valid map value of this CPU, and the length is within its window.
        let start = unsafe { (&raw mut (*scratch).window).cast::<u8>() };
        // SAFETY: the helper writes `length` bytes at `start`, or fails.
        let failed = unsafe { bpf_skb_load_bytes(ctx.as_ptr(), 0, start.cast(), length as u32) };
        // SAFETY: only an address within the map's value.
        let number = unsafe { &raw mut (*scratch).number };
        (failed == 0).then_some(Self { start, length, number })
    }

    /// Bytes that stand in a window already.
    ///
    /// # Safety
    /// `scratch` is a valid map value whose first `length` window bytes are set; `length` is at most [`WINDOW_BYTES`].
    #[inline(always)]
    pub unsafe fn filled(scratch: *mut Scratch, length: usize) -> Self {
        // SAFETY: only an address within the map's value.
        let (start, number) = unsafe { ((&raw const (*scratch).window).cast(), &raw mut (*scratch).number) };
        Self { start, length, number }
    }
}

impl Bytes for Window {
    type View<'a, const N: usize> = InPlace<'a, N>;

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<InPlace<'_, N>> {
        // Two checks: the packet's own length, and the constant one that the kernel's verifier needs.
        if offset > WINDOW_BYTES - N || offset + N > self.length {
            return None;
        }
        // And a third for a verifier that forgets what it learned of a number when it is read back from the stack (6.1): the compiler
        // may not conclude that this changes nothing.
        Some(InPlace {
            at: self.start as usize + (core::hint::black_box(offset) & OFFSETS),
            lifetime: PhantomData,
        })
    }

    #[inline(always)]
    fn forgotten(&self, value: u64) -> u64 {
        // SAFETY: a place in this CPU's map value. The kernel's verifier does not track what a map holds.
        unsafe {
            self.number.write_volatile(value);
            self.number.read_volatile()
        }
    }
}

/// `value` if it is neither zero nor more than `limit`, in a form that every kernel's verifier follows: before 6.8 it learned
/// nothing from a comparison with zero, so one comparison of `value - 1`, without a sign, bounds both ends. The compiler may not fold
/// it into an earlier one of another form, nor conclude from it that a later one (of [`Window`]) always holds.
#[inline(always)]
pub fn bounded(value: usize, limit: usize) -> Option<usize> {
    let less_one = core::hint::black_box(value.wrapping_sub(1));
    if less_one >= limit {
        return None;
    }
    Some(core::hint::black_box(less_one + 1))
}

/// The state of a probe's transport checksum.
#[inline(always)]
pub fn checksum(ctx: &TcContext, scratch: *mut Scratch, found: &Found) -> ChecksumState {
    if let Some(state) = without_sum(found.transport, found.pseudo, found.field) {
        return state;
    }
    if found.fragmented || found.transport_length < 8 {
        return ChecksumState::Unchecked;
    }
    let Some(length) = bounded(usize::from(found.transport_length), SEGMENT_BYTES - 4) else {
        return ChecksumState::Unchecked;
    };
    // SAFETY: `scratch` is a valid map value of this CPU.
    let segment = unsafe { (&raw mut (*scratch).segment).cast::<u8>() };
    // The helper sums whole words: the last one must not hold what an earlier packet left. At least 8 and at most `SEGMENT_BYTES`.
    let words = (length + 3) & !3;
    // SAFETY: the last word before `words`.
    unsafe { *segment.add(words).cast::<u32>().sub(1) = 0 };
    // SAFETY: the helper writes `length` bytes at `segment`, or fails; then it sums `words` of them.
    let sum = unsafe {
        if bpf_skb_load_bytes(ctx.as_ptr(), found.transport_at as u32, segment.cast(), length as u32) != 0 {
            return ChecksumState::Unchecked;
        }
        bpf_csum_diff(core::ptr::null_mut(), 0, segment.cast(), words as u32, 0)
    };
    if sum < 0 {
        return ChecksumState::Unchecked;
    }
    // The helper sums in the machine's byte order; a one's complement sum is swapped by swapping its result (RFC 1071, 2B).
    with_sum(found.transport, found.pseudo, fold(sum as u32).swap_bytes())
}
