//! Which versions go together, as of a date. From the "System requirements" pages of Calico's documentation of each minor release, and
//! `felix/environment/feature_detect_linux.go` for kernels. A version that the
//! table does not have is not judged: 3.27, 3.28 and 3.30 are left out because their pages could not be compared.

/// When the table was last compared with its sources.
pub const AS_OF: &str = "2026-09";

/// The oldest kernel Felix accepts at all.
pub const KERNEL_FLOOR: (u16, u16) = (3, 10);
/// The oldest kernel of the eBPF dataplane.
pub const KERNEL_FLOOR_BPF: (u16, u16) = (5, 3);

/// One minor release of Calico.
#[derive(Clone, Copy, Debug)]
pub struct Calico {
    /// Its version.
    pub version: (u16, u16),
    /// Kubernetes minors it is tested with: the first and the last.
    pub kubernetes: ((u16, u16), (u16, u16)),
}

/// What goes together.
pub const SUPPORTED: &[Calico] = &[
    Calico {
        version: (3, 29),
        kubernetes: ((1, 29), (1, 32)),
    },
    Calico {
        version: (3, 31),
        kubernetes: ((1, 32), (1, 35)),
    },
    Calico {
        version: (3, 32),
        kubernetes: ((1, 34), (1, 36)),
    },
    Calico {
        version: (3, 33),
        kubernetes: ((1, 35), (1, 37)),
    },
];

/// `6.8.0-45-generic` as (6, 8).
pub fn kernel_version(release: &str) -> Option<(u16, u16)> {
    let mut parts = release.split(['.', '-', '+']);
    let major = parts.next().and_then(number)?;
    let minor = parts.next().and_then(number)?;
    Some((major, minor))
}

/// Digits as a number; anything else is no part of a version.
fn number(text: &str) -> Option<u16> {
    if text.is_empty() || text.len() > 4 {
        return None;
    }
    text.bytes()
        .try_fold(0_u16, |n, b| b.is_ascii_digit().then(|| n * 10 + u16::from(b - b'0')))
}
