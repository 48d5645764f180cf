//! The register file: what software may read and write where.

mod declared;

pub(crate) use declared::declare;
pub(crate) use vm_iommu_dma::unit::RegisterFile;
pub use vm_iommu_dma::unit::{IgnoredAccess, Register};

#[cfg(test)]
mod tests;
