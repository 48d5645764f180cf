//! The event log (section 2.5).

use core::fmt;

use bitfield_struct::bitfield;
use serde::{Deserialize, Serialize};

use crate::amd::FaultReason;
use crate::{Access, AddressType, DmaRequest, DomainId, Iova, Pasid, PhysAddr, RequesterId};

/// The kinds of events: the EventCode field, 4 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
#[non_exhaustive]
pub enum EventCode {
    /// ILLEGAL_DEV_TABLE_ENTRY.
    IllegalDeviceTableEntry = 1,
    /// IO_PAGE_FAULT.
    IoPageFault = 2,
    /// DEV_TAB_HARDWARE_ERROR.
    DeviceTableHardwareError = 3,
    /// PAGE_TAB_HARDWARE_ERROR.
    PageTableHardwareError = 4,
    /// ILLEGAL_COMMAND_ERROR.
    IllegalCommandError = 5,
    /// COMMAND_HARDWARE_ERROR.
    CommandHardwareError = 6,
    /// IOTLB_INV_TIMEOUT.
    IotlbInvalidationTimeout = 7,
    /// INVALID_DEVICE_REQUEST.
    InvalidDeviceRequest = 8,
    /// INVALID_PPR_REQUEST.
    InvalidPprRequest = 9,
    /// EVENT_COUNTER_ZERO.
    EventCounterZero = 10,
}

impl EventCode {
    /// Every code, in the order of the encodings.
    pub const ALL: &[Self] = &[
        Self::IllegalDeviceTableEntry,
        Self::IoPageFault,
        Self::DeviceTableHardwareError,
        Self::PageTableHardwareError,
        Self::IllegalCommandError,
        Self::CommandHardwareError,
        Self::IotlbInvalidationTimeout,
        Self::InvalidDeviceRequest,
        Self::InvalidPprRequest,
        Self::EventCounterZero,
    ];

    /// The kind with this encoding.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::IllegalDeviceTableEntry),
            2 => Some(Self::IoPageFault),
            3 => Some(Self::DeviceTableHardwareError),
            4 => Some(Self::PageTableHardwareError),
            5 => Some(Self::IllegalCommandError),
            6 => Some(Self::CommandHardwareError),
            7 => Some(Self::IotlbInvalidationTimeout),
            8 => Some(Self::InvalidDeviceRequest),
            9 => Some(Self::InvalidPprRequest),
            10 => Some(Self::EventCounterZero),
            _ => None,
        }
    }

    /// The specification's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::IllegalDeviceTableEntry => "ILLEGAL_DEV_TABLE_ENTRY",
            Self::IoPageFault => "IO_PAGE_FAULT",
            Self::DeviceTableHardwareError => "DEV_TAB_HARDWARE_ERROR",
            Self::PageTableHardwareError => "PAGE_TAB_HARDWARE_ERROR",
            Self::IllegalCommandError => "ILLEGAL_COMMAND_ERROR",
            Self::CommandHardwareError => "COMMAND_HARDWARE_ERROR",
            Self::IotlbInvalidationTimeout => "IOTLB_INV_TIMEOUT",
            Self::InvalidDeviceRequest => "INVALID_DEVICE_REQUEST",
            Self::InvalidPprRequest => "INVALID_PPR_REQUEST",
            Self::EventCounterZero => "EVENT_COUNTER_ZERO",
        }
    }
}

impl fmt::Display for EventCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

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

/// What went wrong with the unit's own access: the Type field of hardware errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum HardwareError {
    /// Nobody answers at the address.
    MasterAbort = 1,
    /// Whoever is there refuses.
    TargetAbort = 2,
    /// The data are corrupt.
    DataError = 3,
}

/// What is wrong with a request: the Type field of INVALID_DEVICE_REQUEST, and TR.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InvalidRequest {
    /// A read or non-posted write in the interrupt address range.
    InterruptRange,
    /// A translated request, but I of the device table entry is clear.
    Pretranslated,
    /// In the port I/O range, but IoCtl is 0.
    PortIo,
    /// In the system management range, but SysMgt is 0.
    SystemManagement,
    /// In an address range that is reserved for interrupts.
    ReservedRange,
    /// A translation request for an address that has no translation.
    TranslationRange,
    /// A translation request, but I of the device table entry is clear.
    TranslationDisabled,
    /// A translation request without device table entry.
    TranslationBeyondTable,
}

impl InvalidRequest {
    /// The Type field.
    pub const fn kind(self) -> u8 {
        match self {
            Self::InterruptRange | Self::TranslationRange => 0,
            Self::Pretranslated | Self::TranslationDisabled => 1,
            Self::PortIo | Self::TranslationBeyondTable => 2,
            Self::SystemManagement => 3,
            Self::ReservedRange => 5,
        }
    }

    /// TR: a translation request.
    pub const fn translation(self) -> bool {
        matches!(
            self,
            Self::TranslationRange | Self::TranslationDisabled | Self::TranslationBeyondTable
        )
    }

    const fn of(reason: FaultReason) -> Option<Self> {
        match reason {
            FaultReason::InterruptRange => Some(Self::InterruptRange),
            FaultReason::PretranslatedDenied => Some(Self::Pretranslated),
            FaultReason::PortIoDenied => Some(Self::PortIo),
            FaultReason::SystemManagementDenied => Some(Self::SystemManagement),
            FaultReason::ReservedRange => Some(Self::ReservedRange),
            FaultReason::TranslationRequestRange => Some(Self::TranslationRange),
            FaultReason::TranslationRequestDenied => Some(Self::TranslationDisabled),
            FaultReason::TranslationRequestBeyondTable => Some(Self::TranslationBeyondTable),
            _ => None,
        }
    }
}

/// An event, with the fields that its kind has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request of a device was refused: ILLEGAL_DEV_TABLE_ENTRY, IO_PAGE_FAULT or
    /// INVALID_DEVICE_REQUEST.
    Request {
        /// The request.
        request: DmaRequest,
        /// The requester's domain, if its entry names one.
        domain: Option<DomainId>,
        /// Why.
        reason: FaultReason,
    },
    /// A request was refused because the unit could not read a table: DEV_TAB_HARDWARE_ERROR or
    /// PAGE_TAB_HARDWARE_ERROR.
    Table {
        /// The request.
        request: DmaRequest,
        /// The requester's domain, if its entry names one.
        domain: Option<DomainId>,
        /// Which table.
        reason: FaultReason,
        /// Where the entry is.
        address: PhysAddr,
    },
    /// An interrupt request was refused: ILLEGAL_DEV_TABLE_ENTRY or IO_PAGE_FAULT, or for a table
    /// that the unit could not read the hardware errors.
    Interrupt {
        /// Who asked.
        requester: RequesterId,
        /// The PASID, if the request carried one.
        pasid: Option<Pasid>,
        /// The requester's domain, if its entry names one.
        domain: Option<DomainId>,
        /// The address of the message, or of the table's entry.
        address: u64,
        /// Why.
        reason: FaultReason,
    },
    /// ILLEGAL_COMMAND_ERROR.
    IllegalCommand {
        /// Where the command is.
        address: PhysAddr,
    },
    /// COMMAND_HARDWARE_ERROR.
    CommandHardware {
        /// What could not be accessed.
        address: PhysAddr,
        /// How.
        error: HardwareError,
    },
    /// IOTLB_INV_TIMEOUT.
    InvalidationTimeout {
        /// Whose TLB did not answer.
        device: u16,
        /// Where the command is.
        address: PhysAddr,
    },
    /// INVALID_PPR_REQUEST.
    InvalidPpr {
        /// The page request.
        request: crate::amd::PageRequest,
    },
    /// EVENT_COUNTER_ZERO.
    CounterZero {
        /// CounterNote, 52 bits.
        note: u64,
    },
}

impl Event {
    /// The entry of the log.
    pub const fn entry(&self) -> EventEntry {
        match *self {
            Self::Request {
                request,
                domain,
                reason,
            } => {
                let entry =
                    EventEntry::of(&request, domain, reason).with_address(request.address.0);
                match InvalidRequest::of(reason) {
                    None => entry,
                    Some(invalid) => entry
                        .with_kind(invalid.kind())
                        .with_translation(invalid.translation())
                        .with_write(false)
                        .with_execute(entry.user())
                        .with_user(false),
                }
            }
            Self::Table {
                request,
                domain,
                reason,
                address,
            } => EventEntry::of(&request, domain, reason)
                .with_execute(false)
                .with_user(false)
                .with_kind(HardwareError::MasterAbort as u8)
                .with_address(address.0),
            Self::Interrupt {
                requester,
                pasid,
                domain,
                address,
                reason,
            } => {
                let mut request = DmaRequest::new(requester, Iova(address), Access::WRITE);
                request.pasid = pasid;
                let entry = EventEntry::of(&request, domain, reason)
                    .with_execute(false)
                    .with_user(false)
                    .with_write(false)
                    .with_interrupt(true)
                    .with_address(address);
                match reason {
                    FaultReason::DeviceTableAccess | FaultReason::InterruptTableAccess => {
                        entry.with_kind(HardwareError::MasterAbort as u8)
                    }
                    _ => entry,
                }
            }
            Self::IllegalCommand { address } => EventEntry::new()
                .with_code(EventCode::IllegalCommandError as u8)
                .with_address(address.0),
            Self::CommandHardware { address, error } => EventEntry::new()
                .with_code(EventCode::CommandHardwareError as u8)
                .with_kind(error as u8)
                .with_address(address.0),
            Self::InvalidationTimeout { device, address } => EventEntry::new()
                .with_code(EventCode::IotlbInvalidationTimeout as u8)
                .with_device(device)
                .with_address(address.0),
            Self::InvalidPpr { request } => {
                let (entry, address) = crate::amd::PprEntry::of_request(&request);
                let low = entry.with_code(EventCode::InvalidPprRequest as u8);
                EventEntry::from_words(low.into_bits(), address)
            }
            Self::CounterZero { note } => EventEntry::new()
                .with_code(EventCode::EventCounterZero as u8)
                .with_address(note >> 32 & 0xf_ffff | note << 32),
        }
    }

    /// The kind.
    pub const fn code(&self) -> EventCode {
        match self {
            Self::Request { reason, .. }
            | Self::Table { reason, .. }
            | Self::Interrupt { reason, .. } => reason.code(),
            Self::IllegalCommand { .. } => EventCode::IllegalCommandError,
            Self::CommandHardware { .. } => EventCode::CommandHardwareError,
            Self::InvalidationTimeout { .. } => EventCode::IotlbInvalidationTimeout,
            Self::InvalidPpr { .. } => EventCode::InvalidPprRequest,
            Self::CounterZero { .. } => EventCode::EventCounterZero,
        }
    }
}

impl EventEntry {
    /// Size of an entry in bytes.
    pub const SIZE: u64 = 16;

    /// The fields that concern a memory request, but for the address.
    const fn of(request: &DmaRequest, domain: Option<DomainId>, reason: FaultReason) -> Self {
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
