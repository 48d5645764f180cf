//! Interrupt requests and the interrupt remapping table (sections 5.1 and 9.9).

use bitfield_struct::bitfield;

use crate::vtd::FaultReason;
use crate::{DeliveryMode, DestinationMode, Interrupt, MsiMessage, RequesterId, TriggerMode};

/// The lower half of the address of an interrupt request in remappable format
/// (section 5.1.2.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct RemappableAddress {
    #[bits(2)]
    _ignored0: u8,
    /// Bit 15 of the handle.
    #[bits(1)]
    handle_high: u16,
    /// SHV: the data holds a subhandle, which is added to the handle.
    pub subhandle_valid: bool,
    /// Interrupt format: set for remappable, clear for compatibility format.
    pub remappable: bool,
    /// Bits 14:0 of the handle.
    #[bits(15)]
    handle_low: u16,
    /// 0xfee.
    #[bits(12)]
    pub prefix: u16,
}

impl RemappableAddress {
    /// The handle, 16 bits.
    pub const fn handle(self) -> u16 {
        self.handle_high() << 15 | self.handle_low()
    }

    /// The same with another handle.
    pub const fn with_handle(self, handle: u16) -> Self {
        self.with_handle_high(handle >> 15)
            .with_handle_low(handle & 0x7fff)
    }
}

/// An interrupt request, told apart by its format (section 5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptRequest {
    /// Compatibility format.
    Compatibility,
    /// Remappable format: the entry with this index, which may be 65536 or more if handle and
    /// subhandle add up to it.
    Remappable {
        /// Handle, plus subhandle if valid.
        index: u32,
    },
}

impl InterruptRequest {
    /// Decodes a message; the upper half of its address is not looked at.
    ///
    /// # Errors
    /// [`FaultReason::IrRequestReserved`] if bits 31:16 of the data are not zero in remappable
    /// format.
    pub const fn decode(message: MsiMessage) -> Result<Self, FaultReason> {
        let address = RemappableAddress::from_bits(message.address as u32);
        if !address.remappable() {
            return Ok(Self::Compatibility);
        }
        if message.data >> 16 != 0 {
            return Err(FaultReason::IrRequestReserved);
        }
        let subhandle = if address.subhandle_valid() {
            message.data
        } else {
            0
        };
        Ok(Self::Remappable {
            index: address.handle() as u32 + subhandle,
        })
    }
}

/// An interrupt remapping table entry for remapped interrupts (section 9.9), 128 bits.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct Irte {
    /// P: present.
    pub present: bool,
    /// FPD: faults that this entry causes are not recorded.
    pub fault_processing_disable: bool,
    /// DM: the destination is logical.
    pub logical: bool,
    /// RH: one of the listed processors is chosen.
    pub redirection_hint: bool,
    /// TM: level-triggered.
    pub level: bool,
    /// DLM, 3 bits: delivery mode.
    #[bits(3)]
    pub delivery_mode: u8,
    /// AVAIL, 4 bits: software's.
    #[bits(4)]
    pub available: u8,
    #[bits(3)]
    reserved12: u8,
    /// IM: the entry is in posted format; reserved without CAP.PI.
    pub posted: bool,
    /// V, 8 bits: the vector.
    pub vector: u8,
    #[bits(8)]
    reserved24: u8,
    /// DST, 32 bits: the destination. Without EIME it stands in bits 15:8, and the others are
    /// reserved.
    pub destination: u32,
    /// SID, 16 bits: the requester to verify.
    pub source: u16,
    /// SQ, 2 bits: how many of function bits 2, 2:1 or 2:0 are ignored.
    #[bits(2)]
    pub source_qualifier: u8,
    /// SVT, 2 bits: 0 verifies nothing, 1 the requester, 2 its bus number.
    #[bits(2)]
    pub source_validation: u8,
    #[bits(44)]
    reserved84: u64,
}

impl Irte {
    /// The entry whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// The same with `destination` where the mode has it: 32 bits if `extended` (EIME), else
    /// 8 bits.
    pub const fn with_destination_for(self, destination: u32, extended: bool) -> Self {
        self.with_destination(if extended {
            destination
        } else {
            (destination & 0xff) << 8
        })
    }

    /// The interrupt for a request from anybody, once the entry proved valid; `extended` is EIME.
    /// Whether the requester may use the entry is for [`verify`](Self::verify) to say.
    ///
    /// # Errors
    /// [`FaultReason::IrEntryNotPresent`] and [`FaultReason::IrEntryReserved`], the latter also
    /// for the posted format, which no unit here supports.
    pub const fn check(self, extended: bool) -> Result<Interrupt, FaultReason> {
        if !self.present() {
            return Err(FaultReason::IrEntryNotPresent);
        }
        let destination = self.destination();
        if self.reserved12() != 0
            || self.posted()
            || self.reserved24() != 0
            || self.reserved84() != 0
            || !extended && destination & !0xff00 != 0
        {
            return Err(FaultReason::IrEntryReserved);
        }
        Ok(Interrupt {
            destination: if extended {
                destination
            } else {
                destination >> 8
            },
            destination_mode: if self.logical() {
                DestinationMode::Logical
            } else {
                DestinationMode::Physical
            },
            redirection_hint: self.redirection_hint(),
            delivery_mode: DeliveryMode::from_bits(self.delivery_mode()),
            vector: self.vector(),
            trigger_mode: if self.level() {
                TriggerMode::Level
            } else {
                TriggerMode::Edge
            },
        })
    }

    /// Verifies that `requester` may use the entry (SVT, SQ and SID).
    ///
    /// # Errors
    /// [`FaultReason::IrSourceInvalid`], also for the reserved SVT encoding.
    pub const fn verify(self, requester: RequesterId) -> Result<(), FaultReason> {
        let valid = match self.source_validation() {
            0 => true,
            1 => {
                let ignored = match self.source_qualifier() {
                    0 => 0,
                    1 => 0b100,
                    2 => 0b110,
                    _ => 0b111,
                };
                (requester.source_id() ^ self.source()) & !ignored == 0
            }
            2 => {
                let [first, last] = self.source().to_be_bytes();
                first <= requester.bus() && requester.bus() <= last
            }
            _ => false,
        };
        if valid {
            Ok(())
        } else {
            Err(FaultReason::IrSourceInvalid)
        }
    }
}
