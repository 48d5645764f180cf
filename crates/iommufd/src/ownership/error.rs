//! Why an event is refused.

use thiserror::Error;
use vm_iommu_driver::iommu::IommuError;

/// Why an event was refused; nothing changed. Each variant has one errno, that of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum OwnershipError {
    /// EBUSY: a driver is bound already.
    #[error("a driver is bound already")]
    DriverBound,
    /// EBUSY: the group is owned by a user.
    #[error("the group is owned by a user")]
    Owned,
    /// EBUSY: the device is claimed.
    #[error("the device is claimed")]
    Claimed,
    /// EBUSY: the device is attached.
    #[error("the device is attached")]
    Attached,
    /// EBUSY: a device of the group is being reset.
    #[error("a device of the group is being reset")]
    Recovering,
    /// EINVAL: the device is claimed already.
    #[error("the device is claimed already")]
    ClaimedAlready,
    /// EINVAL: the unit's DMA is not coherent.
    #[error("the unit's DMA is not coherent with the processors' caches")]
    NotCoherent,
    /// ENODEV: the device is in no group, or was removed.
    #[error("the device is in no group")]
    NoGroup,
    /// EPERM: a device could raise interrupts of others.
    #[error("interrupts are not isolated")]
    SharedInterrupts,
    /// EPERM: the group is owned by another context, or held by a kernel driver.
    #[error("the group is owned by another context, or held by a kernel driver")]
    NotPermitted,
    /// EINVAL: a region must always be mapped one to one, so that the device cannot be blocked.
    #[error("firmware requires a region to be mapped one to one")]
    RequiresDirect,
    /// EINVAL: the device is not claimed.
    #[error("the device is not claimed")]
    NotClaimed,
    /// EINVAL: the device is not attached.
    #[error("the device is not attached")]
    NotAttached,
    /// ENOENT: the table is not one of the owner's.
    #[error("no such table in the owner's context")]
    NoTable,
    /// EINVAL: the group is on another table.
    #[error("the group is on another table")]
    OtherTable,
    /// EADDRINUSE: a reserved region meets what is mapped, or an allowed range.
    #[error("a reserved region meets what is mapped, or an allowed range")]
    AddressInUse,
    /// EINVAL: a virtual function's page requests cannot go to the table's fault queue.
    #[error("page requests of a virtual function cannot be told apart")]
    VirtualFunctionPri,
    /// EINVAL: the table was not made for PASIDs.
    #[error("the table was not made for PASIDs")]
    NotForPasids,
    /// EINVAL: the PASID is beyond what a device of the group can use.
    #[error("the PASID is beyond what a device of the group can use")]
    PasidLimit,
    /// EINVAL: the table is for another unit, or lacks what a device of the group needs.
    #[error("the table does not fit a device of the group")]
    NotCompatible,
    /// EOPNOTSUPP: the unit cannot.
    #[error("not supported by the unit")]
    Unsupported,
    /// ENOMEM.
    #[error("out of memory")]
    NoMemory,
    /// EBUSY: the device is known already, or in a group.
    #[error("the device is known already, or in a group")]
    InGroup,
    /// EINVAL: no reset of the device has begun.
    #[error("no reset of the device has begun")]
    NotInReset,
    /// The driver of the unit refused.
    #[error(transparent)]
    Unit(IommuError),
}

impl OwnershipError {
    /// The number, as on x86-64 Linux.
    pub const fn errno(self) -> i32 {
        match self {
            Self::NotPermitted | Self::SharedInterrupts => 1,
            Self::NoTable => 2,
            Self::NoMemory => 12,
            Self::DriverBound
            | Self::Owned
            | Self::Claimed
            | Self::Attached
            | Self::InGroup
            | Self::Recovering => 16,
            Self::NoGroup => 19,
            Self::ClaimedAlready
            | Self::NotCoherent
            | Self::RequiresDirect
            | Self::NotClaimed
            | Self::NotAttached
            | Self::OtherTable
            | Self::VirtualFunctionPri
            | Self::NotForPasids
            | Self::PasidLimit
            | Self::NotCompatible
            | Self::NotInReset => 22,
            Self::Unsupported => 95,
            Self::AddressInUse => 98,
            Self::Unit(error) => error.errno(),
        }
    }
}

impl From<IommuError> for OwnershipError {
    fn from(error: IommuError) -> Self {
        match error {
            IommuError::Invalid => Self::NotCompatible,
            IommuError::NoMemory => Self::NoMemory,
            IommuError::Unsupported => Self::Unsupported,
            other => Self::Unit(other),
        }
    }
}
