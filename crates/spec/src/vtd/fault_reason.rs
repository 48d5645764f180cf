//! Fault reasons as a VT-d unit records them (section 7.3, appendix "Fault Reason Encodings").

use core::fmt;

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// A fault reason, the 8-bit FR field of a fault record.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u8)]
        #[non_exhaustive]
        pub enum FaultReason {
            $($(#[$doc])* #[doc = concat!("(FR ", stringify!($code), ")")] $name = $code,)*
        }

        impl FaultReason {
            /// Every reason, in the order of the encodings.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The reason with this encoding.
            pub const fn from_code(code: u8) -> Option<Self> {
                match code {
                    $($code => Some(Self::$name),)*
                    _ => None,
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
    /// The present bit of the root entry is clear.
    RootEntryNotPresent = 0x01, "root entry not present";
    /// The present bit of the context entry is clear.
    ContextEntryNotPresent = 0x02, "context entry not present";
    /// A field of the context entry is invalid: an address width that the unit does not support,
    /// a reserved or unsupported translation type.
    ContextEntryInvalid = 0x03, "context entry invalid";
    /// The address is beyond the width of the domain or of the unit.
    AddressBeyondMgaw = 0x04, "address beyond the width of the domain";
    /// A write, or an atomic operation, without write permission.
    WriteDenied = 0x05, "no write permission";
    /// A read, or an atomic operation, without read permission.
    ReadDenied = 0x06, "no read permission";
    /// A second-stage entry points to a table that the unit cannot read.
    PagingEntryAccess = 0x07, "second-stage table not accessible";
    /// The root table address is not accessible.
    RootTableAccess = 0x08, "root table not accessible";
    /// A context table is not accessible.
    ContextTableAccess = 0x09, "context table not accessible";
    /// A reserved field of a present root entry is not zero.
    RootEntryReserved = 0x0a, "reserved field set in root entry";
    /// A reserved field of a present context entry is not zero.
    ContextEntryReserved = 0x0b, "reserved field set in context entry";
    /// A reserved field of a second-stage entry is not zero.
    PagingEntryReserved = 0x0c, "reserved field set in second-stage entry";
    /// A translation request or a translated request, which the context entry blocks.
    TranslationTypeBlocked = 0x0d, "request type blocked by the context entry";
    /// The output address of a translation is in the interrupt address range (0xFEEx_xxxx).
    /// Linux's driver has no text for this reason.
    OutputInterruptRange = 0x0e, "output address in the interrupt address range";
    /// A reserved field of an interrupt request in remappable format is not zero.
    IrRequestReserved = 0x20, "reserved field set in interrupt request";
    /// The interrupt index is beyond the interrupt remapping table.
    IrIndexBeyondTable = 0x21, "interrupt index beyond the table";
    /// The present bit of the interrupt remapping table entry is clear.
    IrEntryNotPresent = 0x22, "interrupt remapping entry not present";
    /// The interrupt remapping table is not accessible.
    IrTableAccess = 0x23, "interrupt remapping table not accessible";
    /// A reserved field of the interrupt remapping table entry is not zero.
    IrEntryReserved = 0x24, "reserved field set in interrupt remapping entry";
    /// An interrupt in compatibility format while those are blocked.
    IrCompatibilityBlocked = 0x25, "compatibility-format interrupt blocked";
    /// The requester is not the one that the entry verifies.
    IrSourceInvalid = 0x26, "interrupt requester failed verification";
    /// The posted interrupt descriptor is not accessible.
    IrPostedAccess = 0x27, "posted interrupt descriptor not accessible";
    /// A reserved field of the posted interrupt descriptor is not zero.
    IrPostedReserved = 0x28, "reserved field set in posted interrupt descriptor";
    /// A request without PASID to the interrupt address range that is no interrupt: not a write
    /// of one aligned doubleword.
    IrRequestInvalid = 0x29, "request to the interrupt address range is no interrupt";
    /// The root table address register names a table mode that is reserved or that the unit does
    /// not support.
    RootTableAddressInvalid = 0x30, "table mode of the root table address invalid";
    /// A request with PASID while the root table is in legacy mode.
    PasidInLegacyMode = 0x31, "request with PASID in legacy mode";
}

impl FaultReason {
    /// The 8-bit encoding.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Whether the FPD field of the context entry or interrupt remapping entry that was used
    /// keeps the fault from being recorded (a "qualified" fault). The others arise before such
    /// an entry is known.
    pub const fn is_qualified(self) -> bool {
        !matches!(
            self,
            Self::RootEntryNotPresent
                | Self::RootTableAccess
                | Self::ContextTableAccess
                | Self::RootEntryReserved
                | Self::IrRequestReserved
                | Self::IrIndexBeyondTable
                | Self::IrTableAccess
                | Self::IrCompatibilityBlocked
                | Self::IrRequestInvalid
                | Self::RootTableAddressInvalid
                | Self::PasidInLegacyMode
        )
    }

    /// Whether the reason belongs to interrupt remapping.
    pub const fn is_interrupt(self) -> bool {
        matches!(self as u8, 0x20..=0x2f)
    }
}

impl fmt::Display for FaultReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (VT-d fault reason {:#04x})",
            self.text(),
            self.code()
        )
    }
}
