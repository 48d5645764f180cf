//! VT-d: QEMU's `intel-iommu` against the unit of `vm-iommu-vtd`, in legacy mode.

pub mod case;
pub mod conduct;
pub mod generate;
pub mod known;
pub mod run;
pub mod session;

#[cfg(test)]
mod tests;
