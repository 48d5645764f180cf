//! The registers in BAR 0.

use bitflags::bitflags;

/// A register, by its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    /// 0x00, read-only.
    Identification,
    /// 0x04: reads as the inverse of what was written.
    Liveness,
    /// 0x08: write n, read n!.
    Factorial,
    /// 0x20.
    Status,
    /// 0x24, read-only: the causes of interrupts not acknowledged yet.
    InterruptStatus,
    /// 0x60, write-only: sets causes, and raises the interrupt.
    InterruptRaise,
    /// 0x64, write-only: clears causes.
    InterruptAcknowledge,
    /// 0x80, 64 bits.
    DmaSource,
    /// 0x88, 64 bits.
    DmaDestination,
    /// 0x90, 64 bits: bytes.
    DmaCount,
    /// 0x98, 64 bits.
    DmaCommand,
}

impl Register {
    /// The register that an access of `len` bytes at `offset` names: 4 bytes below 0x80, 4 or 8
    /// from there on.
    pub(super) fn at(offset: u64, len: usize) -> Option<Self> {
        if len != 4 && !(len == 8 && offset >= 0x80) {
            return None;
        }
        Some(match offset {
            0x00 => Self::Identification,
            0x04 => Self::Liveness,
            0x08 => Self::Factorial,
            0x20 => Self::Status,
            0x24 => Self::InterruptStatus,
            0x60 => Self::InterruptRaise,
            0x64 => Self::InterruptAcknowledge,
            0x80 => Self::DmaSource,
            0x88 => Self::DmaDestination,
            0x90 => Self::DmaCount,
            0x98 => Self::DmaCommand,
            _ => return None,
        })
    }
}

bitflags! {
    /// The status register. Bit 0, "computing", never reads as set: the factorial is there when
    /// the write returns.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Status: u32 {
        /// Raise an interrupt after a factorial.
        const INTERRUPT = 0x80;
    }
}

bitflags! {
    /// The DMA command register.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(super) struct Command: u64 {
        /// Begin; reads as set while the transfer runs.
        const START = 1;
        /// From the buffer to memory, rather than the other way.
        const TO_MEMORY = 1 << 1;
        /// Raise an interrupt at the end.
        const INTERRUPT = 1 << 2;
    }
}
