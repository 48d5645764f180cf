//! AMD-Vi.
//!
//! [`Unit::start`] brings a unit up, with every device blocked; after that, domains are created,
//! mapped and attached to requesters, interrupts are allocated and set, and events are taken. Each
//! call that takes something away from a device returns when the unit has confirmed that it is
//! gone.

mod command;
mod device;
mod domain;
mod error;
mod event;
mod interrupt;
mod iommu;
mod link;
mod unit;

pub use error::{Error, Feature, Wait};
pub use event::Events;
pub use interrupt::{InterruptIndex, InterruptSetup};
pub use iommu::AmdViIommu;
pub use unit::{Setup, Unit};

#[cfg(test)]
mod tests;
