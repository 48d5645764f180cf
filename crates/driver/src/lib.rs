//! The software that drives a remapping unit as a kernel would.
//!
//! Registers are reached through [`RegisterBus`], tables through
//! [`TableMemory`](vm_iommu_pagetable::TableMemory); nothing here knows what is behind either. A
//! unit may be a real one, an emulated one in the same process, or a list of accesses that
//! another processor will perform.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod bus;
mod pages;
pub mod vtd;

pub use bus::{RegisterBus, SpinBudget, TimedOut, Until, WaitError};
pub use pages::{PAGE_SIZE, PagePool, Pages};
