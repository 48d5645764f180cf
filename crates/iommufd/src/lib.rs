//! iommufd in user space: who may have a device do DMA, and to what, enforced by a unit that
//! really walks tables.
//!
//! Units are reached only through [`vm_iommu_driver::iommu`].
#![deny(missing_docs)]

pub mod ownership;
