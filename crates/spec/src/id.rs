//! Identifiers: who issues a request, and on behalf of which address space.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Who issues a request: segment (16 bits), bus (8), device (5) and function (3) of a PCI
/// function, packed as `segment << 16 | bus << 8 | device << 3 | function`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequesterId(u32);

impl RequesterId {
    /// Composes an identifier; `None` if `device` is above 31 or `function` above 7.
    pub const fn new(segment: u16, bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self::from_devfn(segment, bus, device << 3 | function))
    }

    /// Composes an identifier from a combined device and function number
    /// (`device << 3 | function`), as specifications write it.
    pub const fn from_devfn(segment: u16, bus: u8, devfn: u8) -> Self {
        Self((segment as u32) << 16 | (bus as u32) << 8 | devfn as u32)
    }

    /// Composes an identifier from a segment and the 16-bit source id of tables and descriptors.
    pub const fn from_source_id(segment: u16, source_id: u16) -> Self {
        Self((segment as u32) << 16 | source_id as u32)
    }

    /// The packed form described at the type.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The inverse of [`raw`](Self::raw).
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// PCI segment group.
    pub const fn segment(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 as u8 & 7
    }

    /// Device and function number combined: `device << 3 | function`.
    pub const fn devfn(self) -> u8 {
        self.0 as u8
    }

    /// The 16-bit source id: bus, device and function without the segment.
    pub const fn source_id(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Display for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:04x}:{:02x}:{:02x}.{}",
            self.segment(),
            self.bus(),
            self.device(),
            self.function()
        )
    }
}

impl fmt::Debug for RequesterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequesterId({self})")
    }
}

/// A process address space identifier, 20 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pasid(u32);

impl Pasid {
    /// The largest identifier, 2^20 - 1.
    pub const MAX: Self = Self((1 << 20) - 1);

    /// An identifier; `None` above [`MAX`](Self::MAX).
    pub const fn new(raw: u32) -> Option<Self> {
        if raw <= Self::MAX.0 {
            Some(Self(raw))
        } else {
            None
        }
    }

    /// The number.
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Pasid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A domain identifier: how a guest's driver tags the translations that it may invalidate
/// together. 16 bits in both vendors' tables.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct DomainId(pub u16);

impl fmt::Display for DomainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
