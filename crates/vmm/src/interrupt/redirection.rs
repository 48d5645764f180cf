//! One entry of the I/O APIC's redirection table (82093AA datasheet, 3.2.4; VT-d 3.x, 5.1.5.1
//! for the remappable format).

use vm_iommu_spec::{MSI_WINDOW, MsiMessage, TriggerMode};

/// Delivery status and remote IRR are the I/O APIC's own; bits 47:17 are reserved.
const WRITABLE: u64 = 0xffff_0000_0001_afff;
const LOGICAL: u64 = 1 << 11;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;

/// One entry of the redirection table, as its 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirection(u64);

impl Default for Redirection {
    fn default() -> Self {
        Self(MASKED)
    }
}

impl Redirection {
    /// The entry's 64 bits.
    pub fn raw(self) -> u64 {
        self.0
    }

    /// Writes half of the entry: the lower doubleword, or the upper one. An edge-triggered
    /// entry awaits no end of interrupt.
    pub fn write_half(&mut self, upper: bool, value: u32) {
        let shift = if upper { 32 } else { 0 };
        let writable = WRITABLE & 0xffff_ffff << shift;
        self.0 = self.0 & !writable | u64::from(value) << shift & writable;
        if self.trigger() == TriggerMode::Edge {
            self.set_remote_irr(false);
        }
    }

    /// The vector field, which an end of interrupt names. In the remappable format it need not
    /// be the vector that a processor sees.
    pub fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Edge or level.
    pub fn trigger(self) -> TriggerMode {
        if self.0 & LEVEL != 0 {
            TriggerMode::Level
        } else {
            TriggerMode::Edge
        }
    }

    /// Whether the pin is masked.
    pub fn is_masked(self) -> bool {
        self.0 & MASKED != 0
    }

    /// Whether a level-triggered interrupt was accepted and has not ended.
    pub fn remote_irr(self) -> bool {
        self.0 & REMOTE_IRR != 0
    }

    pub(super) fn set_remote_irr(&mut self, value: bool) {
        if value {
            self.0 |= REMOTE_IRR;
        } else {
            self.0 &= !REMOTE_IRR;
        }
    }

    /// The message that the entry sends. The same bits make it in both formats: bits 63:48 become
    /// address bits 19:4 (destination and its extension, or interrupt index 14:0 and the format
    /// bit), bit 11 address bit 2 (destination mode, or interrupt index 15).
    pub fn message(self) -> MsiMessage {
        let mut address = MSI_WINDOW.start().0 | self.0 >> 48 << 4;
        if self.0 & LOGICAL != 0 {
            address |= 1 << 2;
        }
        let mut data = self.0 as u32 & 0x7ff;
        if self.trigger() == TriggerMode::Level {
            // Level-triggered, asserted.
            data |= 1 << 15 | 1 << 14;
        }
        MsiMessage { address, data }
    }
}
