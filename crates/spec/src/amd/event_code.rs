//! The kinds of events (section 2.5).

use core::fmt;

use serde::{Deserialize, Serialize};

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
