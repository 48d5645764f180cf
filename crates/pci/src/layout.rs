//! A config space as its builder leaves it.

use std::fmt;

use crate::registers::CONFIG_SPACE_SIZE;
use crate::{Bar, MsixLayout, PortKind};

/// The bytes of a config space.
pub(crate) type Bytes = [u8; CONFIG_SPACE_SIZE as usize];

/// The contents at power-on, and the bits that software may write.
pub(crate) struct Image {
    pub(crate) values: Box<Bytes>,
    pub(crate) writable: Box<Bytes>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            values: Box::new([0; CONFIG_SPACE_SIZE as usize]),
            writable: Box::new([0; CONFIG_SPACE_SIZE as usize]),
        }
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").finish_non_exhaustive()
    }
}

impl Image {
    /// Sets power-on bits; those set before stay. The builder has checked the range.
    pub(crate) fn put(&mut self, offset: u16, bytes: &[u8]) {
        for (slot, byte) in self.values[usize::from(offset)..].iter_mut().zip(bytes) {
            *slot |= byte;
        }
    }

    /// Makes bits writable.
    pub(crate) fn allow(&mut self, offset: u16, mask: &[u8]) {
        for (slot, byte) in self.writable[usize::from(offset)..].iter_mut().zip(mask) {
            *slot |= byte;
        }
    }
}

/// Where things are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Layout {
    pub(crate) bridge: bool,
    pub(crate) bars: [Option<Bar>; 6],
    pub(crate) pcie: Option<u16>,
    pub(crate) kind: Option<PortKind>,
    pub(crate) function_reset: bool,
    pub(crate) msi: Option<u16>,
    pub(crate) msix: Option<u16>,
    pub(crate) msix_layout: Option<MsixLayout>,
    pub(crate) acs: Option<u16>,
}
