//! Addresses of a device that are not free to be mapped.

use core::ops::RangeInclusive;

use vm_iommu_spec::{Access, Iova};

/// What a reserved region is for (Linux `enum iommu_resv_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RegionKind {
    /// Must be mapped one to one whenever the device can reach memory: an RMRR, or an IVMD of
    /// type unity map. A device with one cannot be blocked for a user.
    Direct,
    /// As [`Direct`](Self::Direct), but needed only by firmware or a kernel driver: a user may
    /// take the device without it.
    DirectRelaxable,
    /// The device must not be given addresses there.
    Reserved,
    /// Interrupt messages that the unit does not translate (x86: 0xFEEx_xxxx).
    Msi,
    /// Interrupt messages that software places where it likes.
    SoftwareMsi,
}

/// A region of a device's I/O virtual addresses (Linux `struct iommu_resv_region`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReservedRegion {
    /// The first and the last byte.
    pub range: RangeInclusive<Iova>,
    /// What may be done there, for a region that is to be mapped.
    pub access: Access,
    /// What it is for.
    pub kind: RegionKind,
}
