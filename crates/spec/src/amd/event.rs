//! What a unit logs (section 2.5).

use crate::amd::{EventCode, EventEntry, FaultReason};
use crate::{Access, DmaRequest, DomainId, Iova, Pasid, PhysAddr, RequesterId};

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
