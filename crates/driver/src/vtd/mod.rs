//! Intel VT-d in legacy mode.
//!
//! [`Unit::start`] brings a unit up; after that, domains are created, mapped and attached to
//! requesters, interrupts are allocated and set, and faults are taken. Each call that takes
//! something away from a device returns when the unit has confirmed that it is gone.

mod context;
mod domain;
mod error;
mod fault;
mod interrupt;
mod iommu;
mod link;
mod queue;
mod unit;

pub use error::{Error, Feature, Wait};
pub use fault::FaultLog;
pub use interrupt::{InterruptIndex, InterruptSetup, InterruptSource};
pub use iommu::VtdIommu;
pub use unit::{Setup, Unit};

#[cfg(test)]
mod tests;
