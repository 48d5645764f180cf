//! Why a unit refuses a request, and the event that says so (section 2.5).

use core::fmt;

use serde::{Deserialize, Serialize};

use crate::amd::EventCode;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:ident, $text:literal;)*) => {
        /// Why a unit refused a request: the causes that the specification lists with each event
        /// code. Several share an event code and differ in its flags.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum FaultReason {
            $($(#[$doc])* $name,)*
        }

        impl FaultReason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The event that reports it.
            pub const fn code(self) -> EventCode {
                match self {
                    $(Self::$name => EventCode::$code,)*
                }
            }

            const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

reasons! {
    /// A reserved bit of the device table entry is set.
    DteReserved = IllegalDeviceTableEntry, "reserved bit set in the device table entry";
    /// HAD of the device table entry asks for dirty without accessed flags.
    DteHostFlags = IllegalDeviceTableEntry, "reserved HAD encoding in the device table entry";
    /// GLX of the device table entry asks for more levels than the unit has.
    DteGuestCr3Levels = IllegalDeviceTableEntry, "reserved GLX encoding in the device table entry";
    /// GuestPagingMode of the device table entry asks for more levels than the unit has.
    DteGuestLevels = IllegalDeviceTableEntry,
        "reserved GuestPagingMode encoding in the device table entry";
    /// IoCtl of the device table entry is 3.
    DteIoControl = IllegalDeviceTableEntry, "reserved IoCtl encoding in the device table entry";
    /// IntTabLen of the device table entry is more than the unit has.
    DteInterruptTableLength = IllegalDeviceTableEntry,
        "reserved IntTabLen encoding in the device table entry";
    /// IntCtl of the device table entry is 3.
    DteInterruptControl = IllegalDeviceTableEntry,
        "reserved IntCtl encoding in the device table entry";
    /// The device table entry cannot be read.
    DeviceTableAccess = DeviceTableHardwareError, "device table not accessible";

    /// The device table is too short for the requester.
    DeviceBeyondTable = IoPageFault, "no device table entry";
    /// TV of the device table entry is clear.
    TranslationInvalid = IoPageFault, "translation information not valid";
    /// Mode of the device table entry is 7, or more than the unit has.
    HostMode = IoPageFault, "reserved paging mode in the device table entry";
    /// The PASID is beyond the guest CR3 table, or the entry has no such table.
    PasidBeyondTable = IoPageFault, "no guest CR3 table entry for the PASID";
    /// The guest CR3 table's entry is not valid.
    PasidInvalid = IoPageFault, "guest CR3 table entry not valid";
    /// The address has bits beyond the width of the tables, or is not canonical.
    AddressBeyondTables = IoPageFault, "address beyond the width of the tables";
    /// An entry is not present.
    NotPresent = IoPageFault, "page not present";
    /// A reserved bit of a present entry is set.
    Reserved = IoPageFault, "reserved bit set in a table entry";
    /// A Next Level field is illegal.
    NextLevel = IoPageFault, "illegal level encoding in a table entry";
    /// An encoded page size is illegal.
    PageSize = IoPageFault, "illegal page size in a table entry";
    /// Levels are skipped whose address bits are not zero.
    SkippedBits = IoPageFault, "skipped address bits not zero";
    /// No permission to read.
    ReadDenied = IoPageFault, "no read permission";
    /// No permission to write.
    WriteDenied = IoPageFault, "no write permission";
    /// No permission to fetch instructions.
    ExecuteDenied = IoPageFault, "no execute permission";
    /// A request with user privilege to a supervisor page.
    PrivilegeDenied = IoPageFault, "no user permission";
    /// A page table, or a guest CR3 table, cannot be read.
    TableAccess = PageTableHardwareError, "page table not accessible";

    /// The interrupt table is too short for the message.
    InterruptBeyondTable = IoPageFault, "no interrupt remapping table entry";
    /// RemapEn of the interrupt remapping table entry is clear.
    InterruptNotRemapped = IoPageFault, "remapping not enabled for the interrupt";
    /// A reserved bit of the interrupt remapping table entry is set.
    InterruptEntryReserved = IoPageFault, "reserved bit set in the interrupt remapping table entry";
    /// IntType of the interrupt remapping table entry is reserved.
    InterruptType = IoPageFault, "reserved IntType in the interrupt remapping table entry";
    /// The device table entry blocks this kind of interrupt.
    InterruptBlocked = IoPageFault, "interrupts of this kind are blocked";
    /// An interrupt request with PASID.
    InterruptWithPasid = IoPageFault, "interrupt request with PASID";
    /// No SMI filter admits the requester.
    SmiFiltered = IoPageFault, "system management interrupt filtered";
    /// The interrupt remapping table cannot be read.
    InterruptTableAccess = PageTableHardwareError, "interrupt remapping table not accessible";

    /// A read, or a write that is no interrupt, in the interrupt address range.
    InterruptRange = InvalidDeviceRequest, "not an interrupt, but in the interrupt address range";
    /// A translated request by a device that may not issue them.
    PretranslatedDenied = InvalidDeviceRequest, "translated request, but IOTLB not enabled";
    /// Port I/O space, which IoCtl of the device table entry blocks.
    PortIoDenied = InvalidDeviceRequest, "port I/O space blocked";
    /// A system management message, which SysMgt of the device table entry blocks.
    SystemManagementDenied = InvalidDeviceRequest, "system management messages blocked";
    /// An address that HyperTransport reserves.
    ReservedRange = InvalidDeviceRequest, "reserved address range";
    /// A translation request for an address that has no translation.
    TranslationRequestRange = InvalidDeviceRequest, "translation request in a special range";
    /// A translation request by a device that may not issue them.
    TranslationRequestDenied = InvalidDeviceRequest, "translation request, but IOTLB not enabled";
    /// A translation request by a device without device table entry.
    TranslationRequestBeyondTable = InvalidDeviceRequest,
        "translation request without device table entry";

    /// A page request by a device that may not issue them.
    PageRequestDenied = InvalidPprRequest, "page requests not enabled";
}

impl FaultReason {
    /// PR of the event: an entry was present, and refused nevertheless.
    pub const fn is_present(self) -> bool {
        matches!(
            self,
            Self::HostMode
                | Self::Reserved
                | Self::NextLevel
                | Self::PageSize
                | Self::SkippedBits
                | Self::ReadDenied
                | Self::WriteDenied
                | Self::ExecuteDenied
                | Self::PrivilegeDenied
                | Self::InterruptEntryReserved
                | Self::InterruptType
        )
    }

    /// PE of the event: permission is missing.
    pub const fn is_permission(self) -> bool {
        matches!(
            self,
            Self::ReadDenied
                | Self::WriteDenied
                | Self::ExecuteDenied
                | Self::PrivilegeDenied
                | Self::InterruptBlocked
        )
    }

    /// RZ of the event: a reserved bit was set; otherwise an encoding was illegal.
    pub const fn is_reserved_bit(self) -> bool {
        matches!(
            self,
            Self::DteReserved | Self::Reserved | Self::InterruptEntryReserved
        )
    }

    /// Whether an interrupt request was refused.
    pub const fn is_interrupt(self) -> bool {
        matches!(
            self,
            Self::DteInterruptTableLength
                | Self::DteInterruptControl
                | Self::InterruptBeyondTable
                | Self::InterruptNotRemapped
                | Self::InterruptEntryReserved
                | Self::InterruptType
                | Self::InterruptBlocked
                | Self::InterruptWithPasid
                | Self::SmiFiltered
                | Self::InterruptTableAccess
        )
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.text(), self.code())
    }
}

impl core::error::Error for FaultReason {}
