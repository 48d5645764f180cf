//! Entries of the event log (section 2.5).

use core::fmt;

use bitfield_struct::bitfield;

use crate::amd::{EventCode, FaultReason};
use crate::{Access, AddressType, DmaRequest, DomainId, RequesterId};

/// An entry of the event log, 128 bits. Which fields a kind of event has is said at [`Event`];
/// the others are 0.
#[bitfield(u128)]
#[derive(PartialEq, Eq)]
pub struct EventEntry {
    /// DeviceID, 16 bits.
    pub device: u16,
    /// Bits 19:16 of the PASID. In INVALID_PPR_REQUEST, this and the next field hold its bits
    /// 15:0.
    #[bits(4)]
    pub pasid_high: u8,
    #[bits(12)]
    rest: u16,
    /// DomainID, or bits 15:0 of the PASID, 16 bits. In INVALID_PPR_REQUEST, the PPRTag and bits
    /// 19:16 of the PASID.
    pub domain_or_pasid: u16,
    /// GN: the address is a guest virtual address, and the PASID valid.
    pub guest: bool,
    /// NX: instructions are fetched. In INVALID_DEVICE_REQUEST, US.
    pub execute: bool,
    /// US: user privilege; read permission asked for in INVALID_PPR_REQUEST.
    pub user: bool,
    /// I: an interrupt request.
    pub interrupt: bool,
    /// PR: an entry was present.
    pub present: bool,
    /// RW: a write.
    pub write: bool,
    /// PE: permission is missing. In INVALID_PPR_REQUEST, US.
    pub permission: bool,
    /// RZ: a reserved bit was set.
    pub reserved_not_zero: bool,
    /// TR: a translation request.
    pub translation: bool,
    /// Type, 3 bits: of which a [`HardwareError`] has 2.
    #[bits(3)]
    pub kind: u8,
    /// EventCode, 4 bits.
    #[bits(4)]
    pub code: u8,
    /// Address, 64 bits.
    pub address: u64,
}

impl EventEntry {
    /// Size of an entry in bytes.
    pub const SIZE: u64 = 16;

    /// The fields that concern a memory request, but for the address.
    pub(super) const fn of(
        request: &DmaRequest,
        domain: Option<DomainId>,
        reason: FaultReason,
    ) -> Self {
        let entry = Self::new()
            .with_code(reason.code() as u8)
            .with_device(request.requester.source_id())
            .with_write(request.access.writes())
            .with_translation(matches!(
                request.address_type,
                AddressType::TranslationRequest
            ))
            .with_reserved_not_zero(reason.is_reserved_bit());
        let entry = match reason.code() {
            EventCode::IoPageFault => entry
                .with_present(reason.is_present())
                .with_permission(reason.is_permission()),
            _ => entry,
        };
        match (request.pasid, reason.code()) {
            (_, EventCode::DeviceTableHardwareError) => entry,
            (Some(pasid), _) => entry
                .with_guest(true)
                .with_pasid_high((pasid.raw() >> 16) as u8 & 0xf)
                .with_domain_or_pasid(pasid.raw() as u16)
                .with_execute(request.access.contains(Access::EXECUTE))
                .with_user(!request.access.contains(Access::PRIVILEGED)),
            (None, EventCode::IoPageFault | EventCode::PageTableHardwareError) => match domain {
                Some(domain) => entry.with_domain_or_pasid(domain.0),
                None => entry,
            },
            (None, _) => entry,
        }
    }

    /// The entry whose lower and upper halves these are.
    pub const fn from_words(low: u64, high: u64) -> Self {
        Self::from_bits(low as u128 | (high as u128) << 64)
    }

    /// The lower and the upper half.
    pub const fn words(self) -> [u64; 2] {
        [self.into_bits() as u64, (self.into_bits() >> 64) as u64]
    }

    /// The kind, if it is known.
    pub const fn event_code(self) -> Option<EventCode> {
        EventCode::from_code(self.code())
    }

    /// The PASID, if GN says that it is valid, of any event but INVALID_PPR_REQUEST.
    pub const fn pasid(self) -> Option<u32> {
        if self.guest() {
            Some((self.pasid_high() as u32) << 16 | self.domain_or_pasid() as u32)
        } else {
            None
        }
    }

    /// The flags, 12 bits, as drivers print them: bit 0 is GN, bit 8 TR.
    pub const fn flags(self) -> u16 {
        (self.into_bits() >> 48) as u16 & 0xfff
    }
}

impl fmt::Display for EventEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(code) = self.event_code() else {
            return write!(f, "event {:#034x}", self.into_bits());
        };
        f.write_str(code.name())?;
        match code {
            EventCode::IllegalCommandError
            | EventCode::CommandHardwareError
            | EventCode::EventCounterZero => {}
            _ => {
                let requester = RequesterId::from_source_id(0, self.device());
                let (bus, device) = (requester.bus(), requester.device());
                write!(f, " device {bus:02x}:{device:02x}.{}", requester.function())?;
            }
        }
        match (code, self.pasid()) {
            (EventCode::InvalidPprRequest, _) => {}
            (_, Some(pasid)) => write!(f, " pasid {pasid:#x}")?,
            (EventCode::IoPageFault | EventCode::PageTableHardwareError, None) => {
                write!(f, " domain {:#x}", self.domain_or_pasid())?;
            }
            _ => {}
        }
        write!(
            f,
            " address {:#x} flags {:#05x}",
            self.address(),
            self.flags()
        )
    }
}
