//! What a framework needs of a driver for one unit, whatever the unit is.
//!
//! [`Iommu`] is a unit with its driver, after Linux's `iommu_ops`; a [`Domain`] is one set of
//! tables, after `iommu_domain` and `iommu_domain_ops`. A device of the unit, or one of its
//! address spaces, is put on a domain or blocked by [`Iommu::set_reach`]. Which of these a device
//! may have is not decided here: a driver does what it is told, whole or not at all.
//!
//! All calls may come from any thread, at the same time.

mod capability;
mod domain;
mod error;
mod region;
mod unit;
mod viommu;

pub use capability::{Capabilities, DeviceCapabilities, DeviceInfo, UnitKind};
pub use domain::{Domain, DomainKind, Geometry, PagingOptions, UserData};
pub use error::IommuError;
pub use region::{RegionKind, ReservedRegion};
pub use unit::{HardwareInfo, Iommu, Reach};
pub use viommu::{HwQueue, HwQueueRequest, SharedPages, Viommu, ViommuRequest};
