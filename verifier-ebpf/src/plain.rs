//! Structures that cross the border between kernel and user space as bytes.
//!
//! [`plain!`](crate::plain!) declares a `repr(C)` structure, proves at compile time that it has no padding (so that no
//! uninitialised byte leaves the kernel, and both sides see one layout), and writes the safe conversions, so that user
//! space needs no `unsafe` view of memory. Integers are in host order: both sides run on one machine.

/// A field whose bytes are all meaningful, for every bit pattern.
pub trait Field: Copy {
    /// The field with all bytes zero.
    const ZERO: Self;
    /// Copies the field into `to`, which has its size.
    fn put(&self, to: &mut [u8]);
    /// Reads the field from `from`, which has its size.
    fn take(from: &[u8]) -> Self;
}

macro_rules! integer_field {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            const ZERO: Self = 0;

            fn put(&self, to: &mut [u8]) {
                copy(&self.to_ne_bytes(), to);
            }

            fn take(from: &[u8]) -> Self {
                let mut bytes = [0; size_of::<Self>()];
                copy(from, &mut bytes);
                Self::from_ne_bytes(bytes)
            }
        }
    )*};
}
integer_field!(u8, u16, u32, u64);

impl<T: Field, const N: usize> Field for [T; N] {
    const ZERO: Self = [T::ZERO; N];

    fn put(&self, to: &mut [u8]) {
        for (item, place) in self.iter().zip(to.chunks_mut(size_of::<T>())) {
            item.put(place);
        }
    }

    fn take(from: &[u8]) -> Self {
        let mut items = Self::ZERO;
        for (item, bytes) in items.iter_mut().zip(from.chunks(size_of::<T>())) {
            *item = T::take(bytes);
        }
        items
    }
}

fn copy(from: &[u8], to: &mut [u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Bytes that are not one of our structures: another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeMismatch {
    /// The structure's size.
    pub expected_bytes: usize,
    /// What was handed in.
    pub got_bytes: usize,
}

impl core::fmt::Display for SizeMismatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} bytes where {} were expected", self.got_bytes, self.expected_bytes)
    }
}

impl core::error::Error for SizeMismatch {}

/// Declares a structure as described in [this module](crate::plain).
#[macro_export]
macro_rules! plain {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $name {
            /// Size in bytes, the same on both sides.
            pub const SIZE: usize = 0 $(+ size_of::<$type>())*;

            /// All bytes as they stand in memory.
            pub fn to_bytes(self) -> [u8; $name::SIZE] {
                let mut bytes = [0; $name::SIZE];
                $crate::plain::Field::put(&self, &mut bytes);
                bytes
            }

            /// Reads the structure from exactly [`Self::SIZE`] bytes.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, $crate::plain::SizeMismatch> {
                if bytes.len() == $name::SIZE {
                    Ok($crate::plain::Field::take(bytes))
                } else {
                    Err($crate::plain::SizeMismatch { expected_bytes: $name::SIZE, got_bytes: bytes.len() })
                }
            }
        }

        impl $crate::plain::Field for $name {
            const ZERO: Self = Self { $($field: <$type as $crate::plain::Field>::ZERO,)* };

            fn put(&self, to: &mut [u8]) {
                let mut at = 0;
                $(
                    if let Some(place) = to.get_mut(at..at + size_of::<$type>()) {
                        self.$field.put(place);
                    }
                    at += size_of::<$type>();
                )*
                debug_assert_eq!(at, Self::SIZE);
            }

            fn take(from: &[u8]) -> Self {
                let mut at = 0;
                $(
                    let $field = match from.get(at..at + size_of::<$type>()) {
                        Some(bytes) => <$type as $crate::plain::Field>::take(bytes),
                        None => <$type as $crate::plain::Field>::ZERO,
                    };
                    at += size_of::<$type>();
                )*
                debug_assert_eq!(at, Self::SIZE);
                Self { $($field,)* }
            }
        }

        const _: () = assert!(size_of::<$name>() == $name::SIZE, "padding in a structure that crosses the border");
    };
}

#[cfg(test)]
mod tests {
    use super::Field;

    plain! {
        /// Only to be converted.
        pub struct Sample {
            /// a
            pub a: u64,
            /// b
            pub b: [u8; 6],
            /// c
            pub c: u16,
            /// d
            pub d: [u32; 2],
        }
    }

    #[test]
    fn bytes_and_structure_convert_both_ways() {
        let sample = Sample {
            a: 1 << 40,
            b: [1, 2, 3, 4, 5, 6],
            c: 7,
            d: [8, 9],
        };
        assert_eq!(Sample::SIZE, 24);
        assert_eq!(Sample::from_bytes(&sample.to_bytes()), Ok(sample));
        assert_eq!(Sample::from_bytes(&[0; 24]), Ok(Sample::ZERO));
        assert!(Sample::from_bytes(&[0; 23]).is_err());
    }
}
