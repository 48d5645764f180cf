//! Fault recording registers (section 11.4.7.6).

use bitfield_struct::bitfield;

use crate::vtd::FaultReason;
use crate::{Access, AddressType, DmaRequest, RequesterId};

/// A fault recording register, 128 bits.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct FaultRecord {
    #[bits(12)]
    __: u16,
    /// FI, 52 bits: the page of the request; for an interrupt request, its index in bits 51:36.
    #[bits(52)]
    pub information: u64,
    /// SID, 16 bits: the requester.
    pub source: u16,
    #[bits(12)]
    __: u16,
    /// T2: with [`read`](Self::read), an AtomicOp; without, a page request.
    pub type2: bool,
    /// PRIV: supervisor privilege was requested; meaningful with PP.
    pub privileged: bool,
    /// EXE: execute permission was requested; meaningful with PP.
    pub execute: bool,
    /// PP: the request had a PASID.
    pub pasid_present: bool,
    /// FR, 8 bits: a [`FaultReason`].
    pub reason: u8,
    /// PV, 20 bits: the PASID.
    #[bits(20)]
    pub pasid: u32,
    /// AT, 2 bits: 0 untranslated, 1 a translation request, 2 translated.
    #[bits(2)]
    pub address_type: u8,
    /// T1: set for reads (and AtomicOps), clear for writes.
    pub read: bool,
    /// F: the register holds a fault. Cleared by writing 1.
    pub fault: bool,
}

impl FaultRecord {
    /// The record of a refused memory request.
    pub const fn of_request(request: &DmaRequest, reason: FaultReason) -> Self {
        let record = Self::new()
            .with_information(request.address.0 >> 12)
            .with_source(request.requester.source_id())
            .with_type2(request.access.contains(Access::ATOMIC))
            .with_reason(reason.code())
            .with_address_type(match request.address_type {
                AddressType::Untranslated => 0,
                AddressType::TranslationRequest => 1,
                AddressType::Translated => 2,
            })
            .with_read(!request.access.writes() || request.access.contains(Access::ATOMIC))
            .with_fault(true);
        match request.pasid {
            None => record,
            Some(pasid) => record
                .with_pasid_present(true)
                .with_pasid(pasid.raw())
                .with_privileged(request.access.contains(Access::PRIVILEGED))
                .with_execute(request.access.contains(Access::EXECUTE)),
        }
    }

    /// The record of a refused interrupt request for the entry `index` of the table.
    pub const fn of_interrupt(requester: RequesterId, index: u16, reason: FaultReason) -> Self {
        Self::new()
            .with_information((index as u64) << 36)
            .with_source(requester.source_id())
            .with_reason(reason.code())
            .with_fault(true)
    }

    /// The record whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// The page of a memory request: the address with bits 11:0 clear.
    pub const fn page(self) -> u64 {
        self.information() << 12
    }

    /// The index of an interrupt request.
    pub const fn interrupt_index(self) -> u16 {
        (self.information() >> 36) as u16
    }

    /// The reason, if the encoding is known.
    pub const fn fault_reason(self) -> Option<FaultReason> {
        FaultReason::from_code(self.reason())
    }
}
