//! Base address registers: what a function decodes, and where.

use serde::Serialize;

/// Which address space a range belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Decode {
    /// Memory, 64-bit addresses.
    Memory,
    /// I/O ports, 16-bit addresses.
    Io,
}

/// One base address register as a function declares it. Sizes are powers of two in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Memory below 4 GiB, at least 16 bytes.
    Memory32 {
        /// Size in bytes.
        size: u32,
        /// Whether reads have no side effects.
        prefetchable: bool,
    },
    /// Memory anywhere, at least 16 bytes; occupies the next register too.
    Memory64 {
        /// Size in bytes.
        size: u64,
        /// Whether reads have no side effects; what lets it lie above 4 GiB behind a bridge.
        prefetchable: bool,
    },
    /// I/O ports, 4 to 256 bytes.
    Io {
        /// Size in bytes.
        size: u16,
    },
}

impl Bar {
    /// Size in bytes.
    pub const fn size(self) -> u64 {
        match self {
            Self::Memory32 { size, .. } => size as u64,
            Self::Memory64 { size, .. } => size,
            Self::Io { size } => size as u64,
        }
    }

    /// The address space.
    pub const fn decode(self) -> Decode {
        match self {
            Self::Io { .. } => Decode::Io,
            _ => Decode::Memory,
        }
    }

    /// Whether it takes two registers.
    pub const fn is_64_bit(self) -> bool {
        matches!(self, Self::Memory64 { .. })
    }

    /// Whether reads have no side effects.
    pub const fn is_prefetchable(self) -> bool {
        match self {
            Self::Memory32 { prefetchable, .. } | Self::Memory64 { prefetchable, .. } => {
                prefetchable
            }
            Self::Io { .. } => false,
        }
    }

    /// Whether the size is one that the register can express.
    pub(crate) const fn is_valid(self) -> bool {
        let size = self.size();
        size.is_power_of_two()
            && match self {
                Self::Io { .. } => size >= 4 && size <= 256,
                _ => size >= 16,
            }
    }

    /// The read-only low bits: PCI Local Bus 3.0, section 6.2.5.1.
    pub(crate) const fn type_bits(self) -> u8 {
        match self {
            Self::Io { .. } => 1,
            Self::Memory32 { prefetchable, .. } => (prefetchable as u8) << 3,
            Self::Memory64 { prefetchable, .. } => 0b100 | (prefetchable as u8) << 3,
        }
    }
}

/// One base address register as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarState {
    /// The register's index, 0 to 5.
    pub index: u8,
    /// What it is.
    pub bar: Bar,
    /// The address programmed.
    pub address: u64,
    /// Whether the command register enables its address space.
    pub enabled: bool,
}
