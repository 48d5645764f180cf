//! Fuzz targets. Each is a plain function from bytes, which panics on a finding: a fuzzer calls
//! it through an entry point in `fuzz_targets`, tests call it on the corpus and on inputs of their
//! own.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "amdvi")]
mod amdvi_unit;
#[cfg(any(feature = "amdvi", feature = "vtd"))]
mod input;
#[cfg(feature = "iommufd")]
mod iommufd_calls;
pub mod pagetable;
#[cfg(feature = "vtd")]
mod vtd_unit;

#[cfg(feature = "amdvi")]
pub use amdvi_unit::{amdvi_unit, seeds as amdvi_seeds};
#[cfg(feature = "iommufd")]
pub use iommufd_calls::iommufd_calls;
#[cfg(feature = "vtd")]
pub use vtd_unit::vtd_unit;

/// A target's body.
pub type Target = fn(&[u8]);

/// Every target, by the name of its entry point and of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("pagetable_second_stage", pagetable::second_stage),
    ("pagetable_x86_64", pagetable::x86_64),
    ("pagetable_amd_v1", pagetable::amd_v1),
    ("pagetable_nested", pagetable::nested),
    #[cfg(feature = "vtd")]
    ("vtd_unit", vtd_unit),
    #[cfg(feature = "amdvi")]
    ("amdvi_unit", amdvi_unit),
    #[cfg(feature = "iommufd")]
    ("iommufd_calls", iommufd_calls),
];
