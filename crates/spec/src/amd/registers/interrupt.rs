//! The unit's own interrupts in x2APIC mode (MMIO offsets 0170h to 0180h), and what becomes of
//! page requests that find no room (2080h and 2088h).

use bitfield_struct::bitfield;

use crate::{DeliveryMode, DestinationMode, Interrupt, TriggerMode};

/// XT IOMMU General, PPR and GA Log Interrupt Control Registers.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct XtInterruptControl {
    #[bits(2)]
    __: u8,
    /// The destination is logical.
    pub logical: bool,
    #[bits(5)]
    __: u8,
    #[bits(24)]
    destination_low: u32,
    /// The vector.
    pub vector: u8,
    /// The delivery mode: fixed, or if set lowest priority.
    pub lowest_priority: bool,
    #[bits(15)]
    __: u16,
    #[bits(8)]
    destination_high: u32,
}

impl XtInterruptControl {
    /// The destination, 32 bits.
    pub const fn destination(self) -> u32 {
        self.destination_high() << 24 | self.destination_low()
    }

    /// The same with another destination.
    pub const fn with_destination(self, destination: u32) -> Self {
        self.with_destination_high(destination >> 24)
            .with_destination_low(destination & 0xff_ffff)
    }

    /// The interrupt.
    pub const fn interrupt(self) -> Interrupt {
        Interrupt {
            destination: self.destination(),
            destination_mode: if self.logical() {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            redirection_hint: self.lowest_priority(),
            delivery_mode: if self.lowest_priority() {
                DeliveryMode::LowestPriority
            } else {
                DeliveryMode::Fixed
            },
            vector: self.vector(),
            trigger_mode: TriggerMode::Edge,
        }
    }
}

/// PPR Log Auto Response Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PprAutoResponse {
    /// PprAutoRespCode, 4 bits: the response.
    #[bits(4)]
    pub code: u8,
    /// PprAutoRespMaskGn: responses carry no PASID.
    pub mask_guest: bool,
    #[bits(59)]
    __: u64,
}

/// PPR Log Overflow Early Indicator Register.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PprOverflowEarly {
    /// PprOvrflwEarlyThreshold, 15 bits: the number of entries from which on the log counts as
    /// nearly full.
    #[bits(15)]
    pub threshold: u16,
    #[bits(15)]
    __: u16,
    /// PprOvrflwEarlyIntEn.
    pub interrupt: bool,
    /// PprOvrflwEarlyEn.
    pub enable: bool,
    #[bits(32)]
    __: u32,
}
