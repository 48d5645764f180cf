//! AMD v1 tables: QEMU's `amd-iommu` against the walker of `vm-iommu-pagetable`.

pub mod generate;
pub mod known;
pub mod run;

#[cfg(test)]
mod tests;
