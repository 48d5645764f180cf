//! Addresses: what a device issues and what a unit makes of it.

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `bytes` further, or `None` if that passes 2^64.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The last byte of the `len` bytes that begin here; `None` if `len` is 0 or the
            /// range passes 2^64. A range may end on the last byte of the address space.
            pub const fn last_byte(self, len: u64) -> Option<Self> {
                match len.checked_sub(1) {
                    Some(reach) => self.checked_add(reach),
                    None => None,
                }
            }

            /// The address with the bits below `size`, a power of two in bytes, cleared.
            pub const fn align_down(self, size: u64) -> Self {
                Self(self.0 & !(size - 1))
            }

            /// The bits below `size`, a power of two in bytes.
            pub const fn offset_in(self, size: u64) -> u64 {
                self.0 & (size - 1)
            }

            /// Whether the address is a multiple of `size`, a power of two in bytes.
            pub const fn is_aligned(self, size: u64) -> bool {
                self.offset_in(size) == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl From<u64> for $name {
            fn from(raw: u64) -> Self {
                Self(raw)
            }
        }

        impl From<$name> for u64 {
            fn from(address: $name) -> Self {
                address.0
            }
        }
    };
}

address! {
    /// An I/O virtual address in bytes: what a device puts on the bus, before translation.
    Iova
}

address! {
    /// A physical address in bytes as a unit sees it: where its tables and queues live, and what
    /// a translation yields. For an emulated unit it is a guest physical address.
    PhysAddr
}
