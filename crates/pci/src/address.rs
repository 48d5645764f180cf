//! Places in the tree: independent of the bus numbers that software assigns.

use std::fmt;

use serde::Serialize;

/// Device and function number within a bus, `device << 3 | function`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevFn(u8);

impl DevFn {
    /// Composes a place; `None` if `device` is above 31 or `function` above 7.
    pub const fn new(device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        Some(Self(device << 3 | function))
    }

    /// The inverse of [`raw`](Self::raw).
    pub const fn from_raw(raw: u8) -> Self {
        Self(raw)
    }

    /// `device << 3 | function`.
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Device number, 0 to 31.
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// Function number, 0 to 7.
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

impl fmt::Display for DevFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}.{}", self.device(), self.function())
    }
}

/// A bus of a fabric, by the order of creation; its number is what software makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusId(pub(crate) usize);

impl BusId {
    /// The bus of the host bridge, always number 0.
    pub const ROOT: Self = Self(0);
}

/// A function of a fabric, by the order in which it was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FunctionId(pub(crate) usize);

impl FunctionId {
    /// Its number in the order of addition; the host bridge is 0.
    pub const fn index(self) -> usize {
        self.0
    }
}
