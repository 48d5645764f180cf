//! Why a driver refuses.

use thiserror::Error;

/// Why a driver for a unit did not do what it was asked. Each variant is one errno of Linux's
/// drivers; nothing has changed when one is returned, unless the call says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum IommuError {
    /// EINVAL: the domain does not fit the device, or an argument is wrong.
    #[error("the domain does not fit the device, or an argument is wrong")]
    Invalid,
    /// ENOMEM: no memory for tables.
    #[error("no memory for tables")]
    NoMemory,
    /// ENOSPC: all domain identifiers are in use.
    #[error("all domain identifiers are in use")]
    NoSpace,
    /// EOPNOTSUPP: the unit cannot.
    #[error("not supported by the unit")]
    Unsupported,
    /// EBUSY: in use.
    #[error("in use")]
    Busy,
    /// ENODEV: no such device at this unit.
    #[error("no such device at this unit")]
    NoDevice,
    /// EEXIST: mapped or present already.
    #[error("mapped or present already")]
    Exists,
    /// ENOENT: nothing is mapped there.
    #[error("nothing is there")]
    NotFound,
    /// EFAULT: the caller's data could not be read or written.
    #[error("the caller's data is not accessible")]
    Fault,
    /// EIO: the unit did not answer, refused a command, or its tables are not accessible.
    #[error("the unit did not answer, or its tables are not accessible")]
    Io,
}

impl IommuError {
    /// The number, as on x86-64 Linux.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotFound => 2,
            Self::Io => 5,
            Self::NoMemory => 12,
            Self::Fault => 14,
            Self::Busy => 16,
            Self::Exists => 17,
            Self::NoDevice => 19,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::Unsupported => 95,
        }
    }
}
