//! Interrupts: the message that a function writes, and what a processor's APIC accepts.

use core::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::Iova;

/// The interrupt address range: a doubleword write here, untranslated and without PASID, is an
/// interrupt and never reaches memory.
pub const MSI_WINDOW: RangeInclusive<Iova> = Iova(0xfee0_0000)..=Iova(0xfeef_ffff);

/// A message-signalled interrupt as written to the bus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MsiMessage {
    /// Address, 64 bits: 0xFEEx_xxxx in the lower half; the upper half carries the upper
    /// destination bits where a unit's own registers write it.
    pub address: u64,
    /// Data, 32 bits.
    pub data: u32,
}

/// How an interrupt is delivered: bits 10:8 of an MSI's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum DeliveryMode {
    /// The vector to all listed processors.
    #[default]
    Fixed = 0,
    /// The vector to the processor with the lowest priority.
    LowestPriority = 1,
    /// System management interrupt.
    Smi = 2,
    /// Reserved.
    Reserved3 = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Reserved.
    Reserved6 = 6,
    /// As from an external 8259 controller.
    ExtInt = 7,
}

impl DeliveryMode {
    /// Decodes the lower three bits of `bits`.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved3,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Reserved6,
            _ => Self::ExtInt,
        }
    }
}

/// What the destination of an interrupt names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DestinationMode {
    /// A processor's APIC ID.
    #[default]
    Physical,
    /// A set, by logical APIC IDs.
    Logical,
}

/// Edge or level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TriggerMode {
    /// Edge.
    #[default]
    Edge,
    /// Level; the APIC's end-of-interrupt is broadcast.
    Level,
}

/// An interrupt after remapping: what the processors' APICs receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interrupt {
    /// Destination, 32 bits: an x2APIC ID, or an 8-bit APIC ID in the lower byte.
    pub destination: u32,
    /// What the destination names.
    pub destination_mode: DestinationMode,
    /// Whether one of the listed processors is chosen instead of all.
    pub redirection_hint: bool,
    /// How it is delivered.
    pub delivery_mode: DeliveryMode,
    /// The vector.
    pub vector: u8,
    /// Edge or level.
    pub trigger_mode: TriggerMode,
}

impl Interrupt {
    /// Decodes a message in compatibility format (Intel SDM vol. 3, 11.11, "Message Signalled
    /// Interrupts"). The destination is bits 19:12 of the address with, above them, bits 63:40:
    /// the upper half is zero in what a device writes, and holds destination bits 31:8 in what a
    /// unit's own upper address registers hold.
    pub const fn from_compatibility(message: MsiMessage) -> Self {
        let upper = (message.address >> 32) as u32 & 0xffff_ff00;
        Self {
            destination: upper | (message.address >> 12) as u8 as u32,
            destination_mode: if message.address & 1 << 2 != 0 {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            redirection_hint: message.address & 1 << 3 != 0,
            delivery_mode: DeliveryMode::from_bits((message.data >> 8) as u8),
            vector: message.data as u8,
            trigger_mode: if message.data & 1 << 15 != 0 {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
        }
    }

    /// The inverse of [`from_compatibility`](Self::from_compatibility), the level asserted:
    /// destination bits 31:8 stand in bits 63:40 of the address, which is also how KVM takes
    /// 32-bit destinations.
    pub const fn to_compatibility(self) -> MsiMessage {
        let mut address = 0xfee0_0000 | (self.destination as u64 & 0xff) << 12;
        address |= ((self.destination & 0xffff_ff00) as u64) << 32;
        if matches!(self.destination_mode, DestinationMode::Logical) {
            address |= 1 << 2;
        }
        if self.redirection_hint {
            address |= 1 << 3;
        }
        let mut data = self.vector as u32 | (self.delivery_mode as u32) << 8;
        if matches!(self.trigger_mode, TriggerMode::Level) {
            data |= 1 << 15 | 1 << 14;
        }
        MsiMessage { address, data }
    }
}
